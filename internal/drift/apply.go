// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// kin are parameters that the kernel sets along with others. What it then made of them is
// not told, and so they are not compared.
var kin = []struct{ written, others string }{
	{"net.ipv4.ip_forward", "net.ipv4.conf.*.forwarding"},
	{"net.ipv4.ip_forward", "net.ipv4.conf.*.accept_redirects"},
	{"net.ipv4.conf.*.forwarding", "net.ipv4.ip_forward"},
	{"net.ipv4.conf.all.forwarding", "net.ipv4.conf.*.forwarding"},
	{"net.ipv4.conf.default.*", "net.ipv4.conf.*"}, // what is still as it was by default
	{"net.ipv6.conf.all.*", "net.ipv6.conf.*"},
	{"net.ipv6.conf.default.*", "net.ipv6.conf.*"},
	{"vm.dirty_*", "vm.dirty_*"},
	{"vm.overcommit_*", "vm.overcommit_*"},
	{"vm.nr_hugepages*", "vm.nr_hugepages*"},
	{"kernel.watchdog*", "kernel.*watchdog"},
	{"kernel.*watchdog", "kernel.*watchdog"},
	{"net.ipv4.neigh.default.*", "net.ipv4.neigh.*"},
	{"net.ipv6.neigh.default.*", "net.ipv6.neigh.*"},
	// One value in two units.
	{"net.*.neigh.*.base_reachable_time", "net.*.neigh.*.base_reachable_time_ms"},
	{"net.*.neigh.*.base_reachable_time_ms", "net.*.neigh.*.base_reachable_time"},
	{"net.*.neigh.*.retrans_time", "net.*.neigh.*.retrans_time_ms"},
	{"net.*.neigh.*.retrans_time_ms", "net.*.neigh.*.retrans_time"},
}

// Apply brings s up to date by an event that was watched, in their order. It keeps nothing
// of e.
func (s *Snapshot) Apply(e *event.Event) {
	if e.Time.After(s.Time) {
		s.Time = e.Time
	}
	switch e.Type {
	case event.SysctlWrite, event.SysctlDrift:
		if e.Outcome != event.Failure && e.Sysctl != nil {
			s.write(e.Sysctl)
		}
	case event.NamespaceCreate, event.NamespaceAppeared:
		if ns := e.Namespace; e.Outcome != event.Failure && ns != nil && ns.ID != 0 {
			made := &Namespace{Namespace: *clone(ns)}
			// It can have been made while s was taken, and is in it then.
			if i := s.find(ns.ID); i >= 0 && ns.KernelUID() && s.Namespaces[i].UID == ns.UID {
				made.Parameters = s.Namespaces[i].Parameters
			}
			s.end(ns.ID)
			s.Namespaces = append(s.Namespaces, made)
		}
	case event.NamespaceDestroy, event.NamespaceGone:
		// An end that was found by a look can be told when the number is another's already.
		if ns := e.Namespace; ns != nil {
			if i := s.find(ns.ID); i >= 0 && s.Namespaces[i].is(&Namespace{Namespace: *ns}) {
				s.end(ns.ID)
			}
		}
	}
}

// Forget has s not know what an event is about: it happened while s was taken, and what s
// has can be from before or from after it.
func (s *Snapshot) Forget(e *event.Event) {
	if w := e.Sysctl; w != nil {
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

// find returns where the namespace with a number is, negative for nowhere.
func (s *Snapshot) find(id uint32) int {
	return slices.IndexFunc(s.Namespaces, func(ns *Namespace) bool { return ns.ID == id })
}

func (s *Snapshot) end(id uint32) {
	s.Namespaces = slices.DeleteFunc(s.Namespaces, func(ns *Namespace) bool { return ns.ID == id })
}

// write has s know what a write made of a parameter. Of a namespace that is newer than s,
// that is all that is known; what Take leaves out does no harm, since no later snapshot has it.
func (s *Snapshot) write(w *event.Sysctl) {
	values := &s.Parameters
	if ns := w.Namespace; ns != nil && !ns.Host {
		i := s.find(ns.ID)
		if ns.Type != "net" || i < 0 || s.Namespaces[i].Type != "net" {
			return // no copy of it is in s
		}
		values = &s.Namespaces[i].Parameters
	}
	for _, k := range kin {
		if !event.MatchSysctl(k.written, w.Name) {
			continue
		}
		for other := range *values {
			if other != w.Name && event.MatchSysctl(k.others, other) {
				delete(*values, other)
			}
		}
	}
	value := w.After
	if value == nil && w.New != nil && plain(*w.New) {
		value = w.New
	}
	if value == nil || w.Truncated { // the kernel can have made anything of it
		delete(*values, w.Name)
		return
	}
	if *values == nil {
		*values = map[string]string{}
	}
	(*values)[strings.Clone(w.Name)] = strings.Clone(*value)
}

// plain says whether the kernel shows a value as it was written, white space aside: it
// takes other numbers, such as 0x10, too.
func plain(value string) bool {
	for word := range strings.FieldsSeq(value) {
		digits := strings.TrimPrefix(word, "-")
		if digits == "" || len(digits) > 1 && digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
			return false
		}
	}
	return strings.TrimSpace(value) != ""
}
