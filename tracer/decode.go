// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// ErrRecord means that a record from the kernel is not what record.h says.
var ErrRecord = errors.New("malformed record")

// nsTypes gives the name of each enum ns_kind.
var nsTypes = [...]event.NSType{
	bpf.NstraceNsKindNS_UTS:    "uts",
	bpf.NstraceNsKindNS_IPC:    "ipc",
	bpf.NstraceNsKindNS_MNT:    "mnt",
	bpf.NstraceNsKindNS_PID:    "pid",
	bpf.NstraceNsKindNS_NET:    "net",
	bpf.NstraceNsKindNS_TIME:   "time",
	bpf.NstraceNsKindNS_CGROUP: "cgroup",
	bpf.NstraceNsKindNS_USER:   "user",
}

func nsType(kind uint8) event.NSType {
	if int(kind) < len(nsTypes) {
		return nsTypes[kind]
	}
	return ""
}

var viaNames = [...]string{
	bpf.NstraceCallViaVIA_NONE:          "",
	bpf.NstraceCallViaVIA_CLONE:         "clone",
	bpf.NstraceCallViaVIA_CLONE3:        "clone3",
	bpf.NstraceCallViaVIA_UNSHARE:       "unshare",
	bpf.NstraceCallViaVIA_SETNS:         "setns",
	bpf.NstraceCallViaVIA_WRITE:         "write",
	bpf.NstraceCallViaVIA_OPEN:          "open",
	bpf.NstraceCallViaVIA_OPEN_TREE:     "open_tree",
	bpf.NstraceCallViaVIA_FSMOUNT:       "fsmount",
	bpf.NstraceCallViaVIA_EXECVE:        "execve",
	bpf.NstraceCallViaVIA_SETHOSTNAME:   "sethostname",
	bpf.NstraceCallViaVIA_SETDOMAINNAME: "setdomainname",
	bpf.NstraceCallViaVIA_NETLINK:       "netlink",
	bpf.NstraceCallViaVIA_EXIT:          "exit",
	bpf.NstraceCallViaVIA_MOUNT:         "mount",
	bpf.NstraceCallViaVIA_MOVE_MOUNT:    "move_mount",
	bpf.NstraceCallViaVIA_UMOUNT:        "umount",
	bpf.NstraceCallViaVIA_CASCADE:       "cascade",
	bpf.NstraceCallViaVIA_DEVICE:        "device",
}

// A record is one record of the ring, taken apart but not yet explained: its
// slices lie in the ring reader's buffer and last until the next read.
type record struct {
	head      bpf.NstraceHead
	who       bpf.NstraceWhoRecord
	param     bpf.NstraceParamRecord
	ns        bpf.NstraceNsRecord
	sysctl    bpf.NstraceSysctlRecord
	destroy   bpf.NstraceDestroyRecord
	tamper    bpf.NstraceTamperRecord
	netdev    bpf.NstraceNetdevRecord
	pin       bpf.NstracePinRecord
	pinEnd    bpf.NstracePinEndRecord
	changes   []bpf.NstraceNsChange
	ancestors []bpf.NstraceActor

	exe, args, cgroup          []byte
	name, old, new, raw, after []byte
	path                       []byte
}

// cut takes n bytes off b.
func cut(b *[]byte, n int) ([]byte, error) {
	if n > len(*b) {
		return nil, fmt.Errorf("%w: a part of %d bytes, %d left", ErrRecord, n, len(*b))
	}
	part := (*b)[:n]
	*b = (*b)[n:]
	return part, nil
}

// fixed copies a struct of the wire off the front of b.
func fixed[T any](b *[]byte, into *T) error {
	part, err := cut(b, int(unsafe.Sizeof(*into)))
	if err != nil {
		return err
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(into)), len(part)), part)
	return nil
}

// many copies n structs of the wire off the front of b, reusing into.
func many[T any](b *[]byte, n int, into []T) ([]T, error) {
	into = into[:0]
	for range n {
		var v T
		if err := fixed(b, &v); err != nil {
			return into, err
		}
		into = append(into, v)
	}
	return into, nil
}

