// SPDX-License-Identifier: Apache-2.0

package event

import "time"

// Source is what a statement about a container or pod rests on.
type Source string

// Sources.
const (
	FromCgroup    Source = "cgroup"    // the name of its cgroup, which the kernel gave with the event
	FromRuntime   Source = "runtime"   // its runtime's API, asked for the id that the cgroup's name has
	FromNamespace Source = "namespace" // who made the namespace, or lives in it
)

// Container is a container. ID is there in any case; Name and Image only once its
// runtime has told them. It is never changed, but replaced by one that knows more.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Source  Source `json:"source"`

	// UserID is whose service manager it runs below, in digits, "" for the host's.
	UserID string `json:"-"`
}

// Pod is a Kubernetes pod. It is never changed.
type Pod struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"` // Kubernetes', not the kernel's
	UID       string `json:"uid,omitempty"`
	Source    Source `json:"source"`
}

// Owner is whose a namespace is. It is never changed.
type Owner struct {
	Container *Container `json:"container,omitempty"`
	Pod       *Pod       `json:"pod,omitempty"`
	Unit      string     `json:"unit,omitempty"`
	Source    Source     `json:"source"`
}

// Process is who acted, as the kernel knew it when the event happened; only the
// text of the arguments and the ancestors' names can be up to a second older.
// PIDs are those of the host's PID namespace. It is shared by the events of the
// same process, and not to be changed.
type Process struct {
	PID       uint32            `json:"pid"`
	TID       uint32            `json:"tid"`
	StartTime time.Time         `json:"start_time,omitzero"`
	Comm      string            `json:"comm"`
	Exe       string            `json:"exe,omitempty"`
	Args      []string          `json:"args,omitempty"`
	PPID      uint32            `json:"ppid"` // 0 for pid 1, kthreadd and children of another PID namespace's parent
	UID       uint32            `json:"uid"`
	GID       uint32            `json:"gid"`
	User      string            `json:"user,omitempty"`
	LoginUID  *uint32           `json:"login_uid,omitempty"`
	LoginUser string            `json:"login_user,omitempty"`
	SessionID *uint32           `json:"session_id,omitempty"` // the audit session
	SudoUID   *uint32           `json:"sudo_uid,omitempty"`   // who called sudo, su, doas or pkexec, by the nearest ancestor that is one
	SudoUser  string            `json:"sudo_user,omitempty"`
	TTY       string            `json:"tty,omitempty"`
	Role      string            `json:"role,omitempty"`   // what known infrastructure it is, see attribution.Role
	Cgroup    string            `json:"cgroup,omitempty"` // path in the cgroup v2 hierarchy, or where containers are in v1's, in that of pids
	NS        map[NSType]uint32 `json:"ns,omitempty"`     // type to id, before the event
	Ancestors []Actor           `json:"ancestors,omitempty"`
}
