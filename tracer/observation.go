// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Backend is a way to attach to the kernel.
type Backend string

// Backends, in the order in which Auto tries them.
const (
	Auto       Backend = "auto"
	Fentry     Backend = "fentry"     // BPF trampolines: the cheapest
	Kprobe     Backend = "kprobe"     // breakpoints or ftrace: shows the same events
	Tracepoint Backend = "tracepoint" // tracepoints, cgroup/sysctl and iterators: needs neither of these
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
	return "", fmt.Errorf("unknown backend %q: want one of %s", s, strings.Join(Backends(), ", "))
}

// A way is how one backend attaches an observation.
type way struct {
	backend Backend
	// programs has sets of programs. All programs of a set are needed, and the first set
	// whose kernel functions exist is used.
	programs [][]string
	// optional programs are added if their kernel function exists.
	optional []string
	// files are what user space watches beside the programs.
	files []string
	// missing says what this way cannot see, in sentences for people.
	missing []string
	// forced ways are used only if their backend is requested: they slow down every open
	// of a file.
	forced bool
}

// An observation is one thing that nstrace observes.
type observation struct {
	name string
	feed []event.Type // the events that it feeds
	ways []way        // in order of preference
	// since is the kernel function without which there is nothing to observe, "" for none.
	since string
}

const restartNote = "whether a write fails, what else changed with it, and writes that are refused before the parameter's handler"

// insteadOf has a kretprobe for each optional fexit program whose function has no type in some kernels:
// Debian's 6.1 has none of clone3. An fexit program needs a type, a kprobe does not.
var insteadOf = map[string]string{
	bpf.NstraceProgFexitClone3: bpf.NstraceProgKretprobeClone3,
}

