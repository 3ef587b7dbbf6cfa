// SPDX-License-Identifier: Apache-2.0

// Package netfacts reads what network namespaces contain: devices with their addresses, which device
// is connected to which one, routes, listening sockets and the tables of firewalls.
//
// It asks the kernel by netlink, from one thread that enters a namespace after the other and ends with
// the call. Nothing that it opens outlives the call, so it keeps no namespace alive.
//
// The owner of a namespace chooses the names and numbers of everything in it, and can make any number of
// devices, addresses, routes and sockets. So everything is bounded, and each namespace has a deadline.
// Namespace.Incomplete names everything that a bound left out.
package netfacts

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"
)

// Options say what to read in addition to devices and their addresses.
type Options struct {
	Routes   bool
	Sockets  bool
	Firewall bool

	// Time is how long reading may take for each namespace; 0 for 2 s. All of them together may take
	// five times as long, and another hundredth for each, but not more than 15 times as long.
	Time time.Duration
}

// Bounds.
const (
	maxNamespaces = 8192
	maxDevices    = 4096      // of a namespace
	maxAllDevices = 128 << 10 // of all namespaces
	maxAddresses  = 64        // of a device
	maxRoutes     = 1024      // of a namespace
	maxSockets    = 4096      // of a namespace
	maxTables     = 256       // of a namespace
	maxMessages   = 256 << 10 // that the kernel sends in answer to one request
	defaultTime   = 2 * time.Second
)

// A Target is a network namespace to read.
type Target struct {
	ID   uint32                   // its inode number
	Open func() (*os.File, error) // opens its file; Read closes it
}

// A Namespace is what a network namespace contains.
type Namespace struct {
	ID  uint32
	Err error // why nothing of it could be read, nil if it was

	Devices []Device // by index
	Routes  []Route  // in the kernel's order, without those of the local table
	Sockets []Socket // listening ones
	Tables  []Table  // of firewalls

	// Incomplete says what else could not be read, or was too much, one line each.
	Incomplete []string
}

func (n *Namespace) incomplete(format string, args ...any) {
	n.Incomplete = append(n.Incomplete, fmt.Sprintf(format, args...))
}

// Device returns the device with an index, nil for none.
func (n *Namespace) Device(index int) *Device {
	for i := range n.Devices {
		if n.Devices[i].Index == index {
			return &n.Devices[i]
		}
	}
	return nil
}

// A Device is a network device.
type Device struct {
	Index     int    // which devices of other namespaces can have too
	Name      string // up to 15 bytes, any but NUL, slash, colon and white space
	Alias     string // up to 255 bytes, any but NUL
	Kind      string // of a virtual device, as in ip link show type: veth, bridge, vlan...; or pimreg; "" for others
	Loopback  bool
	Bus       string // of a physical device: pci, virtio, usb...; "" if unknown (before 5.14)
	MAC       string // "" for none
	Addresses []netip.Prefix
	MTU       int  // bytes
	Up        bool // somebody set it up
	Carrier   bool // it is up and can transmit

	Master int   // index of the bridge, bond or VRF that it belongs to, in the same namespace; 0 for none
	Link   *Link // the device that it is connected to or lies upon; nil for none, and if unknown

	VLAN  int    // id of a VLAN device, 0 for others
	VNI   int    // network identifier of a vxlan device, 0 for others
	Table int    // routing table of a VRF, 0 for others
	Mode  string // of a macvlan, macvtap, ipvlan or bond device
}

// Physical reports whether the device belongs to hardware, or to what a hypervisor presents as such.
func (d *Device) Physical() bool { return d.Kind == "" && !d.Loopback }

// Pair reports whether the device is one end of a pair, whose other end is Link. The Link of any other
// device is the one below it.
func (d *Device) Pair() bool { return d.Kind == "veth" || d.Kind == "netkit" }

// A Link is the other end of a pair, or the device below a VLAN, macvlan or tunnel.
type Link struct {
	Index int    // of the device; 0 if only its namespace is known, as for tunnels
	NS    uint32 // inode number of its namespace; 0 if that is none of those that were read
	// NSID is the kernel's number for that namespace in this one; -1 if it is the same namespace.
	NSID int
}

// A Route is an entry of a routing table.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 and ::/0 for the default route
	Type        string       // unicast, blackhole, unreachable, prohibit...
	Table       int          // 254 is the main one
	Protocol    string       // who added it: kernel, boot, static, dhcp, ra, bird..., or a number
	Priority    int          // the metric
	Source      netip.Addr   // preferred source; invalid for none
	Hops        []Hop        // more than one for multipath routes; none if Type needs none
}

// A Hop is where packets go next.
type Hop struct {
	Gateway netip.Addr // invalid for none
	Device  int        // index, 0 for none
}

// A Socket is one that waits for connections or packets: a listening TCP socket, or a UDP socket that
// is connected to nobody.
type Socket struct {
	Protocol string         // tcp or udp
	Local    netip.AddrPort // an unspecified address stands for all
	Device   int            // index of the device that it is bound to, 0 for none
	UID      uint32         // of its owner, in the caller's user namespace
	Inode    uint32         // on sockfs, as in the links of /proc/PID/fd
}

// A Table is a table of a firewall.
type Table struct {
	Firewall string // nftables or iptables (the legacy one)
	Family   string // of nftables: ip, ip6, inet, arp, bridge, netdev; of iptables: ip, ip6
	Name     string
	Chains   int // in it; of nftables alone
}

// Read reads namespaces, and finds out which device of which one is connected to which of another. The
// result has one entry for each target, in the same order. It never fails as a whole. If ctx or the
// time ends, what was not read by then has an error that wraps context.DeadlineExceeded or the
// error of ctx.
func Read(ctx context.Context, targets []Target, o Options) []*Namespace {
	if o.Time <= 0 {
		o.Time = defaultTime
	}
	ctx, cancel := context.WithTimeout(ctx, min(15*o.Time, 5*o.Time+time.Duration(len(targets))*o.Time/100))
	defer cancel()
	result := make([]*Namespace, len(targets))
	r := &reader{ctx: ctx, o: o, targets: targets, done: make(chan done)}
	go r.run()
	for {
		select {
		case d, ok := <-r.done:
			if !ok {
				return r.finish(result, ctx.Err())
			}
			if d.links != nil {
				r.nsids = d.links
				continue
			}
			result[d.i] = d.ns
		case <-ctx.Done():
			// The thread may wait for a lock of the kernel, which nothing interrupts. It ends
			// as soon as it has that, and what it finds is lost.
			return r.finish(result, ctx.Err())
		}
	}
}

// finish gives what was not read an error, and resolves the links of what was.
func (r *reader) finish(all []*Namespace, err error) []*Namespace {
	for i, n := range all {
		if n == nil {
			all[i] = &Namespace{ID: r.targets[i].ID, Err: fmt.Errorf("read network namespace %d: %w", r.targets[i].ID, err)}
		}
	}
	r.links(all)
	return all
}

// links resolves the links of all devices to namespaces.
func (r *reader) links(all []*Namespace) {
	for i, n := range all {
		for j := range n.Devices {
			l := n.Devices[j].Link
			switch {
			case l == nil:
			case l.NSID < 0:
				l.NS = n.ID
			default:
				l.NS = r.nsids[nsidKey{i, l.NSID}]
			}
		}
	}
}
