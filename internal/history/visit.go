// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A Client asks the recorder of a history. From the first answer until Close, the process is a visitor of the recorder,
// which reports none of its calls of setns: it enters namespaces only to read what is there.
type Client struct {
	path string
	held net.Conn
}

// NewClient returns a client of the recorder of the history at path.
func NewClient(path string) *Client { return &Client{path: path} }

// Sync is the function Sync.
func (c *Client) Sync(ctx context.Context) error {
	conn, err := syncConn(ctx, c.path)
	switch {
	case conn == nil:
	case c.held == nil:
		c.held = conn
	default:
		conn.Close()
	}
	return err
}

// Close ends the visit.
func (c *Client) Close() {
	if c.held != nil {
		c.held.Close()
		c.held = nil
	}
}

// maxVisits is how many visits a recorder keeps. lateEvents is how long it keeps one that has ended, because events come
// later than they happen.
const (
	maxVisits  = 128
	lateEvents = 10 * time.Second
)

// A visit is one process with a connection to the recorder. It cannot end, and its PID cannot be that of another
// process, without the end of the connection.
type visit struct {
	pid, uid   uint32
	begin, end time.Time // end: zero before it
}

// A visitors holds the visits to a recorder.
type visitors struct {
	mu  sync.Mutex
	all []*visit
}

// admit returns a visit of the process that made a connection, nil unless it runs the recorder's own program as root
// or as the recorder's user. A program is known by its file. Its name and its path are what the process says.
func (v *visitors) admit(c *net.UnixConn) *visit {
	peer := peerOf(c)
	if peer == nil || peer.Uid != 0 && peer.Uid != uint32(os.Geteuid()) || !sameProgram(peer.Pid) {
		return nil
	}
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := v.all[:0]
	for _, old := range v.all {
		if old.end.IsZero() || now.Sub(old.end) < lateEvents {
			kept = append(kept, old)
		}
	}
	clear(v.all[len(kept):])
	v.all = kept
	if len(v.all) >= maxVisits {
		return nil
	}
	visit := &visit{pid: uint32(peer.Pid), uid: peer.Uid, begin: now}
	v.all = append(v.all, visit)
	return visit
}

// leave waits for the end of a visit.
func (v *visitors) leave(ctx context.Context, c net.Conn, visit *visit) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = c.SetDeadline(time.Time{})
	_, _ = c.Read(make([]byte, 1)) // a client sends nothing
	v.end(visit)
	c.Close()
}

// end notes that a visitor has left.
func (v *visitors) end(visit *visit) {
	if visit == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	visit.end = time.Now()
}

// made reports whether a visitor made an event.
func (v *visitors) made(e *event.Event) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, visit := range v.all {
		if p := e.Process; p.PID == visit.pid && p.UID == visit.uid && !p.StartTime.After(visit.begin) &&
			!e.Time.Before(visit.begin) && (visit.end.IsZero() || !e.Time.After(visit.end)) {
			return true
		}
	}
	return false
}

// ByVisitor reports whether an event is the call of setns of another process of nstrace, which asked the recorder
// before that, see Client.
func (r *Recorder) ByVisitor(e *event.Event) bool {
	return e.Type == event.NamespaceEnter && e.Via == event.ViaSetns && e.Process != nil && r.visitors.made(e)
}

// sameProgram reports whether a process runs the file that this one runs. Events have the PIDs of the initial PID
// namespace.
func sameProgram(pid int32) bool {
	if in, err := procfs.InInitial(event.NSTypePID); err != nil || !in || pid <= 0 {
		return false
	}
	own, ok := exeOf("self")
	its, ok2 := exeOf(strconv.Itoa(int(pid)))
	return ok && ok2 && own == its
}

// A fileID identifies a file among those that exist.
type fileID struct {
	major, minor uint32
	inode        uint64
}

// exeOf returns the file that a process runs. It asks no server of a file system, which can belong to a user.
func exeOf(pid string) (id fileID, ok bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, "/proc/"+pid+"/exe", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return fileID{st.Dev_major, st.Dev_minor, st.Ino}, err == nil && st.Ino != 0
}
