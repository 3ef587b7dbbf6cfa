// SPDX-License-Identifier: Apache-2.0

// Package inventory finds the namespaces that exist on a host, the processes in them, and
// everything else that keeps them alive.
//
// It reads tasks and open files with BPF iterators where the kernel and the caller's privileges
// allow it, and from /proc elsewhere; both give the same answer. Mounts come from /proc in either
// case. From Linux 6.19 on, listns(2) adds namespaces that neither shows.
//
// Namespaces and processes come and go while an inventory is taken. What disappears meanwhile is
// left out. An inventory holds no namespace: no file of one stays open.
//
// All of what it reads is under the control of other users: names, counts and timing can be
// anything, and what a path leads to can change between two calls.
package inventory

import (
	"cmp"
	"slices"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// A Ref identifies a namespace among those that exist at one time.
type Ref struct {
	Type event.NSType
	ID   uint32 // inode number on nsfs
}

// A Namespace is a namespace and what keeps it alive, as far as user space can see it.
// Descriptors in flight through a Unix socket and mounts in a mount namespace without tasks are
// invisible.
type Namespace struct {
	Ref
	KernelID uint64 // the kernel's 64-bit id, which it never uses again; 0 if unknown (before 6.18)
	Host     bool   // it is that of process 1

	Parent   uint32  // of a PID or user namespace; 0 for the topmost visible one
	UserNS   uint32  // the user namespace that owns it; for a user namespace its parent; 0 if unknown
	OwnerUID *uint32 // of a user namespace: the user who made it; nil if unknown

	Processes   int          // processes whose first thread is in it
	Oldest      *Process     // the one of Processes that started first
	Threads     []Task       // threads in it whose process's first thread is in another one
	ForChildren []Task       // tasks that are not in it, but whose next child will be
	Mounts      []Mount      // mounts of its file
	Descriptors []Descriptor // open files of it
	Sockets     []Descriptor // sockets of a network namespace that processes in another one hold
	Children    []Ref        // PID or user namespaces right below a PID or user namespace
	Owned       []Ref        // namespaces that a user namespace owns, except its children

	// Unseen means that only listns(2) knows the namespace: something invisible holds it.
	Unseen bool

	// Name is the name of a network namespace in /run/netns or /run/docker/netns, as the host's
	// mount namespace has them.
	Name     string
	nameRank int // the index of its directory in procfs.NetnsDirs

	// Owner is the workload that it belongs to; nil for the host's, and if unknown.
	Owner     *event.Owner
	residents []*attribution.Workload // those of the processes in it, until Owner is set

	// Created and Creator are set by who has a history; zero if unknown.
	Created time.Time
	Creator *event.Process
}

// Held reports whether anything but processes was found that keeps the namespace alive.
func (n *Namespace) Held() bool { return n.Holders() > 0 }

// Holders returns how many holders other than processes were found.
func (n *Namespace) Holders() int {
	return len(n.Threads) + len(n.ForChildren) + len(n.Mounts) + len(n.Descriptors) + len(n.Sockets) + len(n.Children) + len(n.Owned)
}

// A Process is a process, by its first thread.
type Process struct {
	PID    uint32
	PPID   uint32 // 0 for process 1, kthreadd, and if the parent is in an outer PID namespace
	UID    uint32
	Comm   string   // up to 15 bytes, any but NUL
	Start  uint64   // when it started: nanoseconds since boot, in steps of 10 ms from /proc
	Cgroup string   // path in the hierarchy that nstrace attributes by; "" if unknown
	Args   []string // the arguments, at most 1,024 bytes of them; nil before ReadCommands

	ns [len(types)]uint32 // by types; 0 if unknown

	argStart, argEnd uint64 // where in its memory the arguments are, from the iterators
}

// In returns the id of the namespace of a type that the process is in, 0 if unknown.
func (p *Process) In(t event.NSType) uint32 {
	if i := slices.Index(types[:], t); i >= 0 {
		return p.ns[i]
	}
	return 0
}

// A Task is a thread.
type Task struct {
	PID  uint32
	TID  uint32 // the same as PID for the first thread
	Comm string // of the thread
}

// A Mount is a mount of a namespace's file, in one mount namespace.
type Mount struct {
	Path    string // as that mount namespace has it
	ID      uint32 // of the mount
	MountNS uint32
	PID     uint32 // a process in it: /proc/PID/root leads to Path

	order uint32 // of the mounts of a mount namespace, as mountinfo lists them
}

// A Descriptor is an open file of a process.
type Descriptor struct {
	PID  uint32
	TID  uint32 // of the first thread that has it: usually the same as PID, as threads share files
	Comm string // of that thread
	FD   uint32
}

// types are the namespace types by enum ns_kind of the kernel side.
var types = [...]event.NSType{
	bpf.NstraceNsKindNS_USER:   event.NSTypeUser,
	bpf.NstraceNsKindNS_MNT:    event.NSTypeMnt,
	bpf.NstraceNsKindNS_PID:    event.NSTypePID,
	bpf.NstraceNsKindNS_NET:    event.NSTypeNet,
	bpf.NstraceNsKindNS_UTS:    event.NSTypeUTS,
	bpf.NstraceNsKindNS_IPC:    event.NSTypeIPC,
	bpf.NstraceNsKindNS_CGROUP: event.NSTypeCgroup,
	bpf.NstraceNsKindNS_TIME:   event.NSTypeTime,
}

// An Inventory is the namespaces of a host at one time.
type Inventory struct {
	Source Source                  // where tasks and files come from
	Boot   string                  // the kernel's random id of this boot
	Host   map[event.NSType]uint32 // the namespaces of process 1; without what may not be read

	// Incomplete says what could not be read, one line each. Without holders it says nothing
	// about them.
	Incomplete []string

	// Cut says that something is missing because there was no time to read it. What is not in the
	// inventory can exist, then.
	Cut bool

	namespaces map[Ref]*Namespace
	processes  map[uint32]*Process
	workloads  attribution.Workloads
	idsPerType bool // KernelID is unique only among the namespaces of a type (before 6.18)
}

// A Source says where the tasks and open files of an inventory come from.
type Source string

// Sources.
const (
	Iterators Source = "bpf"  // BPF task and file iterators
	Proc      Source = "proc" // /proc/PID
)

// Find returns a namespace, nil if it is not in the inventory.
func (inv *Inventory) Find(r Ref) *Namespace { return inv.namespaces[r] }

// FindID returns the namespace with an inode number, nil for none. Types share the numbers.
func (inv *Inventory) FindID(id uint32) *Namespace {
	for _, t := range types {
		if n := inv.namespaces[Ref{t, id}]; n != nil {
			return n
		}
	}
	return nil
}

// Process returns a process, nil if it is not in the inventory.
func (inv *Inventory) Process(pid uint32) *Process { return inv.processes[pid] }

// Processes returns all processes, by PID.
func (inv *Inventory) Processes() []*Process {
	all := make([]*Process, 0, len(inv.processes))
	for _, p := range inv.processes {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Process) int { return cmp.Compare(a.PID, b.PID) })
	return all
}

