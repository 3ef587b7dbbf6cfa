// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/share"
)

// Options say what an inventory is to contain. The zero value asks for everything.
type Options struct {
	// Types are the namespace types to find; nil for all.
	Types []event.NSType
	// Source forces a source; empty for the best one that works.
	Source Source
	// FilesOnly leaves out tasks: it finds mounts and descriptors, from /proc, and follows
	// no path through another process's mounts.
	FilesOnly bool
	// Without is a process to leave out, with all that only it holds; 0 for none.
	Without uint32
}

// ErrSource is the error if Options.Source forces a source that does not work.
var ErrSource = errors.New("the BPF iterators do not work here")

// mountLimits are how long reading the mounts of mount namespaces may take. Users can make any number of
// namespaces, each with any number of mounts.
var mountLimits = share.Limits{Total: 5 * time.Second, User: time.Second, Item: time.Second}

// Take takes an inventory. It never fails because something disappears meanwhile. The error says
// why nothing could be read: /proc is missing, a forced source does not work, or ctx ended before the
// tasks were read. If ctx ends later, the inventory is cut.
func Take(ctx context.Context, o Options) (*Inventory, error) {
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	if err := b.read(ctx); err != nil {
		return nil, err
	}
	return b.inv, nil
}

// A builder makes an inventory from what a source reports.
type builder struct {
	inv     *Inventory
	o       Options
	wanted  [len(types)]bool
	mountNS map[uint32][]uint32 // some processes of each mount namespace
	related map[Ref]bool
	pins    map[Ref]nsRecord // what the iterators say about mounted namespaces
	own     map[uint64]bool  // 64-bit ids of what the process to leave out is in or holds
	found   [][]Process      // what is in inv.processes once all are known
}

func newBuilder(o Options) (*builder, error) {
	b := &builder{
		o: o, mountNS: map[uint32][]uint32{}, related: map[Ref]bool{}, own: map[uint64]bool{},
		inv: &Inventory{
			Boot: procfs.BootID(), Host: procfs.HostNamespaces(),
			namespaces: map[Ref]*Namespace{}, workloads: attribution.Workloads{Dirs: attribution.ShownCgroupDirs()},
		},
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &st); err != nil {
		return nil, &procError{"find the device of namespaces (is procfs mounted on /proc?)", err}
	}
	for i, t := range types {
		b.wanted[i] = o.Types == nil || slices.Contains(o.Types, t)
	}
	return b, nil
}

type procError struct {
	doing string
	err   error
}

func (e *procError) Error() string { return e.doing + ": " + e.err.Error() }
func (e *procError) Unwrap() error { return e.err }

// A taskRecord is what a source reports of a task.
type taskRecord struct {
	Process
	tid         uint32
	forChildren [2]nsRecord // PID and time; id 0: the same as in ns
	all         [len(types)]nsRecord
}

// An nsRecord is what a source reports of a namespace.
type nsRecord struct {
	id     uint32
	kernel uint64
	userNS uint32 // 0 if unknown
	parent uint32 // of a PID namespace, if known
	owned  bool   // owner is known
	owner  uint32 // of a user namespace: the user who made it
}

func (b *builder) wants(t event.NSType) bool { return b.wanted[slices.Index(types[:], t)] }

// of returns the entry of a namespace, and adds it if it is new; nil if it is not wanted.
func (b *builder) of(r Ref) *Namespace {
	n := b.inv.namespaces[r]
	if n == nil {
		i := slices.Index(types[:], r.Type)
		if i < 0 || r.ID == 0 || !b.wanted[i] {
			return nil
		}
		n = &Namespace{Ref: r, Host: b.inv.Host[r.Type] == r.ID}
		b.inv.namespaces[r] = n
	}
	return n
}

// process adds the first thread of a process. It keeps nothing of t.
func (b *builder) process(t *taskRecord) {
	p := b.keep(t.Process)
	b.inMountNS(p.In(event.NSTypeMnt), p.PID)
	for i := range types {
		if t.all[i].id == 0 || !b.wanted[i] {
			continue
		}
		n := b.of(Ref{types[i], t.all[i].id})
		n.note(&t.all[i])
		n.Processes++
		if n.Oldest == nil || cmp.Or(cmp.Compare(p.Start, n.Oldest.Start), cmp.Compare(p.PID, n.Oldest.PID)) < 0 {
			n.Oldest = p
		}
	}
	b.forChildren(t, Task{PID: p.PID, TID: p.PID, Comm: p.Comm})
}

// keep keeps a process, until addProcesses adds all to the inventory. A map that grows to its size, and an
// allocation for each process, would take twice the memory.
func (b *builder) keep(p Process) *Process {
	last := len(b.found) - 1
	if last < 0 || len(b.found[last]) == cap(b.found[last]) {
		const together = 128 // 16 KiB
		b.found = append(b.found, make([]Process, 0, together))
		last++
	}
	b.found[last] = append(b.found[last], p)
	return &b.found[last][len(b.found[last])-1]
}

