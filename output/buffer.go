// SPDX-License-Identifier: Apache-2.0

package output

import "io"

const (
	// bufferSize is how much is gathered before it is written without being
	// asked: 64 KiB is what a pipe holds by default, so that a larger write
	// gains nothing.
	bufferSize = 64 << 10
	// lineRoom is for the line with which a buffer is found to be full. Only a
	// longer one makes it grow.
	lineRoom = 8 << 10
)

// lineBuffer gathers whole lines. bufio.Writer would do but for two things: it
// cuts a line in two where its buffer ends, so that a rotated file could end in
// half an event, and after one failed write it refuses all others, so that a
// disk that was full for a minute ends the stream for good.
type lineBuffer struct {
	w   io.Writer
	buf []byte
}

func newLineBuffer(w io.Writer) lineBuffer {
	return lineBuffer{w: w, buf: make([]byte, 0, bufferSize+lineRoom)}
}

// take makes grown, which is b.buf with one or more whole lines appended to it,
// what is in the buffer. When that is too much, what was there before is
// written first; if this fails the new lines are not taken.
func (b *lineBuffer) take(grown []byte) error {
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

// add takes one or more whole lines from elsewhere.
func (b *lineBuffer) add(lines []byte) error { return b.take(append(b.buf, lines...)) }

// flush writes what was gathered. What could not be written stays.
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
