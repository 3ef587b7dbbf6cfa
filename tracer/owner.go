// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"path"
	"slices"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// Who owns a namespace depends on who made it:
//
//	the host, at boot                           nobody
//	a process in a container or a pod           that container and pod
//	a runtime, shim, engine or CNI plugin       the container of the first process of a runtime
//	outside of containers                       that is in the namespace and in a container
//	a program of startInside                    the container of its runtime that has a task in it
//	a process that put its child elsewhere      the workload that has tasks in it
//	unknown: it is older than the tracer        the workload that has tasks in it
//	any other process                           that process's systemd unit
//
// runC puts its first process into the container's cgroup before that makes the container's
// namespaces: the second row. An engine or a plugin makes some beforehand (Podman, CNI), and
// crun is moved into the cgroup afterwards: the third row. clone3(2) can put a child into
// another cgroup (CLONE_INTO_CGROUP): the fifth row.

// An ownership is who owns a namespace, or how that is to be found out.
type ownership struct {
	owner   *event.Owner // nil for nobody, and while it is pending
	pending pendingOwner
	runtime string // of startInside: only a container of this runtime can be the owner

	// While pending is ownerHasTasks.
	tries int    // how often no task was found in the namespace
	next  uint64 // when to try again, CLOCK_BOOTTIME
}

// A pendingOwner says who will be the owner.
type pendingOwner uint8

const (
	ownerFinal      pendingOwner = iota
	ownerHasTasks                // who has tasks in the namespace
	ownerHasRuntime              // the container of the first process of a runtime in it
)

// startInside are the programs that make the first process of a container together with its
// namespaces, and put it into the container's cgroup only then; with the runtime that
// attribution.ParseCgroup finds there.
var startInside = map[string]string{
	"systemd-nspawn": "systemd-nspawn",
	"lxc-start":      "lxc",
	"lxc-execute":    "lxc",
	"lxd":            "lxc",
	"incusd":         "lxc",
}

// preparesContainers reports whether a process with this role makes namespaces that a
// container is put into.
func preparesContainers(role string) bool {
	switch role {
	case attribution.RoleRuntime, attribution.RoleEngine, attribution.RoleShim, attribution.RoleCNI:
		return true
	}
	return false
}

// made sets who owns a namespace that a process made: for itself, or for a child that it
// put elsewhere.
func (o *ownership) made(by *caller, elsewhere bool) {
	o.pending, o.runtime = ownerFinal, ""
	runtime := startInside[path.Base(by.process.Exe)]
	switch {
	case elsewhere:
		o.pending = ownerHasTasks
	case by.workload.Contained() || !preparesContainers(by.claim.Role):
		o.owner = by.workload.Owner()
	case runtime != "":
		o.pending, o.runtime = ownerHasTasks, runtime
	default:
		o.pending = ownerHasRuntime
	}
}

// entered updates who owns a namespace that a process entered.
func (o *ownership) entered(by *caller) {
	if o.pending == ownerHasRuntime && by.workload.Contained() && by.claim.Role == attribution.RoleRuntime {
		o.owner, o.pending = by.workload.Owner(), ownerFinal
	}
}

// seen updates who owns a namespace that a process is in.
func (o *ownership) seen(in *caller) {
	o.entered(in)
	if o.pending == ownerHasTasks && o.runtime != "" && in.workload.Contained() && o.canBe(in.workload) {
		o.owner, o.pending = in.workload.Owner(), ownerFinal
	}
}

// canBe reports whether a workload that has tasks in the namespace can own it.
func (o *ownership) canBe(w *attribution.Workload) bool {
	return o.runtime == "" || (w.Container != nil && w.Container.Runtime == o.runtime)
}

// claim updates who owns the namespaces that a process is in.
func (r *registry) claim(c *caller) {
	if !c.workload.Contained() {
		return
	}
	for kind, id := range c.ns {
		if ns := r.live[id]; ns != nil && ns.typ == nsTypes[kind] {
			ns.ownership.seen(c)
		}
	}
}

// Each search for owners goes through all tasks. After a search that finds no task in a
// namespace, the next one for it waits for resolveAfter, and after each further one for twice
// as long, up to resolveDoublings times.
const (
	resolveAfter     = uint64(250 * time.Millisecond)
	resolveDoublings = 8
)

// resolveOwner finds the owner of a namespace by the tasks in it if it is pending, unless
// that was tried a moment ago.
func (in *interpreter) resolveOwner(ns *liveNS) error {
	if ns.ownership.pending != ownerHasTasks {
		return nil
	}
	if now := in.clock.now(); now < ns.ownership.next || now < in.resolved+resolveAfter {
		return nil
	}
	tasks, err := in.tasks()
	if err != nil {
		in.resolved = in.clock.now() // not again at once
		return fatal(err)
	}
	in.resolveOwners(tasks)
	return nil
}

// resolveOwners finds the owners of all namespaces whose owners have tasks in them.
func (in *interpreter) resolveOwners(tasks []bpf.NstraceTaskNs) {
	cgroups := map[uint64]*attribution.Workload{} // by id
	residents := map[*liveNS][]*attribution.Workload{}
	for i := range tasks {
		task := &tasks[i]
		for j := range task.Ns {
			ns := in.registry.live[task.Ns[j].Inum]
			if ns == nil || ns.ownership.pending != ownerHasTasks {
				continue
			}
			w := cgroups[task.Cgroup]
			if w == nil {
				w = in.workloads.Of(in.lookups.cgroupPath(task.Pid, task.Cgroup))
				cgroups[task.Cgroup] = w
			}
			if ns.ownership.canBe(w) && !slices.Contains(residents[ns], w) {
				residents[ns] = append(residents[ns], w)
			}
		}
	}
	for ns, all := range residents {
		ns.ownership.owner, ns.ownership.pending = attribution.OwnerOf(all), ownerFinal
	}
	in.resolved = in.clock.now()
	for _, ns := range in.registry.live {
		if o := &ns.ownership; o.pending == ownerHasTasks {
			o.next = in.resolved + resolveAfter<<min(o.tries, resolveDoublings)
			o.tries++
		}
	}
}
