// SPDX-License-Identifier: Apache-2.0

package output

import "github.com/nstrace/nstrace/event"

// A Cascades is a sink that folds the changes that the kernel makes along with a write into the row of that write:
// "0 → 1, and 4 more". It holds a write back until the next event or Flush.
//
// A change with an alert or one that moves a parameter away from its expected value, or back, keeps its row. So does one
// whose write is not right before it.
type Cascades struct {
	next Sink
	held *event.Event // nil if there is none
}

// NewCascades returns a sink that writes to a table, or to a Group of one.
func NewCascades(next Sink) *Cascades { return &Cascades{next: next} }

// Write writes an event, unless it is folded.
func (c *Cascades) Write(ev *event.Event) error {
	if c.held != nil && causedBy(ev, c.held) {
		c.held.Cascaded += max(1, ev.Count)
		return nil
	}
	if err := c.release(); err != nil {
		return err
	}
	if ev.Type != event.SysctlWrite || ev.Seq == 0 {
		return c.next.Write(ev)
	}
	c.held = ev.Clone()
	return nil
}

// causedBy reports whether an event is a change along with a write.
func causedBy(ev, write *event.Event) bool {
	return ev.Via == event.ViaCascade && ev.Sysctl != nil && ev.Sysctl.Cause != nil && len(ev.Alert) == 0 && ev.Sysctl.Expected == nil &&
		ev.Sysctl.Cause.Seq == write.Seq && ev.RunID == write.RunID
}

func (c *Cascades) release() error {
	if c.held == nil {
		return nil
	}
	if err := c.next.Write(c.held); err != nil {
		return err // the held event stays
	}
	c.held = nil
	return nil
}

// Flush writes the held event, and flushes.
func (c *Cascades) Flush() error {
	if err := c.release(); err != nil {
		return err
	}
	return c.next.Flush()
}

// Close writes the held event, and closes.
func (c *Cascades) Close() error {
	err := c.release()
	if closeErr := c.next.Close(); err == nil {
		err = closeErr
	}
	return err
}
