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

// recordKinds is the one table of the kinds of records. A new event kind adds a row.
var recordKinds = [...]struct {
	event event.Type // the event that a record stands for, "" for none
	new   func(*interpreter) recordInterpreter
}{
	bpf.NstraceRecordKindREC_WHO:          {"", newProcessRecords},
	bpf.NstraceRecordKindREC_PARAM:        {"", newParameterRecords},
	bpf.NstraceRecordKindREC_TASK_EXIT:    {"", newExitRecords},
	bpf.NstraceRecordKindREC_NS_CREATE:    {event.NamespaceCreate, newCreateRecords},
	bpf.NstraceRecordKindREC_NS_ENTER:     {event.NamespaceEnter, newEnterRecords},
	bpf.NstraceRecordKindREC_NS_DESTROY:   {event.NamespaceDestroy, newDestroyRecords},
	bpf.NstraceRecordKindREC_NS_PIN:       {event.NamespacePin, newPinRecords},
	bpf.NstraceRecordKindREC_NS_UNPIN:     {event.NamespaceUnpin, newUnpinRecords},
	bpf.NstraceRecordKindREC_PIN_END:      {event.NamespaceUnpin, newPinEndRecords},
	bpf.NstraceRecordKindREC_SYSCTL_WRITE: {event.SysctlWrite, newWriteRecords},
	bpf.NstraceRecordKindREC_NETDEV_MOVE:  {event.NetdevMove, newMoveRecords},
	bpf.NstraceRecordKindREC_TAMPER:       {event.TraceTamper, newTamperRecords},
	bpf.NstraceRecordKindREC_PROOF:        {"", newProofRecords},

	bpf.NstraceRecordKindREC_SYSCTL_APPEAR: {event.SysctlAppear, newAppearRecords},
	bpf.NstraceRecordKindREC_SYSCTL_VANISH: {event.SysctlVanish, newVanishRecords},
}

// A recordInterpreter interprets the records of one kind. It holds the record in hand and
// the parts of its event, which are reused.
type recordInterpreter interface {
	// parse takes a record apart. It checks every length against what is there.
	parse(r *record) error
	// interpret updates the interpreter's state and emits the events of the parsed record.
	interpret(r *record) error
}

// ErrRecord means that a record from the kernel does not have the format of record.h.
var ErrRecord = errors.New("malformed record")

// nsTypes is the name of each enum ns_kind.
var nsTypes = [...]event.NSType{
	bpf.NstraceNsKindNS_UTS:    event.NSTypeUTS,
	bpf.NstraceNsKindNS_IPC:    event.NSTypeIPC,
	bpf.NstraceNsKindNS_MNT:    event.NSTypeMnt,
	bpf.NstraceNsKindNS_PID:    event.NSTypePID,
	bpf.NstraceNsKindNS_NET:    event.NSTypeNet,
	bpf.NstraceNsKindNS_TIME:   event.NSTypeTime,
	bpf.NstraceNsKindNS_CGROUP: event.NSTypeCgroup,
	bpf.NstraceNsKindNS_USER:   event.NSTypeUser,
}

// nsType returns "" for a kind that record.h does not have.
func nsType(kind uint8) event.NSType {
	if int(kind) < len(nsTypes) {
		return nsTypes[kind]
	}
	return ""
}

// viaNames is the name of each enum call_via.
var viaNames = [...]string{
	bpf.NstraceCallViaVIA_NONE:           "",
	bpf.NstraceCallViaVIA_CLONE:          event.ViaClone,
	bpf.NstraceCallViaVIA_CLONE3:         event.ViaClone3,
	bpf.NstraceCallViaVIA_UNSHARE:        event.ViaUnshare,
	bpf.NstraceCallViaVIA_SETNS:          event.ViaSetns,
	bpf.NstraceCallViaVIA_WRITE:          event.ViaWrite,
	bpf.NstraceCallViaVIA_OPEN:           event.ViaOpen,
	bpf.NstraceCallViaVIA_OPEN_TREE:      event.ViaOpenTree,
	bpf.NstraceCallViaVIA_OPEN_TREE_ATTR: event.ViaOpenTreeAttr,
	bpf.NstraceCallViaVIA_FSMOUNT:        event.ViaFsmount,
	bpf.NstraceCallViaVIA_EXECVE:         event.ViaExecve,
	bpf.NstraceCallViaVIA_SETHOSTNAME:    event.ViaSethostname,
	bpf.NstraceCallViaVIA_SETDOMAINNAME:  event.ViaSetdomainname,
	bpf.NstraceCallViaVIA_NETLINK:        event.ViaNetlink,
	bpf.NstraceCallViaVIA_EXIT:           event.ViaExit,
	bpf.NstraceCallViaVIA_MOUNT:          event.ViaMount,
	bpf.NstraceCallViaVIA_MOVE_MOUNT:     event.ViaMoveMount,
	bpf.NstraceCallViaVIA_UMOUNT:         event.ViaUmount,
	bpf.NstraceCallViaVIA_CASCADE:        event.ViaCascade,
	bpf.NstraceCallViaVIA_DEVICE:         event.ViaDevice,
}