// addProcesses adds the processes to the inventory.
func (b *builder) addProcesses() {
	n := 0
	for _, part := range b.found {
		n += len(part)
	}
	b.inv.processes = make(map[uint32]*Process, n)
	for _, part := range b.found {
		for i := range part {
			b.inv.processes[part[i].PID] = &part[i]
		}
	}
	b.found = nil
}

// thread adds another thread of a process, which is in other namespaces than its first one.
func (b *builder) thread(t *taskRecord, first *Process) {
	task := Task{PID: t.PID, TID: t.tid, Comm: t.Comm}
	for i := range types {
		if first != nil && first.ns[i] == t.all[i].id {
			continue
		}
		if types[i] == event.NSTypeMnt {
			b.inMountNS(t.all[i].id, t.tid)
		}
		if n := b.of(Ref{types[i], t.all[i].id}); n != nil {
			n.note(&t.all[i])
			n.Threads = append(n.Threads, task)
		}
	}
	b.forChildren(t, task)
}

// inMountNS notes that a task is in a mount namespace, whose mounts are then read. An id of 0 is unknown.
func (b *builder) inMountNS(id, tid uint32) {
	if id != 0 && len(b.mountNS[id]) < mountTries {
		b.mountNS[id] = append(b.mountNS[id], tid)
	}
}

func (b *builder) forChildren(t *taskRecord, task Task) {
	for i, typ := range []event.NSType{event.NSTypePID, event.NSTypeTime} {
		if r := &t.forChildren[i]; r.id != 0 && r.id != t.In(typ) {
			if n := b.of(Ref{typ, r.id}); n != nil {
				n.note(r)
				n.ForChildren = append(n.ForChildren, task)
			}
		}
	}
}

func (n *Namespace) note(r *nsRecord) {
	if n.KernelID == 0 {
		n.KernelID = r.kernel
	}
	if n.UserNS == 0 {
		n.UserNS = r.userNS
	}
	if n.Parent == 0 {
		n.Parent = r.parent
	}
	if n.Type == event.NSTypeUser {
		n.Parent = n.UserNS
		if n.OwnerUID == nil && r.owned {
			owner := r.owner
			n.OwnerUID = &owner
		}
	}
}

// cut notes what there was no time to read.
func (b *builder) cut(format string, args ...any) {
	b.inv.Cut = true
	b.incomplete(format+": no time", args...)
}

// failed notes that something could not be read because the host, or this process, has no descriptor or
// memory left for it at the moment.
func (b *builder) failed(err error) {
	if b.inv.Cut || !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOMEM) {
		return
	}
	b.inv.Cut = true
	b.incomplete("some processes and files: %v", err)
}

// incomplete notes what could not be read.
func (b *builder) incomplete(format string, args ...any) {
	b.inv.Incomplete = append(b.inv.Incomplete, fmt.Sprintf(format, args...))
}

// read asks the source, and adds what is not about tasks and files.
func (b *builder) read(ctx context.Context) error {
	if err := b.readTasks(ctx); err != nil {
		return err
	}
	b.findHost()
	b.readMounts(ctx)
	for ref, rec := range b.pins {
		if n := b.inv.namespaces[ref]; n != nil {
			n.note(&rec)
		}
	}
	if b.o.FilesOnly {
		return nil
	}
	b.relateAll(ctx)
	// /proc does not say which namespaces the process to leave out holds.
	if b.o.Without == 0 || b.inv.Source == Iterators {
		b.addUnseen(ctx)
	}
	b.link()
	b.inv.attribute()
	mountNS := b.inv.Host[event.NSTypeMnt]
	if mountNS == 0 {
		mountNS, _ = procfs.NamespaceOf("self", event.NSTypeMnt)
	}
	b.inv.name(mountNS)
	return nil
}

// findHost completes the namespaces of the host if the caller may not read /proc/1/ns. kthreadd, which
// has PID 2 in the initial PID namespace, never leaves the first namespace of each type.
func (b *builder) findHost() {
	for _, pid := range []uint32{1, 2} {
		p := b.inv.processes[pid]
		if p == nil || p.In(event.NSTypePID) != initPIDNS || pid == 2 && p.PPID != 0 {
			continue
		}
		for _, t := range types {
			if b.inv.Host[t] == 0 && p.In(t) != 0 {
				b.inv.Host[t] = p.In(t)
			}
		}
	}
	for _, n := range b.inv.namespaces {
		n.Host = b.inv.Host[n.Type] == n.ID
	}
}

