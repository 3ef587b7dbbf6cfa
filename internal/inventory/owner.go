// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"path/filepath"
	"slices"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/share"
)

// Workload returns the container, pod and unit of a process, by its cgroup.
func (inv *Inventory) Workload(p *Process) *attribution.Workload { return inv.workloads.Of(p.Cgroup) }

// NameContainers completes the owners of namespaces, and the names of network namespaces, with what name
// adds to the namespaces of containers and pods. The list for name is empty if there are none.
func (inv *Inventory) NameContainers(all []*Namespace, name func([]*event.Namespace) error) error {
	var contained []*Namespace
	var named []*event.Namespace
	for _, n := range all {
		if n.Owner != nil && (n.Owner.Container != nil || n.Owner.Pod != nil) {
			contained, named = append(contained, n), append(named, inv.EventNamespace(n))
		}
	}
	err := name(named)
	for i, n := range contained {
		n.Owner, n.Name = named[i].Owner, named[i].Name
	}
	return err
}

// attribute sets the owners of the namespaces that processes are in, except the host's.
func (inv *Inventory) attribute() {
	var host [len(types)]uint32
	for i, t := range types {
		host[i] = inv.Host[t]
	}
	var resident []*Namespace // those with residents
	for _, p := range inv.processes {
		w := inv.Workload(p)
		for i, id := range p.ns {
			if id == host[i] { // as of most processes
				continue
			}
			n := inv.namespaces[Ref{types[i], id}]
			if n == nil || n.Host || slices.Contains(n.residents, w) {
				continue
			}
			if n.residents == nil {
				resident = append(resident, n)
			}
			n.residents = append(n.residents, w)
		}
	}
	for _, n := range resident {
		n.Owner, n.residents = attribution.OwnerOf(n.residents), nil
	}
}

// name sets the names of network namespaces: those of the directories in which ip netns and Docker
// mount them. The latest mount at a path is the one that the path leads to.
func (inv *Inventory) name(mountNS uint32) {
	type named struct {
		at uint32 // Mount.order: later mounts of a path have higher ones
		n  *Namespace
	}
	names := map[string]named{} // by path
	for _, n := range inv.namespaces {
		if n.Type != event.NSTypeNet {
			continue
		}
		for _, m := range n.Mounts {
			if m.MountNS == mountNS && procfs.NetnsName(m.Path) != "" && m.order >= names[m.Path].at {
				names[m.Path] = named{m.order, n}
			}
		}
	}
	for path, found := range names {
		name := procfs.NetnsName(path)
		// Of several names, one that does not change from call to call.
		if dir := filepath.Dir(path); found.n.Name == "" || rankDir(dir) < found.n.nameRank || rankDir(dir) == found.n.nameRank && name < found.n.Name {
			found.n.Name, found.n.nameRank = name, rankDir(dir)
		}
	}
}

func rankDir(dir string) int { return slices.Index(procfs.NetnsDirs, dir) }

// User returns the user who made a namespace, 0 for root, and share.Unknown. For a namespace in a tree of
// user namespaces, that is the user who made the topmost one below the host's: users can give the others
// to any id that is theirs.
func (inv *Inventory) User(n *Namespace) uint32 {
	host := inv.Host[event.NSTypeUser]
	id := n.UserNS
	if n.Type == event.NSTypeUser {
		id = n.ID
	}
	for range maxUserLevels {
		if id == host && id != 0 {
			return 0
		}
		up := inv.namespaces[Ref{event.NSTypeUser, id}]
		if up == nil {
			break
		}
		if up.Parent == host && up.OwnerUID != nil {
			return *up.OwnerUID
		}
		id = up.Parent
	}
	return share.Unknown
}

// maxUserLevels is how deep the kernel nests user namespaces (create_user_ns() in
// kernel/user_namespace.c), and one more.
const maxUserLevels = 34
