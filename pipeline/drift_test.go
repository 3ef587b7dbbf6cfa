// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/pipeline"
)

// nothing is the end of a pipeline that drops what it gets.
type nothing struct{ pipeline.Handler }

func (nothing) Idle() error { return nil }

// TestDriftStoppedAtOnce stops runs right after the comparison. Each stores a snapshot for the next
// run, no matter what its goroutine notices first.
func TestDriftStoppedAtOnce(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "history.db")
		r, err := history.Create(history.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		d := pipeline.NewDrift(pipeline.DriftOptions{
			History: r, DB: path,
			Scan:   func() ([]drift.Found, error) { return nil, nil },
			Wake:   func() {},
			Report: func(message string) { t.Error(message) },
		})
		d.Next = nothing{}
		for range 2 {
			if err := d.Idle(); err != nil {
				t.Fatal(err)
			}
		}
		stopped, stop := context.WithCancel(t.Context())
		stop()
		run, end := d.Keep(stopped)
		<-run.Done()
		end()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := history.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := db.Snapshot("drift"); err != nil || !ok {
			t.Errorf("snapshot %v, error %v", ok, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
