// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// A Sink takes the finished events. An output.Sink is one.
type Sink interface {
	// Write takes one event. It keeps nothing of the event but its Process.
	Write(e *event.Event) error
	// Flush hands everything taken so far to the operating system.
	Flush() error
}

// Fanout writes each event to every sink, in their order. The first error ends the run.
type Fanout struct{ Sinks []Sink }

// Event writes e to the sinks.
func (f *Fanout) Event(e *event.Event) error {
	for _, s := range f.Sinks {
		if err := s.Write(e); err != nil {
			return err
		}
	}
	return nil
}

// Idle flushes the sinks.
func (f *Fanout) Idle() error {
	var errs []error
	for _, s := range f.Sinks {
		errs = append(errs, s.Flush())
	}
	return errors.Join(errs...)
}

// historySink makes a sink of a Recorder, which flushes by itself.
type historySink struct{ r *history.Recorder }

// Write appends the event without its labels, for which the database has no column.
func (s historySink) Write(e *event.Event) error {
	labels := e.Labels
	e.Labels = nil
	err := s.r.Append(e)
	e.Labels = labels
	return err
}
func (s historySink) Flush() error { return nil }
