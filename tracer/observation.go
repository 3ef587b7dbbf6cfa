// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/nstrace/nstrace/bpf"
)

// Backend is a way to attach to the kernel.
type Backend string

// Backends, in the order in which Auto tries them.
const (
	Auto       Backend = "auto"
	Fentry     Backend = "fentry"     // BPF trampolines: cheapest
	Kprobe     Backend = "kprobe"     // breakpoints or ftrace: the same events
	Tracepoint Backend = "tracepoint" // tracepoints, cgroup/sysctl and iterators: needs neither
	None       Backend = "none"       // an observation that could not be attached
)

// Backends returns what ParseBackend accepts.
func Backends() []string {
	return []string{string(Auto), string(Fentry), string(Kprobe), string(Tracepoint)}
}

// ParseBackend returns the backend of that name.
func ParseBackend(s string) (Backend, error) {
	for _, name := range Backends() {
		if s == name {
			return Backend(s), nil
		}
	}
	return "", fmt.Errorf("unknown backend %q: it takes %s", s, strings.Join(Backends(), ", "))
}

// A way is one backend's entry points for an observation.
type way struct {
	backend Backend
	// Each element is a set of programs that are all needed. The first set whose
	// kernel functions exist is used.
	programs [][]string
	// Programs to add where their kernel function exists.
	optional []string
	// What is looked at beside the programs.
	looks []string
	// What this way cannot see, for people.
	missing []string
}

// An observation is one thing that nstrace watches.
type observation struct {
	name string
	feed []Type // the events that it gives
	ways []way  // in order of preference
}

const restartNote = "result of the write, value after it, and writes refused before the parameter's handler"

// observations is the one table of what is watched and how. A new event kind
// adds a row.
var observations = []observation{
	{
		name: "clone", feed: []Type{NamespaceCreate},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFexitClone}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeClone, bpf.NstraceProgKretprobeClone}}},
			{backend: Tracepoint, programs: [][]string{{
				bpf.NstraceProgTpCloneEnter, bpf.NstraceProgTpClone3Enter, bpf.NstraceProgTpFork,
				tpCloneExit, tpClone3Exit,
			}}, missing: compat},
		},
	},
	{
		name: "unshare", feed: []Type{NamespaceCreate},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryUnshare, bpf.NstraceProgFexitUnshare}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeUnshare, bpf.NstraceProgKretprobeUnshare}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpUnshareEnter, bpf.NstraceProgTpCallExit}}, missing: compat},
		},
	},
	{
		name: "setns", feed: []Type{NamespaceEnter},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentrySetns, bpf.NstraceProgFexitSetns}}, optional: setns32Fentry},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeSetns, bpf.NstraceProgKretprobeSetns}}, optional: setns32Kprobe},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpSetnsEnter, tpSetnsExit}}, missing: compat},
		},
	},
	{
		name: "destroy", feed: []Type{NamespaceDestroy},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryNsFree}, {bpf.NstraceProgFentryFreeInum}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeNsFree}, {bpf.NstraceProgKprobeFreeInum}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpExit}}, missing: []string{
				"when exactly a namespace ended: it is found by looking",
			}},
		},
	},
	{
		name: "pin", feed: []Type{NamespacePin},
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFentryMount, bpf.NstraceProgFexitMount, bpf.NstraceProgFexitKernPath,
				bpf.NstraceProgFentryMoveMount, bpf.NstraceProgFexitMoveMount, bpf.NstraceProgFentryMoveResolved,
			}}, optional: moveMount32Fentry},
			{backend: Kprobe, programs: [][]string{
				append([]string{bpf.NstraceProgKprobeKernPath, bpf.NstraceProgKretprobeKernPath}, pinKprobes...),
				append([]string{bpf.NstraceProgKprobeSource, kprobeMove, kprobeLink}, pinKprobes...),
			}, optional: moveMount32Kprobe},
			lookForPins,
		},
	},
	{
		name: "unpin", feed: []Type{NamespaceUnpin},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryUmount, bpf.NstraceProgFexitUmount, bpf.NstraceProgFentryMountFreed}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeUmount, kretprobeUmount, bpf.NstraceProgKprobeMountFreed}}},
			lookForPins,
		},
	},
	{
		name: "sysctl", feed: []Type{SysctlWrite},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryWrite, bpf.NstraceProgFexitWrite, bpf.NstraceProgCgroupSysctl}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeWrite, bpf.NstraceProgKretprobeWrite, bpf.NstraceProgCgroupSysctl}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgCgroupSysctl}}, missing: []string{restartNote}},
		},
	},
	{
		name: "open", feed: []Type{SysctlWrite},
		ways: []way{
			{backend: Fentry, programs: [][]string{
				{bpf.NstraceProgFexitPermission, bpf.NstraceProgFexitWantWrite},
				{bpf.NstraceProgFexitPermission510, bpf.NstraceProgFexitWantWrite},
			}},
		},
	},
}

