// SPDX-License-Identifier: Apache-2.0

// Package drift finds changes of parameters and namespaces that happened while nstrace was not
// running: it compares snapshots of the host.
//
//	after, err := drift.Take(found, time.Now())
//	for _, event := range drift.Compare(before, after) { ... }
//
// A Snapshot can be stored (Encode, Decode) and updated with the events traced since (Apply).
package drift

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A Snapshot has the parameters and namespaces of a host at a time.
type Snapshot struct {
	BootID string
	Time   time.Time // events up to then are included
	// Parameters are the values, by name as in sysctl(8), of the host and its network
	// namespace.
	Parameters map[string]string
	// Devices are the indexes of the network devices of the host's network namespace, by name.
	Devices    map[string]int
	Namespaces []*Namespace

	// Cut says that there was no time to read all Parameters, and Incomplete that there was none to
	// find all Namespaces.
	Cut, Incomplete bool

	// Running says that a run has reported all writes since the snapshot was taken. Apply then keeps the
	// values of parameters that the kernel set along with others if no event of their own reports that, so
	// that Compare finds them.
	Running bool
}

// A Namespace was alive when the snapshot was taken.
type Namespace struct {
	event.Namespace
	// Parameters are the values of the parameters that each network namespace has for itself.
	// nil: they could not be read, or this is no network namespace.
	Parameters map[string]string
	// Devices are the indexes of the network devices, by name.
	Devices map[string]int
	// Cut says that there was no time to read all Parameters.
	Cut bool
}

// Lacks says what the snapshot lacks because there was no time to read it, "" for nothing.
func (s *Snapshot) Lacks() string {
	var all []string
	if s.Incomplete {
		all = append(all, "some namespaces")
	}
	if s.Cut {
		all = append(all, "some parameters of the host")
	}
	if n := s.CutNamespaces(); n > 0 {
		all = append(all, fmt.Sprintf("parameters of %d of %d namespaces", n, len(s.Namespaces)))
	}
	return strings.Join(all, ", ")
}

// CutNamespaces returns the number of namespaces whose parameters there was no time to read.
func (s *Snapshot) CutNamespaces() (n int) {
	for _, ns := range s.Namespaces {
		if ns.Cut {
			n++
		}
	}
	return n
}

// maxShown is the maximum length of a value in an event, as in the events of a Tracer.
const maxShown = 1024

// Compare returns an event for each difference between two snapshots:
//
//	sysctl.drift        a parameter has another value
//	namespace.gone      a namespace is only in before
//	namespace.appeared  a namespace is only in after
//
// It ignores parameters that only one snapshot has, because they come and go with devices and
// modules, or because there was no time to read them. Within a boot, it also ignores the parameters of a
// network device unless the index shows that the device with that name is the same one. An incomplete
// snapshot can lack namespaces that were alive, so Compare reports none of them as gone or new. After a boot,
// Compare reports all namespaces of before as gone, and still compares parameters. Each namespace.gone then has the
// BootID of before, because the kernel uses numbers and uids again.
func Compare(before, after *Snapshot) []*event.Event {
	between := &event.Between{From: before.Time.UTC(), To: after.Time.UTC(), Boot: "same"}
	if before.BootID != after.BootID {
		between.Boot = "different"
	}
	var events []*event.Event
	emit := func(e event.Event) {
		e.V, e.Time, e.Between = event.SchemaVersion, between.To, between
		events = append(events, &e)
	}
	values := func(old, now map[string]string, had, has map[string]int, ns *event.Namespace) {
		for _, name := range slices.Sorted(maps.Keys(old)) {
			value, ok := now[name]
			if !ok || event.SameValue(old[name], value) {
				continue
			}
			s := &event.Sysctl{Name: name, Path: event.SysctlPath(name)}
			if device := event.SysctlDevice(s.Path); device != "" && between.Boot == "same" && (had[device] == 0 || had[device] != has[device]) {
				continue
			}
			s.Old, s.After = shown(old[name], s), shown(value, s)
			if strings.HasPrefix(name, "net.") {
				s.Namespace = ns
			}
			emit(event.Event{Type: event.SysctlDrift, Sysctl: s})
		}
	}
	values(before.Parameters, after.Parameters, before.Devices, after.Devices, after.hostNet())

	is := after.index()
	var gone, appeared []*Namespace
	known := map[*Namespace]bool{}
	for _, ns := range before.sorted() {
		now := is[ns.ID]
		switch {
		case ns.Host: // pid 1 keeps it alive
		case between.Boot == "same" && now != nil && now.is(ns):
			known[now] = true
			values(ns.Parameters, now.Parameters, ns.Devices, now.Devices, now.show())
		default:
			gone = append(gone, ns)
		}
	}
	for _, ns := range after.sorted() {
		if !ns.Host && !known[ns] {
			appeared = append(appeared, ns)
		}
	}
	if after.Incomplete && between.Boot == "same" {
		gone = nil
	}
	if before.Incomplete && between.Boot == "same" {
		appeared = nil
	}
	bootID := "" // of the gone namespaces, if it is not that of the run that finds this
	if between.Boot == "different" {
		bootID = before.BootID
	}
	for _, ns := range gone {
		emit(event.Event{Type: event.NamespaceGone, BootID: bootID, Namespace: ns.show()})
	}
	for _, ns := range appeared {
		emit(event.Event{Type: event.NamespaceAppeared, Namespace: ns.show()})
	}
	return events
}

// shown returns a value for an event.
func shown(value string, s *event.Sysctl) *string {
	if len(value) > maxShown {
		value, s.Truncated = value[:maxShown], true
	}
	return &value
}

// is reports whether ns is the same namespace as before. The kernel reuses inode numbers. Without
// a uid from the kernel, another namespace with the same number is taken for the same one.
func (ns *Namespace) is(before *Namespace) bool {
	return ns.Type == before.Type && ns.ID == before.ID && (!ns.KernelUID() || !before.KernelUID() || ns.UID == before.UID)
}

// show returns ns for an event.
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

// sorted returns the namespaces by inode number, which is roughly their order of creation.
func (s *Snapshot) sorted() []*Namespace {
	return slices.SortedFunc(slices.Values(s.Namespaces), func(a, b *Namespace) int { return cmp.Compare(a.ID, b.ID) })
}

func (s *Snapshot) hostNet() *event.Namespace {
	for _, ns := range s.Namespaces {
		if ns.Host && ns.Type == event.NSTypeNet {
			return ns.show()
		}
	}
	return nil
}
