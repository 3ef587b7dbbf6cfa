// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strings"
	"time"
)

// NSType is the name of a namespace type, as lsns(8) writes it.
type NSType string

// Namespace types.
const (
	NSTypeMnt    NSType = "mnt"
	NSTypeNet    NSType = "net"
	NSTypeIPC    NSType = "ipc"
	NSTypeUser   NSType = "user"
	NSTypePID    NSType = "pid"
	NSTypeUTS    NSType = "uts"
	NSTypeCgroup NSType = "cgroup"
	NSTypeTime   NSType = "time"
)

// NSTypes returns all namespace types, in the order of lsns(8)'s documentation.
func NSTypes() []NSType {
	return []NSType{NSTypeMnt, NSTypeNet, NSTypeIPC, NSTypeUser, NSTypePID, NSTypeUTS, NSTypeCgroup, NSTypeTime}
}

// Namespace is a namespace that an event is about, or that a parameter or a device
// belongs to.
type Namespace struct {
	Type NSType `json:"type,omitempty"`
	ID   uint32 `json:"id,omitempty"`   // inode number on nsfs, as in /proc/PID/ns
	UID  string `json:"uid,omitempty"`  // never reused within a boot
	Name string `json:"name,omitempty"` // of a network namespace, as ip netns and Docker name it
	Host bool   `json:"host,omitempty"` // it is the host's own: that of pid 1 when nstrace started
	From uint32 `json:"from,omitempty"` // for enter: the id of the namespace that the process left

	UserNS uint32 `json:"user_ns,omitempty"` // id of the owning user namespace

	// Path is the mount point of a pin, as the caller's mount namespace has it. For a pin
	// that failed it is the intended mount point.
	Path string `json:"path,omitempty"`
	// MntNS is the id of the mount namespace that a pin is in, 0 if unknown. Copy says that no process
	// mounted the pin there: the kernel copied it, for a new mount namespace or to a shared mount. It is
	// only for the end of a pin, and not set if that is unknown.
	MntNS uint32 `json:"mnt_ns,omitempty"`
	Copy  bool   `json:"copy,omitempty"`

	// Owner is the workload that the namespace belongs to. The process that acted can
	// belong to another one.
	Owner *Owner `json:"owner,omitempty"`

	// For destroy, if known.
	Created    time.Time `json:"created,omitzero"`
	LifetimeMS *int64    `json:"lifetime_ms,omitempty"`
	Creator    *Actor    `json:"creator,omitempty"`
	// Detected is DetectedScan if the kernel did not report the event; it is empty
	// otherwise.
	Detected string `json:"detected,omitempty"`
}

// DetectedScan is the Detected of a destroy, pin or unpin that a scan found: of /proc, of
// the mounts, or because another namespace has the same inode number. The event's time is
// when the scan found it.
const DetectedScan = "scan"

// KernelUID reports whether UID is the kernel's own id, which is the same for every Tracer
// within a boot.
func (ns *Namespace) KernelUID() bool {
	return ns.UID != "" && !strings.Contains(ns.UID, ObservedUIDMark)
}

// Actor identifies a process in short.
type Actor struct {
	PID  uint32 `json:"pid"`
	UID  uint32 `json:"uid"`
	Comm string `json:"comm"`
}

// ObservedUIDMark is in every UID that a Tracer made because the kernel has none.
const ObservedUIDMark = "."

// A Request is what a setns(2) that failed asked for. It never changes.
type Request struct {
	Types []NSType `json:"types,omitempty"` // of its second argument; none: any type
	PID   uint32   `json:"pid,omitempty"`   // of the process, in the host's PID namespace, if the descriptor was a pidfd
	Path  string   `json:"path,omitempty"`  // of the mount of the namespace file, as the mount's own mount namespace has it
}
