// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"strings"

	"github.com/nstrace/nstrace/event"
)

// A Workload is the container, pod and systemd unit of the processes in one cgroup. It never
// changes, so events share it.
type Workload struct {
	Container *event.Container
	Pod       *event.Pod
	Unit      string
}

// NoWorkload is the workload of processes that belong to no container, pod or unit.
var NoWorkload = &Workload{}

// Workloads holds the workloads of recent cgroups. The zero value is ready for use.
type Workloads struct {
	// Dirs tells who can have made the cgroups.
	Dirs *CgroupDirs

	known map[string]*Workload // by path
}

// maxWorkloads is far more than the cgroups of most hosts. Each takes some 500 bytes.
const maxWorkloads = 16384

// Of returns the workload of the cgroup at a path.
func (c *Workloads) Of(path string) *Workload {
	if path == "" || path == "/" {
		return NoWorkload
	}
	if w := c.known[path]; w != nil {
		return w
	}
	if c.known == nil || len(c.known) >= maxWorkloads {
		c.known = map[string]*Workload{}
	}
	owner := ParseCgroup(path)
	w := &Workload{Unit: owner.UnitPath(path)}
	var by Controller
	if owner.ContainerID != "" || owner.PodUID != "" {
		by = c.Dirs.Controller(path)
	}
	if owner.ContainerID != "" {
		w.Container = &event.Container{ID: owner.ContainerID, Runtime: owner.Runtime, Source: event.FromCgroup, UserID: by.UserID, Unverified: !by.Container}
	}
	if owner.PodUID != "" {
		w.Pod = &event.Pod{UID: owner.PodUID, Source: event.FromCgroup, UserID: by.UserID, Unverified: !by.Pod}
	}
	c.known[path] = w
	return w
}

// Owner returns the workload as the owner of a namespace, nil for none.
func (w *Workload) Owner() *event.Owner {
	if w.Container == nil && w.Pod == nil && w.Unit == "" {
		return nil
	}
	return &event.Owner{Container: w.Container, Pod: w.Pod, Unit: w.Unit, Source: event.FromNamespace}
}

// Contained reports whether the processes are in a container or a pod.
func (w *Workload) Contained() bool { return w.Container != nil || w.Pod != nil }

// An identity tells containers, or pods, apart. Users choose the ids of their own.
type identity struct {
	id, userID string
	unverified bool
}

func (w *Workload) containerID() identity {
	if w.Container == nil {
		return identity{}
	}
	return identity{w.Container.ID, w.Container.UserID, w.Container.Unverified}
}

func (w *Workload) podUID() identity {
	if w.Pod == nil {
		return identity{}
	}
	return identity{w.Pod.UID, w.Pod.UserID, w.Pod.Unverified}
}

// OwnerOf returns the owner of a namespace that these workloads, at least one, have tasks in:
//
//	one container, and processes outside of containers   the container
//	several containers of one pod                        the pod
//	several containers or pods                           nobody: the unit is only one's
//	one systemd unit                                     the unit
//	several units of one user's service manager          the unit of the manager
//	several units                                        nobody
func OwnerOf(residents []*Workload) *event.Owner {
	var in []*Workload
	for _, w := range residents {
		if w.Contained() {
			in = append(in, w)
		}
	}
	if len(in) == 0 {
		in = residents
	}
	shared := *in[0]
	for _, w := range in[1:] {
		if shared.containerID() != w.containerID() {
			shared.Container = nil
		}
		if shared.podUID() != w.podUID() {
			shared.Pod = nil
		}
		if shared.Unit != w.Unit {
			shared.Unit = sharedUnit(shared.Unit, w.Unit)
		}
	}
	if len(in) > 1 && in[0].Contained() && !shared.Contained() {
		return nil
	}
	return shared.Owner()
}

// sharedUnit returns the unit of the host's manager that two units are or belong to, "" for none.
func sharedUnit(a, b string) string {
	a, b = HostUnit(a), HostUnit(b)
	if a != b {
		return ""
	}
	return a
}

// HostUnit returns the unit of the host's manager that a unit, as CgroupOwner.UnitPath returns it, is or
// belongs to. Only root names it.
func HostUnit(unit string) string {
	host, _, _ := strings.Cut(unit, "/")
	return host
}
