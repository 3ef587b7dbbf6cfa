// SPDX-License-Identifier: Apache-2.0

// Package graph draws the networks of a host: each network namespace with its devices, and what
// connects them.
//
// Take makes a Graph of what an inventory and the kernel say. WriteJSON writes all of it. WriteSVG,
// WriteDOT and WriteMermaid write a picture: they leave out what every namespace has, and fold what
// is many times the same.
//
// Other users choose the names in a picture, and how much there is to draw. Every name is escaped
// twice: first as everywhere in nstrace's output, so that nothing of it is invisible or reorders the
// text, and then for the format. Names are cut where they would not fit, and what is too much for a
// picture is counted instead of drawn.
package graph

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/netfacts"
)

// A Graph is the networks of a host at one time.
type Graph struct {
	Host       string // its name; "" if unknown
	Time       time.Time
	Namespaces []*Namespace // the host's first, then by id
	Links      []Link       // by the namespaces and devices that they connect

	// Incomplete says what could not be read, one line each.
	Incomplete []string
}

// A Namespace is a network namespace with its devices.
type Namespace struct {
	*inventory.Namespace
	Network *netfacts.Namespace
	UID     string // the id that the kernel never uses again, as events have it; "" if unknown
	host    bool
}

// Devices returns the devices, by index.
func (n *Namespace) Devices() []netfacts.Device { return n.Network.Devices }

// Host reports whether the namespace is the host's.
func (n *Namespace) Host() bool { return n.host }

// A Kind says how two devices are connected.
type Kind string

// Kinds of links.
const (
	Veth    Kind = "veth"    // two ends of a pair
	Netkit  Kind = "netkit"  // the same
	Bridge  Kind = "bridge"  // a port and its bridge
	Bond    Kind = "bond"    // a device and the bond that it belongs to
	VRF     Kind = "vrf"     // a device and the VRF that it belongs to
	Member  Kind = "member"  // a device and another one that it belongs to
	VLAN    Kind = "vlan"    // a VLAN and the device below it
	Macvlan Kind = "macvlan" // a macvlan or macvtap and the device below it
	IPVLAN  Kind = "ipvlan"  // an ipvlan or ipvtap and the device below it
	Upper   Kind = "upper"   // another device and the one below it
	Moved   Kind = "moved"   // a device of the host's hardware that is in another namespace, and the host
)

// A Link connects two devices. From is the port, the member or the upper device; of a pair it is the
// end in the namespace that comes first.
type Link struct {
	Kind     Kind
	From, To End
}

// An End is one end of a link.
type End struct {
	NS     *Namespace       // nil if the namespace is not among those that were read
	Device *netfacts.Device // nil for the host's hardware, or if unknown
}

// initialNetNS is the inode number of the namespace that the kernel starts with, from Linux 6.18 on:
// NET_NS_INIT_INO in include/uapi/linux/nsfs.h.
const initialNetNS = 0xeffffff9

// Take reads the devices of all network namespaces in an inventory.
func Take(ctx context.Context, inv *inventory.Inventory) *Graph {
	g := &Graph{Time: time.Now(), Incomplete: slices.Clone(inv.Incomplete)}
	g.Host, _ = os.Hostname()
	var all []*inventory.Namespace
	var targets []netfacts.Target
	for _, n := range inv.Namespaces() {
		if n.Type == event.NSTypeNet {
			all = append(all, n)
			targets = append(targets, netfacts.Target{ID: n.ID, Open: func() (*os.File, error) { return inv.Open(n) }})
		}
	}
	facts := netfacts.Read(ctx, targets, netfacts.Options{})
	for i, n := range all {
		g.Namespaces = append(g.Namespaces, &Namespace{Namespace: n, Network: facts[i], UID: inv.EventNamespace(n).UID})
	}
	g.findHost()
	g.connect()
	return g
}

// findHost puts the host's namespace first. The caller may be unable to see that of process 1.
func (g *Graph) findHost() {
	is := func(n *Namespace) bool { return n.Namespace.Host }
	if !slices.ContainsFunc(g.Namespaces, is) {
		is = func(n *Namespace) bool { return n.ID == initialNetNS }
	}
	for _, n := range g.Namespaces {
		n.host = is(n)
	}
	slices.SortStableFunc(g.Namespaces, func(a, b *Namespace) int {
		if a.host != b.host {
			if a.host {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.ID, b.ID)
	})
}

// connect finds the links between devices.
func (g *Graph) connect() {
	byID := map[uint32]*Namespace{}
	order := map[uint32]int{}
	type key struct {
		ns    uint32
		index int
	}
	device := map[key]*netfacts.Device{}
	for i, n := range g.Namespaces {
		byID[n.ID] = n
		order[n.ID] = i
		for j := range n.Devices() {
			d := &n.Devices()[j]
			device[key{n.ID, d.Index}] = d
		}
	}
	for _, n := range g.Namespaces {
		for i := range n.Devices() {
			d := &n.Devices()[i]
			from := End{n, d}
			if m := device[key{n.ID, d.Master}]; m != nil && d.Master != 0 {
				g.Links = append(g.Links, Link{memberKind(m.Kind), from, End{n, m}})
			}
			if d.Physical() && !n.host {
				if host := g.host(); host != nil {
					g.Links = append(g.Links, Link{Moved, from, End{host, nil}})
				}
			}
			if d.Link == nil {
				continue
			}
			to := End{byID[d.Link.NS], nil}
			if to.NS != nil {
				to.Device = device[key{to.NS.ID, d.Link.Index}]
			}
			if to.Device == nil && (to.NS != nil || d.Link.Index == 0) {
				continue // a tunnel through another namespace, or a device that came or went meanwhile
			}
			// Each pair is there twice. The first of the two ends counts.
			if d.Pair() && to.Device != nil && cmp.Or(cmp.Compare(order[to.NS.ID], order[n.ID]), cmp.Compare(to.Device.Index, d.Index)) < 0 {
				continue
			}
			g.Links = append(g.Links, Link{linkKind(d), from, to})
		}
	}
}

// host returns the host's namespace, nil if it is not known.
func (g *Graph) host() *Namespace {
	if len(g.Namespaces) > 0 && g.Namespaces[0].host {
		return g.Namespaces[0]
	}
	return nil
}

func memberKind(master string) Kind {
	switch master {
	case "bridge", "bond", "vrf":
		return Kind(master)
	}
	return Member
}

func linkKind(d *netfacts.Device) Kind {
	switch d.Kind {
	case "veth", "netkit", "vlan", "macvlan", "ipvlan":
		return Kind(d.Kind)
	case "macvtap":
		return Macvlan
	case "ipvtap":
		return IPVLAN
	}
	return Upper
}
