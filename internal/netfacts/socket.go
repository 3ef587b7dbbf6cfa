// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/sock_diag.h and inet_diag.h.
const (
	sockDiagByFamily = 20
	inetDiagMsg      = 72 // size of struct inet_diag_msg
)

// States of include/net/tcp_states.h. UDP sockets use them too.
const (
	tcpClose  = 7 // of a UDP socket: not connected
	tcpListen = 10
)

// diagRequest is a struct inet_diag_req_v2.
type diagRequest struct{ family, protocol, state uint8 }

func (r diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, r.protocol
	native.PutUint32(b[4:], 1<<r.state)
	return b
}

// readSockets reads the listening sockets of the thread's namespace. As for ss(8), the kernel may
// load the modules tcp_diag and udp_diag to answer.
func readSockets(ctx context.Context, deadline time.Time, n *Namespace) error {
	for _, p := range []struct {
		name            string
		protocol, state uint8
	}{{"tcp", unix.IPPROTO_TCP, tcpListen}, {"udp", unix.IPPROTO_UDP, tcpClose}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			s, err := dial(ctx, unix.NETLINK_INET_DIAG, deadline)
			if err != nil {
				return err
			}
			before := len(n.Sockets)
			err = s.ask(sockDiagByFamily, unix.NLM_F_DUMP, sockDiagByFamily,
				[]nl.NetlinkRequestData{diagRequest{family, p.protocol, p.state}},
				func() { n.Sockets = n.Sockets[:before] },
				func(m []byte) bool {
					if len(n.Sockets) >= maxSockets {
						return false
					}
					if socket, ok := parseSocket(m); ok {
						socket.Protocol = p.name
						n.Sockets = append(n.Sockets, socket)
					}
					return true
				})
			s.Close()
			switch {
			case errors.Is(err, errTooMany):
				n.incomplete("listening sockets: only the first %d", maxSockets)
				return nil
			case errors.Is(err, unix.ENOENT): // the kernel has no such protocol
			case err != nil:
				return err
			}
		}
	}
	return nil
}

// parseSocket reads a struct inet_diag_msg.
func parseSocket(m []byte) (Socket, bool) {
	if len(m) < inetDiagMsg {
		return Socket{}, false
	}
	addr := netip.AddrFrom16([16]byte(m[8:24]))
	if m[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	}
	s := Socket{
		Local:  netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])),
		Device: int(native.Uint32(m[40:])),
		UID:    native.Uint32(m[64:]),
		Inode:  native.Uint32(m[68:]),
	}
	return s, s.Local.Port() != 0
}
