// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"context"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A LiveNamespace is a namespace that a scan found alive.
type LiveNamespace struct {
	Namespace event.Namespace
	// Paths are files by which the namespace can be entered, each as long as what holds it
	// is there. There are at most four; those that probably last longest come first.
	Paths []string
	// User is the user who made it, as a user of the initial user namespace: 0 for root, and
	// math.MaxUint32 if that is unknown.
	User uint32
}

// maxPaths bounds LiveNamespace.Paths: thousands of tasks can be in one namespace.
const maxPaths = 4

// Scan returns all namespaces that are alive: those that a task is in, those that a mount, a
// descriptor or a socket holds, and the user namespaces above these. It leaves out what only nstrace
// itself is in. It cannot find what only a mount in a mount namespace without tasks holds, or a descriptor
// that is on its way through a Unix socket.
//
// Users decide how much there is to look at. If ctx ends, or Scan spent seconds on the mounts, it returns
// what it has found by then, with complete as false.
//
// Scan shows the present, while Run may not have emitted the events yet that led to it. It is
// safe for concurrent use, but a Handler must not call it.
func (t *Tracer) Scan(ctx context.Context) (all []LiveNamespace, complete bool, err error) {
	inv, err := inventory.Take(ctx, inventory.Options{Without: procfs.Self()})
	if err != nil {
		return nil, false, err
	}
	namespaces := inv.Namespaces()
	all = make([]LiveNamespace, 0, len(namespaces))
	for _, n := range namespaces {
		if n.Unseen { // it has no path
			continue
		}
		live := LiveNamespace{Namespace: event.Namespace{Type: n.Type, ID: n.ID, UserNS: n.UserNS}, Paths: n.Paths(maxPaths), User: inv.User(n)}
		t.interpreter.describe(&live.Namespace, n.KernelID)
		all = append(all, live)
	}
	return all, !inv.Cut, nil
}
