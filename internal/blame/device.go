// SPDX-License-Identifier: Apache-2.0

package blame

import (
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
	moves, err := r.movesAfter(ctx, w.ID)
	if err != nil {
		return deviceUnknown, err
	}
	for _, m := range moves {
		if m.ID <= w.ID || m.Event.Outcome == event.Failure || m.Event.BootID != r.boot {
			continue
		}
		d := m.Event.Netdev
		arrived := d.NewName
		if arrived == "" {
			arrived = d.Name
		}
		if d.Name == name && !d.Created && r.isSame(d.From, w.Namespace) || arrived == name && r.isSame(d.To, w.Namespace) {
			return deviceOther, nil
		}
	}
	if known && w.Event.Sysctl.Ifindex != 0 {
		return deviceSame, nil
	}
	return deviceUnknown, nil
}

// isSame reports whether two namespaces of events of this boot are the same one.
func (r *reader) isSame(a, b *event.Namespace) bool {
	if a == nil || b == nil {
		return false
	}
	if host := r.isHost(a, r.boot); host || r.isHost(b, r.boot) {
		return host && r.isHost(b, r.boot)
	}
	return a.ID == b.ID && a.UID == b.UID
}

// movesAfter returns the recorded moves of devices after an event, and perhaps earlier ones.
func (r *reader) movesAfter(ctx context.Context, id int64) ([]history.Stored, error) {
	if r.moves != nil && r.movesFrom <= id {
		return r.moves, nil
	}
	r.moves, r.movesFrom = []history.Stored{}, min(id, r.movesFrom)
	for m, err := range r.db.Events(ctx, history.Query{After: r.movesFrom, Types: map[event.Type]bool{event.NetdevMove: true}}) {
		if err != nil {
			return nil, err
		}
		if m.Event.Netdev != nil {
			r.moves = append(r.moves, m)
		}
	}
	return r.moves, nil
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
