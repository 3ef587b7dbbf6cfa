// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// moveRecords are of network devices that went to another namespace, or were to.
type moveRecords struct {
	in     *interpreter
	wire   bpf.NstraceNetdevRecord
	netdev event.Netdev
	ends   [2]event.Namespace // netdev.From and To
}

func newMoveRecords(in *interpreter) recordInterpreter { return &moveRecords{in: in} }

func (m *moveRecords) parse(r *record) error { return fixed(&r.rest, &m.wire) }

func (m *moveRecords) interpret(r *record) error {
	in := m.in
	who := &caller{workload: attribution.NoWorkload} // a worker of the kernel
	if m.wire.Caller.Who != 0 {
		who = in.caller(&m.wire.Caller)
	}
	from, err := in.lookup(&m.wire.From, r.head.Time)
	if err != nil {
		return err
	}
	to, err := in.lookup(&m.wire.To, r.head.Time)
	if err != nil {
		return err
	}
	e := in.begin(r, event.NetdevMove, who)
	d := &m.netdev
	e.Netdev = d
	*d = event.Netdev{
		Name: cString(m.wire.Name[:]), Ifindex: m.wire.Ifindex,
		Created: r.has(bpf.NstraceRecordFlagF_CREATED),
	}
	if name := cString(m.wire.NewName[:]); name != d.Name {
		d.NewName = name
	}
	if m.wire.NewIfindex != d.Ifindex {
		d.NewIfindex = m.wire.NewIfindex
	}
	if d.From, err = m.show(from, &m.ends[0]); err != nil {
		return err
	}
	if d.To, err = m.show(to, &m.ends[1]); err != nil {
		return err
	}
	// If no process moved it, the namespace that it left ended. The process that made that
	// one is behind the move.
	if in.follow && e.Process == nil && (from == nil || !from.follow) {
		in.drop(r)
		return nil
	}
	var maker *event.Actor
	if from != nil {
		maker = from.creator
	}
	_, err = in.offerOf(r, e, maker)
	return err
}

func (m *moveRecords) show(ns *liveNS, into *event.Namespace) (*event.Namespace, error) {
	if ns == nil {
		return nil, nil
	}
	if err := m.in.resolveOwner(ns); err != nil {
		return nil, err
	}
	return m.in.registry.show(ns, into), nil
}
