// SPDX-License-Identifier: Apache-2.0

package output

import "io"

const (
	// bufferSize is how many bytes the buffer collects before it writes without a flush.
	// A pipe holds 64 KiB by default, so a larger write gains nothing.
	bufferSize = 64 << 10
	// lineRoom is for the line that exceeds bufferSize. Only a longer line makes the
	// buffer grow.
	lineRoom = 8 << 10
)

// A lineBuffer collects whole lines. It differs from bufio.Writer in two points:
//   - It never splits a line, so a rotated file ends with a whole event.
//   - It continues after a failed write, so a disk that is full for a minute does not end the
//     stream.
type lineBuffer struct {
	w   io.Writer
	buf []byte
}

func newLineBuffer(w io.Writer) lineBuffer {
	return lineBuffer{w: w, buf: make([]byte, 0, bufferSize+lineRoom)}
}

// set replaces the buffer by grown, which is b.buf with whole lines appended. If that is too
// long, set first writes the earlier lines. If that fails, the new lines are not in the
// buffer.
func (b *lineBuffer) set(grown []byte) error {
	before := len(b.buf)
	if before > 0 && len(grown) > bufferSize {
		if err := b.flush(); err != nil {
			return err
		}
		grown = append(grown[:0], grown[before:]...)
	}
	b.buf = grown
	return nil
}

// add appends whole lines.
func (b *lineBuffer) add(lines []byte) error { return b.set(append(b.buf, lines...)) }

// flush writes the buffer. What cannot be written stays in it.
func (b *lineBuffer) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	n, err := b.w.Write(b.buf)
	if n < len(b.buf) && err == nil {
		err = io.ErrShortWrite
	}
	if n > 0 {
		b.buf = b.buf[:copy(b.buf, b.buf[n:])]
	}
	return err
}
