// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"context"
	"iter"

	"github.com/nstrace/nstrace/event"
)

// Events runs the Tracer and returns what Run passes to a Handler, as an iterator. It is an
// alternative to Run: a Tracer can be run once.
//
//   - An event is valid until the next one. Clone keeps it for longer.
//   - If ctx ends, the iteration goes on with what has happened by then, and ends after a
//     trace.stop.
//   - If the loop ends before, by break or return, the run ends in order: nothing stays
//     attached, and Totals balance. The events of the rest are dropped, trace.stop included.
//   - An error is the last pair, with a nil event.
func (t *Tracer) Events(ctx context.Context) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		h := &yielder{yield: yield, stop: func() { cancel(errLeft) }}
		if err := t.Run(ctx, h); err != nil && !h.left {
			yield(nil, err)
		}
	}
}

// A yielder is the Handler of an iterator.
type yielder struct {
	yield func(*event.Event, error) bool
	stop  func()
	left  bool // the loop ended: yield must not be called again
}

func (y *yielder) Event(e *event.Event) error {
	if !y.left && !y.yield(e, nil) {
		y.left = true
		y.stop()
	}
	return nil
}

func (y *yielder) Idle() error { return nil }
