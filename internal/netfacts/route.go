// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"errors"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routes reads the routes of all tables but the local one, which the kernel fills from addresses.
func (s *socket) routes(n *Namespace) error {
	err := s.ask(unix.RTM_GETROUTE, unix.NLM_F_DUMP, unix.RTM_NEWROUTE,
		[]nl.NetlinkRequestData{&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}}},
		func() { n.Routes = nil },
		func(m []byte) bool {
			r, ok := parseRoute(m)
			if !ok {
				return true
			}
			if len(n.Routes) >= maxRoutes {
				return false
			}
			n.Routes = append(n.Routes, r)
			return true
		})
	if errors.Is(err, errTooMany) {
		n.incomplete("routes: only the first %d", len(n.Routes))
		return nil
	}
	return err
}

// parseRoute returns a route of IPv4 or IPv6.
func parseRoute(m []byte) (Route, bool) {
	if len(m) < unix.SizeofRtMsg {
		return Route{}, false
	}
	head := nl.DeserializeRtMsg(m)
	if head.Flags&unix.RTM_F_CLONED != 0 || head.Family != unix.AF_INET && head.Family != unix.AF_INET6 {
		return Route{}, false
	}
	r := Route{Table: int(head.Table), Type: routeType(head.Type), Protocol: netlink.RouteProtocol(head.Protocol).String()}
	to := netip.IPv4Unspecified()
	if head.Family == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	var hop Hop
	for _, a := range attributes(m, unix.SizeofRtMsg) {
		switch a.Attr.Type {
		case unix.RTA_DST:
			if addr, ok := netip.AddrFromSlice(a.Value); ok {
				to = addr
			}
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PRIORITY:
			r.Priority = int(word(a.Value))
		case unix.RTA_TABLE:
			r.Table = int(word(a.Value))
		case unix.RTA_MULTIPATH:
			r.Hops = parseHops(a.Value)
		default:
			hop.note(a.Attr.Type, a.Value)
		}
	}
	r.Destination = netip.PrefixFrom(to, int(head.Dst_len))
	if hop != (Hop{}) && r.Hops == nil {
		r.Hops = []Hop{hop}
	}
	return r, r.Table != unix.RT_TABLE_LOCAL
}

// note takes over an attribute of a hop.
func (h *Hop) note(typ uint16, value []byte) {
	switch typ {
	case unix.RTA_OIF:
		h.Device = int(word(value))
	case unix.RTA_GATEWAY:
		h.Gateway, _ = netip.AddrFromSlice(value)
	case unix.RTA_VIA: // struct rtvia: a gateway of the other family
		if len(value) > 2 {
			h.Gateway, _ = netip.AddrFromSlice(value[2:])
		}
	}
}

// parseHops returns the hops of a multipath route: each is a struct rtnexthop with attributes.
func parseHops(b []byte) (hops []Hop) {
	for len(b) >= unix.SizeofRtNexthop && len(hops) < maxAddresses {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		h := Hop{Device: int(native.Uint32(b[4:]))}
		for _, a := range parse(b[unix.SizeofRtNexthop:size]) {
			h.note(a.Attr.Type, a.Value)
		}
		hops = append(hops, h)
		b = b[min(len(b), (size+3)&^3):]
	}
	return hops
}

// routeType returns a type of routes as ip route shows it.
func routeType(t uint8) string {
	types := [...]string{
		unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast",
		unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable",
		unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw", unix.RTN_NAT: "nat",
	}
	if int(t) < len(types) && types[t] != "" {
		return types[t]
	}
	return strconv.Itoa(int(t))
}
