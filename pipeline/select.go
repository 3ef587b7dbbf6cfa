// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"slices"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/resolve"
)

// A Selection says which containers and which network namespaces events must be about.
// Containers and Nets each match if one of them does, and both must match.
type Selection struct {
	Containers []string // names, beginnings of ids, or NAMESPACE/POD
	Nets       []NetSelector
	Changed    bool // no writes that leave a parameter as it is
}

// A NetSelector is a network namespace, by its inode number or by a name that it has or
// may get later.
type NetSelector struct {
	ID   uint32 // 0: select by Name
	Name string // of ip netns, or of a container

	// Life, if not nil, is which of the namespaces that had the number it is. A Select finds the one
	// that has the number now.
	Life Life
}

// A Life tells a namespace from others that have its number before or after it: a history.Life.
type Life interface {
	Covers(ns *event.Namespace, bootID string) bool
}

// ParseNetSelector parses an argument that names a network namespace. Its grammar is that of
// resolve.Parse. A name need not exist yet.
func ParseNetSelector(text string) (NetSelector, error) {
	arg, err := resolve.Parse(text)
	if err != nil {
		return NetSelector{}, err
	}
	path := text
	switch arg.Kind {
	case resolve.KindInode:
		if arg.Type != "" && arg.Type != event.NSTypeNet {
			return NetSelector{}, fmt.Errorf("%q is a namespace of type %s: want a network namespace", text, arg.Type)
		}
		return NetSelector{ID: arg.ID}, nil
	case resolve.KindPID:
		path = fmt.Sprintf("/proc/%d/ns/net", arg.PID)
	case resolve.KindPath:
	default:
		return NetSelector{Name: text}, nil
	}
	id, err := procfs.NamespaceInode(path)
	if err != nil && arg.Kind == resolve.KindPID {
		err = fmt.Errorf("%q is neither the inode number of a namespace nor the pid of a process: %w", text, err)
	}
	return NetSelector{ID: id}, err
}

// Empty reports whether the selection selects every event.
func (s *Selection) Empty() bool { return len(s.Containers) == 0 && len(s.Nets) == 0 && !s.Changed }

// Match reports whether the selection selects an event.
func (s *Selection) Match(e *event.Event) bool {
	if s.Empty() {
		return true
	}
	if s.Changed && same(e) {
		return false
	}
	about := e.Namespaces()
	if len(s.Containers) > 0 && !s.inContainer(e.Container, e.Pod) && !slices.ContainsFunc(about[:], s.owned) {
		return false
	}
	return len(s.Nets) == 0 || slices.ContainsFunc(about[:], func(ns *event.Namespace) bool { return s.isNet(ns, e.BootID) })
}

// same reports whether an event is a write that succeeded, as far as is known, and left a parameter at the value that it had.
func same(e *event.Event) bool {
	w := e.Sysctl
	if w == nil || w.Old == nil || e.Outcome == event.Failure {
		return false
	}
	now := w.After
	if now == nil {
		now = w.New
	}
	return now != nil && event.SameValue(*w.Old, *now)
}

// owned reports whether ns belongs to a selected container.
func (s *Selection) owned(ns *event.Namespace) bool {
	return ns != nil && ns.Owner != nil && s.inContainer(ns.Owner.Container, ns.Owner.Pod)
}

// isNet reports whether ns is a selected network namespace.
func (s *Selection) isNet(ns *event.Namespace, bootID string) bool {
	return ns != nil && ns.Type == event.NSTypeNet && slices.ContainsFunc(s.Nets, func(n NetSelector) bool {
		if n.ID != 0 {
			return ns.ID == n.ID && (n.Life == nil || n.Life.Covers(ns, bootID))
		}
		return ns.Name == n.Name || (ns.Owner != nil && isContainer(ns.Owner.Container, n.Name))
	})
}

func (s *Selection) inContainer(c *event.Container, p *event.Pod) bool {
	return slices.ContainsFunc(s.Containers, func(want string) bool {
		return isContainer(c, want) || (p != nil && p.Name != "" && want == p.Path())
	})
}

// isContainer reports whether want means c, which can be nil.
func isContainer(c *event.Container, want string) bool { return c != nil && c.Is(want) }

// Select drops the events that a Selection does not select.
type Select struct {
	Next      Handler
	Selection Selection
	Drops     *Drops
}

// Event hands on e if it is selected.
func (s *Select) Event(e *event.Event) error {
	s.learn(e)
	if !aboutTrace(e) && !s.Selection.Match(e) {
		s.Drops.add(e)
		return nil
	}
	return s.Next.Event(e)
}

// Idle hands on the call.
func (s *Select) Idle() error { return s.Next.Idle() }

// A firstLife is the namespace of which the first event with a number was.
type firstLife struct{ uid string }

// Covers reports whether ns is that namespace. A namespace without a uid can be.
func (l *firstLife) Covers(ns *event.Namespace, _ string) bool {
	return ns.UID == "" || ns.UID == l.uid
}

// learn notes which namespace has a number that is selected. The kernel gives the number to another one
// when that has ended.
func (s *Select) learn(e *event.Event) {
	for i := range s.Selection.Nets {
		n := &s.Selection.Nets[i]
		if n.ID == 0 || n.Life != nil {
			continue
		}
		for _, ns := range e.Namespaces() {
			if ns != nil && ns.Type == event.NSTypeNet && ns.ID == n.ID && ns.UID != "" {
				n.Life = &firstLife{ns.UID}
			}
		}
	}
}
