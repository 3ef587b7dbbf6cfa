// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"slices"
	"strings"
	"sync"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
)

// touched are the parameters and namespaces that events were about while Drift took its first snapshot.
// The snapshot can have the state before or after each of these events, and steps behind Drift can drop
// them, so that they are not in the history.
type touched struct {
	mu     sync.Mutex
	things map[thing]bool // nil: not collecting
	over   bool           // more than maxTouched belong to namespaces other than the host's
}

// A thing is a parameter, or a namespace if it has no name.
type thing struct {
	name string
	typ  event.NSType
	id   uint32 // of the namespace, 0 for a parameter of the host
}

// maxTouched limits the memory. Users can make any number of namespaces. They cannot change parameters
// of the host.
const maxTouched = 1 << 16

func (t *touched) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.things, t.over = map[thing]bool{}, false
}

func (t *touched) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.things = nil
}

// add adds what e is about. It keeps nothing of e.
func (t *touched) add(e *event.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.things == nil {
		return
	}
	if w := e.Sysctl; w != nil {
		what := thing{name: w.Name}
		if ns := w.Namespace; ns != nil && !ns.Host {
			what.typ, what.id = ns.Type, ns.ID
		}
		t.put(what)
	}
	if ns := e.Namespace; ns != nil && (e.Type == event.NamespaceCreate || e.Type == event.NamespaceDestroy) {
		t.put(thing{typ: ns.Type, id: ns.ID})
	}
}

func (t *touched) put(what thing) {
	switch {
	case t.things[what]:
	case what.id != 0 && len(t.things) >= maxTouched:
		t.over = true
	default:
		what.name = strings.Clone(what.name)
		t.things[what] = true
	}
}

// forgetIn makes snapshots forget the things. It reports whether it knows all of them. Otherwise the
// snapshots forget all namespaces but the host's.
func (t *touched) forgetIn(snapshots ...*drift.Snapshot) (all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range snapshots {
		if t.over {
			s.Namespaces = slices.DeleteFunc(s.Namespaces, func(ns *drift.Namespace) bool { return !ns.Host })
		}
		for what := range t.things {
			ns := &event.Namespace{Type: what.typ, ID: what.id, Host: what.id == 0}
			if what.name != "" {
				s.Forget(&event.Event{Type: event.SysctlWrite, Sysctl: &event.Sysctl{Name: what.name, Namespace: ns}})
			} else {
				s.Forget(&event.Event{Type: event.NamespaceCreate, Namespace: ns})
			}
		}
	}
	return !t.over
}
