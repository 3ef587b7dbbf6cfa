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

// mounts finds tracefs and cgroup2. Where one is not mounted it is, for one
// thread of nstrace only: that thread gets a mount namespace of its own, and do
// runs there whatever has to see the mount.
type mounts struct {
	calls   chan func()
	private bool

	traceOnce, cgroupOnce sync.Once
	traceErr, cgroupErr   error
	cgroupPath            string
}

func newMounts() *mounts {
	m := &mounts{calls: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nothing else
		// of the program ever runs in its mount namespace.
		runtime.LockOSThread()
		for f := range m.calls {
			f()
		}
	}()
	return m
}

// do runs f on the thread that sees the private mounts.
func (m *mounts) do(f func()) {
	done := make(chan struct{})
	m.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (m *mounts) close() { close(m.calls) }

// tracefsDir is where the kernel makes the folder, and cilium/ebpf looks first.
const tracefsDir = "/sys/kernel/tracing"

// tracefs makes sure, on do's thread, that tracefs can be used.
func (m *mounts) tracefs() error {
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

// cgroup2 returns a path, for do's thread, of the root of the v2 hierarchy.
func (m *mounts) cgroup2() (string, error) {
	m.cgroupOnce.Do(func() {
		if m.cgroupPath = findCgroup2(); m.cgroupPath != "" {
			return
		}
		// Over a folder that every host has and that this thread does not need.
		const dir = "/sys/fs/cgroup"
		if err := m.mount("cgroup2", dir); err != nil {
			m.cgroupErr = fmt.Errorf("cgroup v2 is not mounted, and mounting it failed: %w", err)
			return
		}
		m.cgroupPath = dir
	})
	return m.cgroupPath, m.cgroupErr
}

// findCgroup2 returns where the root of the v2 hierarchy is mounted, "" for
// nowhere. A mount of only a part of it (a container's) does not count.
func findCgroup2() (path string) {
	procfs.EachMount("/proc/thread-self/mountinfo", "cgroup2", func(m procfs.Mountpoint) {
		if m.Root == "/" && path == "" {
			path = m.Point
		}
	})
	return path
}

// mount mounts a pseudo file system where only this thread sees it.
func (m *mounts) mount(fstype, dir string) error {
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
