// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/tracer"
)

const (
	// snapshotName is what the history has snapshots of parameters and namespaces under.
	snapshotName = "drift"
	// keepEvery is how often a snapshot is left for the next run, where something was
	// recorded since: what the kernel changed along with what was written is in it.
	keepEvery = time.Minute
)

// A keeper compares what there is at a run's start with what there was at the end of the
// run before, and leaves snapshots for the next one.
type keeper struct {
	t      *tracer.Tracer
	r      *history.Recorder
	db     string       // its database
	filter event.Filter // what the kernel has looked at for all other events

	before, after *drift.Snapshot // nil once they were compared, and where there is none
	idles         int
	changed       atomic.Bool // something happened since the last snapshot
	told          chan struct{}

	// Where the database could not be opened at the start.
	late    bool
	started time.Time
	idle    chan chan struct{}  // asks Run to close what is sent when it is idle
	found   chan []*event.Event // what is different, once
}

// newKeeper looks at what there is, which is now watched. That it can't, or that the
// snapshot before can't be used, costs what could be told of the time between, and is said.
func newKeeper(t *tracer.Tracer, r *history.Recorder, db string, filter event.Filter) *keeper {
	k := &keeper{
		t: t, r: r, db: db, filter: filter, told: make(chan struct{}),
		started: time.Now(), idle: make(chan chan struct{}, 1), found: make(chan []*event.Event, 1),
	}
	select {
	case <-r.Opened():
	default:
		k.late = true // there is no before yet
		return k
	}
	after, err := k.take()
	if err != nil {
		complain(err)
		close(k.told)
		return k
	}
	k.after = after
	if k.before, err = k.stored(); err == nil && k.before != nil {
		err = k.catchUp(k.before, nil)
	}
	if err != nil {
		complain(err)
		k.before = nil
		return k
	}
	if k.before != nil {
		k.before.Time = k.notWatchedFrom(k.before.Time)
	}
	return k
}

// stored is the snapshot that was left, nil for none.
func (k *keeper) stored() (*drift.Snapshot, error) {
	s, ok := k.r.Snapshot(snapshotName)
	if !ok {
		return nil, nil
	}
	return drift.Decode(s.Version, s.Data)
}

// notWatchedFrom is from when on nobody watched: the end of the run before, or what is known
// to have been watched after it was noted last.
func (k *keeper) notWatchedFrom(known time.Time) time.Time {
	if g := gap(k.r, k.started); g != nil && g.Trace.From.After(known) {
		return g.Trace.From
	}
	return known
}

func complain(err error) {
	fmt.Fprintf(os.Stderr, "nstrace: what changed while it was not watched is not known: %s\n", oneLine(err))
}

// take takes a snapshot of now.
func (k *keeper) take() (*drift.Snapshot, error) {
	at := time.Now()
	seen, err := k.t.Look()
	if err != nil {
		return nil, err
	}
	return drift.Take(seen, at)
}

// catchUp has a snapshot know what was recorded after it was taken. What is not before after,
// if that is not nil, both are to forget.
func (k *keeper) catchUp(before, after *drift.Snapshot) error {
	db, err := history.Open(k.db)
	if err != nil {
		return err
	}
	q := history.Query{Since: before.Time, Types: map[event.Type]bool{}}
	for _, family := range families {
		for _, t := range family {
			q.Types[t] = true
		}
	}
	for stored, err := range db.Events(context.Background(), q) {
		if err != nil {
			return errors.Join(err, db.Close())
		}
		if e := stored.Event; after == nil || e.Time.Before(after.Time) {
			before.Apply(e)
		} else {
			before.Forget(e)
			after.Forget(e)
		}
	}
	if _, first := db.LeftOut(); first != nil {
		complain(first)
	}
	return db.Close()
}

