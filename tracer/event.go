// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"strings"
	"time"

	"github.com/nstrace/nstrace/attribution"
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
	Seq      uint64    `json:"seq"` // from 1, no gaps within one run
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
	Container *attribution.Container `json:"container,omitempty"`
	Pod       *attribution.Pod       `json:"pod,omitempty"`
	Unit      string                 `json:"unit,omitempty"`

	ChildPID uint32 `json:"child_pid,omitempty"` // in the host's PID namespace
	Count    uint64 `json:"count,omitempty"`     // absent means 1

	// Alert has the rules that the event met. It is made anew for each event.
	Alert []Alert `json:"alert,omitempty"`

	Loss    *Loss    `json:"loss,omitempty"`
	Tamper  *Tamper  `json:"tamper,omitempty"`
	Between *Between `json:"between,omitempty"`
	Trace   *Trace   `json:"trace,omitempty"`
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
	Owner *attribution.Owner `json:"owner,omitempty"`

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
func (ns *Namespace) KernelUID() bool { return ns.UID != "" && !strings.Contains(ns.UID, seenMark) }

// Actor is a process in one line.
type Actor struct {
	PID  uint32 `json:"pid"`
	UID  uint32 `json:"uid"`
	Comm string `json:"comm"`
}

// Sysctl is a kernel parameter and what a write did to it. Old, New and After
// are nil where not known; an empty value is a pointer to an empty string.
type Sysctl struct {
	Name      string     `json:"name"`            // as sysctl(8) writes it
	Path      string     `json:"path"`            // below /proc/sys, absolute
	Old       *string    `json:"old,omitempty"`   // before the write, as read(2) would give it, without the last newline
	New       *string    `json:"new,omitempty"`   // as written, without the last newline
	After     *string    `json:"after,omitempty"` // once the write was done
	Namespace *Namespace `json:"namespace,omitempty"`
	Truncated bool       `json:"truncated,omitempty"` // a value is longer than the 1024 bytes kept
	Cause     *Cause     `json:"cause,omitempty"`     // for a change that the kernel made along with a write
}

// Cause is the write that made the kernel change another parameter too. Its event
// comes right before those of all that it changed.
type Cause struct {
	Seq  uint64 `json:"seq,omitempty"` // of its event; 0 where that is not in the stream
	Name string `json:"name,omitempty"`
}

// Netdev is a network device that went, or was to go, from one network namespace to
// another.
type Netdev struct {
	Name       string     `json:"name"`                  // before
	NewName    string     `json:"new_name,omitempty"`    // if it has another one now
	Ifindex    uint32     `json:"ifindex,omitempty"`     // before; 0 for one that could not be made
	NewIfindex uint32     `json:"new_ifindex,omitempty"` // if it has another one now
	Created    bool       `json:"created,omitempty"`     // it was made in To by a request in From
	From       *Namespace `json:"from,omitempty"`
	To         *Namespace `json:"to,omitempty"`
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

// Loss says what did not reach the stream.
type Loss struct {
	Records map[Type]uint64 `json:"records,omitempty"` // how many of which type; nil where nobody knows
	Reason  string          `json:"reason"`            // ring_full, missed, ftrace_off, probes_off, history
	From    time.Time       `json:"from,omitzero"`
	To      time.Time       `json:"to,omitzero"`
}

// Tamper is what somebody did, or tried to do, to nstrace itself.
type Tamper struct {
	Action string `json:"action"`           // signal, or the command of bpf(2): link_detach, link_update, prog_detach, map_update, map_delete, map_freeze
	Signal string `json:"signal,omitempty"` // such as SIGKILL
	Object string `json:"object,omitempty"` // name of the program or map
}

// Trace describes the run itself.
type Trace struct {
	Version      string        `json:"version,omitempty"`
	Kernel       string        `json:"kernel,omitempty"`
	Arch         string        `json:"arch,omitempty"`
	Observations []Observation `json:"observations,omitempty"` // for trace.start, and for a trace.loss after which things are attached in another way
	Totals       *Totals       `json:"totals,omitempty"`       // for trace.stop
	Signal       string        `json:"signal,omitempty"`       // for trace.stop: what ended the run, if a signal did; the event's process sent it

	// Notes are sentences for people, for trace.start, trace.loss and trace.stop: what is
	// unusual about how nstrace attached or detached.
	Notes []string `json:"notes,omitempty"`

	// For trace.gap: between which times nothing was recorded, whether the host was
	// booted in between, and how the run before had ended: GapStopped or GapCrashed.
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	SameBoot *bool     `json:"same_boot,omitempty"`
	Ended    string    `json:"ended,omitempty"`
}

// How the run before a trace.gap had ended.
const (
	GapStopped = "stopped" // in good order
	GapCrashed = "crashed" // or was killed, or the power went
)

// Observation says how one thing that nstrace watches is attached.
type Observation struct {
	Name    string   `json:"name"`
	Backend string   `json:"backend"`           // fentry, kprobe, tracepoint, or none
	Hooks   []string `json:"hooks,omitempty"`   // such as fexit/ksys_unshare
	Missing []string `json:"missing,omitempty"` // what this way cannot see
}

// Totals closes a run's books, in events, of which an Event with a Count is as
// many: Seen = Written + Filtered + Lost.
type Totals struct {
	Seen       uint64 `json:"seen"`
	Written    uint64 `json:"written"`
	Folded     uint64 `json:"folded,omitempty"` // of Seen, repeats that were counted instead of told one by one
	Filtered   uint64 `json:"filtered"`
	Lost       uint64 `json:"lost"`
	Alerts     uint64 `json:"alerts,omitempty"` // rules that the written ones met
	DurationMS int64  `json:"duration_ms"`
}
