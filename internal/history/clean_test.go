// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
)

// awaitUsed waits until a database uses at most size bytes.
func awaitUsed(t *testing.T, path string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		used, err := open(t, path).Used()
		if err != nil {
			t.Fatal(err)
		}
		if used <= size {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are in use, want %d", used, size)
		}
	}
}

// TestNewNames records events each of which has another name, number or argument. Their rows go with
// them: the database does not exceed its size, and has events.
func TestNewNames(t *testing.T) {
	oneGoroutine(t)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("no sqlite3 shell")
	}
	const size, events = 1 << 20, 8_000
	long := strings.Repeat("x", 1000)
	for name, change := range map[string]func(n int, e *event.Event, p *event.Process, ns *event.Namespace){
		"parameters": func(n int, e *event.Event, _ *event.Process, _ *event.Namespace) { e.Sysctl.Name += fmt.Sprint(n) },
		"paths":      func(n int, e *event.Event, _ *event.Process, _ *event.Namespace) { e.Sysctl.Path += fmt.Sprint(n) },
		"arguments": func(n int, _ *event.Event, p *event.Process, _ *event.Namespace) {
			p.Args = []string{fmt.Sprint(n) + long}
		},
		"commands":             func(n int, _ *event.Event, p *event.Process, _ *event.Namespace) { p.Comm = fmt.Sprint(n) },
		"units":                func(n int, e *event.Event, _ *event.Process, _ *event.Namespace) { e.Unit = fmt.Sprint(n) + long },
		"names of a namespace": func(n int, _ *event.Event, _ *event.Process, ns *event.Namespace) { ns.Name = fmt.Sprint(n) + long },
		"namespaces": func(n int, _ *event.Event, _ *event.Process, ns *event.Namespace) {
			ns.ID, ns.UID = ns.ID+uint32(n), fmt.Sprint(n)
		},
		"runs": func(n int, e *event.Event, _ *event.Process, _ *event.Namespace) { e.RunID = fmt.Sprint(n / 2) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "history.db")
			r := create(t, history.Options{Path: path, KeepSize: size})
			s := newStorm(t)
			write := func(n int, host bool) {
				e := s.next()
				e.Type, e.Via, e.Namespace, e.BootID = event.SysctlWrite, "write", nil, procfs.BootID()
				p := *s.users[0]
				e.Process = &p
				value := "1"
				ns := &event.Namespace{Type: "net", ID: 4026532000, UID: "1", Host: host}
				e.Sysctl = &event.Sysctl{Name: "net.x", Path: "/proc/sys/net/x", New: &value, Namespace: ns}
				if host {
					e.Sysctl.Name = "net.host"
				} else {
					change(n, e, &p, ns)
				}
				if err := r.Append(e); err != nil {
					t.Fatal(err)
				}
			}
			write(0, true)
			for n := range events {
				write(n, false)
			}
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
			awaitUsed(t, path, size)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			v := verify(t, path)
			if len(v.Problems) > 0 || v.Events+v.Dropped != events+1 {
				t.Errorf("%+v", v)
			}
			if v.Events < 100 || v.Dropped < 500 {
				t.Errorf("%d events are left, %d are not", v.Events, v.Dropped)
			}
			// Names of events that are gone must not take the place of others.
			used := shell(t, path, `SELECT max((SELECT count(*) FROM parameter), (SELECT count(*) FROM process), (SELECT count(*) FROM text), (SELECT count(*) FROM place),
				(SELECT count(*) FROM namespace), (SELECT count(*) FROM namespace_view), (SELECT count(*) FROM origin), (SELECT count(*) FROM kind), (SELECT count(*) FROM last_write))`)
			var rows uint64
			if _, err := fmt.Sscan(used, &rows); err != nil {
				t.Fatal(err)
			}
			if rows > v.Events+3000 {
				t.Errorf("%d rows for %d events", rows, v.Events)
			}
			host := 0
			for w, err := range open(t, path).LastWrites(context.Background(), func(n string) bool { return n == "net.host" }) {
				if err != nil {
					t.Fatal(err)
				}
				if host++; w.ID != 1 {
					t.Errorf("%+v", w)
				}
			}
			if host != 1 {
				t.Error("the last write to the host's parameter is gone")
			}
		})
	}
}

// TestAnchorsAreMerged drops events in many steps. Verify counts all of them.
func TestAnchorsAreMerged(t *testing.T) {
	oneGoroutine(t)
	defer history.SetMaxAnchors(history.SetMaxAnchors(4))
	const size = 1 << 20
	path := recorded(t, 60_000, history.Options{KeepSize: size})
	r := create(t, history.Options{Path: path, KeepSize: size})
	awaitUsed(t, path, size)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, path)
	if len(v.Problems) > 0 || v.Dropped+v.Events != 60_000 || v.Dropped < 10*4096 {
		t.Errorf("%+v", v)
	}
	if n := strings.TrimSpace(shell(t, path, "SELECT count(*) FROM anchor")); n > "5" {
		t.Errorf("%s anchors", n)
	}
	// What somebody changed stays visible.
	shell(t, path, "UPDATE anchor SET events = events + 1 WHERE id = 1")
	if len(verify(t, path).Problems) == 0 {
		t.Fatal("Verify sees no change")
	}
	r = create(t, history.Options{Path: path, KeepSize: size})
	s := newStorm(t)
	for range 30_000 {
		if err := r.Append(s.next()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, path, size)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if len(verify(t, path).Problems) == 0 {
		t.Error("retention hid a change")
	}
}
