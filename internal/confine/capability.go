// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// A Capability is the number of a capability, as in capabilities(7).
type Capability uint8

// names are those of include/uapi/linux/capability.h. Its index is the number.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// String returns the name, such as CAP_SYS_ADMIN.
func (c Capability) String() string {
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("CAP_%d", uint8(c))
}

// MarshalText returns the name, for JSON.
func (c Capability) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// A Set is a set of capabilities: bit n is the capability n, as in /proc/PID/status.
type Set uint64

// SetOf returns a set.
func SetOf(all ...Capability) (s Set) {
	for _, c := range all {
		s |= 1 << c
	}
	return s
}

// Has reports whether c is in the set.
func (s Set) Has(c Capability) bool { return s&(1<<c) != 0 }

// Capabilities returns the members.
func (s Set) Capabilities() (all []Capability) {
	for c := range Capability(64) {
		if s.Has(c) {
			all = append(all, c)
		}
	}
	return all
}

// String returns the names of the members.
func (s Set) String() string {
	var words []string
	for _, c := range s.Capabilities() {
		words = append(words, c.String())
	}
	return strings.Join(words, " ")
}

// MarshalJSON returns the list of the names.
func (s Set) MarshalJSON() ([]byte, error) {
	list := s.Capabilities()
	if list == nil {
		list = []Capability{}
	}
	return json.Marshal(list)
}

// capData is what capget(2) and capset(2) exchange.
type capData struct {
	head unix.CapUserHeader
	data [2]unix.CapUserData
}

func newCapData() *capData {
	return &capData{head: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
}

// Permitted returns the capabilities that the calling thread has or can take.
func Permitted() (Set, error) {
	d := newCapData()
	if err := unix.Capget(&d.head, &d.data[0]); err != nil {
		return 0, fmt.Errorf("read the capabilities: %w", err)
	}
	return Set(d.data[1].Permitted)<<32 | Set(d.data[0].Permitted), nil
}

// allSets returns the capabilities in any set of the calling thread that capget(2) returns.
func allSets() (Set, error) {
	d := newCapData()
	if err := unix.Capget(&d.head, &d.data[0]); err != nil {
		return 0, err
	}
	var all [2]uint32
	for i, s := range d.data {
		all[i] = s.Effective | s.Permitted | s.Inheritable
	}
	return Set(all[1])<<32 | Set(all[0]), nil
}

// DropCapabilities drops all capabilities but those in keep, which the process must have: from the
// effective, permitted, inheritable and ambient sets.
func DropCapabilities(keep Set) error { return dropCapabilities(psx.Syscall6, keep) }

// A caller makes a system call: psx.Syscall6 on all threads, unix.Syscall6 on the calling one.
type caller func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno syscall.Errno)

func dropCapabilities(call caller, keep Set) error {
	if _, _, errno := call(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("clear the ambient capabilities: %w", errno)
	}
	d := newCapData()
	for i := range d.data {
		half := uint32(keep >> (32 * i))
		d.data[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	if _, _, errno := call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&d.head)), uintptr(unsafe.Pointer(&d.data[0])), 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

// ReduceBounding drops all capabilities but those in keep from the bounding set, which limits what a
// program that the process executes can get. Without CAP_SETPCAP the kernel refuses that, and
// ReduceBounding returns an error that wraps errors.ErrUnsupported: no_new_privs has the same effect.
func ReduceBounding(keep Set) error { return reduceBounding(psx.Syscall6, keep) }

func reduceBounding(call caller, keep Set) error {
	for c := range Capability(64) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil { // the kernel has no such capability, nor any further one
			break
		}
		if has == 0 || keep.Has(c) {
			continue
		}
		_, _, errno := call(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0, 0)
		if errno == unix.EPERM {
			return fmt.Errorf("%s: %w", noBounding, errors.ErrUnsupported)
		}
		if errno != 0 {
			return fmt.Errorf("drop %v from the bounding set: %w", c, errno)
		}
	}
	return nil
}
