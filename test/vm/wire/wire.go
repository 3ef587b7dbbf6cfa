// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the host and the init of a guest: the [Job] that the host
// puts into the guest's root, and the frames that come back through a separate serial port.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// JobPath is where the guest's init finds its Job, as JSON.
const JobPath = "/.nsvm-job.json"

// Port is the guest's end of the channel for frames. The console is another serial port, so kernel
// messages never get into a frame. On arm64 that one is not called ttyS.
var Port = map[string]string{"amd64": "/dev/ttyS1", "arm64": "/dev/ttyS0"}[runtime.GOARCH]

// Job is the task of a guest.
type Job struct {
	Args     []string // program and its arguments; the program is looked up in PATH
	Env      []string // KEY=value
	Dir      string   // working directory
	Hostname string
	Modules  []string // loaded before the program is started
	Merge    bool     // send standard error to standard output, in order
	Systemd  bool     // process 1 is systemd; the program starts once systemd is up
}

// Kind is the type of a frame.
type Kind byte

// Kinds of frames.
const (
	Start  Kind = 'S' // the system is up, and the program starts
	Stdout Kind = 'o' // bytes of its standard output
	Stderr Kind = 'e' // bytes of its standard error
	Exit   Kind = 'x' // the program ended; the payload is an ExitStatus as JSON
	Failed Kind = 'f' // init could not do its work; the payload says why
)

// ExitStatus says how the program ended. Signal is zero unless a signal killed it.
type ExitStatus struct {
	Code   int
	Signal int
}

// maxPayload is the maximum size that a reader allocates for one frame.
const maxPayload = 1 << 20

// Writer writes frames. It can be used from several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one frame.
func (w *Writer) Write(kind Kind, payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("frame of %d bytes is too long", len(payload))
	}
	frame := make([]byte, 0, 5+len(payload))
	frame = append(frame, byte(kind))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	frame = append(frame, payload...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(frame)
	return err
}

// Read reads one frame. The error is io.EOF only between two frames.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := Kind(head[0]), binary.BigEndian.Uint32(head[1:])
	switch kind {
	case Start, Stdout, Stderr, Exit, Failed:
	default:
		return 0, nil, fmt.Errorf("not a frame: % x", head)
	}
	if n > maxPayload {
		return 0, nil, fmt.Errorf("frame of %d bytes is too long", n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}