// ProcessesIn returns the processes whose first thread is in a namespace, by PID.
func (inv *Inventory) ProcessesIn(r Ref) []*Process {
	return slices.DeleteFunc(inv.Processes(), func(p *Process) bool { return p.In(r.Type) != r.ID })
}

// With returns the namespaces that a process is in for which match returns true.
func (inv *Inventory) With(match func(*Process) bool) map[Ref]bool {
	in := map[Ref]bool{}
	for _, p := range inv.processes {
		if match(p) {
			for i, id := range p.ns {
				in[Ref{types[i], id}] = true
			}
		}
	}
	return in
}

// OldestOf returns the oldest process of each namespace that has one, without repetition.
func OldestOf(all []*Namespace) (oldest []*Process) {
	seen := map[*Process]bool{}
	for _, n := range all {
		if n.Oldest != nil && !seen[n.Oldest] {
			seen[n.Oldest] = true
			oldest = append(oldest, n.Oldest)
		}
	}
	return oldest
}

// Namespaces returns all namespaces: by type in the order of event.NSTypes, then by id.
func (inv *Inventory) Namespaces() []*Namespace {
	all := make([]*Namespace, 0, len(inv.namespaces))
	for _, n := range inv.namespaces {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *Namespace) int { return compareRefs(a.Ref, b.Ref) })
	return all
}

func compareRefs(a, b Ref) int {
	return cmp.Or(CompareTypes(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
}

// CompareTypes compares types by their order in event.NSTypes.
func CompareTypes(a, b event.NSType) int {
	if a == b {
		return 0
	}
	return cmp.Compare(slices.Index(typeOrder, a), slices.Index(typeOrder, b))
}

var typeOrder = event.NSTypes()
