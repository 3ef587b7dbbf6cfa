// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
)

const (
	// snapshotName is the name of the stored snapshots in the history.
	snapshotName = "drift"
	// snapshotEvery is how often Drift stores a snapshot for the next run, if anything
	// happened since the last one.
	snapshotEvery = time.Minute
)

// DriftOptions configure a Drift.
type DriftOptions struct {
	History *history.Recorder
	DB      string       // the path of its database
	Filter  event.Filter // what the kernel applied to all other events
	// Scan finds the namespaces that are alive.
	Scan func() ([]drift.Found, error)
	// Wake makes the tracer call Idle soon.
	Wake func()
	// Report takes a message about what could not be compared or stored.
	Report func(message string)
}

// Drift compares the host's parameters and namespaces at the start of a run with those at
// the end of the previous one. It adds an event for each difference, once, and stores
// snapshots for the next run.
//
// Three goroutines take part: the constructor's, which takes the first snapshot; that of
// the pipeline, which calls Event and Idle; and that of Keep, which stores snapshots and
// makes the comparison if the database could only be opened late.
type Drift struct {
	Next Handler
	o    DriftOptions

	// Both are nil once they were compared, and if there is nothing to compare.
	before, after *drift.Snapshot
	idles         int
	compared      chan struct{} // closed once the differences were handed on
	changed       atomic.Bool   // something happened since the last stored snapshot

	// If the database could not be opened at the start:
	late    bool
	started time.Time
	idle    chan chan struct{}  // asks Idle to close what is sent, once all records were read
	found   chan []*event.Event // the differences, once
}

// NewDrift takes a snapshot of the host, and reads the one of the previous run. Tracing must be
// active. If either snapshot fails, NewDrift reports that, and no differences are added.
func NewDrift(o DriftOptions) *Drift {
	d := &Drift{
		o: o, compared: make(chan struct{}), started: time.Now(),
		idle: make(chan chan struct{}, 1), found: make(chan []*event.Event, 1),
	}
	select {
	case <-o.History.Opened():
	default:
		d.late = true
		return d
	}
	after, err := d.take()
	if err != nil {
		d.reportUnknown(err)
		close(d.compared)
		return d
	}
	d.after = after
	if d.before, err = d.stored(); err == nil && d.before != nil {
		err = d.update(d.before, nil)
	}
	if err != nil {
		d.reportUnknown(err)
		d.before = nil
		return d
	}
	if d.before != nil {
		d.before.Time = d.unwatchedSince(d.before.Time)
	}
	return d
}

// stored returns the snapshot of the previous run, nil if there is none.
func (d *Drift) stored() (*drift.Snapshot, error) {
	s, ok := d.o.History.Snapshot(snapshotName)
	if !ok {
		return nil, nil
	}
	return drift.Decode(s.Version, s.Data)
}

// unwatchedSince returns the start of the time in which no nstrace was running: the end of the
// previous run, or the time of the snapshot if that is later.
func (d *Drift) unwatchedSince(snapshot time.Time) time.Time {
	if g := gapBefore(d.o.History, d.started); g != nil && g.Trace.From.After(snapshot) {
		return g.Trace.From
	}
	return snapshot
}

func (d *Drift) reportUnknown(err error) {
	d.o.Report(fmt.Sprintf("cannot compare parameters and namespaces with the previous run: %v", err))
}

// take takes a snapshot of now.
func (d *Drift) take() (*drift.Snapshot, error) {
	at := time.Now()
	found, err := d.o.Scan()
	if err != nil {
		return nil, err
	}
	return drift.Take(found, at)
}

// update applies the events that were recorded after a snapshot was taken to it. If after
// is not nil, both forget what later events are about.
func (d *Drift) update(before, after *drift.Snapshot) error {
	db, err := history.Open(d.o.DB)
	if err != nil {
		return err
	}
	q := history.Query{Since: before.Time, Types: map[event.Type]bool{}}
	for _, family := range event.Families() {
		for _, t := range family.Types {
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
		d.reportUnknown(first)
	}
	return db.Close()
}

// compareLate makes the comparison if the database could not be opened at the start. By then it
// contains events of this run. compareLate misses a parameter that changed while no nstrace was
// running and was written again since: only the old value of that write shows the change.
func (d *Drift) compareLate(ctx context.Context) ([]*event.Event, error) {
	before, err := d.stored()
	if err != nil || before == nil {
		return nil, err
	}
	if d.o.History.StoodBy() && gapBefore(d.o.History, d.started) == nil {
		return nil, nil // one of the two recorders was tracing at any time
	}
	after, err := d.take()
	if err != nil {
		return nil, err
	}
	// The history must contain everything up to now. The first round ends the batch that the tracer
	// is reading. The second one reads what came during the first.
	for range 2 {
		idle := make(chan struct{})
		d.idle <- idle // before the wake-up: the tracer can become idle once and not again
		d.o.Wake()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, nil
		}
	}
	if err := d.o.History.Sync(); err != nil {
		return nil, err
	}
	from := before.Time
	if err := d.update(before, after); err != nil {
		return nil, err
	}
	before.Time, after.Time = d.unwatchedSince(from), d.started
	return drift.Compare(before, after), nil
}