// compareLate compares once the database could be opened, with what was watched meanwhile
// in it. A parameter that was changed while nobody watched and set again since is not told
// of, other than by what the event says that it was.
func (k *keeper) compareLate(ctx context.Context) ([]*event.Event, error) {
	before, err := k.stored()
	if err != nil || before == nil {
		return nil, err
	}
	if k.r.StoodBy() && gap(k.r, k.started) == nil {
		return nil, nil // one of the two watched at any time
	}
	after, err := k.take()
	if err != nil {
		return nil, err
	}
	// What happened until then has to be in the history: once to end what Run is at, and
	// once for what came meanwhile.
	for range 2 {
		idle := make(chan struct{})
		k.idle <- idle // before Run is woken, or it may be idle once and not again
		k.t.Wake()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, nil
		}
	}
	if err := k.r.Sync(); err != nil {
		return nil, err
	}
	from := before.Time
	if err := k.catchUp(before, after); err != nil {
		return nil, err
	}
	before.Time, after.Time = k.notWatchedFrom(from), k.started
	return drift.Compare(before, after), nil
}

// see has what was watched at the very start be no drift: what happened between attaching
// and looking is in the ring still.
func (k *keeper) see(e *event.Event) {
	switch e.Type {
	case event.TraceStart, event.TraceStop:
		return
	}
	k.changed.Store(true)
	switch {
	case k.after == nil || k.before == nil:
	case e.Time.Before(k.after.Time):
		at := k.before.Time
		k.before.Apply(e)
		k.before.Time = at
	default:
		k.before.Forget(e)
		k.after.Forget(e)
	}
}

// find has tell told what is different from the run before, once: when the ring was empty
// for the first time after the start, which is the second time that Run is idle, or at the
// run's end. The next snapshot is taken only after that: what it shows to be known is in
// the history, or will be before the snapshot is.
func (k *keeper) find(end bool, tell func(*event.Event) error) error {
	var events []*event.Event
	switch {
	case k.late:
		select {
		case events = <-k.found:
			k.late = false
		case idle := <-k.idle:
			close(idle)
			return nil
		default:
			return nil
		}
	case k.after == nil:
		return nil
	default:
		if k.idles++; k.idles < 2 && !end {
			return nil
		}
		if k.before != nil {
			events = drift.Compare(k.before, k.after)
		}
		k.before, k.after = nil, nil
	}
	for _, e := range events {
		if err := tell(e); err != nil {
			return err
		}
	}
	close(k.told)
	return nil
}

// keep leaves snapshots for the next run: now, every minute in which something happened,
// and when ctx ends. Then the context that it returns ends: what happens until nobody
// watches any more is recorded and comes after that snapshot.
func (k *keeper) keep(ctx context.Context) (context.Context, context.CancelFunc) {
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	late := k.late // which is Run's from now on
	go func() {
		defer close(done)
		defer cancel()
		if late {
			select {
			case <-k.r.Opened():
			case <-ctx.Done():
				return
			case <-run.Done():
				return
			}
			k.t.Wake() // to tell of the gap
			events, err := k.compareLate(ctx)
			if err != nil {
				complain(err)
			}
			k.found <- events
			k.t.Wake()
		}
		select {
		case <-k.told:
			k.put()
		case <-ctx.Done():
			return // nothing is known that the next run does not find in the history
		case <-run.Done():
			return
		}
		ticker := time.NewTicker(keepEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if k.changed.Swap(false) {
					k.put()
				}
			case <-ctx.Done():
				k.put()
				return
			case <-run.Done():
				return
			}
		}
	}()
	return run, func() { cancel(); <-done }
}

// put leaves a snapshot of now. What was told before is on the disk first.
func (k *keeper) put() {
	s, err := k.take()
	if err == nil {
		var data []byte
		if data, err = s.Encode(); err == nil {
			err = errors.Join(k.r.Sync(), k.r.PutSnapshot(snapshotName, drift.Version, data))
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nstrace: the next run will not know what there was: %s\n", oneLine(err))
	}
}
