// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Gap adds a trace.gap for the time between the previous run and this one. The event
// follows trace.start, or comes later if the database could not be opened by then.
type Gap struct {
	Next    Handler
	History *history.Recorder

	started time.Time // of trace.start, zero before it
	done    bool      // the event was added, or there was no gap
}

// Event hands on e, with the gap right behind trace.start or before trace.stop.
func (g *Gap) Event(e *event.Event) error {
	if e.Type == event.TraceStop {
		if err := g.add(time.Now()); err != nil {
			return err
		}
	}
	at := e.Time // e can be reused once it was handed on
	start := e.Type == event.TraceStart
	if err := g.Next.Event(e); err != nil || !start {
		return err
	}
	g.started = at
	return g.add(at)
}

// Idle adds the gap if the database is now open, and hands on the call.
func (g *Gap) Idle() error { return errors.Join(g.add(time.Now()), g.Next.Idle()) }

func (g *Gap) add(at time.Time) error {
	if g.done || g.started.IsZero() {
		return nil
	}
	select {
	case <-g.History.Opened():
	default:
		return nil
	}
	g.done = true
	e := gapBefore(g.History, g.started)
	if e == nil {
		return nil
	}
	e.Time = at.UTC()
	return g.Next.Event(e)
}

// gapBefore returns the trace.gap between the previous run and one that started to trace at
// a time, nil if there is none. The history must be open.
func gapBefore(r *history.Recorder, started time.Time) *event.Event {
	before := r.Previous()
	if before == nil {
		return nil
	}
	same := before.BootID == procfs.BootID()
	t := &event.Trace{From: before.Stopped, To: started, SameBoot: &same, Ended: event.GapStopped}
	if before.Stopped.IsZero() {
		t.From, t.Ended = before.Last, event.GapCrashed
	}
	if r.StoodBy() && same && t.From.After(started) {
		return nil // the other recorder ended after this one began to trace
	}
	return &event.Event{Type: event.TraceGap, Trace: t}
}

// Losses adds a trace.loss for the events that the history or another sink could not take.
type Losses struct {
	Next Handler
	// Take have the loss of each sink: since the last call, nil for none. end is set before the
	// end of the run.
	Take []func(end bool) *event.Loss
	// Lost, if not nil, is called for each loss.
	Lost func()

	started bool
}

// Event hands on e. A loss comes before trace.stop.
func (l *Losses) Event(e *event.Event) error {
	if e.Type == event.TraceStop {
		if _, err := l.add(true); err != nil {
			return err
		}
	}
	l.started = true
	return l.Next.Event(e)
}

// Idle adds the losses, and hands on the call. If a sink works again, its loss follows at once.
func (l *Losses) Idle() error {
	_, err := l.add(false)
	if err = errors.Join(err, l.Next.Idle()); err != nil {
		return err
	}
	added, err := l.add(false)
	if added {
		err = errors.Join(err, l.Next.Idle())
	}
	return err
}

func (l *Losses) add(end bool) (added bool, err error) {
	if !l.started { // trace.start comes first
		return false, nil
	}
	for _, take := range l.Take {
		loss := take(end)
		if loss == nil {
			continue
		}
		added = true
		if l.Lost != nil {
			l.Lost()
		}
		err = errors.Join(err, l.Next.Event(&event.Event{Type: event.TraceLoss, Time: time.Now().UTC(), Loss: loss}))
	}
	return added, err
}