// observations is the one table of what is observed, and of the hooks for that. A new event
// kind adds a row.
var observations = []observation{
	{
		name: "clone", feed: []event.Type{event.NamespaceCreate},
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFexitClone, bpf.NstraceProgFexitKernelClone,
			}}, optional: slices.Concat([]string{bpf.NstraceProgFexitClone3}, clone32Fentry)},
			{backend: Kprobe, programs: [][]string{{
				bpf.NstraceProgKprobeKernelClone, bpf.NstraceProgKretprobeClone, bpf.NstraceProgKretprobeKernelClone,
			}}, optional: slices.Concat([]string{bpf.NstraceProgKretprobeClone3}, clone32Kprobe)},
			{backend: Tracepoint, programs: [][]string{{
				bpf.NstraceProgTpCloneEnter, bpf.NstraceProgTpClone3Enter, bpf.NstraceProgTpFork,
				tpCloneExit, tpClone3Exit,
			}}, missing: compat},
		},
	},
	{
		name: "unshare", feed: []event.Type{event.NamespaceCreate},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryUnshare, bpf.NstraceProgFexitUnshare}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeUnshare, bpf.NstraceProgKretprobeUnshare}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpUnshareEnter, bpf.NstraceProgTpCallExit}}, missing: compat},
		},
	},
	{
		name: "setns", feed: []event.Type{event.NamespaceEnter},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentrySetns, bpf.NstraceProgFexitSetns}}, optional: setns32Fentry},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeSetns, bpf.NstraceProgKretprobeSetns}}, optional: setns32Kprobe},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpSetnsEnter, tpSetnsExit}}, missing: compat},
		},
	},
	{
		name: "destroy", feed: []event.Type{event.NamespaceDestroy},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryNsFree}, {bpf.NstraceProgFentryFreeInum}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeNsFree}, {bpf.NstraceProgKprobeFreeInum}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpExit}}, missing: []string{
				"when exactly a namespace ended: it is found by scanning /proc",
			}},
		},
	},
	{
		name: "pin", feed: []event.Type{event.NamespacePin},
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFentryMount, bpf.NstraceProgFexitMount, bpf.NstraceProgFexitKernPath,
				bpf.NstraceProgFentryMoveMount, bpf.NstraceProgFexitMoveMount, bpf.NstraceProgFentryMoveResolved,
			}}, optional: moveMount32Fentry},
			{backend: Kprobe, programs: [][]string{
				append([]string{bpf.NstraceProgKprobeKernPath, bpf.NstraceProgKretprobeKernPath}, pinKprobes...),
				append([]string{bpf.NstraceProgKprobeSource, kprobeMove, kprobeLink}, pinKprobes...),
			}, optional: moveMount32Kprobe},
			snapshotPins,
		},
	},
	{
		name: "unpin", feed: []event.Type{event.NamespaceUnpin},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryUmount, bpf.NstraceProgFexitUmount, bpf.NstraceProgFentryMountFreed}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeUmount, kretprobeUmount, bpf.NstraceProgKprobeMountFreed}}},
			snapshotPins,
		},
	},
	{
		name: "sysctl", feed: []event.Type{event.SysctlWrite},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryWrite, bpf.NstraceProgFexitWrite, bpf.NstraceProgCgroupSysctl}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeWrite, bpf.NstraceProgKretprobeWrite, bpf.NstraceProgCgroupSysctl}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgCgroupSysctl}}, missing: []string{restartNote}},
		},
	},
	{
		name: "netconf", feed: []event.Type{event.SysctlWrite},
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFentryLinkAf4, bpf.NstraceProgFexitLinkAf4, bpf.NstraceProgFentryLinkAf6, bpf.NstraceProgFexitLinkAf6,
				bpf.NstraceProgFentryAddrconf, bpf.NstraceProgFexitAddrconf,
			}}},
			{backend: Kprobe, programs: [][]string{{
				bpf.NstraceProgKprobeLinkAf4, bpf.NstraceProgKretprobeLinkAf4, bpf.NstraceProgKprobeLinkAf6, bpf.NstraceProgKretprobeLinkAf6,
				bpf.NstraceProgKprobeAddrconf, bpf.NstraceProgKretprobeAddrconf,
			}}},
		},
	},
	{
		name: "open", feed: []event.Type{event.SysctlWrite},
		ways: []way{
			{backend: Fentry, forced: true, programs: [][]string{
				{bpf.NstraceProgFexitPermission, bpf.NstraceProgFexitWantWrite, bpf.NstraceProgFexitMayOpen},
				{bpf.NstraceProgFexitPermission510, bpf.NstraceProgFexitWantWrite, bpf.NstraceProgFexitMayOpen510},
			}, missing: moduleOpens},
			{backend: Fentry, programs: [][]string{
				{bpf.NstraceProgFexitPermission, bpf.NstraceProgFexitWantWrite},
				{bpf.NstraceProgFexitPermission510, bpf.NstraceProgFexitWantWrite},
			}, missing: slices.Concat(moduleOpens, []string{"without --backend fentry: opens without O_TRUNC, if procfs itself is read-only, and not a bind mount of it"})},
			{backend: Kprobe, forced: true, programs: [][]string{
				{bpf.NstraceProgKprobePermission, bpf.NstraceProgKretprobePermission, bpf.NstraceProgKretprobeWantWrite, bpf.NstraceProgKretprobeMayOpen},
				{bpf.NstraceProgKprobePermission510, bpf.NstraceProgKretprobePermission, bpf.NstraceProgKretprobeWantWrite, bpf.NstraceProgKretprobeMayOpen},
			}, missing: moduleOpens},
			{backend: Kprobe, programs: [][]string{
				{bpf.NstraceProgKprobePermission, bpf.NstraceProgKretprobePermission},
				{bpf.NstraceProgKprobePermission510, bpf.NstraceProgKretprobePermission},
			}, missing: slices.Concat(moduleOpens, []string{"without --backend kprobe: opens with O_TRUNC on a read-only mount, and all opens if procfs itself is read-only"})},
		},
	},
	{
		name: "hostname", feed: []event.Type{event.SysctlWrite},
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFentryHostname, bpf.NstraceProgFexitHostname, bpf.NstraceProgFentryDomainname, fexitDomainname,
			}}, optional: hostname32Fentry},
			{backend: Kprobe, programs: [][]string{{
				bpf.NstraceProgKprobeHostname, bpf.NstraceProgKretprobeHostname, bpf.NstraceProgKprobeDomainname, kretprobeDomainname,
			}}, optional: hostname32Kprobe},
			{backend: Tracepoint, programs: [][]string{{
				bpf.NstraceProgTpHostnameEnter, bpf.NstraceProgTpHostnameExit, bpf.NstraceProgTpDomainnameEnter, tpDomainnameExit,
			}}, missing: compat},
		},
	},
	{
		name: "mount", feed: []event.Type{event.NamespaceCreate}, since: "open_namespace_file", // 7.0
		ways: []way{
			{backend: Fentry, programs: [][]string{{
				bpf.NstraceProgFentryOpenTree, bpf.NstraceProgFexitOpenTree, bpf.NstraceProgFentryFsmount, bpf.NstraceProgFexitFsmount,
			}}, optional: slices.Concat([]string{bpf.NstraceProgFentryOpenTreeAttr, fexitOpenTreeAttr}, mount32Fentry)},
			{backend: Kprobe, programs: [][]string{{
				bpf.NstraceProgKprobeOpenTree, bpf.NstraceProgKretprobeOpenTree, bpf.NstraceProgKprobeFsmount, bpf.NstraceProgKretprobeFsmount,
			}}, optional: slices.Concat([]string{bpf.NstraceProgKprobeOpenTreeAttr, kretprobeOpenTreeAttr}, mount32Kprobe)},
			{backend: Tracepoint, programs: [][]string{{
				bpf.NstraceProgTpOpenTreeEnter, bpf.NstraceProgTpFsmountEnter, tpOpenTreeExit, tpFsmountExit,
			}}, optional: []string{bpf.NstraceProgTpOpenTreeAttrEnter, tpOpenTreeAttrExit}, missing: compat},
		},
	},
	{
		name: "exec", feed: []event.Type{event.NamespaceEnter}, since: "exec_task_namespaces", // 6.3
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryExec, bpf.NstraceProgTpExecDone}}},
			{backend: Kprobe, programs: [][]string{
				{bpf.NstraceProgKprobeExec, bpf.NstraceProgPerfExecDone},
				{bpf.NstraceProgKprobeExec, bpf.NstraceProgTpExecDone},
			}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpExecEnter, bpf.NstraceProgTpExecDone}}},
		},
	},
	{
		name: "tamper", feed: []event.Type{event.TraceTamper},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgTpSignal, bpf.NstraceProgFentryBpf}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgTpSignal, bpf.NstraceProgKprobeBpf}}},
			{backend: Tracepoint, programs: [][]string{{bpf.NstraceProgTpSignal}}, optional: []string{bpf.NstraceProgTpBpf}, missing: compat},
		},
	},
	{
		name: "appear", feed: []event.Type{event.SysctlAppear},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFexitRegisterTable}, {bpf.NstraceProgFexitRegisterTable510}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKretprobeRegisterTable}}},
			lookAtParameters,
		},
	},
	{
		name: "vanish", feed: []event.Type{event.SysctlVanish},
		ways: []way{
			{backend: Fentry, programs: [][]string{{bpf.NstraceProgFentryUnregisterTable}}},
			{backend: Kprobe, programs: [][]string{{bpf.NstraceProgKprobeUnregisterTable}}},
			lookAtParameters,
		},
	},
	{
		name: "netdev", feed: []event.Type{event.NetdevMove},
		ways: []way{
			{backend: Fentry, programs: linkSets(
				[]string{bpf.NstraceProgFentryNewlink, bpf.NstraceProgFexitNewlink, fentrySetlink, fexitSetlink, bpf.NstraceProgFexitRegister},
				[][]string{
					{bpf.NstraceProgFentryMove, bpf.NstraceProgFexitMove},
					{bpf.NstraceProgFentryMove, bpf.NstraceProgFexitMove513},
					{fentryMove510, bpf.NstraceProgFexitMove510},
				},
				fexitRename615, bpf.NstraceProgFexitRename)},
			{backend: Kprobe, programs: linkSets(
				[]string{bpf.NstraceProgKprobeNewlink, bpf.NstraceProgKretprobeNewlink, kprobeSetlink, kretprobeSetlink, bpf.NstraceProgKprobeRegister, bpf.NstraceProgKretprobeRegister},
				[][]string{
					{bpf.NstraceProgKprobeMove, bpf.NstraceProgKretprobeMove},
					{kprobeMove510, kretprobeMove510},
				},
				kretprobeRename615, bpf.NstraceProgKretprobeRename)},
		},
	},
}

