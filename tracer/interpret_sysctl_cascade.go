// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/nstrace/nstrace/event"
)

// cascades holds the records of parameters that the kernel changed along with a write, until
// the record of that write comes. The kernel sends it last.
type cascades struct{ pending map[uint64]*cascade }

// A cascade is all that the kernel changed along with one write.
type cascade struct {
	since   uint64 // CLOCK_BOOTTIME
	records [][]byte
}

func (c *cascades) add(id, boot uint64, b []byte) {
	if c.pending == nil {
		c.pending = map[uint64]*cascade{}
	}
	one := c.pending[id]
	if one == nil {
		one = &cascade{since: boot}
		c.pending[id] = one
	}
	one.records = append(one.records, bytes.Clone(b))
}

// emitCascade emits the events of what the kernel changed along with a write. They get the
// time of that write's call, boot, if it is known.
func (w *writeRecords) emitCascade(id uint64, cause event.Cause, boot uint64) error {
	c := w.cascades.pending[id]
	if c == nil { // its records were lost, and are counted
		return nil
	}
	delete(w.cascades.pending, id)
	for _, b := range c.records {
		r := &w.in.record
		if err := r.open(b); err != nil {
			return err
		}
		if err := w.parse(r); err != nil {
			return err
		}
		if boot != 0 {
			r.head.Time = boot
		}
		w.cause = cause
		if _, _, err := w.emit(r, &w.cause); err != nil {
			return err
		}
	}
	return nil
}

// emitOrphans emits what has been pending since before a time. The record of the write was
// lost, since the kernel sends both within one call.
func (w *writeRecords) emitOrphans(before uint64) error {
	pending := w.cascades.pending
	var ids []uint64
	for id, c := range pending {
		if c.since < before {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint64) int { return cmp.Compare(pending[a].since, pending[b].since) })
	for _, id := range ids {
		if err := w.emitCascade(id, event.Cause{}, 0); err != nil {
			return err
		}
	}
	return nil
}