// Event hands on e. Events between attaching and the first snapshot are still in the ring at that
// time. Event makes sure that they do not look like differences.
func (d *Drift) Event(e *event.Event) error {
	switch e.Type {
	case event.TraceStart, event.TraceGap:
	case event.TraceStop:
		if err := d.add(true); err != nil {
			return err
		}
	default:
		d.changed.Store(true)
		d.observe(e)
	}
	return d.Next.Event(e)
}

func (d *Drift) observe(e *event.Event) {
	switch {
	case d.after == nil || d.before == nil:
	case e.Time.Before(d.after.Time):
		at := d.before.Time
		d.before.Apply(e)
		d.before.Time = at
	default:
		d.before.Forget(e)
		d.after.Forget(e)
	}
}

// Idle adds the differences once they are known, and hands on the call.
func (d *Drift) Idle() error { return errors.Join(d.add(false), d.Next.Idle()) }

// add hands on the differences, once: when the ring was empty for the first time after the start,
// which is the second time that the tracer is idle, or at the end of the run. The next snapshot is
// stored only after that, so that the history contains the differences up to that snapshot.
func (d *Drift) add(end bool) error {
	var events []*event.Event
	switch {
	case d.late:
		select {
		case events = <-d.found:
			d.late = false
		case idle := <-d.idle:
			close(idle)
			return nil
		default:
			return nil
		}
	case d.after == nil:
		return nil
	default:
		if d.idles++; d.idles < 2 && !end {
			return nil
		}
		if d.before != nil {
			events = drift.Compare(d.before, d.after)
		}
		d.before, d.after = nil, nil
	}
	for _, e := range events {
		if !d.o.Filter.MatchStored(e) {
			continue
		}
		if err := d.Next.Event(e); err != nil {
			return err
		}
	}
	close(d.compared)
	return nil
}

// Keep stores snapshots for the next run: as soon as the differences were added, once a minute
// while events come, and when ctx ends. The run must continue until the context that Keep returns
// ends, which is after the last snapshot: events in between are recorded after that snapshot.
func (d *Drift) Keep(ctx context.Context) (context.Context, context.CancelFunc) {
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	late := d.late // the pipeline's goroutine owns the field from now on
	go func() {
		defer close(done)
		defer cancel()
		if late {
			select {
			case <-d.o.History.Opened():
			case <-ctx.Done():
				return
			case <-run.Done():
				return
			}
			d.o.Wake() // for Gap
			// The run can also end by itself. Then nothing answers.
			either, stop := context.WithCancel(ctx)
			context.AfterFunc(run, stop)
			events, err := d.compareLate(either)
			ended := either.Err() != nil
			stop()
			if ended {
				return // not compared: the next run must find the same snapshot
			}
			if err != nil {
				d.reportUnknown(err)
			}
			d.found <- events
			d.o.Wake()
		}
		select {
		case <-d.compared:
			d.store()
		case <-ctx.Done():
			select {
			case <-d.compared: // both are ready
				d.store()
			default: // the next run compares with the previous snapshot and the history
			}
			return
		case <-run.Done():
			return
		}
		ticker := time.NewTicker(snapshotEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if d.changed.Swap(false) {
					d.store()
				}
			case <-ctx.Done():
				d.store()
				return
			case <-run.Done():
				return
			}
		}
	}()
	return run, func() { cancel(); <-done }
}

// store stores a snapshot of now, after all events so far.
func (d *Drift) store() {
	s, err := d.take()
	if err == nil {
		var data []byte
		if data, err = s.Encode(); err == nil {
			err = errors.Join(d.o.History.Sync(), d.o.History.PutSnapshot(snapshotName, drift.Version, data))
		}
	}
	if err != nil {
		d.o.Report(fmt.Sprintf("cannot store a snapshot for the next run: %v", err))
	}
}
