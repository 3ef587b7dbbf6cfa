// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtextFilterSkipStats has the kernel leave out counters, from include/uapi/linux/rtnetlink.h.
const rtextFilterSkipStats = 1 << 3

// devices reads the devices of a namespace.
func (s *socket) devices(n *Namespace, limit int) error {
	err := s.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, unix.RTM_NEWLINK,
		[]nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats))},
		func() { n.Devices = nil },
		func(m []byte) bool {
			if len(n.Devices) >= limit {
				return false
			}
			if d, ok := parseDevice(m); ok {
				n.Devices = append(n.Devices, d)
			}
			return true
		})
	slices.SortFunc(n.Devices, func(a, b Device) int { return cmp.Compare(a.Index, b.Index) })
	if errors.Is(err, errTooMany) {
		n.incomplete("devices: only the first %d", len(n.Devices))
		return nil
	}
	return err
}

func parseDevice(m []byte) (Device, bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return Device{}, false
	}
	head := nl.DeserializeIfInfomsg(m)
	d := Device{
		Index: int(head.Index), Loopback: head.Flags&unix.IFF_LOOPBACK != 0,
		Up: head.Flags&unix.IFF_UP != 0, Carrier: head.Flags&unix.IFF_UP != 0 && head.Flags&unix.IFF_LOWER_UP != 0,
	}
	link, nsid, hasLink := 0, -1, false
	for _, a := range attributes(m, unix.SizeofIfInfomsg) {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			d.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_IFALIAS:
			d.Alias = unix.ByteSliceToString(a.Value)
		case unix.IFLA_MTU:
			d.MTU = int(word(a.Value))
		case unix.IFLA_ADDRESS:
			if len(a.Value) == 6 && !d.Loopback {
				d.MAC = net.HardwareAddr(a.Value).String()
			}
		case unix.IFLA_MASTER:
			d.Master = int(word(a.Value))
		case unix.IFLA_LINK:
			link, hasLink = int(int32(word(a.Value))), true
		case unix.IFLA_LINK_NETNSID:
			nsid = int(int32(word(a.Value)))
		case unix.IFLA_PARENT_DEV_BUS_NAME:
			d.Bus = unix.ByteSliceToString(a.Value)
		case unix.IFLA_LINKINFO:
			d.parseInfo(a.Value)
		}
	}
	// A device that lies upon nothing can have its own index there.
	if hasLink && link > 0 && (link != d.Index || nsid >= 0) || nsid >= 0 {
		d.Link = &Link{Index: link, NSID: nsid}
	}
	// The device of a multicast router (reg_vif_setup() in net/ipv4/ipmr.c) is the only one without a kind
	// that each namespace can have.
	if d.Kind == "" && head.Type == unix.ARPHRD_PIMREG {
		d.Kind = "pimreg"
	}
	if d.Kind != "" {
		d.Bus = ""
	}
	return d, d.Index > 0
}

// parseInfo reads IFLA_LINKINFO: the kind of a device, and what only this kind has.
func (d *Device) parseInfo(b []byte) {
	var data []byte
	for _, a := range parse(b) {
		switch a.Attr.Type {
		case nl.IFLA_INFO_KIND:
			d.Kind = unix.ByteSliceToString(a.Value)
		case nl.IFLA_INFO_DATA:
			data = a.Value
		}
	}
	for _, a := range parse(data) {
		v, t := int(word(a.Value)), int(a.Attr.Type)
		switch {
		case d.Kind == "vlan" && t == nl.IFLA_VLAN_ID:
			d.VLAN = v
		case d.Kind == "vrf" && t == nl.IFLA_VRF_TABLE:
			d.Table = v
		case d.Kind == "vxlan" && t == nl.IFLA_VXLAN_ID:
			d.VNI = v
		case (d.Kind == "macvlan" || d.Kind == "macvtap") && t == nl.IFLA_MACVLAN_MODE:
			d.Mode = macvlanModes[v]
		case (d.Kind == "ipvlan" || d.Kind == "ipvtap") && t == nl.IFLA_IPVLAN_MODE:
			d.Mode = ipvlanModes[v]
		case d.Kind == "bond" && t == nl.IFLA_BOND_MODE:
			d.Mode = netlink.BondMode(v).String()
		}
	}
}

// The modes as ip link shows them.
var (
	macvlanModes = map[int]string{
		nl.MACVLAN_MODE_PRIVATE: "private", nl.MACVLAN_MODE_VEPA: "vepa", nl.MACVLAN_MODE_BRIDGE: "bridge",
		nl.MACVLAN_MODE_PASSTHRU: "passthru", nl.MACVLAN_MODE_SOURCE: "source",
	}
	ipvlanModes = map[int]string{0: "l2", 1: "l3", 2: "l3s"}
)

// addresses reads the addresses of all devices.
func (s *socket) addresses(n *Namespace) error {
	byIndex := make(map[int]*Device, len(n.Devices))
	for i := range n.Devices {
		byIndex[n.Devices[i].Index] = &n.Devices[i]
	}
	cut := false
	err := s.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, unix.RTM_NEWADDR,
		[]nl.NetlinkRequestData{nl.NewIfAddrmsg(unix.AF_UNSPEC)},
		func() {
			for _, d := range byIndex {
				d.Addresses = nil
			}
		},
		func(m []byte) bool {
			if len(m) < unix.SizeofIfAddrmsg {
				return true
			}
			head := nl.DeserializeIfAddrmsg(m)
			d := byIndex[int(head.Index)]
			if d == nil {
				return true
			}
			if len(d.Addresses) >= maxAddresses {
				cut = true
				return true
			}
			var local, address netip.Addr // if both are there, the other one is the peer's
			for _, a := range attributes(m, unix.SizeofIfAddrmsg) {
				switch a.Attr.Type {
				case unix.IFA_LOCAL:
					local, _ = netip.AddrFromSlice(a.Value)
				case unix.IFA_ADDRESS:
					address, _ = netip.AddrFromSlice(a.Value)
				}
			}
			if !local.IsValid() {
				local = address
			}
			if local.IsValid() {
				d.Addresses = append(d.Addresses, netip.PrefixFrom(local, int(head.Prefixlen)))
			}
			return true
		})
	if cut {
		n.incomplete("addresses: only the first %d of each device", maxAddresses)
	}
	if errors.Is(err, errTooMany) {
		n.incomplete("addresses: only the first %d", maxMessages)
		return nil
	}
	return err
}
