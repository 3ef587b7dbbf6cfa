// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"io"
	"os"

	"github.com/nstrace/nstrace/output"
)

// A file is a destination that appends lines to a file.
type file struct {
	w       io.WriteCloser
	buf     []byte
	written int // bytes of the next item that a failed write left in the file
}

// OpenFile returns a destination that appends events to a file, see [output.OpenFile].
func OpenFile(path string, rotation output.Rotation) (Destination, error) {
	w, err := output.OpenFile(path, rotation)
	if err != nil {
		return nil, err
	}
	return &file{w: w}, nil
}

// ToFile returns a destination that appends events to an open file, and leaves it open.
func ToFile(f *os.File) Destination { return &file{w: open{f}} }

// open is a file that Close leaves open.
type open struct{ io.Writer }

func (open) Close() error { return nil }

// Deliver writes the lines at once. After a write that failed, the next one goes on where it ended.
func (f *file) Deliver(_ context.Context, items []Item) (int, error) {
	f.buf = f.buf[:0]
	for _, it := range items {
		f.buf = append(f.buf, it.Line...)
	}
	n, err := f.w.Write(f.buf[f.written:])
	n += f.written
	if err == nil && n < len(f.buf) {
		err = io.ErrShortWrite
	}
	if err == nil {
		f.written = 0
		return len(items), nil
	}
	done := 0
	for done < len(items) && n >= len(items[done].Line) {
		n -= len(items[done].Line)
		done++
	}
	f.written = n
	return done, err
}

func (f *file) Close() error { return f.w.Close() }
