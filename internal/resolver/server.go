// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/runtimes"
)

// callTime limits the answer to one request of a runtime, except opWatch.
const callTime = 10 * time.Second

// A server answers the messages of a Client.
type server struct {
	conn *net.UnixConn

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc // of the requests
	sources map[runtimes.Candidate]runtimes.Source
	dials   map[uint64]chan dialed
	lastID  uint64 // of dials
}

// A dialed is the answer to opConnect.
type dialed struct {
	fd  int // below 0: none
	err error
}

func newServer(conn *net.UnixConn) *server {
	return &server{conn: conn, cancels: map[uint64]context.CancelFunc{}, sources: map[runtimes.Candidate]runtimes.Source{}, dials: map[uint64]chan dialed{}}
}

// serve answers until the Client is gone.
func (s *server) serve() error {
	if err := s.send(&message{Op: opReady}); err != nil {
		if left(err) {
			return nil
		}
		return err
	}
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	for {
		n, rights, _, _, err := s.conn.ReadMsgUnix(buf, oob)
		if errors.Is(err, io.EOF) || err == nil && n == 0 || left(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a question: %w", err)
		}
		fd := receivedFD(oob[:rights])
		m, err := decode(buf[:n])
		if err != nil {
			return err
		}
		s.handle(m, fd)
	}
}

// left reports whether an error says that the Client has closed the socket.
func left(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// receivedFD returns the descriptor that came with a message, -1 for none.
func receivedFD(oob []byte) int {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(all) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&all[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	return fds[0]
}

// send sends a message. It waits while the Client does not read.
func (s *server) send(m *message) error {
	b, err := encode(m)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(b)
	return err
}

// handle starts what a message asks for.
func (s *server) handle(m *message, fd int) {
	switch m.Op {
	case opPing:
		_ = s.send(&message{Op: opPing}) // the next read notices that nobody listens
		return
	case opCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.cancels[m.ID]; cancel != nil {
			cancel()
		}
		return
	case opConnection:
		s.connected(m, fd)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.cancels[m.ID] = cancel
	s.mu.Unlock()
	go func() {
		defer func() {
			s.mu.Lock()
			delete(s.cancels, m.ID)
			s.mu.Unlock()
			cancel()
			if fd >= 0 {
				unix.Close(fd)
			}
		}()
		a := s.answer(ctx, m, fd)
		a.ID = m.ID
		_ = s.send(a)
	}()
}

// answer returns the last answer to a request.
func (s *server) answer(ctx context.Context, m *message, fd int) *message {
	switch m.Op {
	case opUserInFile:
		if fd < 0 {
			return &message{}
		}
		return &message{Text: bounded(attribution.NameInFile(procfs.FDReader(fd), m.UID))}
	case opUser:
		return &message{Text: bounded(attribution.Getent(m.UID))}
	case opArgs:
		if fd < 0 {
			return &message{}
		}
		return &message{Data: procfs.ReadCommandLine(fd)}
	case opDetect:
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		kind, err := runtimes.Detect(ctx, m.Source.Path, s.dial)
		return &message{Text: kind, Fault: newFault(err)}
	}
	source, err := s.source(m.Source)
	if err != nil {
		return &message{Fault: newFault(err)}
	}
	switch m.Op {
	case opInspect:
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		info, err := source.Inspect(ctx, m.Text)
		if err == nil && !short(info) {
			err = fmt.Errorf("%v: a name is longer than %d bytes", source, maxText)
		}
		if err != nil {
			return &message{Fault: newFault(err)}
		}
		return &message{Infos: []*runtimes.Info{info}}
	case opList:
		return s.list(ctx, m.ID, source)
	case opWatch:
		err := source.Watch(ctx, func(info *runtimes.Info) {
			switch {
			case info == nil:
				_ = s.send(&message{ID: m.ID, Begun: true, More: true})
			case short(info):
				_ = s.send(&message{ID: m.ID, Infos: []*runtimes.Info{info}, More: true})
			}
		})
		return &message{Fault: newFault(err)}
	}
	return &message{Fault: newFault(fmt.Errorf("%w: %q", errMessage, m.Op))}
}

// list sends the containers of a runtime, and returns the last of them. A container with a text that is too
// long is left out.
func (s *server) list(ctx context.Context, id uint64, source runtimes.Source) *message {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	all, err := source.List(ctx)
	if err != nil {
		return &message{Fault: newFault(err)}
	}
	part := &message{ID: id, More: true}
	size := 0
	for _, info := range all {
		if !short(info) {
			continue
		}
		// JSON escapes a byte with at most six.
		n := 256 + 6*(len(info.ID)+len(info.Name)+len(info.Image)+len(info.Runtime)+len(info.PodName)+len(info.PodNamespace)+len(info.PodUID))
		if len(part.Infos) == maxInfos || size+n > maxMessage-1024 {
			if err := s.send(part); err != nil {
				return &message{Fault: newFault(err)}
			}
			part, size = &message{ID: id, More: true}, 0
		}
		part.Infos, size = append(part.Infos, info), size+n
	}
	part.More = false
	return part
}

// bounded returns a text, or "" if it is too long for an answer.
func bounded(text string) string {
	if len(text) > maxText {
		return ""
	}
	return text
}

// source returns the runtime at a socket.
func (s *server) source(c runtimes.Candidate) (runtimes.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if source := s.sources[c]; source != nil {
		return source, nil
	}
	source, err := c.OpenBy(s.dial)
	if err == nil {
		s.sources[c] = source
	}
	return source, err
}

// dial asks the Client for a connection to a socket.
func (s *server) dial(ctx context.Context, path string) (net.Conn, error) {
	answer := make(chan dialed, 1)
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.dials[id] = answer
	s.mu.Unlock()
	if err := s.send(&message{ID: id, Op: opConnect, Source: runtimes.Candidate{Path: path}}); err != nil {
		return nil, err
	}
	select {
	case d := <-answer:
		if d.err != nil {
			return nil, d.err
		}
		return newConn(d.fd)
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dials[id] == nil { // it comes at the same moment
			if d := <-answer; d.fd >= 0 {
				unix.Close(d.fd)
			}
		}
		delete(s.dials, id)
		return nil, ctx.Err()
	}
}

// connected takes the answer to opConnect.
func (s *server) connected(m *message, fd int) {
	s.mu.Lock()
	answer := s.dials[m.ID]
	delete(s.dials, m.ID)
	if answer != nil {
		d := dialed{fd: fd, err: m.err()}
		if d.err == nil && fd < 0 {
			d.err = os.ErrInvalid
		}
		answer <- d // has room
	}
	s.mu.Unlock()
	if answer == nil && fd >= 0 {
		unix.Close(fd)
	}
}
