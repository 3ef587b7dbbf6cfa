// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A selection is what --container and --netns ask for. Both are about what is known of an
// event at its end, so that user space decides.
type selection struct {
	containers []string // names, beginnings of ids, NAMESPACE/POD
	nets       []netSelector
}

// A netSelector is a network namespace, by its number or by a name that it may get.
type netSelector struct {
	id   uint32
	name string
}

func newSelection(containers, netns []string) (selection, error) {
	s := selection{containers: containers}
	if slices.Contains(containers, "") {
		return s, usagef("--container takes a container's name or the beginning of its id")
	}
	for _, text := range netns {
		n, err := parseNet(text)
		if err != nil {
			return s, usagef("--netns: %w", err)
		}
		s.nets = append(s.nets, n)
	}
	return s, nil
}

// firstInode is the number of the first namespace, PROC_DYNAMIC_FIRST of fs/proc/generic.c;
// those of the host are a little below. No pid is that high.
const firstInode = 0xf0000000 - 64

// parseNet takes an inode number, a PID, a path, and a name, of ip netns or of a
// container. Only the latter need not exist yet.
func parseNet(text string) (netSelector, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		if n >= firstInode {
			return netSelector{id: uint32(n)}, nil
		}
		id, err := netAt(fmt.Sprintf("/proc/%d/ns/net", n))
		if err != nil {
			return netSelector{}, fmt.Errorf("%q is neither a namespace's number nor the pid of a process: %w", text, err)
		}
		return netSelector{id: id}, nil
	}
	switch {
	case text == "":
		return netSelector{}, fmt.Errorf("%q is no network namespace: it takes a number, a pid, a path, or a name of ip netns or of a container", text)
	case strings.HasPrefix(text, "/"):
		id, err := netAt(text)
		if err != nil {
			return netSelector{}, err
		}
		return netSelector{id: id}, nil
	}
	return netSelector{name: text}, nil
}

// netAt returns the number of the network namespace at a path.
func netAt(path string) (uint32, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("%s is not the file of a namespace", filepath.Clean(path))
	}
	return uint32(st.Ino), nil
}

// match says whether an event is about all of what is asked for, of each kind any.
func (s *selection) match(e *event.Event) bool {
	about := [2]*event.Namespace{e.Namespace}
	switch {
	case e.Sysctl != nil:
		about[0] = e.Sysctl.Namespace
	case e.Netdev != nil:
		about = [2]*event.Namespace{e.Netdev.From, e.Netdev.To}
	}
	if len(s.containers) > 0 && !s.inContainer(e.Container, e.Pod) && !slices.ContainsFunc(about[:], s.owned) {
		return false
	}
	return len(s.nets) == 0 || slices.ContainsFunc(about[:], s.isNet)
}

// owned says whether ns is of a container that is asked for.
func (s *selection) owned(ns *event.Namespace) bool {
	return ns != nil && ns.Owner != nil && s.inContainer(ns.Owner.Container, ns.Owner.Pod)
}

// isNet says whether ns is a network namespace that is asked for.
func (s *selection) isNet(ns *event.Namespace) bool {
	return ns != nil && ns.Type == "net" && slices.ContainsFunc(s.nets, func(n netSelector) bool {
		if n.id != 0 {
			return ns.ID == n.id
		}
		return ns.Name == n.name || (ns.Owner != nil && isContainer(ns.Owner.Container, n.name))
	})
}

func (s *selection) inContainer(c *event.Container, p *event.Pod) bool {
	return slices.ContainsFunc(s.containers, func(asked string) bool {
		return isContainer(c, asked) || (p != nil && p.Name != "" && asked == p.Namespace+"/"+p.Name)
	})
}

// isContainer says whether asked is c's name, or enough of its id to be meant.
func isContainer(c *event.Container, asked string) bool {
	const enough = 4
	return c != nil && (c.Name == asked || c.ID == asked || (len(asked) >= enough && len(c.ID) == 64 && strings.HasPrefix(c.ID, asked)))
}
