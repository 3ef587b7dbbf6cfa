// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// lossCounts is what trace.loss events have reported so far.
type lossCounts struct {
	lost, missed map[event.Type]uint64
	last         uint64 // time of the last loss, CLOCK_BOOTTIME
}

// reportLoss emits a trace.loss for what was lost since the last one.
func (t *Tracer) reportLoss() error {
	c, err := t.attached.counters()
	if err != nil {
		return err
	}
	lost, missed := map[event.Type]uint64{}, map[event.Type]uint64{}
	for kind, k := range recordKinds {
		if k.event != "" {
			lost[k.event] += c.Lost[kind]
			missed[k.event] += c.Missed[kind]
		}
	}
	for typ, n := range t.attached.missed {
		missed[typ] += n
	}
	clock := &t.interpreter.clock
	from := max(c.FirstLost, t.reported.last)
	if err := t.emitLoss(event.LossRingFull, increase(t.reported.lost, lost), clock.wall(from), clock.wall(c.LastLost)); err != nil {
		return err
	}
	if err := t.emitLoss(event.LossMissed, increase(t.reported.missed, missed), time.Time{}, time.Time{}); err != nil {
		return err
	}
	t.reported = lossCounts{lost: lost, missed: missed, last: c.LastLost}
	return nil
}

func (t *Tracer) emitLoss(reason string, records map[event.Type]uint64, from, to time.Time) error {
	if len(records) == 0 {
		return nil
	}
	return t.out.emit(&event.Event{
		Type: event.TraceLoss, Time: time.Now().UTC(),
		Loss: &event.Loss{Records: records, Reason: reason, From: from, To: to},
	})
}

// increase returns what now has more than before.
func increase(before, now map[event.Type]uint64) map[event.Type]uint64 {
	diff := map[event.Type]uint64{}
	for typ, n := range now {
		if n > before[typ] {
			diff[typ] = n - before[typ]
		}
	}
	return diff
}

// Totals returns the totals of the run so far. They balance (Seen = Written + Filtered +
// Lost) once the ring has been drained, which is when Run emits trace.stop. A Handler can
// call it; other goroutines cannot while Run runs.
func (t *Tracer) Totals() (event.Totals, error) {
	c, err := t.attached.counters()
	if err != nil {
		return event.Totals{}, err
	}
	a := &t.interpreter.accounts
	sum := event.Totals{
		Seen: a.inferred, Written: a.matched, Folded: a.folded, Filtered: a.filtered,
		DurationMS: time.Since(t.started).Milliseconds(),
	}
	for kind, k := range recordKinds {
		if k.event != "" {
			sum.Seen += c.Seen[kind]
			sum.Filtered += c.Filtered[kind]
			sum.Lost += c.Lost[kind] + c.Missed[kind]
		}
	}
	for _, n := range t.attached.missed {
		sum.Seen += n
		sum.Lost += n
	}
	return sum, nil
}

// Untracked returns how many descendants of tracked processes could not be followed because
// too many were alive at once. A Handler can call it; other goroutines cannot while Run runs.
func (t *Tracer) Untracked() (n uint64, err error) {
	if err := t.attached.loaded.coll.Variables[bpf.NstraceVarUntracked].Get(&n); err != nil {
		return 0, fmt.Errorf("read %s: %w", bpf.NstraceVarUntracked, err)
	}
	return n, nil
}
