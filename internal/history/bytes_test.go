// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// TestBytes records events of commands and values that differ only in bytes that are not UTF-8, as a stream has
// them. They stay different in the history, in an export and in a history that imported it.
func TestBytes(t *testing.T) {
	names := []string{"caf\xe9", "caf\xea", "caf\ufffd"}
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	for i, name := range names {
		value := name
		e := &event.Event{
			V: event.SchemaVersion, Type: event.SysctlWrite, Time: time.Unix(int64(i+1), 0).UTC(), Seq: uint64(i + 1), Via: event.ViaWrite,
			Host: "guest", BootID: "00000000-0000-0000-0000-000000000000", RunID: runIDs[0],
			Sysctl:  &event.Sysctl{Name: "net." + name, Path: "/proc/sys/net/" + name, New: &value},
			Process: &event.Process{PID: 7, TID: 7, Comm: name, Exe: "/bin/" + name, Args: []string{name}, Cgroup: "/" + name},
		}
		new(event.BytesFinder).Set(e)
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(path string) {
		t.Helper()
		for i, s := range find(t, open(t, path), history.Query{}) {
			e, name := s.Event, names[i]
			for _, got := range []string{e.Process.Comm, *e.Sysctl.New, e.Process.Args[0], e.Sysctl.Name[4:], e.Process.Exe[5:], e.Process.Cgroup[1:]} {
				if got != name {
					t.Errorf("event %d has %q, want %q", s.ID, got, name)
				}
			}
		}
		for w, err := range open(t, path).LastWrites(context.Background(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			if w.Parameter != "net."+w.Event.Process.Comm || w.Writes != 1 {
				t.Errorf("%d writes to %q by %q", w.Writes, w.Parameter, w.Event.Process.Comm)
			}
		}
		if v := verify(t, path); len(v.Problems) > 0 {
			t.Error(v.Problems)
		}
	}
	check(path)
	text := export(t, path)
	to := filepath.Join(t.TempDir(), "to.db")
	if _, err := history.Import(context.Background(), to, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	check(to)
	if again := export(t, to); !bytes.Equal(again, text) {
		t.Errorf("got\n%swant\n%s", again, text)
	}
}
