// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// asVisitor is set for a process that visits the recorder of the history that it names, until its input ends.
const asVisitor = "NSTRACE_TEST_VISITOR"

// TestVisitor is the other process.
func TestVisitor(t *testing.T) {
	path := os.Getenv(asVisitor)
	if path == "" {
		t.Skip("it is started by TestVisits")
	}
	c := history.NewClient(path)
	for range 2 {
		if err := c.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("\nready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	c.Close()
	c.Close()
}

// startVisitor starts a program that visits, and returns its PID and what ends its visit.
func startVisitor(t *testing.T, program, path string) (pid uint32, leave func()) {
	t.Helper()
	cmd := exec.Command(program, "-test.run=^TestVisitor$")
	cmd.Env = append(os.Environ(), asVisitor+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	leave = func() { in.Close(); _ = cmd.Wait() }
	t.Cleanup(leave)
	var got strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(got.String(), "\nready\n"); {
		n, err := out.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v: %s", err, got.String())
		}
	}
	return uint32(cmd.Process.Pid), leave
}

// TestVisits has processes that ask a recorder. Only the calls of setns of one that runs the same file are its visitor's,
// and only while it visits.
func TestVisits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	serve(t, r)
	awaitSync(t, path)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	pid, leave := startVisitor(t, program, path)
	enter := func(change func(*event.Event, *event.Process)) bool {
		p := &event.Process{PID: pid, UID: uint32(os.Geteuid()), Comm: "x", StartTime: before}
		e := &event.Event{Type: event.NamespaceEnter, Via: event.ViaSetns, Outcome: event.Success, Time: time.Now(), Process: p, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 1}}
		if change != nil {
			change(e, p)
		}
		return r.ByVisitor(e)
	}
	if !enter(nil) {
		t.Error("the enter of a visitor is not its own")
	}
	if !enter(func(e *event.Event, _ *event.Process) { e.Outcome = event.Failure }) {
		t.Error("nor one that failed")
	}
	for name, change := range map[string]func(*event.Event, *event.Process){
		"another process":                   func(_ *event.Event, p *event.Process) { p.PID++ },
		"another user":                      func(_ *event.Event, p *event.Process) { p.UID++ },
		"a later process with the PID":      func(_ *event.Event, p *event.Process) { p.StartTime = time.Now() },
		"before the visit":                  func(e *event.Event, _ *event.Process) { e.Time = before },
		"a namespace that the process made": func(e *event.Event, _ *event.Process) { e.Type = event.NamespaceCreate },
		"another call":                      func(e *event.Event, _ *event.Process) { e.Via = "unshare" },
		"no process":                        func(e *event.Event, _ *event.Process) { e.Process = nil },
		"a write":                           func(e *event.Event, _ *event.Process) { e.Type = event.SysctlWrite },
	} {
		if enter(change) {
			t.Errorf("%s counts as the enter of a visitor", name)
		}
	}

	// The same program in another file is one that anybody can have made.
	other := filepath.Join(t.TempDir(), filepath.Base(program))
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(other, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := startVisitor(t, other, path)
	if enter(func(_ *event.Event, p *event.Process) { p.PID = stranger }) {
		t.Error("a process of another program counts as a visitor")
	}

	left := time.Now()
	leave()
	for enter(nil) { // until the recorder has noticed
		if time.Since(left) > 20*time.Second {
			t.Fatal("the visit does not end with the connection")
		}
		time.Sleep(time.Millisecond)
	}
	if !enter(func(e *event.Event, _ *event.Process) { e.Time = left }) {
		t.Error("an event of the visit that comes after it is not the visitor's")
	}
}

// TestManyVisits has more visitors than a recorder admits. It answers all of them.
func TestManyVisits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	serve(t, r)
	awaitSync(t, path)
	var all sync.WaitGroup
	atOnce := make(chan struct{}, 32)
	for range history.MaxVisits + 5 {
		c := history.NewClient(path)
		defer c.Close()
		atOnce <- struct{}{}
		all.Go(func() {
			defer func() { <-atOnce }()
			if err := c.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := r.Visits(); n != history.MaxVisits {
		t.Errorf("%d visits, want %d", n, history.MaxVisits)
	}
}
