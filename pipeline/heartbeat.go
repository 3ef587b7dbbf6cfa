// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A Heartbeat adds a trace.alive at intervals, so that a host on which nothing happens differs from one that does not
// trace any more. It stands before all other steps and is for the goroutine of Run, because it asks the tracer.
type Heartbeat struct {
	Next   Handler
	Every  time.Duration
	Source Source
	Head   func() *event.Head // of a history, nil without one

	due time.Time // zero before trace.start
}

// Wake calls wake at intervals until ctx ends: a quiet tracer calls Idle only if it is woken.
func Wake(ctx context.Context, every time.Duration, wake func()) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			wake()
		}
	}
}

// Event hands on e.
func (h *Heartbeat) Event(e *event.Event) error {
	if e.Type == event.TraceStart {
		h.due = time.Now().Add(h.Every)
	}
	return h.Next.Event(e)
}

// Idle adds the event if it is due, and hands on the call.
func (h *Heartbeat) Idle() error { return errors.Join(h.beat(time.Now()), h.Next.Idle()) }

func (h *Heartbeat) beat(now time.Time) error {
	if h.due.IsZero() || now.Before(h.due) {
		return nil
	}
	for !h.due.After(now) {
		h.due = h.due.Add(h.Every)
	}
	totals, err := h.Source.Totals()
	if err != nil {
		return err
	}
	e := &event.Event{Type: event.TraceAlive, Time: now.UTC(), Trace: &event.Trace{Totals: &totals}}
	if h.Head != nil {
		e.Trace.Head = h.Head()
	}
	return h.Next.Event(e)
}
