// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// foldEvery is how often what the kernel counted instead of sending it is
// reported, while it does so.
const foldEvery = 100 * time.Millisecond

// foldKept is after how long without a repeat nothing more is counted under a
// key, since it holds the id of who acted, which changes with each epoch.
const foldKept = 3 * epoch

// A fold is a write whose repeats the kernel counts.
type fold struct {
	key    uint64
	e      *event.Event
	wanted bool // it passed the filter
}

// folds takes the counts of writes that were folded in a storm.
type folds struct {
	mem    *ebpf.Memory // of struct fold, one a slot
	bySlot map[uint32]*fold
	next   time.Time
}

// own notes that slot counts the repeats of e from now on. What it counted for
// another event was taken, or the kernel would not have given it away.
func (f *folds) own(slot uint32, key uint64, e *event.Event, wanted bool) {
	if f.bySlot == nil {
		f.bySlot = map[uint32]*fold{}
	}
	if len(f.bySlot) == 0 {
		f.next = time.Now().Add(foldEvery)
	}
	f.bySlot[slot] = &fold{key: key, e: e.Clone(), wanted: wanted}
}

// due is when to take the counts next, zero for never.
func (f *folds) due() time.Time {
	if len(f.bySlot) == 0 {
		return time.Time{}
	}
	return f.next
}

// takeFolds reports what was counted since the last time.
func (t *Tracer) takeFolds(h Handler) error {
	f := &t.folds
	if len(f.bySlot) == 0 {
		return nil
	}
	f.next = time.Now().Add(foldEvery)
	now := bootNow()
	var b [unsafe.Sizeof(bpf.NstraceFold{})]byte
	for slot, fold := range f.bySlot {
		off := int64(slot) * int64(len(b))
		if _, err := f.mem.ReadAt(b[:], off); err != nil {
			return fmt.Errorf("read the counts of repeated writes: %w", err)
		}
		var k bpf.NstraceFold
		rest := b[:]
		if err := fixed(&rest, &k); err != nil {
			return err
		}
		if k.Key != fold.key { // somebody else's, whose record is still in the ring
			continue
		}
		n := k.Count - k.Reported
		if n == 0 {
			if now > k.Last+foldKept {
				delete(f.bySlot, slot)
			}
			continue
		}
		var taken [8]byte
		binary.NativeEndian.PutUint64(taken[:], k.Count)
		if _, err := f.mem.WriteAt(taken[:], off+int64(unsafe.Offsetof(k.Reported))); err != nil {
			return fmt.Errorf("take the counts of repeated writes: %w", err)
		}
		if n > 1 {
			t.folded += n
		}
		if !fold.wanted {
			t.filtered += n
			continue
		}
		e := fold.e.Clone()
		e.Time = t.clock.wall(k.First)
		if n > 1 {
			e.LastTime, e.Count = t.clock.wall(k.Last), n
		}
		t.matched += n
		if err := t.emit(h, e); err != nil {
			return err
		}
	}
	return nil
}
