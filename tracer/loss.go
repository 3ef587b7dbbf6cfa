// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"slices"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// kindTypes gives the event that each record kind stands for; the kinds that
// stand for none are left out.
var kindTypes = map[bpf.NstraceRecordKind]event.Type{
	bpf.NstraceRecordKindREC_NS_CREATE:    event.NamespaceCreate,
	bpf.NstraceRecordKindREC_NS_ENTER:     event.NamespaceEnter,
	bpf.NstraceRecordKindREC_NS_DESTROY:   event.NamespaceDestroy,
	bpf.NstraceRecordKindREC_SYSCTL_WRITE: event.SysctlWrite,
	bpf.NstraceRecordKindREC_TAMPER:       event.TraceTamper,
	bpf.NstraceRecordKindREC_NETDEV_MOVE:  event.NetdevMove,
	bpf.NstraceRecordKindREC_NS_PIN:       event.NamespacePin,
	bpf.NstraceRecordKindREC_NS_UNPIN:     event.NamespaceUnpin,
	bpf.NstraceRecordKindREC_PIN_END:      event.NamespaceUnpin,
}

// lossCount is what was told of losses so far.
type lossCount struct {
	lost, missed map[event.Type]uint64
	last         uint64                // CLOCK_BOOTTIME of the last that was told
	probes       map[event.Type]uint64 // runs that the kernel says it missed, told at the end
}

// tellLoss puts a trace.loss into the stream for what was lost since the last.
func (t *Tracer) tellLoss(h Handler) error {
	c, err := t.counters()
	if err != nil {
		return err
	}
	lost, missed := map[event.Type]uint64{}, map[event.Type]uint64{}
	for kind, typ := range kindTypes {
		lost[typ] += c.Lost[kind]
		missed[typ] += c.Missed[kind]
	}
	for typ, n := range t.told.probes {
		missed[typ] += n
	}
	from := max(c.FirstLost, t.told.last)
	if err := t.tell(h, event.LossRingFull, since(lost, t.told.lost), t.clock.wall(from), t.clock.wall(c.LastLost)); err != nil {
		return err
	}
	if err := t.tell(h, event.LossMissed, since(missed, t.told.missed), time.Time{}, time.Time{}); err != nil {
		return err
	}
	t.told.lost, t.told.missed, t.told.last = lost, missed, c.LastLost
	return nil
}

func (t *Tracer) tell(h Handler, reason string, records map[event.Type]uint64, from, to time.Time) error {
	if len(records) == 0 {
		return nil
	}
	return t.emit(h, &event.Event{
		Type: event.TraceLoss, Time: time.Now().UTC(),
		Loss: &event.Loss{Records: records, Reason: reason, From: from, To: to},
	})
}

// since returns what now has more than before.
func since(now, before map[event.Type]uint64) map[event.Type]uint64 {
	diff := map[event.Type]uint64{}
	for typ, n := range now {
		if n > before[typ] {
			diff[typ] = n - before[typ]
		}
	}
	return diff
}

// missedHarmlessly are the programs whose missed runs lose nothing by themselves:
// tp_call_exit notices what tp_fork missed, and without tp_exit an end is found
// at the next look.
var missedHarmlessly = []string{bpf.NstraceProgTpFork, bpf.NstraceProgTpExit}

// countProbeMisses asks the kernel how often it could not run a program: a
// kretprobe without a free instance, or a program that came while it was already
// running on the CPU. Kernels before 5.12 (recursion) and 6.7 (kretprobes) keep
// no such count. It counts each set of programs once, before they are detached.
func (t *Tracer) countProbeMisses() {
	if t.loaded.counted {
		return
	}
	t.loaded.counted = true
	if t.told.probes == nil {
		t.told.probes = map[event.Type]uint64{}
	}
	asked := map[string]bool{}
	for _, c := range t.loaded.picks {
		for _, name := range c.programs {
			if slices.Contains(missedHarmlessly, name) {
				continue
			}
			typ := c.obs.feed[0]
			// One that is attached in several places counts for all of them.
			if of := original(name); !asked[of] {
				asked[of] = true
				if stats, err := t.loaded.program(name).Stats(); err == nil {
					t.told.probes[typ] += stats.RecursionMisses
				}
			}
			if info, err := t.loaded.links[name].Info(); err == nil {
				if pe := info.PerfEvent(); pe != nil {
					if k := pe.Kprobe(); k != nil {
						t.told.probes[typ] += k.Missed
					}
				}
			}
		}
	}
}

// Totals gives the run's books so far. They balance, Seen = Written + Filtered +
// Lost, once the ring has been drained.
func (t *Tracer) Totals() (event.Totals, error) {
	c, err := t.counters()
	if err != nil {
		return event.Totals{}, err
	}
	sum := event.Totals{
		Seen: t.scanned, Written: t.matched, Folded: t.folded, Filtered: t.filtered,
		DurationMS: time.Since(t.started).Milliseconds(),
	}
	for kind := range kindTypes {
		sum.Seen += c.Seen[kind]
		sum.Filtered += c.Filtered[kind]
		sum.Lost += c.Lost[kind] + c.Missed[kind]
	}
	for _, n := range t.told.probes {
		sum.Seen += n
		sum.Lost += n
	}
	return sum, nil
}

// Untracked is how many processes below a tracked one could not be followed,
// because too many lived at once.
func (t *Tracer) Untracked() (n uint64, err error) {
	if err := t.loaded.coll.Variables[bpf.NstraceVarUntracked].Get(&n); err != nil {
		return 0, fmt.Errorf("read the count of untracked processes: %w", err)
	}
	return n, nil
}
