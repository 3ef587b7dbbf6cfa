// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FuzzParse parses messages of netlink that no kernel made. It reads nothing beyond them.
func FuzzParse(f *testing.F) {
	attr := func(head int, family byte, as ...*nl.RtAttr) []byte {
		b := make([]byte, head)
		b[0] = family
		for _, a := range as {
			b = append(b, a.Serialize()...)
		}
		return b
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.ZeroTerminated("veth"))
	f.Add(attr(unix.SizeofIfInfomsg, 0, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0")), nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(3)), info))
	hop := append([]byte{8, 0, 0, 0, 2, 0, 0, 0}, 9, 0, 0, 0, 0, 0, 0, 0)
	f.Add(attr(unix.SizeofRtMsg, unix.AF_INET, nl.NewRtAttr(unix.RTA_DST, []byte{10, 0, 0, 0}), nl.NewRtAttr(unix.RTA_MULTIPATH, hop)))
	f.Add(attr(inetDiagMsg, unix.AF_INET6))
	f.Add(attr(unix.SizeofIfInfomsg, 0, nl.NewRtAttr(unix.IFLA_IFNAME, []byte("abc")))[:unix.SizeofIfInfomsg+7]) // without the padding
	f.Fuzz(func(t *testing.T, m []byte) {
		m = m[:len(m):len(m)]
		if d, ok := parseDevice(m); ok && len(d.Name) > len(m) {
			t.Errorf("%x: %+v", m, d)
		}
		if r, ok := parseRoute(m); ok && len(r.Hops) > len(m) {
			t.Errorf("%x: %+v", m, r)
		}
		if s, ok := parseSocket(m); ok && s.Local.Port() == 0 {
			t.Errorf("%x: %+v", m, s)
		}
		for _, a := range attributes(m, 4) {
			word(a.Value)
		}
	})
}
