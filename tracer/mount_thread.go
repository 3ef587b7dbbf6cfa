// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// A mountThread finds tracefs and cgroup2. If one is not mounted, it mounts it for a thread of
// nstrace alone, which gets a mount namespace of its own. run runs what needs the mounts on
// that thread.
type mountThread struct {
	calls   chan func()
	private bool

	traceOnce, cgroupOnce sync.Once
	traceErr, cgroupErr   error
	cgroupPath            string
}

func newMountThread() *mountThread {
	m := &mountThread{calls: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nothing else of the
		// program runs in its mount namespace.
		runtime.LockOSThread()
		for f := range m.calls {
			f()
		}
	}()
	return m
}

// run runs f on the thread.
func (m *mountThread) run(f func()) {
	done := make(chan struct{})
	m.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (m *mountThread) close() { close(m.calls) }

// tracefsDir is the mount point that the kernel makes, and where cilium/ebpf looks first.
const tracefsDir = "/sys/kernel/tracing"

// tracefs makes sure that tracefs is mounted. Call it on the thread.
func (m *mountThread) tracefs() error {
	m.traceOnce.Do(func() {
		for _, dir := range []string{tracefsDir, "/sys/kernel/debug/tracing"} {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil && uint32(st.Type) == unix.TRACEFS_MAGIC {
				return
			}
		}
		if err := m.mount("tracefs", tracefsDir); err != nil {
			m.traceErr = fmt.Errorf("tracefs is not mounted, and mounting it failed: %w", err)
		}
	})
	return m.traceErr
}

// cgroup2 returns the root of the v2 hierarchy, as the thread sees it.
func (m *mountThread) cgroup2() (string, error) {
	m.cgroupOnce.Do(func() {
		if m.cgroupPath = findCgroup2(); m.cgroupPath != "" {
			return
		}
		// Every host has this directory, and the thread does not need what is in it.
		const dir = "/sys/fs/cgroup"
		if err := m.mount("cgroup2", dir); err != nil {
			m.cgroupErr = fmt.Errorf("cgroup v2 is not mounted, and mounting it failed: %w", err)
			return
		}
		m.cgroupPath = dir
	})
	return m.cgroupPath, m.cgroupErr
}

// findCgroup2 returns where the root of the v2 hierarchy is mounted, "" for nowhere. A mount
// of only a part of it, as in a container, does not count.
func findCgroup2() (path string) {
	procfs.EachMount("/proc/thread-self/mountinfo", "cgroup2", func(m procfs.Mountpoint) {
		if m.Root == "/" && path == "" {
			path = m.Point
		}
	})
	return path
}

// mount mounts a pseudo file system for the thread alone.
func (m *mountThread) mount(fstype, dir string) error {
	if !m.private {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make its mounts private: %w", err)
		}
		m.private = true
	}
	if err := unix.Mount("none", dir, fstype, 0, ""); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("the kernel has no %s", fstype)
		}
		return fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return nil
}
