// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strings"
	"time"
)

// SchemaVersion is the version of the event that this package produces. Within
// one version fields are added, never renamed or removed.
const SchemaVersion = 1

// Type names what an event reports. The part before the dot is its family.
type Type string

// Event types.
const (
	NamespaceCreate  Type = "namespace.create"
	NamespaceEnter   Type = "namespace.enter"
	NamespaceDestroy Type = "namespace.destroy"
	NamespacePin     Type = "namespace.pin"   // its file was bind mounted
	NamespaceUnpin   Type = "namespace.unpin" // such a mount ended
	SysctlWrite      Type = "sysctl.write"
	NetdevMove       Type = "netdev.move"
	TraceStart       Type = "trace.start"
	TraceLoss        Type = "trace.loss"
	TraceTamper      Type = "trace.tamper"
	TraceGap         Type = "trace.gap" // nobody watched; of a recorder, see Trace
	TraceStop        Type = "trace.stop"

	// What happened while nobody watched, which a Tracer knows nothing of: package
	// drift finds it.
	SysctlDrift       Type = "sysctl.drift"
	NamespaceAppeared Type = "namespace.appeared"
	NamespaceGone     Type = "namespace.gone"
)

// Outcome says whether what the process asked for was done. It is empty where
// the way an observation is attached cannot know.
type Outcome string

// Outcomes.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
)

// Event is one line of nstrace's output. A nil pointer, an empty string and a
// nil slice mean not known or not applicable, and are left out of the JSON;
// numbers that can truly be zero are pointers for the same reason.
//
// Strings hold the bytes that the kernel held: they can contain control
// characters and invalid UTF-8, and whoever prints them has to escape them.
type Event struct {
	V        int       `json:"v"`
	Time     time.Time `json:"time"` // when it happened in the kernel, UTC
	LastTime time.Time `json:"last_time,omitzero"`
	RunID    string    `json:"run_id,omitempty"` // random id of the run, 32 hexadecimal digits
	Seq      uint64    `json:"seq"`              // from 1, without gaps, in each run; RunID and Seq identify the event
	Host     string    `json:"host,omitempty"`
	BootID   string    `json:"boot_id,omitempty"`
	Type     Type      `json:"type"`
	Outcome  Outcome   `json:"outcome,omitempty"`
	Error    string    `json:"error,omitempty"` // errno name, such as EPERM
	Via      string    `json:"via,omitempty"`   // what caused it: clone, clone3, unshare, open_tree, fsmount, setns, execve, write, open, sethostname, setdomainname, mount, move_mount, umount, netlink, exit, kill, bpf

	Namespace *Namespace `json:"namespace,omitempty"`
	Sysctl    *Sysctl    `json:"sysctl,omitempty"`
	Netdev    *Netdev    `json:"netdev,omitempty"`
	Process   *Process   `json:"process,omitempty"`
	// Who acted, as far as it is in a container, a pod or a unit of systemd.
	Container *Container `json:"container,omitempty"`
	Pod       *Pod       `json:"pod,omitempty"`
	Unit      string     `json:"unit,omitempty"`

	ChildPID uint32 `json:"child_pid,omitempty"` // in the host's PID namespace
	Count    uint64 `json:"count,omitempty"`     // absent means 1

	// Alert has the rules that the event met. It is made anew for each event.
	Alert []Alert `json:"alert,omitempty"`

	Loss    *Loss    `json:"loss,omitempty"`
	Tamper  *Tamper  `json:"tamper,omitempty"`
	Between *Between `json:"between,omitempty"`
	Trace   *Trace   `json:"trace,omitempty"`

	// Ref identifies the event within the Tracer that made it, for Cause.Ref. It is 0 for
	// an event that no Tracer made. It is not part of the stream.
	Ref uint64 `json:"-"`
}

// Clone returns a copy of e to keep. It shares with e what is never changed, such
// as its Process.
func (e *Event) Clone() *Event {
	c := *e
	if e.Namespace != nil {
		ns := *e.Namespace
		c.Namespace = &ns
	}
	if e.Sysctl != nil {
		s := *e.Sysctl
		s.Old, s.New, s.After = cloneText(s.Old), cloneText(s.New), cloneText(s.After)
		if s.Namespace != nil {
			ns := *s.Namespace
			s.Namespace = &ns
		}
		if s.Cause != nil {
			cause := *s.Cause
			s.Cause = &cause
		}
		c.Sysctl = &s
	}
	if e.Netdev != nil {
		d := *e.Netdev
		for _, ns := range [...]**Namespace{&d.From, &d.To} {
			if *ns != nil {
				was := **ns
				*ns = &was
			}
		}
		c.Netdev = &d
	}
	return &c
}

func cloneText(s *string) *string {
	if s == nil {
		return nil
	}
	c := strings.Clone(*s)
	return &c
}

// An Alert is a rule that an event met.
type Alert struct {
	Name     string `json:"name"`
	Severity string `json:"severity"` // info, warning, critical
	Message  string `json:"message,omitempty"`
}

// Between are the two times at which somebody looked, for what happened meanwhile,
// which nobody watched.
type Between struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Boot string    `json:"boot"` // same, or different if the host was started meanwhile
}