// readTasks asks the best source that works, or the forced one.
func (b *builder) readTasks(ctx context.Context) error {
	if b.o.Source != Proc && !b.o.FilesOnly {
		err := b.readIterators(ctx)
		if err == nil {
			b.inv.Source = Iterators
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if b.o.Source == Iterators {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		clear(b.inv.namespaces)
		b.inv.processes = nil
		b.found = nil
		clear(b.mountNS)
	}
	b.inv.Source = Proc
	if !procfs.ShowsAll() {
		b.incomplete("what only processes outside nstrace's PID namespace use")
	}
	return b.readProc(ctx)
}

// readMounts adds the mounts in all mount namespaces, the caller's first.
func (b *builder) readMounts(ctx context.Context) {
	ids := slices.Collect(maps.Keys(b.mountNS))
	own, _ := procfs.NamespaceOf("self", event.NSTypeMnt)
	host := b.inv.Host[event.NSTypeMnt]
	rank := func(id uint32) int {
		switch id {
		case host:
			return 0
		case own:
			return 1
		}
		return 2
	}
	slices.SortFunc(ids, func(x, y uint32) int { return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x, y)) })
	read := 0
	user := func(id uint32) uint32 {
		if n := b.inv.namespaces[Ref{event.NSTypeMnt, id}]; n != nil {
			return b.inv.User(n)
		}
		return share.Unknown
	}
	share.Each(ctx, mountLimits, ids, user, func(ctx context.Context, id uint32) {
		if b.mounts(ctx, id, b.mountNS[id]) {
			read++
		}
	})
	if read < len(ids) {
		b.cut("the mounts in %d of %d mount namespaces", len(ids)-read, len(ids))
	}
}

// relateAll finds the parents and owners that the source did not report, by opening a file of the
// namespace. Whatever it finds above is added.
func (b *builder) relateAll(ctx context.Context) {
	for _, n := range b.inv.Namespaces() {
		if ctx.Err() != nil {
			b.cut("some parents and owners of namespaces")
			return
		}
		if b.related[n.Ref] || n.complete() && b.has(n.Type, n.Parent) && b.has(event.NSTypeUser, n.UserNS) {
			continue
		}
		if f := b.inv.open(n); f != nil {
			b.relate(int(f.Fd()), n)
			f.Close()
		}
	}
}

// link enters namespaces at their parents and owners.
func (b *builder) link() {
	for _, n := range b.inv.Namespaces() {
		r := n.Ref
		if up := b.inv.namespaces[Ref{r.Type, n.Parent}]; up != nil {
			up.Children = append(up.Children, r)
		}
		if r.Type == event.NSTypeUser {
			continue
		}
		if owner := b.inv.namespaces[Ref{event.NSTypeUser, n.UserNS}]; owner != nil {
			owner.Owned = append(owner.Owned, r)
		}
	}
}

// has reports whether a namespace was found, or is not wanted; there is none with id 0.
func (b *builder) has(typ event.NSType, id uint32) bool {
	return id == 0 || !b.wants(typ) || b.inv.namespaces[Ref{typ, id}] != nil
}

// complete reports whether the source said what there is to know about the relatives.
func (n *Namespace) complete() bool {
	switch n.Type {
	case event.NSTypeUser:
		return n.OwnerUID != nil
	case event.NSTypePID:
		return n.UserNS != 0 && n.Parent != 0
	}
	return n.UserNS != 0
}

// relate finds the parent and the owner of an open namespace, and of all above it.
func (b *builder) relate(fd int, n *Namespace) {
	if b.o.FilesOnly || b.related[n.Ref] {
		return
	}
	b.related[n.Ref] = true
	if n.KernelID == 0 {
		n.KernelID = procfs.HandleIDOf(fd)
	}
	if n.Type == event.NSTypeUser {
		if uid, err := ownerUID(fd); err == nil {
			n.OwnerUID = &uid
		}
	}
	if n.Type == event.NSTypePID || n.Type == event.NSTypeUser {
		n.Parent = cmp.Or(b.above(fd, unix.NS_GET_PARENT, n.Type), n.Parent)
	}
	if n.Type == event.NSTypeUser {
		n.UserNS = n.Parent
		return
	}
	n.UserNS = cmp.Or(b.above(fd, unix.NS_GET_USERNS, event.NSTypeUser), n.UserNS)
}

// above returns the id of the namespace that is the parent or the owner of an open one, 0 if there
// is none or if it is above the caller's. It adds it, and what is above it.
func (b *builder) above(fd int, request uint, typ event.NSType) uint32 {
	up, err := unix.IoctlRetInt(fd, request)
	if err != nil {
		return 0
	}
	defer unix.Close(up)
	id := inode(up)
	if n := b.of(Ref{typ, id}); n != nil {
		b.relate(up, n)
	}
	return id
}

// ownerUID returns the user who made a user namespace, as the caller's user namespace maps it.
func ownerUID(fd int) (uint32, error) {
	var uid uint32
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.NS_GET_OWNER_UID, uintptr(unsafe.Pointer(&uid)))
	if errno != 0 {
		return 0, errno
	}
	return uid, nil
}
