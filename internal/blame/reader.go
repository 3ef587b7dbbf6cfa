// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// errOtherPath is the error for a parameter whose path in the history is that of another one.
var errOtherPath = errors.New("the path belongs to another parameter")

// errNotEntered is the error for a namespace that cannot be entered.
var errNotEntered = errors.New("the namespace cannot be entered")

// A reader reads the current values of parameters, also in other namespaces.
type reader struct {
	host map[event.NSType]uint32
	own  map[event.NSType]uint32 // the namespaces of this process
	take func() (*inventory.Inventory, error)
	root *params.Root // in the namespaces of this process, nil before the first use
}

func newReader(ctx context.Context, host map[event.NSType]uint32) *reader {
	return &reader{host: host, own: procfs.NamespacesOf("self"), take: sync.OnceValues(func() (*inventory.Inventory, error) {
		var types []event.NSType
		for _, t := range event.NSTypes() {
			if params.Enterable(t) {
				types = append(types, t)
			}
		}
		return inventory.Take(ctx, inventory.Options{Types: types})
	})}
}

func (r *reader) close() {
	if r.root != nil {
		r.root.Close()
		r.root = nil
	}
}

func (r *reader) isHost(ns *event.Namespace) bool {
	return ns.Host || (ns.ID != 0 && r.host[ns.Type] == ns.ID)
}

// gone reports whether a namespace that could not be entered is gone: root can enter any other.
func (r *reader) gone(ns *event.Namespace) bool {
	return ns != nil && !r.isHost(ns) && params.Enterable(ns.Type) && os.Geteuid() == 0
}

// read returns the value of a parameter in a namespace. Name and path come from the history,
// which can be forged: the path is opened only if it belongs to the name.
func (r *reader) read(name, path string, ns *event.Namespace) (value *params.Value, err error) {
	if of, err := params.Name(path); err != nil {
		return nil, err
	} else if of != name {
		return nil, errOtherPath
	}
	var readErr error
	err = r.in(ns, func(root *params.Root) {
		var v params.Value
		if v, readErr = root.Read(path); readErr == nil {
			value = &v
		}
	})
	return value, errors.Join(err, readErr)
}

// in calls do with the parameters of a namespace, nil for those of this process.
func (r *reader) in(ns *event.Namespace, do func(*params.Root)) error {
	if ns == nil || r.isOwn(ns) {
		if r.root == nil {
			root, err := params.Open()
			if err != nil {
				return errNotEntered
			}
			r.root = root
		}
		do(r.root)
		return nil
	}
	if ns.ID == 0 || !params.Enterable(ns.Type) {
		return errNotEntered
	}
	inv, err := r.take()
	if err != nil {
		return errNotEntered
	}
	n := inv.Find(inventory.Ref{Type: ns.Type, ID: ns.ID})
	if n == nil {
		return errNotEntered
	}
	file, err := inv.Open(n)
	if err != nil {
		return errNotEntered
	}
	defer file.Close()
	return params.OnThread(func(t *params.Thread) error {
		root, err := t.Enter(ns.Type, ns.ID, []string{fmt.Sprintf("/proc/self/fd/%d", file.Fd())})
		if err != nil {
			return errNotEntered
		}
		do(root)
		return nil
	})
}

// isOwn reports whether this process is in a namespace.
func (r *reader) isOwn(ns *event.Namespace) bool {
	id := r.own[ns.Type]
	return id != 0 && (id == ns.ID || ns.Host && id == r.host[ns.Type])
}
