// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// coupled are parameters that the kernel sets along with others. Their new values are unknown, so
// they are not compared. reported says that an event of its own reports each of them (events with a cause).
var coupled = []struct {
	written, others string
	reported        bool
}{
	{"net.ipv4.ip_forward", "net.ipv4.conf.*.forwarding", true},
	{"net.ipv4.ip_forward", "net.ipv4.conf.*.accept_redirects", true},
	{"net.ipv4.conf.*.forwarding", "net.ipv4.ip_forward", true},
	{"net.ipv4.conf.all.forwarding", "net.ipv4.conf.*.forwarding", true},
	{"net.ipv4.conf.all.forwarding", "net.ipv4.conf.all.accept_redirects", true},
	{"net.ipv4.conf.default.*", "net.ipv4.conf.*", true}, // those that still have the default
	{"net.ipv6.conf.all.*", "net.ipv6.conf.*", true},
	{"net.ipv6.conf.default.*", "net.ipv6.conf.*", true},
	{"vm.dirty_*", "vm.dirty_*", false},
	{"vm.overcommit_*", "vm.overcommit_*", false},
	{"vm.nr_hugepages*", "vm.nr_hugepages*", false},
	{"kernel.watchdog*", "kernel.*watchdog", false},
	{"kernel.*watchdog", "kernel.*watchdog", false},
	{"net.ipv4.neigh.default.*", "net.ipv4.neigh.*", true},
	{"net.ipv6.neigh.default.*", "net.ipv6.neigh.*", true},
	// One value in two units.
	{"net.*.neigh.*.base_reachable_time", "net.*.neigh.*.base_reachable_time_ms", false},
	{"net.*.neigh.*.base_reachable_time_ms", "net.*.neigh.*.base_reachable_time", false},
	{"net.*.neigh.*.retrans_time", "net.*.neigh.*.retrans_time_ms", false},
	{"net.*.neigh.*.retrans_time_ms", "net.*.neigh.*.retrans_time", false},
	{"net.*.neigh.*.unres_qlen", "net.*.neigh.*.unres_qlen_bytes", false},
	{"net.*.neigh.*.unres_qlen_bytes", "net.*.neigh.*.unres_qlen", false},
	{"net.*.route.gc_min_interval", "net.*.route.gc_min_interval_ms", false},
	{"net.*.route.gc_min_interval_ms", "net.*.route.gc_min_interval", false},
	{"net.mptcp.pm_type", "net.mptcp.path_manager", false},
	{"net.mptcp.path_manager", "net.mptcp.pm_type", false},
}

// Coupled reports whether the kernel can set the parameter other along with written.
func Coupled(written, other string) bool {
	if written == other {
		return false
	}
	for _, c := range coupled {
		if match(c.written, written) && match(c.others, other) {
			return true
		}
	}
	return false
}

// Apply updates s with a traced event. Events must be applied in their order. Apply keeps nothing
// of e.
func (s *Snapshot) Apply(e *event.Event) {
	if e.Time.After(s.Time) {
		s.Time = e.Time
	}
	if e.Namespace != nil && e.BootID != "" && e.BootID != s.BootID {
		return // a namespace of a later boot, whose numbers and uids mean others
	}
	switch e.Type {
	case event.SysctlWrite, event.SysctlDrift:
		switch {
		case e.Outcome == event.Failure || e.Sysctl == nil:
		case e.Late || e.Count > 1: // a write that came before it can have been later
			s.Forget(e)
		default:
			s.write(e.Sysctl)
		}
	case event.NamespaceCreate, event.NamespaceAppeared:
		if ns := e.Namespace; e.Outcome != event.Failure && ns != nil && ns.ID != 0 {
			made := &Namespace{Namespace: *clone(ns)}
			// A namespace that was created while s was taken can be in s.
			if i := s.find(ns.ID); i >= 0 && ns.KernelUID() && s.Namespaces[i].UID == ns.UID {
				made.Parameters = s.Namespaces[i].Parameters
			}
			s.end(ns.ID)
			s.Namespaces = append(s.Namespaces, made)
		}
	case event.NamespaceDestroy, event.NamespaceGone:
		// If a scan found the end, another namespace can have the number by now.
		if ns := e.Namespace; ns != nil {
			if i := s.find(ns.ID); i >= 0 && s.Namespaces[i].is(&Namespace{Namespace: *ns}) {
				s.end(ns.ID)
			}
		}
	}
}

// Forget removes what an event is about from s. The event happened while s was taken, so s can have
// the state before or after it.
func (s *Snapshot) Forget(e *event.Event) {
	if w := e.Sysctl; w != nil && w.Parameters == nil {
		s.write(&event.Sysctl{Name: w.Name, Namespace: w.Namespace, Truncated: true})
	}
	if ns := e.Namespace; ns != nil && (e.Type == event.NamespaceCreate || e.Type == event.NamespaceDestroy) {
		s.end(ns.ID)
	}
}

func clone(ns *event.Namespace) *event.Namespace {
	c := (&event.Event{Namespace: ns}).Clone()
	return c.Namespace
}

// find returns the index of the namespace with an inode number, -1 if there is none.
func (s *Snapshot) find(id uint32) int {
	return slices.IndexFunc(s.Namespaces, func(ns *Namespace) bool { return ns.ID == id })
}

func (s *Snapshot) end(id uint32) {
	s.Namespaces = slices.DeleteFunc(s.Namespaces, func(ns *Namespace) bool { return ns.ID == id })
}

// write updates s with a write to a parameter. A namespace that is newer than s has only the
// parameters that were written. Parameters that Take skips do no harm: no later snapshot has them.
func (s *Snapshot) write(w *event.Sysctl) {
	values := &s.Parameters
	if ns := w.Namespace; ns != nil && !ns.Host {
		i := s.find(ns.ID)
		if ns.Type != event.NSTypeNet || i < 0 || s.Namespaces[i].Type != event.NSTypeNet {
			return // s has no copy for this namespace
		}
		values = &s.Namespaces[i].Parameters
	}
	for _, k := range coupled {
		if s.Running && !k.reported || !match(k.written, w.Name) {
			continue
		}
		for other := range *values {
			if other != w.Name && match(k.others, other) {
				delete(*values, other)
			}
		}
	}
	// What was written does not tell: the kernel prints many values in another form, changes some, and can refuse
	// or ignore a write.
	if w.After == nil || w.Truncated {
		delete(*values, w.Name)
		return
	}
	if *values == nil {
		*values = map[string]string{}
	}
	(*values)[strings.Clone(w.Name)] = strings.Clone(*w.After)
}
