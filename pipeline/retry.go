// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
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
}

// Write hands on e. It counts e if the sink behind it fails.
func (r *Retry) Write(e *event.Event) error {
	err := r.Sink.Write(e)
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return err // nil: e can be in a buffer, which says nothing about the sink
	}
	r.fail(err)
	if r.loss == nil {
		r.loss = &event.Loss{Records: map[event.Type]uint64{}, Reason: event.LossOutput, From: e.Time}
	}
	r.loss.Records[e.Type] += max(1, e.Count)
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
	case r.failing:
		r.failing = false
		message := "the output can be written again"
		if n := r.Lost(); n > 0 {
			message += fmt.Sprintf("; it lacks %d events", n)
		}
		r.Report(message)
	}
	return nil
}

func (r *Retry) fail(err error) {
	if !r.failing {
		r.failing = true
		r.Report(fmt.Sprintf("%v; nstrace goes on, and tries again", err))
	}
}

// Lost returns how many events the sink lost that TakeLoss has not returned.
func (r *Retry) Lost() (n uint64) {
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
