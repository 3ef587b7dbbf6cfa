// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// lossCounts is what trace.loss events have reported so far.
type lossCounts struct {
	lost, missed map[event.Type]uint64
	allLost      uint64 // records of any kind, in and beyond lost
	lostEnds     uint64 // records of ends of namespaces: findEnds finds which ones
	refusals     refusals
	last         uint64 // time of the last loss, CLOCK_BOOTTIME
}

// reportLoss emits a trace.loss for what found no room in the ring since the last one, and from time to
// time for what found none in the share of a user. last says that the run ends.
func (t *Tracer) reportLoss(last bool) error {
	c, err := t.attached.counters()
	if err != nil {
		return err
	}
	var all uint64
	for _, n := range c.Lost {
		all += n
	}
	if all == t.reported.allLost {
		return t.reportRefusals(last)
	}
	t.reported.allLost = all
	clock := &t.interpreter.clock
	if err := t.reported.refusals.take(t.attached, clock); err != nil {
		return err
	}
	if err := t.reportRefusals(last); err != nil {
		return err
	}
	lost := byType(&c.Lost)
	if c.Lost[bpf.NstraceRecordKindREC_NS_DESTROY] != t.reported.lostEnds {
		t.reported.lostEnds, t.unsure = c.Lost[bpf.NstraceRecordKindREC_NS_DESTROY], true
	}
	for typ, n := range t.reported.refusals.total {
		lost[typ] -= min(n, lost[typ]) // the programs count a refusal first
	}
	from := max(c.FirstLost, t.reported.last)
	if err := t.emitLoss(event.LossRingFull, increase(t.reported.lost, lost), clock.wall(from), clock.wall(c.LastLost)); err != nil {
		return err
	}
	for typ, n := range t.reported.lost {
		lost[typ] = max(n, lost[typ])
	}
	t.reported.lost, t.reported.last = lost, c.LastLost
	return nil
}

// byType adds up what is counted by kind of record.
func byType(n *[len(bpf.NstraceCounters{}.Seen)]uint64) map[event.Type]uint64 {
	sum := map[event.Type]uint64{}
	for kind, k := range recordKinds {
		if k.event != "" {
			sum[k.event] += n[kind]
		}
	}
	return sum
}

// skipsDue returns when to read again what the kernel skipped.
func (t *Tracer) skipsDue() time.Time { return t.attached.skips.at.Add(readSkipsEvery) }

// reportSkips emits a trace.loss for the programs that the kernel skipped since the last time, and
// for what programs could not follow to its end. last says that it is not called again for the
// programs that are or were attached.
func (t *Tracer) reportSkips(last bool) error {
	s := t.attached.skips
	now := time.Now()
	s.read()
	c, err := t.attached.counters()
	if err != nil {
		return err
	}
	from, err := s.settle(t.attached, byType(&c.Unended), last)
	if err != nil {
		return err
	}
	missed := byType(&c.Missed)
	for typ, n := range s.lost {
		missed[typ] += n
	}
	losses := map[time.Time]map[event.Type]uint64{} // by when they began
	for typ, n := range increase(t.reported.missed, missed) {
		began, ok := from[typ]
		if !ok {
			began = s.at
		}
		if losses[began] == nil {
			losses[began] = map[event.Type]uint64{}
		}
		losses[began][typ] = n
	}
	s.at, t.reported.missed = now, missed
	for _, began := range slices.SortedFunc(maps.Keys(losses), time.Time.Compare) {
		to := now
		if began.IsZero() {
			to = time.Time{}
		}
		if err := t.emitLoss(event.LossMissed, losses[began], began.UTC(), to.UTC()); err != nil {
			return err
		}
	}
	return nil
}

// scanUncounted is how often a run looks for namespaces whose end it missed, if the kernel does not
// count that.
const scanUncounted = time.Minute

// findEnds emits the ends of namespaces that the kernel freed without running the program for that.
// Call it when the ring is empty: records in it can report these ends.
func (t *Tracer) findEnds(last bool) error {
	s := t.attached.skips
	ago := time.Since(t.scanned)
	blind := s.hidesEnds && t.interpreter.registry.foreign() && (last || ago >= scanUncounted)
	t.unsure = s.takeEnded() || t.unsure
	if !blind && !(t.unsure && (last || ago >= t.rescan)) {
		return nil
	}
	t.scanned = time.Now()
	again, err := t.interpreter.findEnds(last)
	t.unsure, t.rescan = again > 0, cmp.Or(again, scanAgain)
	return err
}

// rescanDue returns when findEnds has to scan again, the zero time for not.
func (t *Tracer) rescanDue() time.Time {
	if !t.unsure {
		return time.Time{}
	}
	return t.scanned.Add(t.rescan)
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
	sum.Seen -= a.joined
	for _, n := range t.attached.skips.lost {
		sum.Seen += n
		sum.Lost += n
	}
	sum.Uncounted = t.attached.loaded.uncounted()
	return sum, nil
}

// Untracked returns how many descendants of tracked processes could not be followed because
// too many were alive at once, or because the kernel skipped the program that follows them.
// Other processes count as well if the kernel skipped it for them. A Handler can call it; other goroutines cannot while Run runs.
func (t *Tracer) Untracked() (n uint64, err error) {
	if err := t.attached.loaded.coll.Variables[bpf.NstraceVarUntracked].Get(&n); err != nil {
		return 0, fmt.Errorf("read %s: %w", bpf.NstraceVarUntracked, err)
	}
	if follow := t.attached.loaded.coll.Programs[bpf.NstraceProgFollowFork]; follow != nil {
		stats, err := follow.Stats()
		if err != nil {
			return 0, fmt.Errorf("read how often the kernel skipped %s: %w", bpf.NstraceProgFollowFork, err)
		}
		n += stats.RecursionMisses
	}
	return n, nil
}
