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
	NamespacePin     Type = "namespace.pin"   // the namespace's file was bind mounted
	NamespaceUnpin   Type = "namespace.unpin" // such a mount ended
	SysctlWrite      Type = "sysctl.write"
	SysctlAppear     Type = "sysctl.appear" // the kernel registered parameters: a module or a device has them
	SysctlVanish     Type = "sysctl.vanish" // such parameters are gone
	NetdevMove       Type = "netdev.move"
	TraceStart       Type = "trace.start"
	TraceAttach      Type = "trace.attach" // further observations begin; see Trace
	TraceLoss        Type = "trace.loss"
	TraceTamper      Type = "trace.tamper"
	TraceGap         Type = "trace.gap"   // no recorder was running; see Trace
	TraceAlive       Type = "trace.alive" // comes at intervals; see Trace
	TraceStop        Type = "trace.stop"

	// Differences between two runs. A Tracer does not emit them.
	SysctlDrift       Type = "sysctl.drift"
	NamespaceAppeared Type = "namespace.appeared"
	NamespaceGone     Type = "namespace.gone"
)

// Outcome says whether a call succeeded. It is empty if the way in which an observation is
// attached does not show that.
type Outcome string

// Outcomes.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
)

// Values of Event.Via: the system call, or what else in the kernel caused an event.
const (
	ViaClone         = "clone"
	ViaClone3        = "clone3"
	ViaUnshare       = "unshare"
	ViaSetns         = "setns"
	ViaOpenTree      = "open_tree"
	ViaOpenTreeAttr  = "open_tree_attr"
	ViaFsmount       = "fsmount"
	ViaExecve        = "execve"
	ViaMount         = "mount"
	ViaMoveMount     = "move_mount"
	ViaUmount        = "umount"
	ViaExit          = "exit"  // a network namespace ended, and the kernel moved its devices
	ViaWrite         = "write" // to a file below /proc/sys
	ViaOpen          = "open"  // of such a file, which the kernel refused
	ViaSethostname   = "sethostname"
	ViaSetdomainname = "setdomainname"
	ViaNetlink       = "netlink" // a request of rtnetlink
	ViaCascade       = "cascade" // the kernel changed a parameter along with another one
	ViaDevice        = "device"  // the kernel changed a parameter of a new device
	ViaInitModule    = "init_module"
	ViaFinitModule   = "finit_module"
	ViaDeleteModule  = "delete_module"
	ViaIoctl         = "ioctl"
	ViaKill          = "kill"
	ViaBPF           = "bpf"
)

// Event is one line of nstrace's output. A nil pointer, an empty string and a nil slice
// mean unknown or not applicable, and the JSON omits them. Numbers for which zero is a
// value are pointers for the same reason.
//
// Strings hold the bytes that the kernel held. They can contain control characters and
// invalid UTF-8, so escape them before you print them.
type Event struct {
	V        int       `json:"v"`
	Time     time.Time `json:"time"` // when it happened in the kernel, UTC
	LastTime time.Time `json:"last_time,omitzero"`
	RunID    string    `json:"run_id,omitempty"` // random id of the run, 32 hexadecimal digits
	Seq      uint64    `json:"seq"`              // from 1, without gaps, in each run; RunID and Seq identify the event
	Host     string    `json:"host,omitempty"`
	BootID   string    `json:"boot_id,omitempty"` // of a NamespaceGone: the boot in which the namespace lived
	// Labels are those that the user gave all events of the run. They never change.
	Labels  map[string]string `json:"labels,omitempty"`
	Type    Type              `json:"type"`
	Outcome Outcome           `json:"outcome,omitempty"`
	Error   string            `json:"error,omitempty"` // errno name, such as EPERM
	Via     string            `json:"via,omitempty"`   // what caused it: ViaClone and so on

	Namespace *Namespace `json:"namespace,omitempty"`
	Sysctl    *Sysctl    `json:"sysctl,omitempty"`
	Netdev    *Netdev    `json:"netdev,omitempty"`
	Process   *Process   `json:"process,omitempty"`
	// The container, the pod and the systemd unit of Process.
	Container *Container `json:"container,omitempty"`
	Pod       *Pod       `json:"pod,omitempty"`
	Unit      string     `json:"unit,omitempty"`

	ChildPID uint32 `json:"child_pid,omitempty"` // in the host's PID namespace
	Count    uint64 `json:"count,omitempty"`     // absent means 1
	Late     bool   `json:"late,omitempty"`      // an event that happened later came before
	Skipped  uint64 `json:"skipped,omitempty"`   // how many events before this one the filter of a sink left out

	// Alert has the rules that the event met. No two events share it.
	Alert []Alert `json:"alert,omitempty"`

	Loss    *Loss    `json:"loss,omitempty"`
	Tamper  *Tamper  `json:"tamper,omitempty"`
	Between *Between `json:"between,omitempty"`
	Trace   *Trace   `json:"trace,omitempty"`

	// Refusal is why the kernel refused to create a namespace, as far as that is known.
	Refusal []Refusal `json:"refusal,omitempty"`

	Request *Request `json:"request,omitempty"`

	// Bytes has the strings that are not UTF-8, by their paths in the JSON, such as process.comm and
	// process.args.0. See EscapeBytes. It never changes.
	Bytes map[string]string `json:"bytes,omitempty"`

	// Cascaded is how many changes of other parameters along with this write are shown with it. It is not part of
	// the stream, which has an event for each.
	Cascaded uint64 `json:"-"`

	// Ref identifies the event within the Tracer that made it, for Cause.Ref. It is 0 for
	// an event that no Tracer made. It is not part of the stream.
	Ref uint64 `json:"-"`
}

// Clone returns a copy of e to keep. The copy shares with e what never changes, such as
// its Process.
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

// Between holds the times of two snapshots, for a difference between them that was not traced.
type Between struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Boot string    `json:"boot"` // same, or different if the host was booted in between
	// Reset says that a parameter has the value again that it had before its first recorded write of the
	// previous boot.
	Reset bool `json:"reset,omitempty"`
	// Recording says that nstrace recorded all the time. The kernel changed a parameter along with another
	// one, or somebody did in a way that is not traced.
	Recording bool `json:"recording,omitempty"`
}
