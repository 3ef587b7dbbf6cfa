// SPDX-License-Identifier: Apache-2.0

package output

import (
	"io"

	"github.com/nstrace/nstrace/event"
)

// JSON writes events as JSON, one object a line, as schema/event.v1.json
// describes it.
//
// The lines are always valid UTF-8, each byte that is not being replaced by
// U+FFFD, and nothing that a terminal would act on stands in them raw: control
// and format characters are written as \u escapes, which every reader turns
// back into the character. Times are RFC 3339 with nine digits of fraction in
// UTC, so that lines sort by time as text.
//
// In a storm, this is most of what there is to do for an event, so it is done
// without allocating and without reflection: a process, most of a line, is
// encoded once, and the event around it in one pass.
type JSON struct {
	lines lineBuffer
	enc   event.Encoder
}

// NewJSON makes a sink that writes JSON lines to w.
func NewJSON(w io.Writer) *JSON { return &JSON{lines: newLineBuffer(w)} }

// Write takes one event.
func (j *JSON) Write(ev *event.Event) error {
	return j.lines.take(append(j.enc.Append(j.lines.buf, ev), '\n'))
}

// Flush hands everything taken so far to the operating system.
func (j *JSON) Flush() error { return j.lines.flush() }

// Close flushes. It does not close the writer.
func (j *JSON) Close() error { return j.lines.flush() }
