// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// errTooMany says that a bound was reached.
var errTooMany = errors.New("too many")

// A socket is a netlink socket in the network namespace of the thread that opened it. The package nl
// makes the requests and takes the answers apart. Its functions that list something collect all of it
// first, so ask reads the answers.
type socket struct {
	*nl.NetlinkSocket
	ctx      context.Context
	deadline time.Time
	seq      uint32
}

func dial(ctx context.Context, protocol int, deadline time.Time) (*socket, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &socket{NetlinkSocket: s, ctx: ctx, deadline: deadline}, nil
}

// ask sends a request and calls each with every message of the answer of a type. It ends early with
// errTooMany if each returns false; the socket cannot be used any more then. It repeats what the kernel
// changed meanwhile: reset is called before each try.
func (s *socket) ask(typ, flags int, answer uint16, data []nl.NetlinkRequestData, reset func(), each func([]byte) bool) error {
	const tries = 3
	for i := range tries {
		reset()
		interrupted, err := s.once(typ, flags, answer, data, each)
		if err != nil || !interrupted || i == tries-1 {
			return err
		}
	}
	return nil
}

func (s *socket) once(typ, flags int, answer uint16, data []nl.NetlinkRequestData, each func([]byte) bool) (interrupted bool, err error) {
	req := nl.NewNetlinkRequest(typ, flags)
	s.seq++
	req.Seq = s.seq
	for _, d := range data {
		req.AddData(d)
	}
	if err := s.timeout(); err != nil {
		return false, err
	}
	if err := s.Send(req); err != nil {
		return false, err
	}
	for count := 0; ; {
		if err := s.timeout(); err != nil {
			return false, err
		}
		messages, from, err := s.Receive()
		if errors.Is(err, unix.EAGAIN) {
			return false, os.ErrDeadlineExceeded
		}
		if err != nil {
			return false, err
		}
		if from.Pid != nl.PidKernel { // anybody may send to a netlink socket's address
			continue
		}
		for _, m := range messages {
			if m.Header.Seq != s.seq {
				continue
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if errno := -int32(native.Uint32(m.Data)); errno > 0 {
						return interrupted, syscall.Errno(errno)
					}
				}
				return interrupted, nil
			case m.Header.Type == answer:
				if count++; count > maxMessages || !each(m.Data) {
					return interrupted, errTooMany
				}
			}
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return interrupted, nil
			}
		}
	}
}

// timeout has the next system call end at the deadline.
func (s *socket) timeout() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	left := time.Until(s.deadline)
	if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
	return errors.Join(s.SetReceiveTimeout(&tv), s.SetSendTimeout(&tv))
}

// Attributes of RTM_GETNSID, from include/uapi/linux/net_namespace.h.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// nsid returns the kernel's number for the open namespace fd in the socket's namespace. The error is
// ENOENT if it has none. Asking assigns none.
func (s *socket) nsid(fd int) (int, error) {
	nsid := -1
	err := s.ask(unix.RTM_GETNSID, 0, unix.RTM_NEWNSID,
		[]nl.NetlinkRequestData{nl.NewRtGenMsg(), nl.NewRtAttr(netnsaFD, nl.Uint32Attr(uint32(fd)))},
		func() {},
		func(m []byte) bool {
			// The size of struct rtgenmsg is 1, and attributes begin at a multiple of 4.
			for _, a := range attributes(m, 4) {
				if a.Attr.Type == netnsaNSID {
					nsid = int(int32(word(a.Value)))
				}
			}
			return true
		})
	if err == nil && nsid < 0 {
		err = unix.ENOENT
	}
	return nsid, err
}

// attributes returns the attributes of a message behind its head of a size. The kernel flags some
// types.
func attributes(m []byte, head int) []syscall.NetlinkRouteAttr {
	if len(m) < head {
		return nil
	}
	return parse(m[head:])
}

func parse(b []byte) []syscall.NetlinkRouteAttr {
	// ParseRouteAttr panics if the last attribute lacks its padding.
	if missing := -len(b) & (unix.NLA_ALIGNTO - 1); missing > 0 {
		b = append(slices.Clip(b), make([]byte, missing)...)
	}
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	for i := range attrs {
		attrs[i].Attr.Type &^= unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	}
	return attrs
}

// word returns the number in an attribute, 0 if it has none.
func word(b []byte) uint32 {
	switch {
	case len(b) >= 4:
		return native.Uint32(b)
	case len(b) >= 2:
		return uint32(native.Uint16(b))
	case len(b) == 1:
		return uint32(b[0])
	}
	return 0
}
