// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/test/vm/wire"
)

// storm records a storm of writes on the disk. It prints again and again which event is the last in
// the history. It does not end.
const storm = `
set -eu
modprobe -a virtio_blk ext4
mount -t ext4 /dev/vda /mnt
nstrace record --db /mnt/history.db --runtime-socket none -o json -O /tmp/stream &
until [ -s /tmp/stream ]; do sleep 0.1; done
(i=0; while :; do i=$((i+1)); echo $i > /proc/sys/net/ipv4/tcp_keepalive_time; [ $i -lt 30000 ] || i=0; done) &
while :; do nstrace history --db /mnt/history.db -e sysctl -o json -n 1; done
`

// after checks the history after the power cut, and then records another run.
const after = `
set -eu
modprobe -a virtio_blk ext4
mount -t ext4 /dev/vda /mnt
nstrace history verify --db /mnt/history.db
nstrace history --db /mnt/history.db -o json > /tmp/before
echo events $(wc -l < /tmp/before)
echo found $(grep -Fxc -f /acknowledged /tmp/before)
nstrace record --db /mnt/history.db --runtime-socket none -o json -O /tmp/stream &
until grep trace.gap /tmp/stream 2>/dev/null; do sleep 0.1; done
kill -INT $!
wait $!
nstrace history verify --db /mnt/history.db
nstrace history --db /mnt/history.db -o json > /tmp/all
head -n $(wc -l < /tmp/before) /tmp/all | sha256sum > /tmp/again
[ "$(cat /tmp/again)" = "$(sha256sum < /tmp/before)" ]
`

// acknowledgements reads the lines that a guest prints, and cuts its power after some of them.
type acknowledgements struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wants int
	cut   context.CancelFunc
}

func (a *acknowledgements) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(p)
	if len(a.lines()) >= a.wants {
		a.cut()
	}
	return len(p), nil
}

// lines returns the complete lines without repeats.
func (a *acknowledgements) lines() []string {
	whole := a.text.String()
	whole = whole[:strings.LastIndexByte(whole, '\n')+1]
	return slices.Compact(slices.Collect(strings.Lines(whole)))
}

// newDiskGuest waits until a guest may run, and returns a kernel and an empty disk for it.
func newDiskGuest(t *testing.T) (*Kernel, *Disk) {
	t.Helper()
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	trackInputs(t)
	guests <- struct{}{}
	t.Cleanup(func() { <-guests })
	kernels := &Kernels{Log: t.Logf}
	kernel, err := kernels.Get(t.Context(), harnessKernel)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := NewDisk(t.Context(), t.TempDir(), 256<<20)
	if err != nil {
		t.Fatal(err)
	}
	return kernel, disk
}

// bootWithDisk boots a guest that has a disk and runs a shell script in it. add adds what the script needs.
func bootWithDisk(t *testing.T, ctx context.Context, kernel *Kernel, disk *Disk, script string, stdout io.Writer, add func(*Root)) (*Result, error) {
	root, err := NewGuestRoot(ctx, ".", kernel)
	if err != nil {
		t.Fatal(err)
	}
	add(root)
	limit, err := timeLimit(t)
	if err != nil {
		t.Fatal(err)
	}
	guest := Guest{
		Kernel: kernel, Root: root, Disk: disk, CPUs: 1, Log: t.Logf, Stdout: stdout,
		Job: wire.Job{Args: []string{"sh", "-c", script}, Merge: true}, Limit: limit,
	}
	return guest.Start(ctx)
}

// TestPowerCut cuts a guest's power in the middle of a storm that nstrace records. The disk loses
// everything that the guest did not flush. After the next boot, the history must be intact, and
// must have the events that it had shown before.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("boots two guests, one after the other: make test-all")
	}
	kernel, disk := newDiskGuest(t)
	dir := t.TempDir()
	nstrace := filepath.Join(dir, "nstrace")
	if err := goBuild(t.Context(), amd64, "../..", nstrace, "./cmd/nstrace", false); err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(dir, "before")
	if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", disk.Image, before).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	said := &acknowledgements{wants: 3, cut: cut}
	boot := func(ctx context.Context, script string, stdout io.Writer, files map[string]string) (*Result, error) {
		return bootWithDisk(t, ctx, kernel, disk, script, stdout, func(root *Root) {
			root.AddProgram(nstrace, guestTracer)
			for name, content := range files {
				root.AddBytes([]byte(content), name, 0o644)
			}
		})
	}
	_, err := boot(ctx, storm, said, nil)
	var ge *GuestError
	if !errors.As(err, &ge) || ctx.Err() == nil {
		t.Fatalf("the guest ended by itself: %v\n%s", err, &said.text)
	}
	lines := said.lines()
	kept, lost, err := disk.CutPower(before)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d writes are on the disk, %d were not flushed; the last acknowledgement was\n%s", kept, lost, lines[len(lines)-1])

	var out bytes.Buffer
	began := time.Now()
	result, err := boot(t.Context(), after, &out, map[string]string{"/acknowledged": strings.Join(lines, "")})
	if err != nil || result.Code != 0 {
		t.Fatalf("%v after %v:\n%s", err, time.Since(began), &out)
	}
	text := out.String()
	t.Log(text)
	for _, want := range []string{
		fmt.Sprintf("found %d\n", len(lines)), `"type":"trace.gap"`, `"same_boot":false,"ended":"crashed"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %s", want)
		}
	}
	if n := strings.Count(text, "nothing was removed or changed"); n != 2 {
		t.Errorf("the history was intact %d of 2 times", n)
	}
}
