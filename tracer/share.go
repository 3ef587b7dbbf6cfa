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

// refusals are the events that found room, but not in the share of their user (bpf/lib/share.h).
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
	b := make([]byte, a.shares.Size())
	if _, err := a.shares.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read the shares: %w", err)
	}
	if r.bySlot == nil {
		r.bySlot, r.total = map[int][len(bpf.NstraceShare{}.Refused)]uint64{}, map[event.Type]uint64{}
	}
	for slot := 0; len(b) >= shareSize; slot++ {
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
		if err := a.writeShare(slot*shareSize+int(unsafe.Offsetof(s.Reported)), s.Total); err != nil {
			return err
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

// releaseShare gives back the share of a call under way whose entry user space has removed.
func (a *attachment) releaseShare(owner bpf.NstraceShareOwner) error {
	for _, number := range []uint16{owner.User, owner.Cgroup} { // plus 1; 0: none
		if number == 0 {
			continue
		}
		s, err := a.share(int(number - 1))
		if err == nil {
			err = a.setRemoved(int(number-1), s.Removed+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// releaseShares gives back the shares of all calls. No program runs.
func (a *attachment) releaseShares() error {
	for slot := range int(a.shares.Size()) / shareSize {
		s, err := a.share(slot)
		if err != nil {
			return err
		}
		if s.Calls == s.Removed {
			continue
		}
		if err := a.setRemoved(slot, s.Calls); err != nil {
			return err
		}
	}
	return nil
}

const shareSize = int(unsafe.Sizeof(bpf.NstraceShare{}))

func (a *attachment) share(slot int) (s bpf.NstraceShare, err error) {
	b := make([]byte, shareSize)
	if _, err := a.shares.ReadAt(b, int64(slot*shareSize)); err != nil {
		return s, fmt.Errorf("read a share: %w", err)
	}
	return s, fixed(&b, &s)
}

func (a *attachment) setRemoved(slot int, n int64) error {
	at := slot*shareSize + int(unsafe.Offsetof(bpf.NstraceShare{}.Removed))
	return a.writeShare(at, uint64(n))
}

func (a *attachment) writeShare(at int, n uint64) error {
	if _, err := a.shares.WriteAt(binary.NativeEndian.AppendUint64(nil, n), int64(at)); err != nil {
		return fmt.Errorf("write a share: %w", err)
	}
	return nil
}