// linkSets returns the sets of programs that see devices move: those of all sets, with those of
// one function that moves a device and the one of a function that renames it.
func linkSets(all []string, moves [][]string, renames ...string) (sets [][]string) {
	for _, move := range moves {
		for _, rename := range renames {
			sets = append(sets, slices.Concat(all, move, []string{rename}))
		}
	}
	return sets
}

// pinKprobes are the entries and ends of the calls that can pin a namespace.
var pinKprobes = []string{
	bpf.NstraceProgKprobeMount, bpf.NstraceProgKretprobePin,
	bpf.NstraceProgKprobeMoveMount, kretprobeMoveMount, bpf.NstraceProgKprobeMoveResolved,
}

// snapshotPins is the way without a hook: no tracepoint says what is mounted.
var snapshotPins = way{
	backend: Tracepoint, programs: [][]string{{}}, files: []string{procfs.OwnMountinfo}, missing: []string{
		"who pinned, what failed, what lasted only a moment, and other mount namespaces than nstrace's own: pins are found by scanning its mounts",
	},
}

// lookAtParameters is the way without a hook: no tracepoint says that the kernel registers a parameter.
var lookAtParameters = way{
	backend: Tracepoint, programs: [][]string{{}}, missing: []string{
		"parameters that appear and vanish, except that nstrace record looks once a minute which ones there are",
	},
}

