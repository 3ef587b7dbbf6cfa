// SPDX-License-Identifier: Apache-2.0

package event

import "time"

// RefusalReason names what the kernel checks before it makes a namespace.
type RefusalReason string

// Reasons.
const (
	// RefusedByLimit is user.max_*_namespaces: so many namespaces of a type count for a user
	// in a user namespace that there can be no more (inc_ucount() in kernel/ucount.c).
	RefusedByLimit RefusalReason = "limit"
	// RefusedByNesting is the depth of user namespaces (create_user_ns() in
	// kernel/user_namespace.c) or PID namespaces (MAX_PID_NS_LEVEL).
	RefusedByNesting RefusalReason = "nesting"
	// RefusedByCapability is CAP_SYS_ADMIN, which a process needs for a namespace of any type
	// but user.
	RefusedByCapability RefusalReason = "capability"
	// RefusedByChroot is a root directory other than that of the mount namespace
	// (current_chrooted() in fs/namespace.c). A user namespace needs the latter.
	RefusedByChroot RefusalReason = "chroot"
	// RefusedByUID and RefusedByGID are an effective user or group without an id in the user
	// namespace of the process. It needs one to make another user namespace.
	RefusedByUID RefusalReason = "unmapped_uid"
	RefusedByGID RefusalReason = "unmapped_gid"
	// RefusedBySysctl is a parameter that restricts user namespaces of processes without
	// CAP_SYS_ADMIN, and has the value that does so: Debian's kernel.unprivileged_userns_clone is
	// 0, or Ubuntu's kernel.apparmor_restrict_unprivileged_userns is 1.
	RefusedBySysctl RefusalReason = "sysctl"
)

// Refusal is a reason for which the kernel refuses to make a namespace. It is a fact: the kernel
// held these values right after the call. If an event has several, each of them is true, and it is
// unknown which one the kernel met first. Reasons that nstrace does not know, such as a decision of
// a security module, can exist beside them.
//
// A Refusal never changes.
type Refusal struct {
	Reason RefusalReason `json:"reason"`
	Type   NSType        `json:"type,omitempty"` // of the namespace, for limit and nesting

	Sysctl string `json:"sysctl,omitempty"` // the parameter, for limit and sysctl
	// Value is what the parameter had; for nesting how many levels the kernel allows below the
	// initial namespace.
	Value *int64 `json:"value,omitempty"`
	// Count is how many namespaces counted against the limit, nil if unknown; for nesting the
	// level of the process.
	Count *int64 `json:"count,omitempty"`

	UserNS uint32 `json:"user_ns,omitempty"` // id of the user namespace that sets the limit, or lacks the capability or the id
	// Limit is the user namespace UserNS as the Tracer knows it, for limit; nil if it does not. It is
	// not part of the stream.
	Limit *Namespace `json:"-"`
	// Level is how far UserNS is above the user namespace of the process, for limit.
	Level *uint32 `json:"level,omitempty"`
	// UID is the user whose namespaces are counted, or who has no id in UserNS, or the group
	// that has none. It is an id of the initial user namespace.
	UID  *uint32 `json:"uid,omitempty"`
	User string  `json:"user,omitempty"` // the name of UID, "" for a group

	Capability string `json:"capability,omitempty"` // the missing one

	// Later reports that nstrace read Value in user space after the event: the parameter can
	// have had another value at the time of the event.
	Later bool `json:"read_later,omitempty"`

	// SetBy is the process that set the parameter to Value, nil if unknown.
	SetBy *Writer `json:"set_by,omitempty"`
}

// Writer is the process that wrote a parameter last.
type Writer struct {
	Time      time.Time `json:"time"`
	PID       uint32    `json:"pid"`
	UID       uint32    `json:"uid"`
	Comm      string    `json:"comm"`
	User      string    `json:"user,omitempty"`
	LoginUser string    `json:"login_user,omitempty"`
	Container string    `json:"container,omitempty"` // the name of its container, or else the id
	Unit      string    `json:"unit,omitempty"`
}
