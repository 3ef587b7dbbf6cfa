// SPDX-License-Identifier: Apache-2.0

package top

import (
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

const (
	// batchEvents is how many events of one batch the view can show: more than fit on a
	// screen, and 2000 a second.
	batchEvents = 256
	// batchChanges is how many changes of namespaces a batch can have. If there are more,
	// the next inventory has them.
	batchChanges = 1024
	// batchCounts is for how many namespaces a batch can count events.
	batchCounts = 16384
	// maxMessages is how many messages about the run are kept.
	maxMessages = 100
	// frame is the shortest time between two batches, and so between two frames that events
	// cause.
	frame = 125 * time.Millisecond
)

// A Feed takes the events of a run for the view. It is an output.Sink that never fails and never
// waits: the view takes what is there in batches. In a storm it counts the events that do not
// fit into a batch, and the view shows the count in their place.
type Feed struct {
	mu       sync.Mutex
	next     *batch
	messages []string
	wake     chan struct{} // has an element if next has anything
}

// A batch is what a Feed took since the batch before it.
type batch struct {
	at      time.Time // when the view took it
	events  []*event.Event
	skipped uint64 // events after those of events that the view does not show
	total   uint64 // events, a folded one counted as often as it happened
	lost    uint64 // events that the tracer lost
	counts  map[inventory.Ref]uint64
	changes []change
	missed  bool // changes has not all
	moved   bool // something happened that changes what an inventory finds
	message string
}

// A change is a namespace that was created or destroyed.
type change struct {
	ref     inventory.Ref
	gone    bool
	created time.Time
	name    string
	owner   *event.Owner
	userNS  uint32
	creator *event.Process // nil if unknown
}

// NewFeed returns a Feed for Run.
func NewFeed() *Feed {
	return &Feed{next: newBatch(), wake: make(chan struct{}, 1)}
}

func newBatch() *batch { return &batch{counts: map[inventory.Ref]uint64{}} }

// Write takes an event.
func (f *Feed) Write(ev *event.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next.add(ev)
	f.signal()
	return nil
}

// Flush does nothing: Write has told the view already.
func (f *Feed) Flush() error { return nil }

// Close does nothing.
func (f *Feed) Close() error { return nil }

// Notify takes a message about the run, such as tracer.Options.Notify gets. The view shows the
// last one.
func (f *Feed) Notify(message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.messages) < maxMessages {
		f.messages = append(f.messages, message)
	}
	f.next.message = message
	f.signal()
}

// Messages returns the messages that Notify got, up to 100.
func (f *Feed) Messages() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages
}

func (f *Feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns what was taken since the last call.
func (f *Feed) take() *batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.next
	f.next = newBatch()
	b.at = time.Now()
	return b
}

// pump passes batches to send until end is closed, at most one each frame.
func (f *Feed) pump(send func(*batch), end <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-f.wake:
		case <-end:
			return
		}
		select {
		case <-pause.C:
		case <-end:
			return
		}
		send(f.take())
		pause.Reset(frame)
	}
}

func (b *batch) add(ev *event.Event) {
	switch ev.Type {
	case event.TraceStart, event.TraceStop:
		return
	case event.TraceLoss:
		if ev.Loss != nil {
			for _, n := range ev.Loss.Records {
				b.lost += n
			}
		}
	}
	if len(b.events) < batchEvents {
		b.events = append(b.events, ev.Clone())
	} else {
		b.skipped++
	}
	n := max(1, ev.Count)
	b.total += n
	for _, ns := range ev.Namespaces() {
		if ns == nil || ns.ID == 0 {
			continue
		}
		r := inventory.Ref{Type: ns.Type, ID: ns.ID}
		if _, ok := b.counts[r]; ok || len(b.counts) < batchCounts {
			b.counts[r] += n
		}
	}
	b.change(ev)
}

// change notes what an event changes in the list of namespaces.
func (b *batch) change(ev *event.Event) {
	if ev.Type.Family() != "namespace" || ev.Outcome == event.Failure {
		return
	}
	b.moved = true
	ns := ev.Namespace
	if ns == nil || ns.ID == 0 || ns.Type == "" {
		return
	}
	c := change{ref: inventory.Ref{Type: ns.Type, ID: ns.ID}, created: ns.Created, name: ns.Name, owner: ns.Owner, userNS: ns.UserNS}
	switch ev.Type {
	case event.NamespaceCreate:
		c.created, c.creator = ev.Time, ev.Process
	case event.NamespaceDestroy, event.NamespaceGone:
		c.gone = true
	default:
		return
	}
	if len(b.changes) >= batchChanges {
		b.missed = true
		return
	}
	b.changes = append(b.changes, c)
}