// params is how many parameters the kernel's function has, for programs that exist once for
// each number.
var params = map[string]int{
	bpf.NstraceProgFexitPermission:     3, // 5.12
	bpf.NstraceProgFexitPermission510:  2,
	bpf.NstraceProgKprobePermission:    3,
	bpf.NstraceProgKprobePermission510: 2,
	bpf.NstraceProgFexitMayOpen:        4, // 5.12
	bpf.NstraceProgFexitMayOpen510:     3,
	bpf.NstraceProgFexitMove:           5, // 6.16, and some 6.12
	bpf.NstraceProgFexitMove513:        4,
	bpf.NstraceProgFexitMove510:        3, // up to 5.12

	bpf.NstraceProgFexitRegisterTable:    4, // 6.5
	bpf.NstraceProgFexitRegisterTable510: 3,
}

// A program that is attached in several places has a further name for each further place. It
// is loaded once for all places that feed the same events, because the kernel counts missed
// runs by program.
const (
	tpCloneExit        = "tp_clone_exit"
	tpClone3Exit       = "tp_clone3_exit"
	tpSetnsExit        = "tp_setns_exit"
	tpOpenTreeExit     = "tp_open_tree_exit"
	tpFsmountExit      = "tp_fsmount_exit"
	tpOpenTreeAttrExit = "tp_open_tree_attr_exit"
	kretprobeSetns32   = "kretprobe_setns32"

	fexitOpenTreeAttr       = "fexit_open_tree_attr"
	kretprobeOpenTreeAttr   = "kretprobe_open_tree_attr"
	fexitHostname32         = "fexit_hostname32"
	kretprobeHostname32     = "kretprobe_hostname32"
	fexitDomainname32       = "fexit_domainname32"
	kretprobeDomainname32   = "kretprobe_domainname32"
	fexitOpenTree32         = "fexit_open_tree32"
	kretprobeOpenTree32     = "kretprobe_open_tree32"
	fexitOpenTreeAttr32     = "fexit_open_tree_attr32"
	kretprobeOpenTreeAttr32 = "kretprobe_open_tree_attr32"
	fexitFsmount32          = "fexit_fsmount32"
	kretprobeFsmount32      = "kretprobe_fsmount32"

	fexitDomainname     = "fexit_domainname"
	kretprobeDomainname = "kretprobe_domainname"
	tpDomainnameExit    = "tp_domainname_exit"

	fentrySetlink        = "fentry_setlink"
	fexitSetlink         = "fexit_setlink"
	kprobeSetlink        = "kprobe_setlink"
	kretprobeSetlink     = "kretprobe_setlink"
	fentryMove510        = "fentry_move_510"
	kprobeMove510        = "kprobe_move_510"
	kretprobeMove510     = "kretprobe_move_510"
	fexitRename615       = "fexit_rename_615"
	kretprobeRename615   = "kretprobe_rename_615"
	kretprobeMoveMount   = "kretprobe_move_mount"
	kretprobeMoveMount32 = "kretprobe_move_mount32"
	kretprobeUmount      = "kretprobe_umount"
	kprobeMove           = "kprobe_source_move"
	kprobeLink           = "kprobe_source_link"
)

