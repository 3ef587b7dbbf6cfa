// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// somebody is an ordinary user.
const somebody = 1000

// TestArgs has command lines that are a trap for their reader.
func TestArgs(t *testing.T) {
	// Ignore other processes. Otherwise a witness would have to wait for their events.
	comms := []string{"nsargs", "nsfuse", "nsswap", readFile(t, "/proc/self/comm")}
	h := watchWith(t, []string{"--comm", strings.Join(comms, ",")}, backends...)
	t.Run("huge", func(t *testing.T) { testHugeArgs(t, h) })
	t.Run("swapped", func(t *testing.T) { testSwappedArgs(t, h) })
	t.Run("held", func(t *testing.T) { testHeldArgs(t, h) }) // last, because it ends the streams
}

// testHugeArgs has processes of a user whose command lines are gigabytes long. nstrace keeps the
// beginning and does not grow.
func testHugeArgs(t *testing.T, h *host) {
	const (
		kept  = 1024     // bytes
		grows = 32 << 10 // kB, of a stream: its own pages from the file count too
	)
	before := map[*stream]int{}
	for _, s := range h.streams {
		// From here on, VmHWM is the maximum memory use.
		if err := os.WriteFile("/proc/"+strconv.Itoa(s.cmd.Process.Pid)+"/clear_refs", []byte("5"), 0o200); err != nil {
			t.Fatal(err)
		}
		before[s] = peak(t, s)
	}
	// nstrace leaves out a command line that it did not get soon enough. On an emulated processor
	// that can happen.
	got := map[*stream]bool{}
	for end := time.Now().Add(patience); len(got) < len(h.streams); {
		if time.Now().After(end) {
			t.Fatalf("a stream never has the arguments: %v", got)
		}
		w := h.start(t, helper("nsargs"), []string{"4096"}, asUser(somebody))
		w.value(t, "made")
		w.sync(t)
		for _, s := range h.streams {
			for _, e := range w.all(s) {
				// The kernel returns zeros for memory that was never written. Each zero ends an
				// argument.
				args := e.Process.Args
				if e.Type != event.NamespaceCreate || e.Namespace.Type != event.NSTypeUser || args != nil && len(args) != kept ||
					slices.ContainsFunc(args, func(a string) bool { return a != "" }) {
					t.Fatalf("%v: want a user namespace by a process with %d empty arguments:\n%s", s, kept, e.line)
				}
				if args != nil {
					got[s] = true
				}
			}
		}
		w.stop(t)
	}
	for _, s := range h.streams {
		if now := peak(t, s); now > before[s]+grows {
			t.Errorf("%v: nstrace grew from %d to %d kB", s, before[s], now)
		}
	}
}

// testSwappedArgs has processes of a user that execute another program at once. No event of the first program has
// the arguments of the second one.
func testSwappedArgs(t *testing.T, h *host) {
	for range 5 { // nstrace can read them before
		w := h.start(t, helper("nsswap"), nil, asUser(somebody))
		if _, err := fmt.Fprintln(w.stdin, "cat=runs"); err != nil {
			t.Fatal(err)
		}
		w.value(t, "cat")
		w.sync(t)
		for _, s := range h.streams {
			made := only(w.all(s), event.NamespaceCreate)
			if len(made) != 1 || filepath.Base(made[0].Process.Exe) != "nsswap" || slices.ContainsFunc(made[0].Process.Args, func(a string) bool { return a != "" }) {
				t.Errorf("%v: want a user namespace by nsswap without arguments:\n%s", s, dump(made))
			}
		}
		w.stop(t)
	}
}

// peak returns the maximum memory that a stream has used, in kB.
func peak(t *testing.T, s *stream) int {
	t.Helper()
	kb, err := strconv.Atoi(statusField(t, s.cmd.Process.Pid, "VmHWM"))
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

// testHeldArgs has a user's processes whose memory cannot be read: whoever tries must wait. In the
// meantime nstrace continues without their command lines, and ends when it gets a signal.
func testHeldArgs(t *testing.T, h *host) {
	if !entersByExec() {
		t.Skip("before 6.3 nsfuse hangs: it holds the lock in ways of later kernels")
	}
	device := fuseDevice(t)
	var all []*work
	for _, way := range []string{"fixed", "unmap"} {
		w := h.start(t, helper("nsfuse"), []string{device, way}, asUser(somebody))
		w.value(t, "ready")
		if w.value(t, "held") != "1" {
			t.Logf("%s: cannot hold the lock in this way here", way)
			continue
		}
		w.value(t, "made")
		awaitWitness(t, h)
		all = append(all, w)
	}
	if len(all) == 0 {
		t.Fatal("cannot hold the lock in either way, so this tests nothing")
	}
	for _, w := range all {
		w.sync(t)
	}
	for _, s := range h.streams {
		s.interrupt(t)
		s.checkEnd(t, true)
	}
	for _, w := range all {
		// All of that happened while the lock was held.
		w.stdin.Close()
		if w.value(t, "held") != "1" {
			t.Errorf("%q: the lock was released before the end", w.cmd.Args)
		}
		if _, err := io.Copy(io.Discard, w.out); err != nil { // read everything before Wait
			t.Error(err)
		}
		w.end(t)
		for _, s := range h.streams {
			events := w.all(s)
			made := slices.DeleteFunc(only(events, event.NamespaceCreate), func(e *emitted) bool { return e.Namespace.Type != event.NSTypeUTS })
			switch {
			case len(made) == 0 && canMiss(event.NamespaceCreate): // checkEnd requires a trace.loss for it
			case len(made) != 1 || made[0].Outcome != event.Success:
				t.Errorf("%v: %d UTS namespaces, want one:\n%s", s, len(made), dump(events))
			case made[0].Process.PID != uint32(w.pid) || made[0].Process.Args != nil:
				t.Errorf("%v: want process %d without arguments:\n%s", s, w.pid, dump(made))
			}
		}
	}
}

// awaitWitness causes an event and waits for it. It must come soon.
func awaitWitness(t *testing.T, h *host) {
	t.Helper()
	const soon = 2 * time.Second // without processor time, a test needs more than one
	from := make([]int, len(h.streams))
	for i, s := range h.streams {
		from[i] = s.len()
	}
	number := h.writeFence(t)
	written := time.Now()
	for i, s := range h.streams {
		there := func(new []*emitted) bool {
			return slices.ContainsFunc(new, func(e *emitted) bool { return e.fence() >= number })
		}
		for !s.comes(from[i], soon, there) {
			if s.over() || time.Since(written) > 5*soon {
				t.Fatalf("%v: an event of another process did not come within %v", s, time.Since(written))
			}
			h.writeFence(t) // the kernel can have skipped the event of the previous one
		}
		t.Logf("%v: the witness came after %v", s, time.Since(written))
	}
}

// fuseDevice makes a /dev/fuse for everybody, as udev does, and returns its path.
func fuseDevice(t *testing.T) string {
	t.Helper()
	const path = "/dev/nstrace-e2e-fuse"
	var st unix.Stat_t
	err := unix.Stat("/dev/fuse", &st)
	if err == nil {
		t.Cleanup(func() { os.Remove(path) })
		err = unix.Mknod(path, unix.S_IFCHR, int(st.Rdev))
	}
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		t.Skipf("cannot open a FUSE device here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return path
}
