// SPDX-License-Identifier: Apache-2.0

// Package drift finds out what became of a host's parameters and namespaces while nobody
// watched: it compares what there is with what there was.
//
//	seen, err := t.Look()
//	after, err := drift.Take(seen, time.Now())
//	for _, event := range drift.Compare(before, after) { ... }
//
// A Snapshot can be kept (Encode, Decode), and be brought up to date by what was watched
// since (Apply).
package drift

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A Snapshot is what a host's parameters and namespaces were at a time.
type Snapshot struct {
	BootID string
	Time   time.Time // what was watched up to then is in it
	// Parameters are those of the host and its own network namespace: name, as sysctl(8)
	// writes it, to value.
	Parameters map[string]string
	Namespaces []*Namespace
}

// A Namespace is one that was alive.
type Namespace struct {
	event.Namespace
	// Parameters are the values of those of which this network namespace has its own, nil
	// where they could not be read, and for all others.
	Parameters map[string]string
}

// maxShown is how long a value in an event may be, as in those of a Tracer.
const maxShown = 1024

// Compare returns what is different in after: parameters that have other values,
// namespaces that are gone, and namespaces that have appeared. Parameters that only one of
// them has are not told of: they come and go with devices and modules. After another boot,
// parameters are compared with what they were, and none of the namespaces is the same.
func Compare(before, after *Snapshot) []*event.Event {
	between := &event.Between{From: before.Time.UTC(), To: after.Time.UTC(), Boot: "same"}
	if before.BootID != after.BootID {
		between.Boot = "different"
	}
	var events []*event.Event
	tell := func(e event.Event) {
		e.V, e.Time, e.Between = event.SchemaVersion, between.To, between
		events = append(events, &e)
	}
	values := func(old, now map[string]string, ns *event.Namespace) {
		for _, name := range slices.Sorted(maps.Keys(old)) {
			value, ok := now[name]
			if !ok || same(old[name], value) {
				continue
			}
			s := &event.Sysctl{Name: name, Path: event.SysctlPath(name)}
			s.Old, s.After = shown(old[name], s), shown(value, s)
			if strings.HasPrefix(name, "net.") {
				s.Namespace = ns
			}
			tell(event.Event{Type: event.SysctlDrift, Sysctl: s})
		}
	}
	values(before.Parameters, after.Parameters, after.hostNet())

	is := after.index()
	var gone, appeared []*Namespace
	known := map[*Namespace]bool{}
	for _, ns := range before.sorted() {
		now := is[ns.ID]
		switch {
		case ns.Host: // pid 1 keeps it
		case between.Boot == "same" && now != nil && now.is(ns):
			known[now] = true
			values(ns.Parameters, now.Parameters, now.show())
		default:
			gone = append(gone, ns)
		}
	}
	for _, ns := range after.sorted() {
		if !ns.Host && !known[ns] {
			appeared = append(appeared, ns)
		}
	}
	for _, ns := range gone {
		tell(event.Event{Type: event.NamespaceGone, Namespace: ns.show()})
	}
	for _, ns := range appeared {
		tell(event.Event{Type: event.NamespaceAppeared, Namespace: ns.show()})
	}
	return events
}

// same compares values as the kernel reads them, which separates the numbers of a list by
// tabs where people write spaces.
func same(a, b string) bool {
	return a == b || slices.Equal(strings.Fields(a), strings.Fields(b))
}

// shown is a value as an event has it.
func shown(value string, s *event.Sysctl) *string {
	if len(value) > maxShown {
		value, s.Truncated = value[:maxShown], true
	}
	return &value
}

// is says whether ns is the namespace that was known before. Numbers are used again: where
// the kernel has no ids that are not, it can be another one.
func (ns *Namespace) is(before *Namespace) bool {
	return ns.Type == before.Type && ns.ID == before.ID && (!ns.KernelUID() || !before.KernelUID() || ns.UID == before.UID)
}

// show is ns as an event has it.
func (ns *Namespace) show() *event.Namespace {
	return &event.Namespace{Type: ns.Type, ID: ns.ID, UID: ns.UID, Name: ns.Name, Host: ns.Host, UserNS: ns.UserNS, Owner: ns.Owner}
}

func (s *Snapshot) index() map[uint32]*Namespace {
	m := make(map[uint32]*Namespace, len(s.Namespaces))
	for _, ns := range s.Namespaces {
		m[ns.ID] = ns
	}
	return m
}

// sorted are the namespaces by their numbers, which are about in the order in which they
// were made.
func (s *Snapshot) sorted() []*Namespace {
	return slices.SortedFunc(slices.Values(s.Namespaces), func(a, b *Namespace) int { return cmp.Compare(a.ID, b.ID) })
}

func (s *Snapshot) hostNet() *event.Namespace {
	for _, ns := range s.Namespaces {
		if ns.Host && ns.Type == "net" {
			return ns.show()
		}
	}
	return nil
}
