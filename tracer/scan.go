// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A LiveNamespace is a namespace that a scan found alive.
type LiveNamespace struct {
	Namespace event.Namespace
	// Paths are files by which the namespace can be entered, each as long as what holds it
	// is there. There are at most four; those that probably last longest come first.
	Paths []string
}

// maxPaths bounds LiveNamespace.Paths: thousands of tasks can be in one namespace.
const maxPaths = 4

// Scan returns all namespaces that are alive: those that a task is in, those that a mount or
// a descriptor of a process holds, and the user namespaces above these. It leaves out what
// only nstrace itself is in. It cannot find what only a socket holds, or a mount in a mount
// namespace without tasks.
//
// Scan shows the present, while Run may not have emitted the events yet that led to it. It is
// safe for concurrent use, but a Handler must not call it.
func (t *Tracer) Scan() ([]LiveNamespace, error) {
	tasks, err := t.attached.tasks()
	if err != nil {
		return nil, err
	}
	s := liveScan{self: uint32(os.Getpid()), byID: map[uint32]*liveFound{}}
	s.tasks(tasks)
	s.holders()
	for _, found := range s.order { // what ownersOf adds has no path to begin at
		s.ownersOf(found)
	}
	all := make([]LiveNamespace, 0, len(s.order))
	for _, found := range s.order {
		t.interpreter.describe(&found.Namespace, found.kernel)
		all = append(all, found.LiveNamespace)
	}
	return all, nil
}

// A liveScan is what one call of Scan has found.
type liveScan struct {
	self  uint32
	byID  map[uint32]*liveFound
	order []*liveFound
}

type liveFound struct {
	LiveNamespace
	kernel uint64 // its id in the kernel, 0 if unknown
	held   int    // how many of Paths are of mounts and descriptors, which come first
}

// find returns the entry of a namespace, and adds it if it is new; nil if it has no id.
func (s *liveScan) find(ns event.Namespace, kernel uint64) *liveFound {
	if ns.ID == 0 {
		return nil
	}
	found := s.byID[ns.ID]
	if found == nil {
		found = &liveFound{LiveNamespace: LiveNamespace{Namespace: ns}, kernel: kernel}
		s.byID[ns.ID] = found
		s.order = append(s.order, found)
	}
	return found
}

// tasks adds the namespaces that tasks are in.
func (s *liveScan) tasks(tasks []bpf.NstraceInventory) {
	for i := range tasks {
		// An exiting task has left its namespaces, or is about to.
		if tasks[i].Pid == s.self || tasks[i].Exiting != 0 {
			continue
		}
		for c := range namespacesOf(&tasks[i]) {
			typ := nsType(c.Kind)
			found := s.find(event.Namespace{Type: typ, ID: c.Inum, UserNS: c.UserNs}, c.NsId)
			if found != nil && len(found.Paths) < maxPaths {
				found.Paths = append(found.Paths, fmt.Sprintf("/proc/%d/ns/%s", tasks[i].Pid, typ))
			}
		}
	}
}

// holders adds the namespaces that a mount or a descriptor of a process holds.
func (s *liveScan) holders() {
	scan := procfs.HolderScan{IDs: true}
	if scan.Run(s.self) != nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(scan.Held)) {
		h := scan.Held[id]
		ns := event.Namespace{Type: h.Type, ID: h.ID}
		for _, m := range h.Mounts {
			s.addHolder(ns, h.KernelID, fmt.Sprintf("/proc/%d/root%s", m.PID, m.Path))
		}
		for _, d := range h.Descriptors {
			if d.PID != s.self {
				s.addHolder(ns, h.KernelID, fmt.Sprintf("/proc/%d/fd/%d", d.PID, d.FD))
			}
		}
	}
}

// addHolder adds a namespace with a path to it. Such a path comes before those of tasks: a
// task such as that of ip netns exec ends before the mount does.
func (s *liveScan) addHolder(ns event.Namespace, kernel uint64, path string) {
	if found := s.find(ns, kernel); found != nil && found.held < maxPaths {
		found.Paths = slices.Insert(found.Paths, found.held, path)
		found.Paths = found.Paths[:min(len(found.Paths), maxPaths)]
		found.held++
	}
}

// open opens the namespace by the first path that still leads to it; nil for none. By now
// another process can have the pid in a path.
func (f *liveFound) open() *os.File {
	for _, path := range f.Paths {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(file.Fd()), &st) == nil && uint32(st.Ino) == f.Namespace.ID {
			return file
		}
		file.Close()
	}
	return nil
}

// ownersOf adds the user namespaces that own a namespace, or are the parents of one. Without
// a task or a holder of their own the kernel keeps them alive for it.
func (s *liveScan) ownersOf(found *liveFound) {
	f := found.open()
	if f == nil {
		return
	}
	defer f.Close()
	// NS_GET_USERNS of a user namespace is its parent.
	fd, child := int(f.Fd()), found
	for {
		next, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
		if fd != int(f.Fd()) {
			unix.Close(fd)
		}
		if err != nil { // EPERM above the initial one
			return
		}
		fd = next
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			unix.Close(fd)
			return
		}
		id := uint32(st.Ino)
		if child.Namespace.UserNS == 0 {
			child.Namespace.UserNS = id
		}
		if known := s.byID[id]; known != nil && len(known.Paths) > 0 { // it has a turn of its own
			unix.Close(fd)
			return
		}
		if child = s.find(event.Namespace{Type: event.NSTypeUser, ID: id}, 0); child == nil {
			unix.Close(fd)
			return
		}
	}
}
