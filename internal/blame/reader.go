// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nstrace/nstrace/event"
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
	pids map[uint32]int          // a process in each other namespace, nil before the scan
	root *params.Root            // in the namespaces of this process, nil before the first use
}

func newReader(host map[event.NSType]uint32) *reader {
	return &reader{host: host, own: procfs.NamespacesOf("self")}
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
	return params.OnThread(func(t *params.Thread) error {
		root, err := t.Enter(ns.Type, ns.ID, r.paths(ns))
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

// paths returns files that can lead to a namespace: bind mounts of network namespaces, and the
// link of a process that is in it.
func (r *reader) paths(ns *event.Namespace) (paths []string) {
	if ns.Type == event.NSTypeNet {
		for _, dir := range procfs.NetnsDirs {
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range entries {
				paths = append(paths, filepath.Join(dir, e.Name()))
			}
		}
	}
	if r.pids == nil {
		r.scan()
	}
	if pid, ok := r.pids[ns.ID]; ok {
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/%s", pid, ns.Type))
	}
	return paths
}

// scan finds a process in each namespace that this process is not in.
func (r *reader) scan() {
	r.pids = map[uint32]int{}
	pids, _ := procfs.PIDs() // without /proc there is none
	for _, pid := range pids {
		name := strconv.FormatUint(uint64(pid), 10)
		for _, t := range event.NSTypes() {
			if !params.Enterable(t) {
				continue
			}
			if id, err := procfs.NamespaceOf(name, t); err == nil && id != r.own[t] {
				if _, ok := r.pids[id]; !ok {
					r.pids[id] = int(pid)
				}
			}
		}
	}
}
