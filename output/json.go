// SPDX-License-Identifier: Apache-2.0

package output

import (
	"io"

	"github.com/nstrace/nstrace/event"
)

// JSON is a sink that writes each event as a line of JSON. See event.Encoder for the format.
type JSON struct {
	lines lineBuffer
	enc   event.Encoder
}

// NewJSON returns a sink that writes JSON lines to w.
func NewJSON(w io.Writer) *JSON { return &JSON{lines: newLineBuffer(w)} }

// Write writes a line to the buffer.
func (j *JSON) Write(ev *event.Event) error {
	return j.lines.set(append(j.enc.Append(j.lines.buf, ev), '\n'))
}

// Flush writes the buffer to the writer.
func (j *JSON) Flush() error { return j.lines.flush() }

// Close flushes. It does not close the writer.
func (j *JSON) Close() error { return j.lines.flush() }

// Encoded is a sink that writes each event as a line in another format.
type Encoded struct {
	lines  lineBuffer
	encode func(*event.Event) ([]byte, error)
}

// NewEncoded returns a sink that writes to w what encode returns, with a newline behind it.
func NewEncoded(w io.Writer, encode func(*event.Event) ([]byte, error)) *Encoded {
	return &Encoded{lines: newLineBuffer(w), encode: encode}
}

// Write writes a line to the buffer.
func (e *Encoded) Write(ev *event.Event) error {
	line, err := e.encode(ev)
	if err != nil {
		return err
	}
	return e.lines.set(append(append(e.lines.buf, line...), '\n'))
}

// Flush writes the buffer to the writer.
func (e *Encoded) Flush() error { return e.lines.flush() }

// Close flushes. It does not close the writer.
func (e *Encoded) Close() error { return e.lines.flush() }
