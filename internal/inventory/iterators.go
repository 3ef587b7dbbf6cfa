// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/kerneltypes"
	"github.com/nstrace/nstrace/internal/lockdown"
	"github.com/nstrace/nstrace/internal/procfs"
)

// initPIDNS is PROC_PID_INIT_INO, the inode number of the initial PID namespace.
const initPIDNS = 0xeffffffc

var errNotInit = errors.New("nstrace is not in the initial PID namespace, and the iterators show the PIDs of that one")

// prepared is the object of the iterators, adapted to this kernel once for all inventories.
var prepared = sync.OnceValues(func() (*kerneltypes.Object, error) {
	spec, err := bpf.LoadInventory()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	return kerneltypes.Prepare(spec)
})

// loadIterators loads iterators that describe some kinds of namespaces, as 1 << enum ns_kind.
func loadIterators(kinds uint32, programs ...string) (*ebpf.Collection, error) {
	set := func(spec *ebpf.CollectionSpec) error {
		if err := spec.Variables[bpf.InventoryVarWanted].Set(kinds); err != nil {
			return fmt.Errorf("set what to describe: %w", err)
		}
		return nil
	}
	if o, err := prepared(); err == nil {
		coll, err := unlimited(func() (*ebpf.Collection, error) { return o.Load(set, programs...) })
		if err == nil || errors.Is(err, unix.EPERM) {
			return coll, err
		}
	}
	// This takes longer, but also works where the kernel's types are in another file, and says why
	// the kernel refuses a program.
	spec, err := bpf.LoadInventory()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(programs, name) })
	if err := set(spec); err != nil {
		return nil, err
	}
	return unlimited(func() (*ebpf.Collection, error) { return ebpf.NewCollection(spec) })
}

// unlimited loads an object, and lifts the limit on locked memory if the kernel refuses. 5.10 charges maps and
// programs against it. Package rlimit of cilium/ebpf would find that out at each start of nstrace, by a map that it
// makes.
func unlimited(load func() (*ebpf.Collection, error)) (*ebpf.Collection, error) {
	coll, err := load()
	if !errors.Is(err, unix.EPERM) {
		return coll, err
	}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) != nil {
		return nil, err // without privileges
	}
	return load()
}

// readIterators reads tasks and open files with BPF iterators. They need one system call for many
// tasks, while /proc needs tens for each.
func (b *builder) readIterators(ctx context.Context) error {
	if in, err := procfs.InInitial(event.NSTypePID); err != nil || !in {
		return errNotInit
	}
	if err := lockdown.Check(); err != nil { // up to 5.13 the iterators would show zeros
		return err
	}
	coll, err := loadIterators(b.kinds(), bpf.InventoryProgListTasks, bpf.InventoryProgListFiles)
	if err != nil {
		return err
	}
	defer coll.Close()
	pins := b.openMounted()
	defer pins.close()
	var files []bpf.InventoryFileRow
	walked := make(chan error, 1)
	go func() {
		walked <- walk(ctx, coll.Programs[bpf.InventoryProgListFiles], func(s *bpf.InventoryFileRow) { files = append(files, *s) })
	}()
	r := iterReader{b: b, cgroups: map[uint64]string{}}
	err = walk(ctx, coll.Programs[bpf.InventoryProgListTasks], r.task)
	if filesErr := <-walked; filesErr != nil {
		return fmt.Errorf("walk the open files: %w", filesErr)
	}
	if err != nil {
		return fmt.Errorf("walk the tasks: %w", err)
	}
	b.addProcesses()
	r.others()
	for i := range files {
		if !pins.take(&files[i]) {
			r.file(&files[i])
		}
	}
	b.pins = pins.ids
	return nil
}

// loadSame loads an iterator over all processes, which tells whether one is still the same.
func loadSame() (walkAll func(do func(processKey)) error, end func(), err error) {
	coll, err := loadIterators(0, bpf.InventoryProgListSame)
	if err != nil {
		return nil, nil, err
	}
	return func(do func(processKey)) error {
		return walk(context.Background(), coll.Programs[bpf.InventoryProgListSame], func(s *bpf.InventorySameRow) {
			do(processKey{s.Pid, s.Start, s.ArgStart, s.ArgEnd})
		})
	}, coll.Close, nil
}

// kinds returns the types to describe, as 1 << enum ns_kind: those that are wanted, and those that are
// needed on the way to them.
func (b *builder) kinds() (mask uint32) {
	for i, t := range types {
		needed := t == event.NSTypeMnt || t == event.NSTypePID // see readMounts, findHost
		if b.wanted[i] || needed {
			mask |= 1 << i
		}
	}
	return mask
}

