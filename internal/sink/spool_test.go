// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// openSpool returns a set with a sink that has a spool in front of a destination.
func openSpool(t *testing.T, path string, limit int64, to Destination, queue int) *Set {
	t.Helper()
	report := func(s string) { t.Log(s) }
	spool, err := Spool(path, limit, Options{Name: "to", Destination: to, Events: true, Report: report})
	if err != nil {
		t.Fatal(err)
	}
	return NewSet(New(Options{Name: "spool", Destination: spool, MaxEvents: queue, Report: report}))
}

var errDown = errors.New("down")

// TestSpool has a server that is down during the first run. The second run delivers the events of both, in order.
func TestSpool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "spool")
	to := &fake{fails: errDown}
	var n numbered
	for range 2 {
		set := openSpool(t, path, 1<<30, to, 0)
		for range 9000 {
			set.Write(n.next(event.SysctlWrite))
			set.Flush()
		}
		end(t, set)
		if to.fails != nil && len(to.lines) > 0 {
			t.Fatal("the server was down")
		}
		to.fails = nil
	}
	if has, _, lost := check(t, to.events(t)); has != 18000 || lost != 0 {
		t.Errorf("%d events, %d lost", has, lost)
	}
	set := openSpool(t, path, 1<<30, to, 0)
	end(t, set)
	if len(to.lines) != 18000 {
		t.Errorf("%d events after another run", len(to.lines))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() > maxSmall/4 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestSpoolFull has a spool with a limit. What does not fit into it is lost, and the stream says so, also if that is
// after a restart.
func TestSpoolFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	to := &fake{fails: errDown}
	set := openSpool(t, path, 100_000, to, 100)
	var n numbered
	for range 3000 {
		set.Write(n.next(event.SysctlWrite))
		set.Flush()
		if n.seq%50 == 0 {
			time.Sleep(time.Millisecond) // the spool, not the queue, is what is too small
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // less than Close waits
	defer cancel()
	set.sinks[0].finish()
	if err := set.sinks[0].end(ctx); err == nil || !strings.Contains(err.Error(), "spool lacks up to") {
		t.Error(err)
	}
	to.fails = nil
	set = openSpool(t, path, 100_000, to, 100)
	end(t, set)
	if has, _, lost := check(t, to.events(t)); has+lost != 3000 || has < 100 || lost < 100 {
		t.Errorf("%d events, %d lost", has, lost)
	}
}

// TestSpoolKilled kills a process with a spool by SIGKILL. Its events are there.
func TestSpoolKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	cmd := exec.Command(os.Args[0], "-test.run=^TestSpoolChild$")
	cmd.Env = append(os.Environ(), "NSTRACE_SPOOL="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if _, err := Spool(path, 1<<30, Options{}); err == nil || !strings.Contains(err.Error(), "another nstrace") {
		t.Errorf("two processes can have one spool: %v", err)
	}
	cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("not killed")
	}
	to := &fake{}
	set := openSpool(t, path, 1<<30, to, 0)
	end(t, set)
	if has, _, lost := check(t, to.events(t)); has != 2000 || lost != 0 {
		t.Errorf("%d events, %d lost", has, lost)
	}
}

// TestSpoolChild is the process of TestSpoolKilled.
func TestSpoolChild(t *testing.T) {
	path := os.Getenv("NSTRACE_SPOOL")
	if path == "" {
		t.Skip("only for TestSpoolKilled")
	}
	set := openSpool(t, path, 1<<30, &fake{fails: errDown}, 0)
	var n numbered
	for range 2000 {
		set.Write(n.next(event.SysctlWrite))
	}
	set.Flush()
	for s := set.sinks[0].(*Sink); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		empty := len(s.queue) == 0
		s.mu.Unlock()
		if empty {
			break
		}
	}
	os.Stdout.WriteString("x")
	select {}
}

// TestSpoolTorn cuts the log of the file off, as a power cut can do. What is before the cut is there, and whole.
func TestSpoolTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "spool")
	to := &fake{fails: errDown}
	set := openSpool(t, path, 1<<30, to, 0)
	var n numbered
	for range 200 {
		set.Write(n.next(event.SysctlWrite))
		set.Flush()
		for s := set.sinks[0].(*Sink); ; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			empty := len(s.queue) == 0
			s.mu.Unlock()
			if empty {
				break
			}
		}
	}
	copied := filepath.Join(t.TempDir(), "spool")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix != "" {
			b = b[:len(b)*3/4]
		}
		if err := os.WriteFile(copied+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	end(t, set)
	whole := &fake{}
	set = openSpool(t, copied, 1<<30, whole, 0)
	end(t, set)
	if has, _, lost := check(t, whole.events(t)); has < 50 || has >= 200 || lost != 0 {
		t.Errorf("%d events, %d lost", has, lost)
	}
}

// TestSpoolShared has a folder of others.
func TestSpoolShared(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Spool(filepath.Join(dir, "spool"), 1<<30, Options{}); err == nil {
		t.Error("others can write to the folder")
	}
}
