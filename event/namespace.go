// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strings"
	"time"
)

// NSTypes returns the namespace types in the order of lsns(8)'s documentation.
func NSTypes() []NSType {
	return []NSType{"mnt", "net", "ipc", "user", "pid", "uts", "cgroup", "time"}
}

// NSType names a namespace type as lsns(8) does.
type NSType string

// Namespace is what an event acted on.
type Namespace struct {
	Type NSType `json:"type,omitempty"`
	ID   uint32 `json:"id,omitempty"`  // inode number on nsfs, as in /proc/PID/ns
	UID  string `json:"uid,omitempty"` // never reused within a boot
	Name string `json:"name,omitempty"`
	Host bool   `json:"host,omitempty"` // the host's own, that is pid 1's when nstrace started
	From uint32 `json:"from,omitempty"` // for enter: the id left

	UserNS uint32 `json:"user_ns,omitempty"` // id of the owning user namespace

	// Path is, for pin and unpin, where it is mounted, as the caller's mount namespace has
	// it; of a pin that failed, where it was to be.
	Path string `json:"path,omitempty"`

	// Owner is whose it is, which need not be who acted.
	Owner *Owner `json:"owner,omitempty"`

	// For destroy, where known.
	Created    time.Time `json:"created,omitzero"`
	LifetimeMS *int64    `json:"lifetime_ms,omitempty"`
	Creator    *Actor    `json:"creator,omitempty"`
	// Detected is "scan" where the end, or the pin or its end, was found by looking
	// (or by another namespace having the number) rather than reported by the
	// kernel: time is then when it was noticed.
	Detected string `json:"detected,omitempty"`
}

// KernelUID says whether UID is the kernel's own, which every Tracer of the same boot
// gives it.
func (ns *Namespace) KernelUID() bool {
	return ns.UID != "" && !strings.Contains(ns.UID, ObservedUIDMark)
}

// Actor is a process in one line.
type Actor struct {
	PID  uint32 `json:"pid"`
	UID  uint32 `json:"uid"`
	Comm string `json:"comm"`
}

// ObservedUIDMark is in those of uidText that are not the kernel's.
const ObservedUIDMark = "."
