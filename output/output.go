// SPDX-License-Identifier: Apache-2.0

// Package output writes events: as a table for the terminal, as JSON lines for programs, and
// to files that rotate.
//
// Sinks buffer. The caller calls Flush when it has no more events for the moment: then a
// quiet host shows each event at once, and a busy one makes one write(2) for many events.
// Sinks never change an event, and keep nothing of it except its process, which never
// changes. They are not safe for concurrent use.
package output

import "github.com/nstrace/nstrace/event"

// A Sink is a destination of events.
//
// An error from Write means that this event is lost. Earlier events stay in the buffer, and
// the next call tries to write them again. If the reader is gone, as in "nstrace | head",
// errors.Is finds syscall.EPIPE.
type Sink interface {
	// Write writes one event to the buffer. Afterwards the caller may reuse the event and
	// what it points to, except its process.
	Write(*event.Event) error
	// Flush writes the buffer to the writer.
	Flush() error
	// Close flushes and ends the stream. It does not close the writer.
	Close() error
}

var (
	_ Sink = (*JSON)(nil)
	_ Sink = (*Encoded)(nil)
	_ Sink = (*Table)(nil)
)
