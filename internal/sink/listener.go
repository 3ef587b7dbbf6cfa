// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/safefile"
)

// Limits of a Listener. Together they bound its memory.
const (
	maxReaders   = 32
	readerEvents = 4096
	readerBytes  = 4 << 20
)

// readerRest is how long a listener waits after an error such as too many open files.
const readerRest = time.Second

// A Listener is a Unix socket whose readers all get the events from when they connected. Each reader is a Sink.
type Listener struct {
	o        Options
	path     string
	listener *net.UnixListener
	over     chan struct{} // closed when no more readers come

	mu      sync.Mutex
	readers []*reader
	gone    Stats // of readers that have gone
}

type reader struct {
	*Sink
	conn *net.UnixConn
}

// CheckSocket checks the length of a path, for which the kernel has little room.
func CheckSocket(path string) error {
	if room := len(unix.RawSockaddrUnix{}.Path) - 1; len(path) > room {
		return fmt.Errorf("the path of a socket has at most %d bytes: %q", room, path)
	}
	return nil
}

// Listen makes a socket that only root and the caller can connect to. It replaces a socket that nobody answers at. It
// uses Name, Filter and Report of the options.
func Listen(path string, o Options) (*Listener, error) {
	if err := safefile.CheckFolder(path); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			err = &fs.PathError{Op: "listen", Path: path, Err: errno}
		}
		return nil, err
	}
	if err := os.Chmod(path, safefile.Mode); err != nil { // accept also looks who it is
		return nil, errors.Join(err, listener.Close())
	}
	l := &Listener{o: o, path: path, listener: listener, over: make(chan struct{})}
	go l.accept()
	return l, nil
}

// removeStale removes a socket that a process left behind.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%q exists, and is no socket", path)
	}
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("another process uses the socket %q", path)
	}
	return os.Remove(path)
}

// accept takes readers.
func (l *Listener) accept() {
	defer close(l.over)
	for {
		conn, err := l.listener.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(readerRest)
		case !allowed(conn) || !l.add(conn):
			conn.Close()
		}
	}
}

// allowed reports whether the other side is root or the caller.
func allowed(conn *net.UnixConn) bool {
	var peer *unix.Ucred
	err := control(conn, func(fd int) (err error) {
		peer, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	return err == nil && (peer.Uid == 0 || peer.Uid == uint32(os.Geteuid()))
}

func control(conn *net.UnixConn, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	return errors.Join(raw.Control(func(fd uintptr) { called = do(int(fd)) }), called)
}

// add adds a reader, unless there are too many.
func (l *Listener) add(conn *net.UnixConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropGone(true)
	if len(l.readers) >= maxReaders {
		return false
	}
	o := l.o
	o.Once, o.MaxEvents, o.MaxBytes = true, readerEvents, readerBytes
	o.Destination = &file{w: conn}
	l.readers = append(l.readers, &reader{New(o), conn})
	return true
}

// dropGone forgets the readers that have gone. The caller holds l.mu.
func (l *Listener) dropGone(look bool) {
	l.readers = slices.DeleteFunc(l.readers, func(r *reader) bool {
		if !r.gone(look) {
			return false
		}
		l.leave(r)
		return true
	})
}

// gone reports whether a reader has ended, and closes its connection. On a quiet host, nothing is written that would
// fail: look then asks the kernel.
func (r *reader) gone(look bool) bool {
	hungUp := look && control(r.conn, func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}} // poll(2) always reports POLLHUP
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			return unix.EPIPE
		}
		return nil
	}) != nil
	if hungUp {
		r.stop()
		r.finish()
		r.conn.Close()
		return true
	}
	select {
	case <-r.done:
		r.conn.Close()
		return true
	default:
		return false
	}
}

func (l *Listener) write(e *event.Event, shared *encoded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.readers {
		r.write(e, shared)
	}
}

func (l *Listener) setFilter(p *filter.Program) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.o.Filter = p
	for _, r := range l.readers {
		r.setFilter(p)
	}
}

func (l *Listener) signal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropGone(false)
	for _, r := range l.readers {
		r.signal()
	}
}

// finish takes no more readers, and removes the socket.
func (l *Listener) finish() {
	l.listener.Close()
	<-l.over
	for _, r := range l.readers {
		r.finish()
	}
}

// end waits for the readers. What a reader lacks is no error: it learns that itself, or it did not want more.
func (l *Listener) end(ctx context.Context) error {
	for _, r := range l.readers {
		stop := context.AfterFunc(ctx, func() { _ = r.conn.SetWriteDeadline(time.Unix(1, 0)) })
		_ = r.end(ctx)
		stop()
		r.conn.Close()
	}
	return nil
}
