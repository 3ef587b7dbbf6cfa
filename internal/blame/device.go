// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"cmp"
	"context"
	"net"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/params"
)

// A deviceIs says whether the device that has the name in a parameter now is the one of a write.
type deviceIs int

const (
	deviceUnknown deviceIs = iota
	deviceSame
	deviceOther // or none has the name
)

// device finds out about the device of a write of this boot, in the namespace at a place.
func (r *reader) device(ctx context.Context, w *history.LastWrite, p *place, name string) (deviceIs, error) {
	now, known := r.indexes(p)
	if known && now[name] == 0 {
		return deviceOther, nil
	}
	if index := w.Event.Sysctl.Ifindex; index != 0 && known && index != now[name] {
		return deviceOther, nil
	}
	last, err := r.lastMove(ctx, r.deviceKey(name, w.Namespace))
	if err != nil {
		return deviceUnknown, err
	}
	if last > w.ID {
		return deviceOther, nil
	}
	if known && w.Event.Sysctl.Ifindex != 0 {
		return deviceSame, nil
	}
	return deviceUnknown, nil
}

// A deviceKey is the name of a device in a network namespace of this boot.
type deviceKey struct {
	name string
	host bool // the namespace is the host's own, and id and uid are zero
	id   uint32
	uid  string
}

// deviceKey returns a key that is never wanted for an unknown namespace.
func (r *reader) deviceKey(name string, ns *event.Namespace) deviceKey {
	switch {
	case ns == nil:
		return deviceKey{}
	case r.isHost(ns, r.boot):
		return deviceKey{name: name, host: true}
	}
	return deviceKey{name: name, id: ns.ID, uid: ns.UID}
}

// wantMoves says to which writes row will be applied: only moves of their devices are of interest.
func (r *reader) wantMoves(writes []history.LastWrite) {
	r.wanted, r.moved, r.movesFrom = map[deviceKey]bool{}, nil, 0
	for _, w := range writes {
		name := event.SysctlDevice(w.Event.Sysctl.Path)
		if name == "" || w.Event.BootID != r.boot || w.Namespace == nil {
			continue
		}
		if len(r.wanted) == 0 || w.ID < r.movesFrom {
			r.movesFrom = w.ID
		}
		r.wanted[r.deviceKey(name, w.Namespace)] = true
	}
}

// lastMove returns the last recorded event by which a wanted device came or went, 0 if there is none. It keeps
// nothing of others, which users can make in any number.
func (r *reader) lastMove(ctx context.Context, of deviceKey) (int64, error) {
	if r.moved != nil {
		return r.moved[of], nil
	}
	moved := map[deviceKey]int64{}
	var id int64
	note := func(name string, ns *event.Namespace) {
		if k := r.deviceKey(name, ns); r.wanted[k] {
			moved[k] = id
		}
	}
	for m, err := range r.db.Events(ctx, history.Query{
		After: r.movesFrom, Types: map[event.Type]bool{event.NetdevMove: true},
		Match: func(e *event.Event) bool { return e.Netdev != nil && e.Outcome != event.Failure && e.BootID == r.boot },
	}) {
		if err != nil {
			return 0, err
		}
		id = m.ID
		d := m.Event.Netdev
		if !d.Created {
			note(d.Name, d.From)
		}
		note(cmp.Or(d.NewName, d.Name), d.To)
	}
	r.moved = moved
	return moved[of], nil
}

// indexes returns the indexes of the devices in the network namespace at a place, by name.
func (r *reader) indexes(p *place) (map[string]uint32, bool) {
	var id uint32
	if p.ns != nil {
		id = p.ns.ID
	}
	if all, ok := r.devices[id]; ok {
		return all, all != nil
	}
	var all map[string]uint32
	_ = r.in(p, func(*params.Root) {
		// This asks by netlink. SIOCGIFINDEX would make the kernel load a module for a name that no device has,
		// and names are what users chose.
		found, err := net.Interfaces()
		if err != nil {
			return
		}
		all = map[string]uint32{}
		for _, d := range found {
			all[d.Name] = uint32(d.Index)
		}
	})
	r.devices[id] = all
	return all, all != nil
}
