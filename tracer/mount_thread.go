// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
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
	cgroupRoot            *cgroupRoot
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

func (m *mountThread) close() {
	close(m.calls)
	m.cgroupOnce.Do(func() {})
	if m.cgroupRoot != nil {
		unix.Close(m.cgroupRoot.fd)
	}
}

// tracefsDir is the mount point that the kernel makes, and where cilium/ebpf looks first.
const tracefsDir = "/sys/kernel/tracing"

// tracefs makes sure that tracefs is mounted. Call it on the thread.
func (m *mountThread) tracefs() error {
	m.traceOnce.Do(func() {
		for _, dir := range []string{tracefsDir, "/sys/kernel/debug/tracing"} {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil && uint32(st.Type) == unix.TRACEFS_MAGIC {
				m.traceErr = canReadTracefs(dir)
				return
			}
		}
		if err := m.mount("tracefs", tracefsDir); err != nil {
			m.traceErr = fmt.Errorf("tracefs is not mounted, and mounting it failed: %w", err)
			return
		}
		m.traceErr = canReadTracefs(tracefsDir)
	})
	return m.traceErr
}

// A cgroupRoot is the root of the cgroup v2 hierarchy.
type cgroupRoot struct {
	fd    int
	where string
	// foreign says why fd is not the root of the host, but that of nstrace's cgroup namespace;
	// nil if it is the root.
	foreign error
	// own is the kernfs id of the root of nstrace's cgroup namespace, if that is not the host's.
	own uint64
	// inside says that /proc shows paths from the root of a cgroup namespace, and not from fd.
	inside bool
}

// cgroup2 returns the root of the v2 hierarchy. Call it on the thread first.
func (m *mountThread) cgroup2() (*cgroupRoot, error) {
	m.cgroupOnce.Do(func() { m.cgroupRoot, m.cgroupErr = m.openCgroup2() })
	return m.cgroupRoot, m.cgroupErr
}

// openCgroup2 opens the root by any mount of the hierarchy. In a cgroup namespace a mount shows
// only what is below nstrace's own cgroup; the root then has to be opened by its handle, which
// needs CAP_DAC_READ_SEARCH.
func (m *mountThread) openCgroup2() (*cgroupRoot, error) {
	dir := findCgroup2()
	if dir == "" {
		// Every host has this directory, and the thread does not need what is in it.
		dir = "/sys/fs/cgroup"
		if err := m.mount("cgroup2", dir); err != nil {
			return nil, fmt.Errorf("cgroup v2 is not mounted, and mounting it failed: %w", err)
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	root := &cgroupRoot{fd: fd, where: dir}
	if in, err := procfs.InInitial(event.NSTypeCgroup); err == nil && !in {
		root.inside = true
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Ino == procfs.RootCgroup {
		return root, nil
	}
	root.inside, root.own = true, st.Ino
	host, err := procfs.OpenCgroup(fd, procfs.RootCgroup)
	if err != nil {
		root.foreign = fmt.Errorf("open the root of cgroup v2: %w (it wants CAP_DAC_READ_SEARCH)", err)
		return root, nil
	}
	unix.Close(fd)
	root.fd, root.where = host, "opened by its handle: nstrace is in a cgroup namespace"
	return root, nil
}

// findCgroup2 returns where the v2 hierarchy is mounted, "" for nowhere. It prefers a mount of the
// root to one of a part, as in a container.
func findCgroup2() (path string) {
	var part string
	procfs.EachMount("/proc/thread-self/mountinfo", "cgroup2", func(m procfs.Mountpoint) {
		if m.Root == "/" && path == "" {
			path = m.Point
		}
		part = m.Point
	})
	return cmp.Or(path, part)
}

// leaveChroot makes the root of the thread that of its mount namespace, which is a mount point. In
// a chroot it need not be one. The thread must share neither its root nor its mount namespace.
func leaveChroot() error {
	own, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the own mount namespace: %w", err)
	}
	defer unix.Close(own)
	// Entering any mount namespace sets the root to its root: mntns_install() in fs/namespace.c.
	if err := unix.Setns(own, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the own mount namespace: %w", err)
	}
	return nil
}

// dropTime bounds dropPins: users can have mounted any number of namespaces, and the start waits for it.
const dropTime = 500 * time.Millisecond

// dropPins unmounts the namespaces that the kernel has copied into the new mount namespace of the thread. The copies
// would keep these namespaces alive as long as nstrace runs.
func dropPins() {
	start := time.Now()
	for _, ns := range slices.Backward(procfs.PinnedIn(procfs.OwnMountinfo)) { // the upper one of two on a path first
		if time.Since(start) > dropTime {
			return
		}
		_ = procfs.UnmountNamespace(ns.Path)
	}
}

// mount mounts a pseudo file system for the thread alone.
func (m *mountThread) mount(fstype, dir string) error {
	if !m.private {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w (it wants CAP_SYS_ADMIN)", err)
		}
		outside := leaveChroot()
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make its mounts private: %w", cmp.Or(outside, err))
		}
		m.private = true
		dropPins()
	}
	if err := unix.Mount("none", dir, fstype, 0, ""); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("the kernel has no %s", fstype)
		}
		return fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return nil
}
