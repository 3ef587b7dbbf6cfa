// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/pipeline"
)

// record makes an event part of the history, as the pipeline behind Drift does.
type record struct {
	kept
	r *history.Recorder
}

func (r *record) Event(e *event.Event) error {
	if r.r.Append(e) != nil {
		return os.ErrClosed
	}
	return r.kept.Event(e)
}

// TestDriftRunning changes a parameter while a run goes on. What an event reports is no difference. What none
// reports is one, once, and the next snapshot has it.
func TestDriftRunning(t *testing.T) {
	const name, path = "fs.lease-break-time", "/proc/sys/fs/lease-break-time"
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set := func(value string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			t.Skip(err) // no root, or not the host's /proc/sys
		}
	}
	set(string(bytes.TrimSpace(before)))
	defer set(string(before))
	defer pipeline.SetSnapshotEvery(time.Millisecond)()
	defer enoughTime()()
	db := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var looks atomic.Int32
	scan := finds()
	d := pipeline.NewDrift(pipeline.DriftOptions{
		History: r, DB: db, Complete: true, Wake: func() {}, Report: func(m string) { t.Error(m) },
		Scan: func(ctx context.Context) ([]drift.Found, bool, error) { looks.Add(1); return scan(ctx) },
	})
	next := &record{r: r}
	d.Next = next
	ctx, stop := context.WithCancel(t.Context())
	run, end := d.Keep(ctx)
	// look lets Drift look twice: the first of them can have begun before.
	look := func() {
		t.Helper()
		for want, limit := looks.Load()+3, time.Now().Add(time.Minute); looks.Load() < want; time.Sleep(time.Millisecond) {
			if err := d.Idle(); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(limit) {
				t.Fatal("Drift does not look")
			}
		}
	}
	look()
	for i, step := range []struct {
		value  string
		traced bool
	}{{"31", false}, {"32", true}, {"33", false}, {"33", false}, {"32", true}} {
		old := len(next.events)
		set(step.value)
		if step.traced {
			e := &event.Event{Type: event.SysctlWrite, Outcome: event.Success, Time: time.Now(), Sysctl: &event.Sysctl{Name: name, Path: path, New: &step.value, After: &step.value}}
			if err := d.Event(e); err != nil {
				t.Fatal(err)
			}
		}
		look()
		var drifts []*event.Event
		for _, e := range next.events[old:] {
			if e.Type == event.SysctlDrift && e.Sysctl.Name == name {
				drifts = append(drifts, e)
			}
		}
		want := 1
		if step.traced || i == 3 {
			want = 0
		}
		if len(drifts) != want {
			t.Errorf("step %d: %d differences", i, len(drifts))
			continue
		}
		for _, e := range drifts {
			if b := e.Between; *e.Sysctl.After != step.value || !b.Recording || b.Boot != "same" || b.To.Before(b.From) || time.Since(b.From) > time.Minute {
				t.Errorf("step %d: %q, %+v", i, *e.Sysctl.After, b)
			}
		}
	}
	stop()
	for run.Err() == nil {
		if err := d.Idle(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	end()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if s := storedSnapshot(t, db); s.Parameters[name] != "32" {
		t.Errorf("the stored snapshot has %q", s.Parameters[name])
	}
}