// pinKprobes are the entries and ends of what can pin a namespace.
var pinKprobes = []string{
	bpf.NstraceProgKprobeMount, bpf.NstraceProgKretprobePin,
	bpf.NstraceProgKprobeMoveMount, kretprobeMoveMount, bpf.NstraceProgKprobeMoveResolved,
}

// lookForPins is the way to see pins without a hook: no tracepoint says what a mount is
// of.
var lookForPins = way{
	backend: Tracepoint, programs: [][]string{{}}, looks: []string{ownMountinfo}, missing: []string{
		"who did it, what failed, what lasted a moment, and what is outside nstrace's own mount namespace: it is found by looking",
	},
}

// params is how many parameters the kernel's function has, for programs of which there
// is one for each number.
var params = map[string]int{
	bpf.NstraceProgFexitPermission:    3, // 5.12
	bpf.NstraceProgFexitPermission510: 2,
}

// Programs of the object that are attached in more than one place have a name of their
// own for each further one. They are loaded once for all places that feed the same events:
// what the kernel could not run it counts by program.
const (
	tpCloneExit      = "tp_clone_exit"
	tpClone3Exit     = "tp_clone3_exit"
	tpSetnsExit      = "tp_setns_exit"
	kretprobeSetns32 = "kretprobe_setns32"

	kretprobeMoveMount   = "kretprobe_move_mount"
	kretprobeMoveMount32 = "kretprobe_move_mount32"
	kretprobeUmount      = "kretprobe_umount"
	kprobeMove           = "kprobe_move"
	kprobeLink           = "kprobe_link"
)

// A twin is a further place for a program.
type twin struct {
	of, section string
	alone       bool // it is loaded by itself
}

var twins = map[string]twin{
	tpCloneExit:      {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_clone"},
	tpClone3Exit:     {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_clone3"},
	tpSetnsExit:      {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_setns", alone: true},
	kretprobeSetns32: {of: bpf.NstraceProgKretprobeSetns, section: "kretprobe/__ia32_sys_setns"},

	kretprobeMoveMount:   {of: bpf.NstraceProgKretprobePin, section: "kretprobe/" + moveMountFunc},
	kretprobeMoveMount32: {of: bpf.NstraceProgKretprobePin, section: "kretprobe/__ia32_sys_move_mount"},
	kprobeMove:           {of: bpf.NstraceProgKprobeSource, section: "kprobe/do_move_mount"},
	kprobeLink:           {of: bpf.NstraceProgKprobeSource, section: "kprobe/nd_jump_link"},
	kretprobeUmount:      {of: bpf.NstraceProgKretprobePin, section: "kretprobe/path_umount", alone: true},
}

// place returns p as it is attached there.
func (t twin) place(p *ebpf.ProgramSpec) *ebpf.ProgramSpec {
	q := p.Copy()
	q.SectionName = t.section
	_, q.AttachTo, _ = strings.Cut(t.section, "/")
	return q
}

// original returns the name under which the program is loaded.
func original(program string) string {
	if t, ok := twins[program]; ok && !t.alone {
		return t.of
	}
	return program
}

// Tracepoints of system calls are not hit by the 32-bit ones
// (arch_trace_is_compat_syscall() in arch/x86/include/asm/ftrace.h).
var compat = []string{"calls of 32-bit programs"}

// followPrograms attach beside the observations when only one process tree is
// traced.
var followPrograms = []string{bpf.NstraceProgFollowFork, bpf.NstraceProgFollowExit}

// wants says whether any event that the observation gives is in types; nil is all.
// What ends has to be known from its beginning: where destroy is wanted, create
// is observed too, and so is pin for unpin.
func (o *observation) wants(types map[Type]bool) bool {
	return types == nil || slices.ContainsFunc(o.feed, func(t Type) bool {
		return types[t] || (t == NamespaceCreate && types[NamespaceDestroy]) || (t == NamespacePin && types[NamespaceUnpin])
	})
}
