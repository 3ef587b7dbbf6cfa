// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"encoding/hex"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/internal/history"
)

// noState is for recorders of which nobody asks the state.
func noState(context.Context) *history.State { return &history.State{} }

// TestAskState checks that a recorder reports its state to those who ask for it, and to nobody else.
func TestAskState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	if _, err := history.AskState(t.Context(), path); !errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("without a recorder: %v", err)
	}
	r := create(t, history.Options{Path: path})
	want := &history.State{Version: "1", PID: 7, Since: time.Unix(1_700_000_000, 0).UTC(), Events: 12, Lost: 3, MoreLost: true, Problems: []string{"x"}}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.ServeSync(ctx, func(context.Context) error { return r.Sync() }, func(context.Context) *history.State {
			s := *want
			return &s
		})
	}()
	awaitSync(t, path)
	var asks sync.WaitGroup
	for range 8 { // also together with requests of the other kind
		asks.Go(func() {
			if got, err := history.AskState(t.Context(), path); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
		asks.Go(func() {
			if err := history.Sync(t.Context(), path); err != nil {
				t.Errorf("Sync: %v", err)
			}
		})
	}
	asks.Wait()
	want.Problems = []string{"short", strings.Repeat("long", 5000)}
	if got, err := history.AskState(t.Context(), path); err != nil || len(got.Problems) != 1 || got.Problems[0] != "short" {
		t.Errorf("with a long problem: %+v, %v", got, err)
	}
	stop()
	<-served
}

// TestHead checks that the head of a recorder is the event that the chain of hashes ends with, also after the recorder
// was started again.
func TestHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := newStorm(t)
	for range 2 {
		r := create(t, history.Options{Path: path})
		before := r.Head()
		for range 5 {
			if err := r.Append(s.next()); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		head := r.Head()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := history.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		v, err := db.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if head == nil || head.ID != uint64(v.Last) || head.Hash != hex.EncodeToString(v.Head[:]) {
			t.Errorf("the head is %+v, the chain ends with %d %x", head, v.Last, v.Head)
		}
		if uint64(v.First) != 1 || (before == nil) != (v.Last == 5) || before != nil && before.ID != head.ID-5 {
			t.Errorf("the head at the start is %+v, the later one %+v", before, head)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
