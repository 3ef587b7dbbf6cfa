// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// How many levels of namespaces the kernel allows below the initial one: create_user_ns() in
// kernel/user_namespace.c refuses if the parent's level is above 32, and
// create_pid_namespace() in kernel/pid_namespace.c if the new level is above MAX_PID_NS_LEVEL.
const (
	userLevels = 33
	pidLevels  = 32
)

// Parameters that only some distributions' kernels have. There is one of each on a host.
const (
	// debianSysctl is 0 if only CAP_SYS_ADMIN in the initial user namespace permits a user
	// namespace.
	debianSysctl = "kernel.unprivileged_userns_clone"
	// ubuntuSysctl is 1 if AppArmor confines the user namespaces of programs that have no
	// profile and no CAP_SYS_ADMIN.
	ubuntuSysctl = "kernel.apparmor_restrict_unprivileged_userns"
)

// A refusal is what the kernel checked before it refused to make a namespace.
type refusal struct {
	facts  []bpf.NstraceNsRefusal // one or none
	limits []bpf.NstraceNsLimit
}

func (f *refusal) parse(r *record, wire *bpf.NstraceNsRecord) (err error) {
	if f.facts, err = many(&r.rest, int(wire.Nrefusals), f.facts); err != nil {
		return err
	}
	f.limits, err = many(&r.rest, int(wire.Nlimits), f.limits)
	return err
}

// explain returns the reasons for a failed call that asked for namespaces, nil if none is known.
// The list is new: events keep it.
func (f *refusal) explain(in *interpreter, r *record, caller *bpf.NstraceCaller) []event.Refusal {
	if len(f.facts) == 0 {
		return nil
	}
	x := explanation{in: in, at: r.head.Time, facts: &f.facts[0], userNS: caller.Ns[bpf.NstraceNsKindNS_USER]}
	switch unix.Errno(-r.head.Ret) {
	case unix.ENOSPC, unix.EUSERS:
		x.nesting()
		for i := range f.limits {
			x.limit(&f.limits[i])
		}
	case unix.EPERM:
		x.permission()
		x.switches()
	case unix.EACCES:
		x.switches()
	}
	return x.reasons
}

// An explanation collects the reasons for one failed call.
type explanation struct {
	in      *interpreter
	at      uint64 // CLOCK_BOOTTIME
	facts   *bpf.NstraceNsRefusal
	userNS  uint32 // of the process
	reasons []event.Refusal
}

func (x *explanation) add(r event.Refusal) { x.reasons = append(x.reasons, r) }

// asked reports whether the call asked for a namespace of a kind.
func (x *explanation) asked(kind bpf.NstraceNsKind) bool { return x.facts.Kinds&(1<<kind) != 0 }

func (x *explanation) has(f bpf.NstraceRefusalFlag) bool { return x.facts.Flags&uint32(f) != 0 }

// privileged reports whether the process had CAP_SYS_ADMIN in its user namespace.
func (x *explanation) privileged() bool { return x.facts.Caps&(1<<unix.CAP_SYS_ADMIN) != 0 }

func (x *explanation) nesting() {
	for _, n := range [...]struct {
		kind  bpf.NstraceNsKind
		level uint32
		most  int64
	}{
		{bpf.NstraceNsKindNS_USER, x.facts.UserLevel, userLevels},
		{bpf.NstraceNsKindNS_PID, x.facts.PidLevel, pidLevels},
	} {
		if level := int64(n.level); x.asked(n.kind) && level >= n.most {
			x.add(event.Refusal{Reason: event.RefusedByNesting, Type: nsTypes[n.kind], Value: &n.most, Count: &level})
		}
	}
}

func (x *explanation) limit(l *bpf.NstraceNsLimit) {
	typ := nsType(l.Kind)
	if typ == "" || l.Max > math.MaxInt64 || l.Count > math.MaxInt64 {
		return
	}
	maximum, level, uid := int64(l.Max), uint32(l.Level), l.Uid
	r := event.Refusal{
		Reason: event.RefusedByLimit, Type: typ, Sysctl: "user.max_" + string(typ) + "_namespaces",
		Value: &maximum, UserNS: l.UserNs, Level: &level, UID: &uid, User: x.in.lookups.userName(uid),
	}
	if l.Counted != 0 {
		count := int64(l.Count)
		r.Count = &count
	}
	if ns := x.in.registry.at(event.NSTypeUser, l.UserNs, x.at); ns != nil {
		r.Limit = x.in.registry.show(ns, new(event.Namespace))
	}
	x.add(r)
}

// permission adds what makes the kernel return EPERM.
func (x *explanation) permission() {
	if !x.asked(bpf.NstraceNsKindNS_USER) {
		if !x.privileged() {
			x.add(event.Refusal{Reason: event.RefusedByCapability, Capability: "CAP_SYS_ADMIN", UserNS: x.userNS})
		}
		return
	}
	if x.has(bpf.NstraceRefusalFlagRF_CHROOTED) {
		x.add(event.Refusal{Reason: event.RefusedByChroot})
	}
	if x.has(bpf.NstraceRefusalFlagRF_UID_UNMAPPED) {
		uid := x.facts.Euid
		x.add(event.Refusal{Reason: event.RefusedByUID, UserNS: x.userNS, UID: &uid, User: x.in.lookups.userName(uid)})
	}
	if x.has(bpf.NstraceRefusalFlagRF_GID_UNMAPPED) {
		gid := x.facts.Egid
		x.add(event.Refusal{Reason: event.RefusedByGID, UserNS: x.userNS, UID: &gid})
	}
}

// switches adds the parameters that forbid user namespaces to the process.
func (x *explanation) switches() {
	if !x.asked(bpf.NstraceNsKindNS_USER) {
		return
	}
	if host := x.in.registry.host[event.NSTypeUser]; !x.privileged() || host != 0 && x.userNS != host {
		x.forbids(debianSysctl, "0")
	}
	if !x.privileged() {
		x.forbids(ubuntuSysctl, "1")
	}
}

// forbids adds a parameter if it has a value, as of a time not before the event.
func (x *explanation) forbids(name, value string) {
	if x.in.lookups.hostSysctl(name, x.at) != value {
		return
	}
	n := int64(value[0] - '0')
	x.add(event.Refusal{Reason: event.RefusedBySysctl, Sysctl: name, Value: &n, Later: true})
}