// A programCopy is a further place for a program. A program for a trampoline is loaded separately,
// because the kernel checks it against the function that it is for.
type programCopy struct {
	of, section string
	alone       bool // loaded separately
}

var programCopies = map[string]programCopy{
	tpCloneExit:      {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_clone"},
	tpClone3Exit:     {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_clone3"},
	tpSetnsExit:      {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_setns", alone: true},
	tpOpenTreeExit:   {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_open_tree"},
	tpFsmountExit:    {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_fsmount"},
	kretprobeSetns32: {of: bpf.NstraceProgKretprobeSetns, section: "kretprobe/__ia32_sys_setns"},

	tpOpenTreeAttrExit: {of: bpf.NstraceProgTpCallExit, section: "tracepoint/syscalls/sys_exit_open_tree_attr"},

	fexitOpenTreeAttr:     {of: bpf.NstraceProgFexitOpenTree, section: "fexit/" + callPrefix + "open_tree_attr", alone: true},
	kretprobeOpenTreeAttr: {of: bpf.NstraceProgKretprobeOpenTree, section: "kretprobe/" + callPrefix + "open_tree_attr"},

	fexitHostname32:         {of: bpf.NstraceProgFexitHostname, section: "fexit/__ia32_sys_sethostname", alone: true},
	kretprobeHostname32:     {of: bpf.NstraceProgKretprobeHostname, section: "kretprobe/__ia32_sys_sethostname"},
	fexitDomainname32:       {of: bpf.NstraceProgFexitHostname, section: "fexit/__ia32_sys_setdomainname", alone: true},
	kretprobeDomainname32:   {of: bpf.NstraceProgKretprobeHostname, section: "kretprobe/__ia32_sys_setdomainname"},
	fexitOpenTree32:         {of: bpf.NstraceProgFexitOpenTree, section: "fexit/__ia32_sys_open_tree", alone: true},
	kretprobeOpenTree32:     {of: bpf.NstraceProgKretprobeOpenTree, section: "kretprobe/__ia32_sys_open_tree"},
	fexitOpenTreeAttr32:     {of: bpf.NstraceProgFexitOpenTree, section: "fexit/__ia32_sys_open_tree_attr", alone: true},
	kretprobeOpenTreeAttr32: {of: bpf.NstraceProgKretprobeOpenTree, section: "kretprobe/__ia32_sys_open_tree_attr"},
	fexitFsmount32:          {of: bpf.NstraceProgFexitFsmount, section: "fexit/__ia32_sys_fsmount", alone: true},
	kretprobeFsmount32:      {of: bpf.NstraceProgKretprobeFsmount, section: "kretprobe/__ia32_sys_fsmount"},

	fexitDomainname:     {of: bpf.NstraceProgFexitHostname, section: "fexit/" + callPrefix + "setdomainname", alone: true},
	kretprobeDomainname: {of: bpf.NstraceProgKretprobeHostname, section: "kretprobe/" + callPrefix + "setdomainname"},
	tpDomainnameExit:    {of: bpf.NstraceProgTpHostnameExit, section: "tracepoint/syscalls/sys_exit_setdomainname"},

	fentrySetlink:        {of: bpf.NstraceProgFentryNewlink, section: "fentry/rtnl_setlink", alone: true},
	fexitSetlink:         {of: bpf.NstraceProgFexitNewlink, section: "fexit/rtnl_setlink", alone: true},
	kprobeSetlink:        {of: bpf.NstraceProgKprobeNewlink, section: "kprobe/rtnl_setlink"},
	kretprobeSetlink:     {of: bpf.NstraceProgKretprobeNewlink, section: "kretprobe/rtnl_setlink"},
	fentryMove510:        {of: bpf.NstraceProgFentryMove, section: "fentry/dev_change_net_namespace", alone: true},
	kprobeMove510:        {of: bpf.NstraceProgKprobeMove, section: "kprobe/dev_change_net_namespace"},
	kretprobeMove510:     {of: bpf.NstraceProgKretprobeMove, section: "kretprobe/dev_change_net_namespace"},
	fexitRename615:       {of: bpf.NstraceProgFexitRename, section: "fexit/netif_change_name", alone: true},
	kretprobeRename615:   {of: bpf.NstraceProgKretprobeRename, section: "kretprobe/netif_change_name"},
	kretprobeMoveMount:   {of: bpf.NstraceProgKretprobePin, section: "kretprobe/" + callPrefix + "move_mount"},
	kretprobeMoveMount32: {of: bpf.NstraceProgKretprobePin, section: "kretprobe/__ia32_sys_move_mount"},
	kprobeMove:           {of: bpf.NstraceProgKprobeSource, section: "kprobe/do_move_mount"},
	kprobeLink:           {of: bpf.NstraceProgKprobeSource, section: "kprobe/nd_jump_link"},
	kretprobeUmount:      {of: bpf.NstraceProgKretprobePin, section: "kretprobe/path_umount", alone: true},
}

// at returns the program as it is attached in that place.
func (t programCopy) at(p *ebpf.ProgramSpec) *ebpf.ProgramSpec {
	q := p.Copy()
	q.SectionName = t.section
	_, q.AttachTo, _ = strings.Cut(t.section, "/")
	return q
}

// original returns the name under which the program is loaded.
func original(program string) string {
	if t, ok := programCopies[program]; ok && !t.alone {
		return t.of
	}
	return program
}

// compat: 32-bit system calls do not hit the tracepoints of system calls
// (arch_trace_is_compat_syscall() in arch/x86/include/asm/ftrace.h).
var compat = []string{"calls of 32-bit programs"}

// moduleOpens says what no hook on the kernel's own checks sees.
var moduleOpens = []string{"opens that only a security module refuses"}

// alwaysPrograms are attached beside the observations in every run.
var alwaysPrograms = []string{bpf.NstraceProgTaskExit, bpf.NstraceProgTpSetuidExec}

// followPrograms are attached beside the observations with Options.Follow.
var followPrograms = []string{bpf.NstraceProgFollowFork, bpf.NstraceProgFollowExit}

// extraPrograms returns the programs that are attached beside the observations.
func (o *Options) extraPrograms() []string {
	if o.Follow {
		return slices.Concat(alwaysPrograms, followPrograms)
	}
	return alwaysPrograms
}

// feeds reports whether the observation feeds an event of these types; nil is all. trace.tamper
// is always among them.
func (o *observation) feeds(types map[event.Type]bool) bool {
	return types == nil || slices.ContainsFunc(o.feed, func(t event.Type) bool { return types[t] || t == event.TraceTamper })
}

// observed returns the types of events to observe, nil for all: those that are wanted, and those
// that these need.
//
//	namespace.destroy   namespace.create: the creation says who made the namespace
//	namespace.unpin     namespace.pin
//	netdev.move         namespace.destroy, if processes are selected: the maker of a namespace
//	                    that ended stands for the process
func (o *Options) observed() map[event.Type]bool {
	if o.Filter.Types == nil {
		return nil
	}
	types := maps.Clone(o.Filter.Types)
	if types[event.NetdevMove] && (o.Follow || o.Filter.ByProcess()) {
		types[event.NamespaceDestroy] = true
	}
	if types[event.NamespaceDestroy] {
		types[event.NamespaceCreate] = true
	}
	if types[event.NamespaceUnpin] {
		types[event.NamespacePin] = true
	}
	return types
}
