// SPDX-License-Identifier: Apache-2.0

// Package output turns events into what people and programs read: a table for
// the terminal, JSON lines for everything else, and the files they go to.
//
// A sink buffers. Whoever drives it calls Flush whenever there is nothing more
// to read for the moment, so that a quiet host shows every event at once and a
// busy one pays for one write(2) per many events. Sinks never change the events
// they are given and keep nothing of them but their processes, which do not
// change. They are not safe for concurrent use.
package output

import "github.com/nstrace/nstrace/event"

// Sink is somewhere events go.
//
// An error from Write says that this event was not taken; earlier ones stay in
// the buffer and are tried again by the next call. The cause can be had with
// errors.Is: a reader that went away, as in "nstrace | head", is syscall.EPIPE.
type Sink interface {
	// Write takes one event. It and what it refers to, other than its process,
	// can be used for something else afterwards.
	Write(*event.Event) error
	// Flush hands everything taken so far to the operating system.
	Flush() error
	// Close flushes and ends the stream. It does not close the writer that the
	// sink was made with.
	Close() error
}

var (
	_ Sink = (*JSON)(nil)
	_ Sink = (*Table)(nil)
)
