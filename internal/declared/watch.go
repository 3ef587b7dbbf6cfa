// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often a Watch looks at the files if the kernel reports no change: it reports none of a file that
// only a link leads to.
const lookEvery = time.Second

// A Watch tells when the files that Read reads change.
type Watch struct {
	o      Options
	notify *os.File // of inotify(7), nil if there is none
	stamp  string
}

// NewWatch returns a Watch for changes from now on. Close it after its use.
func NewWatch(o Options) *Watch {
	w := &Watch{o: o}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		w.notify = os.NewFile(uintptr(fd), "inotify")
	}
	w.add()
	w.stamp = Stamp(o)
	return w
}

// Close ends the Watch.
func (w *Watch) Close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// add watches all folders that exist now. The kernel knows those that it watches already.
func (w *Watch) add() {
	if w.notify == nil {
		return
	}
	conn, err := w.notify.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		for _, dir := range append([]string{"/etc"}, folders...) {
			const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
			_, _ = unix.InotifyAddWatch(int(fd), w.o.Root+dir, mask|unix.IN_ONLYDIR)
		}
	})
}

// Next waits until a file has changed. It returns an error only if ctx ends.
func (w *Watch) Next(ctx context.Context) error {
	buf := make([]byte, 16<<10)
	for ctx.Err() == nil {
		if w.notify == nil {
			select {
			case <-time.After(lookEvery):
			case <-ctx.Done():
				return ctx.Err()
			}
		} else {
			stop := context.AfterFunc(ctx, func() { _ = w.notify.SetReadDeadline(time.Unix(1, 0)) })
			_ = w.notify.SetReadDeadline(time.Now().Add(lookEvery))
			if ctx.Err() == nil {
				_, _ = w.notify.Read(buf) // what changed does not matter: the stamp tells
			}
			stop()
		}
		w.add()
		if stamp := Stamp(w.o); stamp != w.stamp {
			w.stamp = stamp
			return nil
		}
	}
	return ctx.Err()
}
