// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"sync/atomic"

	"github.com/nstrace/nstrace/event"
)

// NewRunID returns a random id for a run: 32 hexadecimal digits.
func NewRunID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Drops counts the events that the steps before Number dropped. An event with a Count
// counts as that many.
type Drops struct {
	n     uint64
	added uint64 // of n, the events that are not the source's
}

func (d *Drops) add(e *event.Event) {
	d.n += weight(e)
	if e.Ref == 0 {
		d.added += weight(e)
	}
}

// weight is how many events a line stands for.
func weight(e *event.Event) uint64 { return max(1, e.Count) }

// A Source has the totals of what it gave to a pipeline: a tracer.Tracer. Written is what
// it handed on.
type Source interface {
	Totals() (event.Totals, error)
}

// Number assigns to each event the version of the schema, the id of the run and the next
// sequence number, and to trace.stop and trace.alive the totals. It is the only place that does so.
type Number struct {
	next   Handler
	runID  string
	source Source
	drops  *Drops

	seq          uint64
	host, bootID string // of the last event of the source
	written      uint64 // events, trace.* other than trace.tamper not counted
	added        uint64 // of those, the events that are not the source's
	alerts       map[string]uint64
	raised       uint64        // sum of alerts
	shown        atomic.Uint64 // written, for other goroutines
	more         atomic.Bool   // uncounted, for other goroutines
	totals       *event.Totals
	uncounted    bool // a trace.loss said that an unknown number was lost

	// The last write, which a change that the kernel made along with it refers to.
	writeRef, writeSeq uint64

	bytes event.BytesFinder

	labels map[string]string // of each event
}

// NewNumber returns a Number in front of next. source can be set later, before the first
// event.
func NewNumber(next Handler, runID string, source Source, drops *Drops) *Number {
	return &Number{next: next, runID: runID, source: source, drops: drops, alerts: map[string]uint64{}}
}

// Event numbers e and hands it on.
func (n *Number) Event(e *event.Event) error {
	n.seq++
	e.V, e.RunID, e.Seq = event.SchemaVersion, n.runID, n.seq
	e.Labels = n.labels                 // also of the events that came in behind Label
	if e.Ref == 0 || e.Refusal != nil { // a step made it, or added who set a limit
		n.bytes.Set(e)
	}
	switch {
	case e.Ref != 0:
		n.host, n.bootID = e.Host, e.BootID
	case e.BootID == "": // else it is about a namespace of another boot
		e.Host, e.BootID = n.host, n.bootID
	}
	if s := e.Sysctl; s != nil {
		switch {
		case s.Cause == nil && e.Ref == 0: // added between a write and its consequences
		case s.Cause == nil:
			n.writeRef, n.writeSeq = e.Ref, e.Seq
		case s.Cause.Ref != 0 && s.Cause.Ref == n.writeRef:
			s.Cause.Seq = n.writeSeq
		default:
			s.Cause.Seq = 0 // a step dropped the write
		}
	}
	for i := range e.Alert {
		n.alerts[e.Alert[i].Name]++
		n.raised++
	}
	switch {
	case e.Type == event.TraceStop:
		if err := n.total(e); err != nil {
			return err
		}
	case e.Type == event.TraceAlive:
		if e.Trace != nil && e.Trace.Totals != nil {
			n.add(e.Trace.Totals)
		}
	case e.Type == event.TraceLoss:
		n.uncounted = n.uncounted || e.Loss != nil && len(e.Loss.Records) == 0
	case !aboutTrace(e) || e.Type == event.TraceTamper:
		n.written += weight(e)
		if e.Ref == 0 {
			n.added += weight(e)
		}
	}
	return n.next.Event(e)
}

// total puts the totals of the run into its trace.stop. Seen = Written + Filtered + Lost
// holds if the source counted right and every dropped event was counted.
func (n *Number) total(e *event.Event) error {
	t, err := n.source.Totals()
	if err != nil {
		return err
	}
	n.add(&t)
	n.totals = &t
	if e.Trace == nil {
		e.Trace = &event.Trace{}
	}
	e.Trace.Totals = &t
	return nil
}

// add adds to the totals of the source what the steps did.
func (n *Number) add(t *event.Totals) {
	t.Seen += n.added + n.drops.added
	t.Filtered += n.drops.n
	t.Written, t.Alerts = n.written, n.raised
}

// Idle hands on the call.
func (n *Number) Idle() error {
	n.shown.Store(n.written)
	n.more.Store(n.uncounted)
	return n.next.Idle()
}

// Written returns how many events were written by the last Idle, as trace.stop counts them. It is safe for concurrent
// use.
func (n *Number) Written() uint64 { return n.shown.Load() }

// MoreLost is Uncounted by the last Idle. It is safe for concurrent use.
func (n *Number) MoreLost() bool { return n.more.Load() }

// Totals returns the totals of the run, nil before its trace.stop.
func (n *Number) Totals() *event.Totals { return n.totals }

// Uncounted reports whether an unknown number of events was lost, which no total has.
func (n *Number) Uncounted() bool { return n.uncounted }

// Alerts returns how many written events met each rule, by the rule's name.
func (n *Number) Alerts() map[string]uint64 { return maps.Clone(n.alerts) }
