// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/fusetest"
	"github.com/nstrace/nstrace/internal/history"
)

// userNetwork has an ordinary user make a network namespace with some devices. It returns the id of the
// namespace, which lasts until the end of the test.
func userNetwork(t *testing.T, uid, devices int) uint32 {
	t.Helper()
	batch := filepath.Join(openDir(t, 0o755), "batch")
	var links strings.Builder
	for i := range devices {
		fmt.Fprintf(&links, "link add x%d type bridge\n", i)
	}
	if err := os.WriteFile(batch, []byte(links.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(uid)
	cmd := exec.Command("setpriv", "--reuid", id, "--regid", id, "--clear-groups", "unshare", "--user", "--map-root-user", "--net",
		"sh", "-ec", "ip -batch "+batch+"; readlink /proc/self/ns/net; read x || :")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("a network namespace with %d devices: %v", devices, err)
	}
	return parseID(t, strings.TrimSpace(line))
}

// TestManyDevices has a user's network namespace with so many devices that it takes many seconds to read
// their parameters. Neither the start nor the end of a recorder waits for them. What it reads of others
// is complete.
func TestManyDevices(t *testing.T) {
	anyKernel(t)
	const longer = 3 * time.Second // than without the devices
	dir := t.TempDir()
	// run records until a snapshot is stored, and returns how long the start and the end took.
	run := func(name, says string) (start, end time.Duration, s *drift.Snapshot) {
		t.Helper()
		db := filepath.Join(dir, name)
		began := time.Now()
		r := startStream(t, "record", "--db", db, "--runtime-socket", "none")
		r.awaitStart(t)
		start = time.Since(began)
		r.awaitSnapshot(t, db)
		began = time.Now()
		r.interrupt(t)
		end = time.Since(began)
		if said := r.stderr.String(); r.err != nil || !strings.Contains(said, says) {
			t.Errorf("%v: %v, and printed %q, want %q", r, r.err, said, says)
		}
		h, err := history.Open(db)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		left, _, err := h.Snapshot("drift")
		if err != nil {
			t.Fatal(err)
		}
		if s, err = drift.Decode(left.Version, left.Data); err != nil {
			t.Fatal(err)
		}
		return start, end, s
	}
	of := func(s *drift.Snapshot, id uint32) *drift.Namespace {
		for _, ns := range s.Namespaces {
			if ns.Type == event.NSTypeNet && ns.ID == id {
				return ns
			}
		}
		t.Fatalf("the snapshot has no network namespace %d", id)
		return nil
	}

	other := userNetwork(t, 1002, 1)
	start, end, small := run("small.db", "")
	many := userNetwork(t, 1001, 800)
	startMany, endMany, big := run("big.db", "has no time for parameters of 1 of ")
	t.Logf("start %v, end %v; with the devices %v and %v", start, end, startMany, endMany)
	if startMany > start+longer || endMany > end+longer {
		t.Errorf("start %v, end %v; with the devices %v and %v", start, end, startMany, endMany)
	}
	if ns := of(big, many); !ns.Cut {
		t.Errorf("the snapshot has all %d parameters of the devices", len(ns.Parameters))
	}
	want, got := of(small, other), of(big, other)
	if big.Cut || big.Incomplete || got.Cut || len(got.Parameters) != len(want.Parameters) || len(big.Parameters) != len(small.Parameters) {
		t.Errorf("%d parameters of the host and %d of another user, want %d and %d", len(big.Parameters), len(got.Parameters), len(small.Parameters), len(want.Parameters))
	}
}

// TestHungMount has network namespaces mounted in a FUSE file system whose server has stopped to answer, in
// the mount namespace of nstrace and in another one. nstrace starts, reports events, takes a snapshot and
// ends without waiting for the server.
func TestHungMount(t *testing.T) {
	long(t)
	anyKernel(t)
	dir := filepath.Join(t.TempDir(), "fuse")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server := fusetest.Mount(t, dir)
	output(t, "unshare", "--net="+filepath.Join(dir, "here"), "true")
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "here"), unix.MNT_DETACH) })
	elsewhere := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec",
		`unshare --net="$1" true; echo ready; read x || :`, "sh", filepath.Join(dir, "elsewhere"))
	stdin, err := elsewhere.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := elsewhere.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = elsewhere.Wait() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	server.Silence()
	t.Cleanup(server.End) // whatever waits for it then ends

	db := filepath.Join(t.TempDir(), "history.db")
	began := time.Now()
	s := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	s.awaitStart(t)
	t.Logf("start after %v", time.Since(began))
	output(t, "unshare", "--net", "true")
	for _, typ := range []event.Type{event.NamespaceCreate, event.NamespaceDestroy} {
		s.await(t, string(typ), func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == typ && e.Namespace.Type == event.NSTypeNet })
		})
	}
	t.Logf("events after %v", time.Since(began))
	s.awaitSnapshot(t, db)
	t.Logf("snapshot after %v", time.Since(began))
	began = time.Now()
	s.interrupt(t)
	if took := time.Since(began); s.err != nil || took > 10*time.Second {
		t.Errorf("the end took %v: %v\n%s", took, s.err, s.stderr.String())
	}
}

// TestFewFiles has too few descriptors: at the start, and from some time on. nstrace says so in a line, and
// goes on if it runs.
func TestFewFiles(t *testing.T) {
	anyKernel(t)
	for _, args := range [][]string{{}, {"record", "--db", filepath.Join(t.TempDir(), "history.db")}} {
		args := append(args, "-o", "json", "--runtime-socket", "none")
		few := exec.Command("prlimit", append([]string{"--nofile=20", nstraceBin}, args...)...)
		if out, err := few.CombinedOutput(); err == nil || string(out) != "nstrace: the limit on open files (ulimit -n) is 20: want 1024\n" {
			t.Errorf("%q: %v, %q", args, err, out)
		}
		s := startCommand(t, exec.Command(nstraceBin, args...), args)
		s.awaitStart(t)
		none := unix.Rlimit{Cur: 10, Max: 10}
		if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			output(t, "unshare", "--net", "--map-root-user", "true")
		}
		s.await(t, "three network namespaces", func(all []*emitted) bool {
			return len(slices.DeleteFunc(slices.Clone(all), func(e *emitted) bool {
				return e.Type != event.NamespaceCreate || e.Namespace.Type != event.NSTypeNet || e.Process.Comm != "unshare"
			})) >= 3
		})
		s.interrupt(t)
		said := s.stderr.String()
		if s.err != nil || strings.Count(said, "walk the tasks") > 1 || !strings.HasSuffix(said, " lost\n") {
			t.Errorf("%v: %v, %q", s, s.err, said)
		}
	}
}

// TestNoFileSize has a limit of 0 bytes on files, at which the kernel sends SIGXFSZ. nstrace goes on and says
// what it could not write.
func TestNoFileSize(t *testing.T) {
	anyKernel(t)
	file := filepath.Join(t.TempDir(), "events")
	s := startCommand(t, exec.Command(nstraceBin, "-o", "json", "-O", file, "--runtime-socket", "none", "--duration", "20s"), nil)
	none := unix.Rlimit{}
	if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &none, nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !strings.Contains(s.stderr.String(), "file too large; nstrace goes on"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || s.over() {
			t.Fatalf("%v: %v, %q", s, s.err, s.stderr.String())
		}
	}
	s.interrupt(t)
	var exit *exec.ExitError
	if !errors.As(s.err, &exit) || exit.ExitCode() != 1 || !strings.Contains(s.stderr.String(), "file too large; the output lacks") {
		t.Errorf("%v: %v, %q", s, s.err, s.stderr.String())
	}
}
