// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// A mountWatch takes snapshots of nstrace's own mount namespace. The kernel says that anything
// was mounted or unmounted there, not what. The methods of a nil mountWatch do nothing.
type mountWatch struct {
	changed  atomic.Bool    // something was mounted or unmounted since the last snapshot
	snapshot *mountSnapshot // taken, and not compared yet
	file     *os.File       // of mountinfo, polled
	end      int            // an eventfd that ends the poll
	polls    sync.WaitGroup
}

func newMountWatch() *mountWatch {
	w := &mountWatch{end: -1}
	w.changed.Store(true)
	return w
}

// start calls wake after each change. If the kernel does not report changes, snapshots are
// only taken with each end scan.
func (w *mountWatch) start(wake func()) {
	if w == nil || w.file != nil {
		return
	}
	var err error
	if w.file, err = os.Open(procfs.OwnMountinfo); err != nil {
		return
	}
	if w.end, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return
	}
	w.polls.Go(func() {
		// Fd, and not the file's own poller: a change is POLLPRI (mounts_poll() in
		// fs/proc_namespace.c), which that does not report.
		fds := []unix.PollFd{{Fd: int32(w.file.Fd()), Events: unix.POLLPRI}, {Fd: int32(w.end), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents != 0 && !w.changed.Swap(true) {
				wake()
			}
		}
	})
}

// due reports whether a snapshot is to be taken or to be compared.
func (w *mountWatch) due() bool { return w != nil && (w.snapshot != nil || w.changed.Load()) }

// take takes a snapshot.
func (w *mountWatch) take() {
	w.changed.Store(false)
	at := bootNow()
	w.snapshot = &mountSnapshot{at: at, pinned: procfs.PinnedIn(procfs.OwnMountinfo)}
}

func (w *mountWatch) close() {
	if w == nil {
		return
	}
	if w.end >= 0 {
		_, _ = unix.Write(w.end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		w.polls.Wait()
		unix.Close(w.end)
		w.end = -1
	}
	if w.file != nil {
		w.file.Close()
	}
}
