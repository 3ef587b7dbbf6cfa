// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// changed says whether a record is of a parameter that nobody wrote to.
func changed(via uint8) bool {
	switch bpf.NstraceCallVia(via) {
	case bpf.NstraceCallViaVIA_CASCADE, bpf.NstraceCallViaVIA_NETLINK, bpf.NstraceCallViaVIA_DEVICE:
		return true
	}
	return false
}

// held are the records of what changed along with a write whose own record, which the
// kernel sends behind them, has not come yet.
type held struct{ by map[uint64]*cascade }

type cascade struct {
	since   uint64 // CLOCK_BOOTTIME
	records [][]byte
}

func (d *held) add(id, boot uint64, b []byte) {
	if d.by == nil {
		d.by = map[uint64]*cascade{}
	}
	c := d.by[id]
	if c == nil {
		c = &cascade{since: boot}
		d.by[id] = c
	}
	c.records = append(c.records, bytes.Clone(b))
}

// giveHeld gives the events of what changed along with the write of that id. They happened
// within its call, of which boot is the time.
func (t *Tracer) giveHeld(h Handler, id uint64, cause event.Cause, boot uint64) error {
	c := t.held.by[id]
	if c == nil { // lost, and counted as such
		return nil
	}
	delete(t.held.by, id)
	for _, b := range c.records {
		r := &t.rec
		if err := r.parse(b); err != nil {
			return err
		}
		if boot != 0 {
			r.head.Time = boot
		}
		t.cause = cause
		if _, _, err := t.giveWrite(h, r, &t.cause); err != nil {
			return err
		}
	}
	return nil
}

// giveOrphans gives what has been held since before a time: the write's own record
// was lost, for the two are sent within one call.
func (t *Tracer) giveOrphans(h Handler, before uint64) error {
	var ids []uint64
	for id, c := range t.held.by {
		if c.since < before {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint64) int { return cmp.Compare(t.held.by[a].since, t.held.by[b].since) })
	for _, id := range ids {
		if err := t.giveHeld(h, id, event.Cause{}, 0); err != nil {
			return err
		}
	}
	return nil
}
