// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoRecorder says that no recorder writes to a history: it has all that it will have.
var ErrNoRecorder = errors.New("no nstrace record runs")

const (
	syncEvery   = 100 * time.Millisecond // others can make a recorder write at most that often
	syncTime    = 3 * time.Second        // how long one request may take
	maxRequests = 64                     // that wait at once
	synced      = "synced"               // the answer
)

// syncAddress returns the address at which the recorder of path answers. Nobody has to remove it when the
// recorder is killed. The lock file, which never moves along with a database, makes it unique.
func syncAddress(path string) (*net.UnixAddr, error) {
	var st unix.Stat_t
	if err := unix.Stat(path+"-lock", &st); err != nil {
		return nil, err
	}
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@nstrace-record-%x-%x", st.Dev, st.Ino)}, nil
}

// Sync asks the recorder of the history at path to write all that has happened so far, and returns nil once
// that is on the disk. The error wraps ErrNoRecorder if no recorder runs. With any other error, or if ctx
// ends, the history can lack the newest events.
func Sync(ctx context.Context, path string) error {
	at, err := syncAddress(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoRecorder, err)
	}
	ctx, cancel := context.WithTimeout(ctx, syncTime+time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, at.Net, at.Name)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNoRecorder, err)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if !trusted(c.(*net.UnixConn), path) {
		return errors.New("another user has taken the address of the recorder")
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	answer, err := io.ReadAll(io.LimitReader(c, 1024))
	if err == nil && string(answer) != synced {
		err = fmt.Errorf("the recorder cannot write: %.500q", answer)
	}
	return err
}

// trusted reports whether the other side is root, the caller, or the owner of the history.
func trusted(c *net.UnixConn, path string) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || peer == nil {
		return false
	}
	if peer.Uid == 0 || peer.Uid == uint32(os.Geteuid()) {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Uid == peer.Uid
}

// ServeSync answers Sync until ctx ends. write returns once all that has happened so far is on the disk.
func (r *Recorder) ServeSync(ctx context.Context, write func(context.Context) error) {
	select {
	case <-r.opened: // from now on, no other recorder writes to the database
	case <-ctx.Done():
		return
	}
	at, err := syncAddress(r.options.Path)
	if err != nil {
		return
	}
	l, err := net.ListenUnix(at.Net, at)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	requests := make(chan *net.UnixConn, maxRequests)
	go func() {
		defer close(requests)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				time.Sleep(syncEvery) // no descriptor is left at the moment
				continue
			}
			select {
			case requests <- c:
			default:
				c.Close()
			}
		}
	}()
	for c := range requests {
		waiting := []*net.UnixConn{c}
		for more := true; more; {
			select {
			case c, ok := <-requests:
				if more = ok; ok {
					waiting = append(waiting, c)
				}
			default:
				more = false
			}
		}
		limit, cancel := context.WithTimeout(ctx, syncTime)
		answer := synced
		if err := write(limit); err != nil {
			answer = err.Error()
		}
		cancel()
		for _, c := range waiting {
			_ = c.SetDeadline(time.Now().Add(syncEvery)) // the answer fits into the socket's buffer
			_, _ = c.Write([]byte(answer))
			c.Close()
		}
		select {
		case <-time.After(syncEvery):
		case <-ctx.Done():
		}
	}
}
