// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// MountChanges returns a channel that gets a value after mounts of this process's mount namespace have changed, and a
// function that ends that. The channel is nil if the kernel does not tell.
func MountChanges() (changes <-chan struct{}, end func()) {
	mounts, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, func() {}
	}
	stop, ended, err := os.Pipe()
	if err != nil {
		unix.Close(mounts)
		return nil, func() {}
	}
	changed, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(mounts)
		defer stop.Close()
		// The kernel reports a change once as POLLPRI (mounts_poll() in fs/proc_namespace.c).
		fds := []unix.PollFd{{Fd: int32(mounts), Events: unix.POLLPRI}, {Fd: int32(stop.Fd())}}
		for {
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			} else if err == nil && fds[1].Revents != 0 {
				return
			} else if err == nil && fds[0].Revents != 0 {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changed, func() { ended.Close(); <-done }
}
