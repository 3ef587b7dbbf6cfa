// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"math"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// foldEvery is how often the repeats that the kernel counts are reported.
const foldEvery = 100 * time.Millisecond

// foldIdle is how long after the last repeat a fold ends. Its key holds the id of the
// process, which changes with each epoch, so no more repeats can come.
const foldIdle = 3 * epoch

// A fold is a record whose repeats the kernel counts instead of sending them.
type fold struct {
	key    uint64
	events []*event.Event // of the record; nil for one that does not pass the filter
}

// folds are the records that are folded.
type folds struct {
	bySlot map[uint32]*fold // by slot of the kernel's table
	next   time.Time        // when to report the counts
	taken  uint64           // repeats before this time were reported; CLOCK_BOOTTIME
}

// start notes that a slot counts the repeats of the record in hand from now on. The kernel gives a
// slot to another record only after its count was taken. boot is when the record's call happened.
func (f *folds) start(ref *bpf.NstraceFoldRef, boot uint64) {
	if f.bySlot == nil {
		f.bySlot = map[uint32]*fold{}
	}
	if len(f.bySlot) == 0 {
		f.next, f.taken = time.Now().Add(foldEvery), boot
	}
	f.taken = min(f.taken, boot) // its repeats wait in the kernel since then
	f.bySlot[ref.Slot] = &fold{key: ref.Key}
}

// add adds an event to those of the record in hand. It keeps nothing of e, nil for an event that does
// not pass the filter.
func (f *folds) add(ref *bpf.NstraceFoldRef, e *event.Event) {
	if e != nil {
		e = e.Clone()
	}
	fold := f.bySlot[ref.Slot]
	fold.events = append(fold.events, e)
}

// due returns when to take the counts next, the zero time for never.
func (f *folds) due() time.Time {
	if len(f.bySlot) == 0 {
		return time.Time{}
	}
	return f.next
}

// counted returns the time before which all repeats have been reported, CLOCK_BOOTTIME.
func (f *folds) counted() uint64 {
	if len(f.bySlot) == 0 {
		return math.MaxUint64
	}
	return f.taken
}

// take emits what the repeats of each fold since the last time stand for: one event for each event of
// the record.
func (f *folds) take(in *interpreter) error {
	if len(f.bySlot) == 0 {
		return nil
	}
	f.next = time.Now().Add(foldEvery)
	now := in.clock.now()
	f.taken = now
	for slot, fold := range f.bySlot {
		k, err := in.lookups.fold(slot)
		if err != nil {
			return err
		}
		if k.Key != fold.key { // the slot has another record, which is still in the ring
			continue
		}
		n := k.Count - k.Reported
		if n == 0 {
			if now > k.Last+foldIdle {
				delete(f.bySlot, slot)
			}
			continue
		}
		if err := in.lookups.takeFold(slot, k.Count); err != nil {
			return err
		}
		for _, e := range fold.events {
			if n > 1 {
				in.accounts.folded += n
			}
			if e == nil {
				in.accounts.filtered += n
				continue
			}
			e = e.Clone()
			e.Time = in.clock.wall(k.First)
			if n > 1 {
				e.LastTime, e.Count = in.clock.wall(k.Last), n
			}
			in.accounts.matched += n
			if err := in.out.emit(e); err != nil {
				return err
			}
		}
	}
	return nil
}