// parse takes b apart. Every length is checked against what is there.
func (r *record) parse(b []byte) error {
	rest := b
	peek := b
	if err := fixed(&peek, &r.head); err != nil {
		return err
	}
	if int(r.head.Size) != len(b) {
		return fmt.Errorf("%w: it says %d bytes and has %d", ErrRecord, r.head.Size, len(b))
	}
	switch bpf.NstraceRecordKind(r.head.Kind) {
	case bpf.NstraceRecordKindREC_NS_CREATE, bpf.NstraceRecordKindREC_NS_ENTER:
		if err := fixed(&rest, &r.ns); err != nil {
			return err
		}
		var err error
		r.changes, err = many(&rest, int(r.head.Nchanges), r.changes)
		return err
	case bpf.NstraceRecordKindREC_SYSCTL_WRITE:
		if err := fixed(&rest, &r.sysctl); err != nil {
			return err
		}
		s := &r.sysctl
		for _, p := range [...]struct {
			part *[]byte
			n    uint16
		}{{&r.old, s.OldLen}, {&r.new, s.NewLen}, {&r.raw, s.RawLen}, {&r.after, s.AfterLen}} {
			var err error
			if *p.part, err = cut(&rest, int(p.n)); err != nil {
				return err
			}
		}
		return nil
	case bpf.NstraceRecordKindREC_WHO:
		if err := fixed(&rest, &r.who); err != nil {
			return err
		}
		return r.parseWho(&rest)
	case bpf.NstraceRecordKindREC_PARAM:
		if err := fixed(&rest, &r.param); err != nil {
			return err
		}
		r.name = rest
		return nil
	case bpf.NstraceRecordKindREC_NS_DESTROY:
		return fixed(&rest, &r.destroy)
	case bpf.NstraceRecordKindREC_TAMPER:
		return fixed(&rest, &r.tamper)
	case bpf.NstraceRecordKindREC_NETDEV_MOVE:
		return fixed(&rest, &r.netdev)
	case bpf.NstraceRecordKindREC_NS_PIN, bpf.NstraceRecordKindREC_NS_UNPIN:
		if err := fixed(&rest, &r.pin); err != nil {
			return err
		}
		var err error
		r.path, err = cut(&rest, int(r.pin.PathLen))
		return err
	case bpf.NstraceRecordKindREC_PIN_END:
		return fixed(&rest, &r.pinEnd)
	case bpf.NstraceRecordKindREC_TASK_EXIT:
		return nil
	}
	return fmt.Errorf("%w: kind %d", ErrRecord, r.head.Kind)
}

func (r *record) parseWho(rest *[]byte) (err error) {
	if r.ancestors, err = many(rest, int(r.head.Nancestors), r.ancestors); err != nil {
		return err
	}
	if r.exe, err = cut(rest, int(r.who.ExeLen)); err != nil {
		return err
	}
	if r.args, err = cut(rest, int(r.who.ArgsLen)); err != nil {
		return err
	}
	r.cgroup, err = cut(rest, int(r.who.CgroupLen))
	return err
}

func (r *record) has(f bpf.NstraceRecordFlag) bool {
	return r.head.Flags&uint16(f) != 0
}

// writeID returns the id that a write's record shares with the records of what changed along with
// it, 0 if there are none. A record with a fold slot has the slot's key in the same field.
func (r *record) writeID() uint64 {
	if r.sysctl.FoldSlot != 0 {
		return 0
	}
	return r.sysctl.FoldKey
}

// failed says whether the call is known to have failed.
func (r *record) failed() bool {
	return r.has(bpf.NstraceRecordFlagF_RET_KNOWN) && r.head.Ret < 0
}

// outcome returns what the record says of the call's result.
func (r *record) outcome() (event.Outcome, string) {
	switch {
	case !r.has(bpf.NstraceRecordFlagF_RET_KNOWN):
		return "", ""
	case r.head.Ret < 0:
		return event.Failure, errnoName(-r.head.Ret)
	}
	return event.Success, ""
}

func errnoName(errno int32) string {
	if errno == int32(unix.EOPNOTSUPP) { // which has a second name, that no kernel uses
		return "EOPNOTSUPP"
	}
	if name := unix.ErrnoName(unix.Errno(errno)); name != "" {
		return name
	}
	return fmt.Sprintf("E%d", errno)
}

// cString is the text of a fixed array of the wire, up to its first NUL.
func cString(a []int8) string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(a))), len(a))
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// components splits what put_path() and its kin write: names leaf first, each
// ended by a NUL.
func components(b []byte) []string {
	s := strings.TrimSuffix(string(b), "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}

// absPath turns components, leaf first, into an absolute path. cutOff says that
// leading ones are missing.
func absPath(b []byte, cutOff bool) string {
	parts := components(b)
	var sb strings.Builder
	if cutOff {
		sb.WriteString("...")
	}
	for i := len(parts) - 1; i >= 0; i-- {
		sb.WriteByte('/')
		sb.WriteString(parts[i])
	}
	return sb.String()
}

// sysctlName returns the name and the path of a parameter from the components of its path,
// leaf first.
func sysctlName(parts []string) (name, file string) {
	slices.Reverse(parts)
	file = event.SysctlDir + "/" + strings.Join(parts, "/")
	name, _ = event.SysctlName(file)
	return name, file
}

// argv splits a command line as it lies in memory.
func argv(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}
