// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// commandTime bounds the time in which all command lines are read. A process can block each read.
const commandTime = time.Second

// ReadCommands sets the Args of processes. It leaves out those that cannot be read in time, and
// those that have ended.
func ReadCommands(ctx context.Context, processes []*Process) {
	var reads procfs.BlockingReads
	deadline := time.Now().Add(commandTime)
	for _, p := range processes {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return
		}
		if p.Args == nil {
			p.Args = procfs.SplitArgs(reads.Try(func() []byte { return procfs.CommandLine(p.PID, p.Start) }))
		}
	}
}

// Event returns the namespace as the subject of an event without a type, so that the filters of
// events apply to it. Its process is Oldest.
func (inv *Inventory) Event(n *Namespace) *event.Event {
	e := &event.Event{Namespace: inv.EventNamespace(n)}
	if n.Owner != nil {
		e.Container, e.Pod, e.Unit = n.Owner.Container, n.Owner.Pod, n.Owner.Unit
	}
	if p := n.Oldest; p != nil {
		e.Process = &event.Process{PID: p.PID, TID: p.PID, PPID: p.PPID, UID: p.UID, Comm: p.Comm, Args: p.Args, Cgroup: p.Cgroup, NS: p.Namespaces()}
	}
	return e
}

// EventNamespace returns the namespace as events show it. It has a UID if the kernel has ids.
func (inv *Inventory) EventNamespace(n *Namespace) *event.Namespace {
	ns := &event.Namespace{Type: n.Type, ID: n.ID, Name: n.Name, Host: n.Host, UserNS: n.UserNS, Owner: n.Owner, Created: n.Created}
	if c := n.Creator; c != nil {
		ns.Creator = &event.Actor{PID: c.PID, UID: c.UID, Comm: c.Comm}
	}
	if n.KernelID != 0 {
		ns.UID = strconv.FormatUint(n.KernelID, 10)
		if inv.idsPerType {
			ns.UID = string(n.Type) + ":" + ns.UID
		}
	}
	return ns
}

// Namespaces returns the ids of the namespaces that the process is in, as far as they are known.
func (p *Process) Namespaces() map[event.NSType]uint32 {
	all := map[event.NSType]uint32{}
	for i, id := range p.ns {
		if id != 0 {
			all[types[i]] = id
		}
	}
	return all
}
