// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// maxOpens bounds how many ways to a namespace are tried.
const maxOpens = 8

// Open opens the file of a namespace, by the first way that still leads to it: a process in it, a
// descriptor, a mount. The error wraps os.ErrNotExist if none does. By now another process can have
// a PID, and another namespace can be at a path, so Open checks what it opened.
func (inv *Inventory) Open(n *Namespace) (*os.File, error) {
	if f := inv.open(n); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("open %s namespace %d: no process, file or mount leads to it: %w", n.Type, n.ID, os.ErrNotExist)
}

func (inv *Inventory) open(n *Namespace) *os.File {
	for path := range n.paths() {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if r, ok := refOf(fd); ok && r == n.Ref {
			return os.NewFile(uintptr(fd), path)
		}
		unix.Close(fd)
	}
	if f := inv.openHandle(n); f != nil {
		return f
	}
	return nil
}

// Paths returns up to limit files by which the namespace can be entered, each as long as what holds it
// is there. Those that probably last longest come first: a task such as that of ip netns exec ends
// before the mount does.
func (n *Namespace) Paths(limit int) (paths []string) {
	add := func(format string, args ...any) {
		if len(paths) < limit {
			paths = append(paths, fmt.Sprintf(format, args...))
		}
	}
	for _, m := range n.Mounts {
		add("/proc/%d/root%s", m.PID, m.Path)
	}
	for _, d := range n.Descriptors {
		add("/proc/%d/task/%d/fd/%d", d.PID, d.TID, d.FD)
	}
	if n.Oldest != nil {
		add("/proc/%d/ns/%s", n.Oldest.PID, n.Type)
	}
	for _, t := range n.Threads {
		add("/proc/%d/task/%d/ns/%s", t.PID, t.TID, n.Type)
	}
	for _, t := range n.ForChildren {
		add("/proc/%d/task/%d/ns/%s_for_children", t.PID, t.TID, n.Type)
	}
	return paths
}

// paths yields files by which the namespace can be entered. A mount in another mount namespace is the
// last resort, as the way to it leads through file systems that a user may serve.
func (n *Namespace) paths() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		left := maxOpens
		try := func(format string, args ...any) bool {
			left--
			return left >= 0 && yield(fmt.Sprintf(format, args...))
		}
		if n.Oldest != nil && !try("/proc/%d/ns/%s", n.Oldest.PID, n.Type) {
			return
		}
		for _, t := range n.Threads {
			if !try("/proc/%d/task/%d/ns/%s", t.PID, t.TID, n.Type) {
				return
			}
		}
		for _, t := range n.ForChildren {
			if !try("/proc/%d/task/%d/ns/%s_for_children", t.PID, t.TID, n.Type) {
				return
			}
		}
		for _, d := range n.Descriptors {
			if !try("/proc/%d/task/%d/fd/%d", d.PID, d.TID, d.FD) {
				return
			}
		}
		for _, m := range n.Mounts {
			if !try("/proc/%d/root%s", m.PID, m.Path) {
				return
			}
		}
	}
}

// openHandle opens a namespace by its 64-bit id, from Linux 6.18 on.
func (inv *Inventory) openHandle(n *Namespace) *os.File {
	if n.KernelID == 0 {
		return nil
	}
	f, err := procfs.OpenHandle(procfs.Namespace{Type: n.Type, ID: n.ID, KernelID: n.KernelID})
	if err != nil {
		return nil
	}
	return f
}

// kernelID returns the kernel's 64-bit id of an open namespace, 0 if it does not say it (before 6.18).
func kernelID(fd int) uint64 {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil || h.Type() != procfs.FileIDNSFS || h.Size() < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(h.Bytes())
}
