// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strings"
	"time"
)

// Source is the evidence for a statement about a container or pod.
type Source string

// Sources.
const (
	FromCgroup    Source = "cgroup"    // the name of its cgroup, which the kernel sent with the event
	FromRuntime   Source = "runtime"   // its runtime's API, queried by the id in the cgroup's name
	FromNamespace Source = "namespace" // the process that made the namespace, or one that is in it
)

// Container is a container. Its ID is always set; Name and Image are set only if its
// runtime answered. A Container never changes: one that knows more replaces it.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Source  Source `json:"source"`

	// UserID is the id, in digits, of the user who controls the container's cgroup; "" for root.
	UserID string `json:"-"`
	// Unverified says that somebody else can have chosen the ID, such as root in another container.
	Unverified bool `json:"-"`
}

// minIDPrefix is how many characters of a container's id select it.
const minIDPrefix = 4

// Is reports whether want is the name of c, its id, or a long enough beginning of its id.
func (c *Container) Is(want string) bool {
	return c.Name == want || c.ID == want || len(want) >= minIDPrefix && len(c.ID) == 64 && strings.HasPrefix(c.ID, want)
}

// Pod is a pod of Kubernetes, or of Podman, whose pods have no Namespace. It never changes.
type Pod struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"` // Kubernetes', not the kernel's
	UID       string `json:"uid,omitempty"`       // 64 digits for a pod of Podman
	Source    Source `json:"source"`

	// UserID and Unverified are as in Container.
	UserID     string `json:"-"`
	Unverified bool   `json:"-"`
}

// Path returns NAMESPACE/NAME, or NAME alone for a pod without a Namespace. It is "" if the name is unknown.
func (p *Pod) Path() string {
	if p.Name == "" || p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

// Owner is the workload that a namespace belongs to. It never changes.
type Owner struct {
	Container *Container `json:"container,omitempty"`
	Pod       *Pod       `json:"pod,omitempty"`
	Unit      string     `json:"unit,omitempty"`
	Source    Source     `json:"source"`
}

// Process is the process that acted, as the kernel knew it when the event happened. Only
// the text of the arguments and the names of the ancestors can be up to a second older.
// PIDs are those of the host's PID namespace. The events of a process share its Process:
// do not change it.
type Process struct {
	PID       uint32    `json:"pid"`
	TID       uint32    `json:"tid"`
	StartTime time.Time `json:"start_time,omitzero"`
	Comm      string    `json:"comm"`
	// LeaderComm is the command name of the process's main thread (the leader of the thread group), if another thread caused the event and has another name.
	LeaderComm string `json:"leader_comm,omitempty"`

	Exe       string            `json:"exe,omitempty"`
	Args      []string          `json:"args,omitempty"`
	PPID      uint32            `json:"ppid"` // 0 for pid 1, kthreadd and processes whose parent is in another PID namespace
	UID       uint32            `json:"uid"`
	GID       uint32            `json:"gid"`
	User      string            `json:"user,omitempty"`
	LoginUID  *uint32           `json:"login_uid,omitempty"`
	LoginUser string            `json:"login_user,omitempty"`
	SessionID *uint32           `json:"session_id,omitempty"` // the audit session
	SudoUID   *uint32           `json:"sudo_uid,omitempty"`   // the user who became UID by a set-user-ID program such as sudo, su or pkexec, or by runuser; nil if unknown
	SudoUser  string            `json:"sudo_user,omitempty"`
	TTY       string            `json:"tty,omitempty"`
	Role      string            `json:"role,omitempty"`   // of known infrastructure, such as runtime or cni
	Cgroup    string            `json:"cgroup,omitempty"` // path in the hierarchy of cgroup v2; if containers use v1, in that of pids
	NS        map[NSType]uint32 `json:"ns,omitempty"`     // ids of its namespaces before the event
	Ancestors []Actor           `json:"ancestors,omitempty"`
}
