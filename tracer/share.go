// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
	"unsafe"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// refusals are the events that found room in the ring but not in the share of their user
// (bpf/lib/share.h).
type refusals struct {
	bySlot  map[int][len(bpf.NstraceShare{}.Refused)]uint64 // as far as take has counted them
	total   map[event.Type]uint64
	pending map[uint32]*event.Loss // by user; no trace.loss has reported these yet
	next    time.Time              // when to report what is pending
}

const (
	// refusalsEvery is the least time between two reports.
	refusalsEvery = time.Second
	// maxRefused is how many users a report names. root of a container can become any user.
	maxRefused = 256
	// noUID stands for the users of a cgroup: NO_UID of bpf/lib/share.h.
	noUID = ^uint32(0)
)

// take counts what was refused since the last call.
func (r *refusals) take(a *attachment, clock *clock) error {
	const size = int(unsafe.Sizeof(bpf.NstraceShare{}))
	b := make([]byte, a.shares.Size())
	if _, err := a.shares.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read the shares of the ring: %w", err)
	}
	if r.bySlot == nil {
		r.bySlot, r.total = map[int][len(bpf.NstraceShare{}.Refused)]uint64{}, map[event.Type]uint64{}
	}
	for slot := 0; len(b) >= size; slot++ {
		var s bpf.NstraceShare
		if err := fixed(&b, &s); err != nil {
			return err
		}
		if s.Total == s.Reported {
			continue
		}
		more := increase(byType(new(r.bySlot[slot])), byType(&s.Refused))
		r.bySlot[slot] = s.Refused
		if len(more) > 0 {
			r.add(uint32(s.Key), more, clock.wall(s.First), clock.wall(s.Last))
		}
		// The program can give the slot to another user from now on.
		var total [8]byte
		binary.NativeEndian.PutUint64(total[:], s.Total)
		at := int64(slot*size) + int64(unsafe.Offsetof(s.Reported))
		if _, err := a.shares.WriteAt(total[:], at); err != nil {
			return fmt.Errorf("write the shares of the ring: %w", err)
		}
	}
	return nil
}

func (r *refusals) add(uid uint32, records map[event.Type]uint64, from, to time.Time) {
	if r.pending[uid] == nil && len(r.pending) >= maxRefused {
		uid = noUID
	}
	l := r.pending[uid]
	if l == nil {
		l = &event.Loss{Records: map[event.Type]uint64{}, Reason: event.LossUserShare, From: from}
		if uid != noUID {
			l.UID = &uid
		}
		if r.pending == nil {
			r.pending = map[uint32]*event.Loss{}
		}
		r.pending[uid] = l
	}
	for typ, n := range records {
		l.Records[typ] += n
		r.total[typ] += n
	}
	l.From, l.To = earlier(l.From, from), later(l.To, to)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// due returns when to report next, the zero time for never.
func (r *refusals) due() time.Time {
	if len(r.pending) == 0 {
		return time.Time{}
	}
	return r.next
}

// reportRefusals emits a trace.loss for each user who lost events since the last report. last says that
// the run ends.
func (t *Tracer) reportRefusals(last bool) error {
	r, now := &t.reported.refusals, time.Now()
	if len(r.pending) == 0 || now.Before(r.next) && !last {
		return nil
	}
	r.next = now.Add(refusalsEvery)
	pending := slices.SortedFunc(maps.Values(r.pending), func(a, b *event.Loss) int {
		return a.From.Compare(b.From)
	})
	clear(r.pending)
	for _, l := range pending {
		if err := t.out.emit(&event.Event{Type: event.TraceLoss, Time: now.UTC(), Loss: l}); err != nil {
			return err
		}
	}
	return nil
}
