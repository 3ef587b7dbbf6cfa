// SPDX-License-Identifier: Apache-2.0

// Package capability reads the capabilities of the calling thread, see capabilities(7).
package capability

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
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

// Of returns a set.
func Of(all ...Capability) (s Set) {
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

// Data is what capget(2) and capset(2) exchange: capabilities 0 to 31, and those above.
type Data struct {
	Head unix.CapUserHeader
	Data [2]unix.CapUserData
}

// NewData returns a Data without a capability.
func NewData() *Data {
	return &Data{Head: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
}

// Permitted returns the capabilities that the calling thread has or can take.
func Permitted() (Set, error) {
	return readSet(func(d *unix.CapUserData) uint32 { return d.Permitted })
}

// Effective returns the capabilities that the calling thread has.
func Effective() (Set, error) {
	return readSet(func(d *unix.CapUserData) uint32 { return d.Effective })
}

// Anywhere returns the capabilities in any set of the calling thread that capget(2) returns.
func Anywhere() (Set, error) {
	return readSet(func(d *unix.CapUserData) uint32 { return d.Effective | d.Permitted | d.Inheritable })
}

// readSet returns one of the sets of the calling thread, or several.
func readSet(half func(*unix.CapUserData) uint32) (Set, error) {
	d := NewData()
	if err := unix.Capget(&d.Head, &d.Data[0]); err != nil {
		return 0, fmt.Errorf("read the capabilities: %w", err)
	}
	return Set(half(&d.Data[1]))<<32 | Set(half(&d.Data[0])), nil
}
