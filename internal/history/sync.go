// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/safefile"
)

// ErrNoRecorder says that no recorder writes to a history: it has all that it will have.
var ErrNoRecorder = errors.New("no nstrace record runs")

// errNoAnswer says that a recorder has the lock of a history, and does not answer.
var errNoAnswer = errors.New("a recorder writes to it, and does not answer")

const (
	syncEvery   = 100 * time.Millisecond // others can make a recorder write at most that often
	syncTime    = 3 * time.Second        // how long one request may take
	syncRetry   = 5 * time.Second        // how often the recorder looks whether its socket is still there
	maxRequests = 64                     // that wait at once
	synced      = "synced"               // the answer
	maxAnswer   = 4096                   // bytes of an answer
)

// A client whose own socket has a name that begins like this wants a State behind the answer. The recorder knows the
// name when it accepts the connection, so it never waits for what a client sends. Recorders without a State ignore it.
const wantsState = "@nstrace-state-"

// A socketName is where the recorder of a history answers: a socket beside the database. So the folder decides
// who can reach it, and who can put another one there.
type socketName struct {
	dir  *os.File
	name string
}

func openSocketName(path string) (*socketName, error) {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &socketName{dir, filepath.Base(path) + "-sock"}, nil
}

func (n *socketName) close() { n.dir.Close() }

// address goes through the descriptor of the folder, because the address of a socket has at most 107 bytes.
func (n *socketName) address() *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", n.dir.Fd(), n.name)}
}

// stat returns what has the name.
func (n *socketName) stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(int(n.dir.Fd()), n.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// remove removes a socket that has the name, and nothing else.
func (n *socketName) remove() error {
	st, err := n.stat()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = unix.ENOTSOCK
	}
	if err == nil {
		err = unix.Unlinkat(int(n.dir.Fd()), n.name, 0)
	}
	return err
}

// Sync asks the recorder of the history at path to write all that has happened so far, and returns nil once
// that is on the disk. The error wraps ErrNoRecorder if no recorder runs. With any other error, or if ctx
// ends, the history can lack the newest events.
func Sync(ctx context.Context, path string) error {
	c, err := syncConn(ctx, path)
	if c != nil {
		c.Close()
	}
	return err
}

// syncConn is Sync. It returns the connection to the recorder, nil if there is none.
func syncConn(ctx context.Context, path string) (net.Conn, error) {
	c, answer, err := ask(ctx, path, "")
	if err == nil && answer != synced {
		err = fmt.Errorf("the recorder cannot write: %.500q", answer)
	}
	return c, err
}

// ask returns the connection to the recorder of the history at path, nil if there is none, and what it answers. name
// is that of the socket of the client, which can be empty.
func ask(ctx context.Context, path, name string) (net.Conn, string, error) {
	c, answer, err := askAt(ctx, path, name)
	if errors.Is(err, ErrNoRecorder) {
		// The recorder can know the database by the name that a symbolic link leads to.
		if to, linkErr := filepath.EvalSymlinks(path); linkErr == nil && to != path {
			return askAt(ctx, to, name)
		}
	}
	return c, answer, err
}

func askAt(ctx context.Context, path, name string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTime+time.Second)
	defer cancel()
	c, err := dialRecorder(ctx, path, name)
	if err != nil {
		recorded, lockErr := isLocked(path)
		switch {
		case lockErr != nil:
			return nil, "", errors.Join(err, lockErr)
		case recorded:
			return nil, "", fmt.Errorf("%w: %w", errNoAnswer, withoutAddress(err))
		}
		return nil, "", fmt.Errorf("%w: %w", ErrNoRecorder, err)
	}
	if !trusted(c.(*net.UnixConn), path) {
		c.Close()
		return nil, "", errors.New("another user answers instead of the recorder")
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	answer, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	return c, string(answer), err
}

