// SPDX-License-Identifier: Apache-2.0

package output

import "io"

// bufferSize is how much is gathered before it is written without being asked:
// 64 KiB is what a pipe holds by default, so that a larger write gains nothing.
const bufferSize = 64 << 10

// lineBuffer gathers whole lines. bufio.Writer would do but for two things: it
// cuts a line in two where its buffer ends, so that a rotated file could end in
// half an event, and after one failed write it refuses all others, so that a
// disk that was full for a minute ends the stream for good.
type lineBuffer struct {
	w   io.Writer
	buf []byte
}

// add takes one or more whole lines. When they do not fit beside what is
// already there, that is written first; if this fails nothing is taken.
func (b *lineBuffer) add(lines []byte) error {
	if len(b.buf) > 0 && len(b.buf)+len(lines) > bufferSize {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.buf == nil {
		b.buf = make([]byte, 0, bufferSize)
	}
	b.buf = append(b.buf, lines...)
	return nil
}

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
