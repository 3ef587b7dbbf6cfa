// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"fmt"
	"os"
	"slices"
	"strconv"

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
	// A mount in another mount namespace is the last resort, as the way to it leads through file
	// systems that a user may serve.
	ways := slices.Concat(n.taskPaths(maxOpens), n.descriptorPaths(maxOpens), n.mountPaths(maxOpens))
	fd, err := procfs.OpenNamespace(n.Type, n.ID, ways[:min(len(ways), maxOpens)])
	if err == nil {
		return os.NewFile(uintptr(fd), "namespace "+strconv.FormatUint(uint64(n.ID), 10))
	}
	if n.KernelID == 0 {
		return nil
	}
	f, err := procfs.OpenHandle(procfs.Namespace{Type: n.Type, ID: n.ID, KernelID: n.KernelID}) // from 6.18 on
	if err != nil {
		return nil
	}
	return f
}

// Paths returns up to limit files by which the namespace can be entered, each as long as what holds it
// is there. Those that probably last longest come first: a task such as that of ip netns exec ends
// before the mount does.
func (n *Namespace) Paths(limit int) []string {
	all := slices.Concat(n.mountPaths(limit), n.descriptorPaths(limit), n.taskPaths(limit))
	return all[:min(len(all), limit)]
}

// taskPaths returns up to limit files of tasks that lead to the namespace.
func (n *Namespace) taskPaths(limit int) (paths []string) {
	if n.Oldest != nil {
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/%s", n.Oldest.PID, n.Type))
	}
	for _, t := range n.Threads[:min(len(n.Threads), limit)] {
		paths = append(paths, fmt.Sprintf("/proc/%d/task/%d/ns/%s", t.PID, t.TID, n.Type))
	}
	for _, t := range n.ForChildren[:min(len(n.ForChildren), limit)] {
		paths = append(paths, fmt.Sprintf("/proc/%d/task/%d/ns/%s_for_children", t.PID, t.TID, n.Type))
	}
	return paths[:min(len(paths), limit)]
}

func (n *Namespace) descriptorPaths(limit int) (paths []string) {
	for _, d := range n.Descriptors[:min(len(n.Descriptors), limit)] {
		paths = append(paths, fmt.Sprintf("/proc/%d/task/%d/fd/%d", d.PID, d.TID, d.FD))
	}
	return paths
}

func (n *Namespace) mountPaths(limit int) (paths []string) {
	self := procfs.Self()
	for _, m := range n.Mounts[:min(len(n.Mounts), limit)] {
		path := m.Path
		if m.PID != self {
			path = fmt.Sprintf("/proc/%d/root%s", m.PID, path)
		}
		paths = append(paths, path)
	}
	return paths
}