// A record is one record of the ring. Parts that are slices lie in the ring reader's buffer
// and are valid until the next read.
type record struct {
	raw  []byte
	rest []byte // what no part was taken from yet
	head bpf.NstraceHead
	fold bpf.NstraceFoldRef // if head.Repeatable is set
}

// open makes b the record in hand. The fixed struct of its kind, which begins with the head
// again, is still in rest.
func (r *record) open(b []byte) error {
	r.raw, r.rest = b, b
	if err := fixed(&r.rest, &r.head); err != nil {
		return err
	}
	r.rest = b
	if int(r.head.Size) != len(b) {
		return fmt.Errorf("%w: its head says %d bytes, it has %d", ErrRecord, r.head.Size, len(b))
	}
	if r.head.Repeatable != 0 {
		end := len(b) - int(unsafe.Sizeof(r.fold))
		if end < 0 {
			return fmt.Errorf("%w: it has %d bytes and repeats", ErrRecord, len(b))
		}
		ref := b[end:]
		r.rest = b[:end]
		return fixed(&ref, &r.fold)
	}
	return nil
}

// cut takes n bytes off the front of b.
func cut(b *[]byte, n int) ([]byte, error) {
	if n > len(*b) {
		return nil, fmt.Errorf("%w: a part of %d bytes where %d are left", ErrRecord, n, len(*b))
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

// many copies n structs of the wire off the front of b. It reuses into.
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

// has reports whether the record has a flag.
func (r *record) has(f bpf.NstraceRecordFlag) bool {
	return r.head.Flags&uint16(f) != 0
}

// failed reports whether the call is known to have failed.
func (r *record) failed() bool {
	return r.has(bpf.NstraceRecordFlagF_RET_KNOWN) && r.head.Ret < 0
}

// outcome returns the outcome and the error of an event.
func (r *record) outcome() (event.Outcome, string) {
	switch {
	case !r.has(bpf.NstraceRecordFlagF_RET_KNOWN):
		return "", ""
	case r.head.Ret < 0:
		return event.Failure, errnoName(-r.head.Ret)
	}
	return event.Success, ""
}

// via returns the name of what caused an event.
func (r *record) via() string { return viaNames[min(int(r.head.Via), len(viaNames)-1)] }

// is reports whether one of these calls caused the event.
func (r *record) is(vias ...bpf.NstraceCallVia) bool {
	return slices.Contains(vias, bpf.NstraceCallVia(r.head.Via))
}

func errnoName(errno int32) string {
	if errno == int32(unix.EOPNOTSUPP) { // unix.ErrnoName returns ENOTSUP, a name that the kernel does not use
		return "EOPNOTSUPP"
	}
	if name := unix.ErrnoName(unix.Errno(errno)); name != "" {
		return name
	}
	return fmt.Sprintf("E%d", errno)
}

// cString returns the text of a fixed array of the wire, up to its first NUL.
func cString(a []int8) string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(a))), len(a))
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// components splits a path of the wire: names, the last one of the path first, each ended by
// a NUL.
func components(b []byte) []string {
	s := strings.TrimSuffix(string(b), "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}

// absPath returns a path of the wire as an absolute path. If it is truncated its first
// components are missing.
func absPath(b []byte, truncated bool) string {
	parts := components(b)
	var sb strings.Builder
	if truncated {
		sb.WriteString("...")
	}
	for i := len(parts) - 1; i >= 0; i-- {
		sb.WriteByte('/')
		sb.WriteString(parts[i])
	}
	return sb.String()
}
