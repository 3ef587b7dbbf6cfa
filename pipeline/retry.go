// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/nstrace/nstrace/event"
)

// A Retry is a sink that goes on when the sink behind it fails, for example because a disk is full, so that
// the other sinks go on too. What the sink behind it cannot take is lost there, and counted for TakeLoss. Each
// later event and each flush tries again. If the reader of a pipe is gone (syscall.EPIPE), Retry returns the
// error: nobody can bring the reader back.
type Retry struct {
	Sink
	// Report takes a sentence when the sink begins to fail, and when it works again.
	Report func(message string)

	failing bool // the last flush failed, or a Write since then
	loss    *event.Loss
	taken   uint64 // events that the sink took since the last flush that worked
	unsaved uint64 // of those, how many Close may have lost
}

// Write hands on e. It counts e if the sink behind it fails.
func (r *Retry) Write(e *event.Event) error {
	err := r.Sink.Write(e)
	if err == nil { // e can be in a buffer, which says nothing about the sink
		r.taken += weight(e)
		return nil
	}
	if errors.Is(err, syscall.EPIPE) {
		return err
	}
	r.fail(err)
	if r.loss == nil {
		r.loss = &event.Loss{Records: map[event.Type]uint64{}, Reason: event.LossOutput, From: e.Time}
	}
	r.loss.Records[e.Type] += weight(e)
	r.loss.To = e.Time
	return nil
}

// Flush hands on the call.
func (r *Retry) Flush() error {
	err := r.Sink.Flush()
	switch {
	case errors.Is(err, syscall.EPIPE):
		return err
	case err != nil:
		r.fail(err)
	case !r.failing:
		r.taken = 0
	default:
		r.failing, r.taken = false, 0
		message := "the output can be written again"
		if n := r.Lost(); n > 0 {
			message += fmt.Sprintf("; it lacks %d events", n)
		}
		r.Report(message)
	}
	return nil
}

// Close closes the sink behind it, or flushes it if it cannot be closed. If that fails, Lost also counts what
// the sink took and may not have written.
func (r *Retry) Close() error {
	end := r.Sink.Flush
	if c, ok := r.Sink.(io.Closer); ok {
		end = c.Close
	}
	err := end()
	if err != nil {
		r.unsaved = r.taken
	}
	return err
}

func (r *Retry) fail(err error) {
	if !r.failing {
		r.failing = true
		r.Report(fmt.Sprintf("%v; nstrace goes on, and tries again", err))
	}
}

// Lost returns how many events the sink lost that TakeLoss has not returned. After Close failed, it is the
// number that the sink lost at most: it can have written a part of what it took last.
func (r *Retry) Lost() (n uint64) {
	n = r.unsaved
	if r.loss != nil {
		for _, records := range r.loss.Records {
			n += records
		}
	}
	return n
}

// TakeLoss returns the events that the sink lost since the last call, nil if there are none or if the sink
// does not work yet.
func (r *Retry) TakeLoss() *event.Loss {
	if r.failing {
		return nil
	}
	loss := r.loss
	r.loss = nil
	return loss
}