// walk runs an iterator and calls do for each record that it writes, until ctx ends.
func walk[T any](ctx context.Context, program *ebpf.Program, do func(*T)) error {
	it, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return err
	}
	defer it.Close()
	file, err := it.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	size := int(unsafe.Sizeof(*new(T)))
	records := make([]T, max(1, 64<<10/size))
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&records[0])), len(records)*size)
	have := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := file.Read(buf[have:])
		have += n
		for i := range have / size {
			do(&records[i])
		}
		rest := have % size // a read can end within a record
		copy(buf, buf[have-rest:have])
		have = rest
		switch {
		case errors.Is(err, io.EOF) && rest == 0:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// An iterReader turns the records of the iterators into those of the builder.
type iterReader struct {
	b       *builder
	cgroups map[uint64]string // paths, by the address of the css_set
	threads []*taskRecord     // to be added when all first threads are known
	record  taskRecord        // of the current task
}

func (r *iterReader) task(s *bpf.InventoryTaskRow) {
	if s.Pid == r.b.o.Without {
		for _, ns := range append(s.Ns[:], s.ForChildren[:]...) {
			r.b.own[ns.NsId] = true
		}
		return
	}
	r.b.inv.idsPerType = s.IdsPerType != 0
	t := &r.record
	*t = taskRecord{tid: s.Tid, Process: Process{
		PID: s.Pid, PPID: s.Ppid, UID: s.Uid, Start: s.Start, Comm: text(&s.Comm),
		argStart: s.ArgStart, argEnd: s.ArgEnd,
	}}
	for i := range s.Ns {
		t.all[i] = recordOf(&s.Ns[i])
		t.ns[i] = s.Ns[i].Inum
		switch types[i] {
		case event.NSTypePID:
			t.all[i].parent = s.PidParent
		case event.NSTypeUser:
			t.all[i].owned, t.all[i].owner = true, s.UserOwner
		}
	}
	for i := range s.ForChildren {
		t.forChildren[i] = recordOf(&s.ForChildren[i])
	}
	if s.Tid != s.Pid {
		thread := *t
		r.threads = append(r.threads, &thread)
		return
	}
	t.Cgroup = r.cgroup(s)
	r.b.process(t)
}

func recordOf(s *bpf.InventoryNsRow) nsRecord {
	return nsRecord{id: s.Inum, kernel: s.NsId, userNS: s.UserNs}
}

// others adds the other threads. A process whose first thread has ended has only these.
func (r *iterReader) others() {
	for _, t := range r.threads {
		r.b.thread(t, r.b.inv.processes[t.PID])
	}
}

// cgroup returns the path of the cgroup of a process, "" if it is unknown. It reads the path once for
// all processes that are in the same cgroups.
func (r *iterReader) cgroup(s *bpf.InventoryTaskRow) string {
	path, ok := r.cgroups[s.Cgroups]
	if ok {
		return path
	}
	p := procReader{b: r.b, buf: make([]byte, 4096)}
	dir := "/proc/" + strconv.FormatUint(uint64(s.Pid), 10)
	path = attribution.ParseProcCgroup(string(p.read(dir + "/cgroup")))
	// Another process can have the PID by now.
	var now Process
	if _, ok := p.stat(dir, &now); !ok || now.Start != procfs.StartTicks(s.Start)*tick {
		return ""
	}
	r.cgroups[s.Cgroups] = path
	return path
}

func (r *iterReader) file(s *bpf.InventoryFileRow) {
	if s.Pid == r.b.o.Without {
		r.b.own[s.Ns.NsId] = true
		return
	}
	if int(s.Kind) >= len(types) {
		return
	}
	n := r.b.of(Ref{types[s.Kind], s.Ns.Inum})
	if n == nil {
		return
	}
	rec := recordOf(&s.Ns)
	n.note(&rec)
	d := Descriptor{PID: s.Pid, TID: s.Tid, Comm: text(&s.Comm), FD: s.Fd}
	if s.Socket != 0 {
		n.Sockets = append(n.Sockets, d)
	} else {
		n.Descriptors = append(n.Descriptors, d)
	}
}

// text returns a string that the kernel ends with NUL.
func text(c *[16]int8) string {
	var b [len(c)]byte
	n := 0
	for ; n < len(c) && c[n] != 0; n++ {
		b[n] = byte(c[n])
	}
	return string(b[:n])
}
