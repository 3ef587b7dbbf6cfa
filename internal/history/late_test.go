// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// TestLateWrite records a write that comes after a newer one, in the same batch and in another one. The newer
// one stays the last write. If the wall clock was set back, the write that came last is the last one.
func TestLateWrite(t *testing.T) {
	for _, row := range []struct {
		late bool
		want string
	}{{true, "new"}, {false, "old"}} {
		for _, sync := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "history.db")
			r := create(t, history.Options{Path: path})
			at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			add := func(value string, at time.Time, late bool, seq uint64) {
				e := &event.Event{
					V: event.SchemaVersion, Type: event.SysctlWrite, Time: at, Late: late, Seq: seq, Via: event.ViaWrite,
					Host: "guest", BootID: "00000000-0000-0000-0000-000000000000", RunID: runIDs[0],
					Sysctl: &event.Sysctl{Name: "vm.swappiness", Path: "/proc/sys/vm/swappiness", New: &value},
				}
				if err := r.Append(e); err != nil {
					t.Fatal(err)
				}
				if sync {
					if err := r.Sync(); err != nil {
						t.Fatal(err)
					}
				}
			}
			add("new", at, false, 1)
			add("old", at.Add(-time.Second), row.late, 2)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			for w, err := range open(t, path).LastWrites(context.Background(), nil) {
				if err != nil {
					t.Fatal(err)
				}
				if got := *w.Event.Sysctl.New; got != row.want || w.Writes != 2 {
					t.Errorf("late=%v, sync=%v: %q after %d writes, want %q after 2", row.late, sync, got, w.Writes, row.want)
				}
			}
		}
	}
}
