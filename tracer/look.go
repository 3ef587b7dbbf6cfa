// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A Sighting is a namespace that was found alive.
type Sighting struct {
	Namespace event.Namespace
	// Paths are of files that it can be entered by, each for as long as what holds it is
	// there: up to maxPaths, what may last longest first.
	Paths []string
	Task  bool // a task is in it, or will have its children there
}

// maxPaths is how many are kept: thousands of tasks can be in one namespace.
const maxPaths = 4

// Look looks for all namespaces that are alive: those that a task is in, that a mount or a
// descriptor of a process holds, and the user namespaces above these. What only nstrace
// itself is in is left out, and what nothing but a socket or a mount that nobody sees
// holds can't be found. It tells of now, while Run may still have to tell of what led here.
//
// It can be called while Run goes on, from another goroutine, but not by a Handler.
func (t *Tracer) Look() ([]Sighting, error) {
	tasks, err := t.tasks()
	if err != nil {
		return nil, err
	}
	l := look{t: t, seen: map[uint32]*sighting{}}
	self := uint32(os.Getpid())
	for i := range tasks {
		// The end of one that is leaving was told when it still had its namespaces.
		if tasks[i].Pid == self || tasks[i].Exiting != 0 {
			continue
		}
		for c := range namespaces(&tasks[i]) {
			typ := nsType(c.Kind)
			l.add(event.Namespace{Type: typ, ID: c.Inum, UserNS: c.UserNs}, c.NsId, fmt.Sprintf("/proc/%d/ns/%s", tasks[i].Pid, typ), true)
		}
	}
	l.holders(self)
	for _, s := range l.order {
		l.above(s)
	}
	return l.done(), nil
}

// A look is what one call of Look has found.
type look struct {
	t     *Tracer
	seen  map[uint32]*sighting
	order []*sighting
}

type sighting struct {
	Sighting
	kernel uint64 // its id in the kernel, 0 if not known
	held   int    // how many of Paths are of mounts and descriptors
}

func (l *look) add(ns event.Namespace, kernel uint64, path string, task bool) {
	if ns.ID == 0 {
		return
	}
	s := l.seen[ns.ID]
	if s == nil {
		s = &sighting{Sighting: Sighting{Namespace: ns}, kernel: kernel}
		l.seen[ns.ID] = s
		l.order = append(l.order, s)
	}
	s.Task = s.Task || task
	switch {
	case path == "":
	case task && len(s.Paths) < maxPaths:
		s.Paths = append(s.Paths, path)
	case !task && s.held < maxPaths:
		// A task of a moment, such as one of ip netns exec, ends before what is mounted goes.
		s.Paths = slices.Insert(s.Paths, s.held, path)
		s.Paths = s.Paths[:min(len(s.Paths), maxPaths)]
		s.held++
	}
}

// holders adds the namespaces that a mount or a descriptor of any process but self holds.
func (l *look) holders(self uint32) {
	scan := procfs.HolderScan{IDs: true}
	if scan.Run(self) != nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(scan.Held)) {
		h := scan.Held[id]
		ns := event.Namespace{Type: h.Type, ID: h.ID}
		for _, m := range h.Mounts {
			l.add(ns, h.KernelID, fmt.Sprintf("/proc/%d/root%s", m.PID, m.Path), false)
		}
		for _, d := range h.Descriptors {
			if d.PID != self {
				l.add(ns, h.KernelID, fmt.Sprintf("/proc/%d/fd/%d", d.PID, d.FD), false)
			}
		}
	}
}

// open opens a namespace, if one of its paths still leads there: a process's number can be
// another one's by now.
func (s *sighting) open() *os.File {
	for _, path := range s.Paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil && uint32(st.Ino) == s.Namespace.ID {
			return f
		}
		f.Close()
	}
	return nil
}

// above adds the user namespaces that own s, or are its parents, and have no task or
// holder of their own: the kernel keeps them for s.
func (l *look) above(s *sighting) {
	f := s.open()
	if f == nil {
		return
	}
	defer f.Close()
	// NS_GET_USERNS is the owner; of a user namespace, as NS_GET_PARENT, its parent.
	fd, child := int(f.Fd()), s
	for {
		// Above the initial one is nothing, EPERM.
		next, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
		if fd != int(f.Fd()) {
			unix.Close(fd)
		}
		if err != nil {
			return
		}
		fd = next
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			unix.Close(fd)
			return
		}
		if child.Namespace.UserNS == 0 {
			child.Namespace.UserNS = uint32(st.Ino)
		}
		known := l.seen[uint32(st.Ino)]
		if known == nil {
			l.add(event.Namespace{Type: "user", ID: uint32(st.Ino)}, 0, "", false)
			known = l.seen[uint32(st.Ino)]
		} else if len(known.Paths) > 0 { // it has a turn of its own
			unix.Close(fd)
			return
		}
		child = known
	}
}

// done adds what only the registry knows: what events call them.
func (l *look) done() []Sighting {
	t := l.t
	t.known.Lock()
	defer t.known.Unlock()
	all := make([]Sighting, 0, len(l.order))
	for _, s := range l.order {
		ns := &s.Namespace
		ns.Host = t.reg.host[ns.Type] == ns.ID
		if live := t.reg.live[ns.ID]; live != nil && live.is(ns.Type, s.kernel) {
			ns.UID, ns.Name, ns.Owner = live.uid, live.name, live.owner
			if ns.UserNS == 0 {
				ns.UserNS = live.userNS
			}
		} else if s.kernel != 0 {
			ns.UID = t.reg.uidText(ns.Type, s.kernel, ns.ID, 0)
		}
		all = append(all, s.Sighting)
	}
	return all
}