// withoutAddress returns the reason in the error of a call, without the address, which names a descriptor.
func withoutAddress(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func dialRecorder(ctx context.Context, path, name string) (net.Conn, error) {
	n, err := openSocketName(path)
	if err != nil {
		return nil, err
	}
	defer n.close()
	var d net.Dialer
	if name != "" {
		d.LocalAddr = &net.UnixAddr{Net: "unix", Name: name}
	}
	at := n.address()
	return d.DialContext(ctx, at.Net, at.Name)
}

// isLocked reports whether a recorder has the lock of the history at path. A recorder that starts meanwhile does
// not mind.
func isLocked(path string) (bool, error) {
	f, err := os.OpenFile(path+"-lock", os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // opening a pipe would wait
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // and with it the lock
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// peerOf returns who is on the other side of a connection, nil if that is unknown.
func peerOf(c *net.UnixConn) *unix.Ucred {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil
	}
	return peer
}

// trusted reports whether the other side is root, the caller, or the owner of the history.
func trusted(c *net.UnixConn, path string) bool {
	peer := peerOf(c)
	if peer == nil {
		return false
	}
	if peer.Uid == 0 || peer.Uid == uint32(os.Geteuid()) {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Uid == peer.Uid
}

// A request waits for an answer. visit is nil if it is not from another process of nstrace.
type request struct {
	*net.UnixConn
	visit *visit
}

// ServeSync answers Sync and AskState until ctx ends. write returns once all that has happened so far is on the disk.
// state describes the run. In a folder that other users can write to, it does not answer.
func (r *Recorder) ServeSync(ctx context.Context, write func(context.Context) error, state func(context.Context) *State) {
	select {
	case <-r.opened:
	case <-ctx.Done():
		return
	}
	requests := make(chan request, maxRequests)
	go func() {
		defer close(requests)
		reported := false
		for ctx.Err() == nil {
			err := r.accept(ctx, requests)
			if err != nil && !errors.Is(err, safefile.ErrShared) && !reported {
				reported = true
				r.options.Report(fmt.Sprintf("history: %s: nstrace blame cannot ask for the newest events: %v", r.options.Path, err))
			}
			select {
			case <-time.After(syncRetry):
			case <-ctx.Done():
			}
		}
	}()
	for c := range requests {
		waiting := []request{c}
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
		var more string // a line with the state
		if slices.ContainsFunc(waiting, request.wantsState) {
			more = state(limit).line()
		}
		cancel()
		for _, c := range waiting {
			_ = c.SetDeadline(time.Now().Add(syncEvery)) // the answer fits into the socket's buffer
			text := answer
			if c.wantsState() {
				text = more
			}
			_, _ = c.Write([]byte(text))
			if c.visit == nil {
				c.Close()
				continue
			}
			_ = c.CloseWrite() // the end of the answer
			go r.visitors.leave(ctx, c, c.visit)
		}
		select {
		case <-time.After(syncEvery):
		case <-ctx.Done():
		}
	}
}

// accept takes requests until ctx ends, until the recorder does not have the lock any more, or until its socket
// is gone.
func (r *Recorder) accept(ctx context.Context, requests chan<- request) error {
	if !r.locked.Load() {
		return nil // the socket is that of another recorder
	}
	if err := safefile.CheckFolder(r.options.Path); err != nil {
		return err
	}
	n, err := openSocketName(r.options.Path)
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.remove(); err != nil { // of a recorder that was killed
		return err
	}
	l, err := n.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	mine, err := n.stat()
	if err != nil {
		return err
	}
	isMine := func() bool { // by the path, because somebody can have moved the folder
		var now unix.Stat_t
		return unix.Lstat(r.options.Path+"-sock", &now) == nil && now.Dev == mine.Dev && now.Ino == mine.Ino
	}
	defer func() {
		if isMine() {
			_ = n.remove()
		}
	}()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for r.locked.Load() && isMine() {
		_ = l.SetDeadline(time.Now().Add(syncRetry))
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return err // no descriptor is left at the moment, for example
		}
		q := request{c, r.visitors.admit(c)}
		select {
		case requests <- q:
		default:
			r.visitors.end(q.visit)
			c.Close()
		}
	}
	return nil
}

// listen makes the socket, which only its owner can connect to.
func (n *socketName) listen() (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(safefile.Mode)) }), err)
	}}
	at := n.address()
	l, err := config.Listen(context.Background(), at.Net, at.Name)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	if err := unix.Fchmodat(int(n.dir.Fd()), n.name, uint32(safefile.Mode), 0); err != nil { // whatever the umask
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}
