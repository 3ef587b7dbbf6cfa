// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// An attachment is what a Tracer has in the kernel: programs, maps and the ring. It is the
// kernelLookups of an interpreter. The maps, the ring and the program that walks the tasks
// outlast a fallback to other programs.
type attachment struct {
	loaded  *loaded
	walk    *ebpf.Program // iter_tasks
	tracees *ebpf.Map
	ring    *ringbuf.Reader
	counts  *ebpf.Memory                 // of struct counters, one for each CPU
	folds   *ebpf.Memory                 // of struct fold, one for each slot
	shares  *ebpf.Memory                 // of struct share, one for each slot
	objects map[bpf.NstraceOwnKey]string // names of the programs, maps and links
	proven  time.Time                    // when the kernel was last known to run the programs
	offs    uint64                       // how often ftrace was off, as far as wasOff knows
	perType bool                         // see registry
	skips   *skips
	pids    *pidSpace

	globals *ebpf.Memory // the section that has unseen_writes
	unseen  uint32       // where that is in it
	unseens uint32       // how many times it has
}

// newAttachment takes over what was loaded.
func newAttachment(l *loaded, perType bool) (*attachment, error) {
	a := &attachment{
		loaded: l, proven: l.proven, perType: perType, pids: l.pids, skips: newSkips(),
		walk: l.coll.Programs[bpf.NstraceProgIterTasks], tracees: l.coll.Maps[bpf.NstraceMapTracees],
	}
	var err error
	if a.ring, err = ringbuf.NewReader(l.coll.Maps[bpf.NstraceMapRing]); err != nil {
		return a, fmt.Errorf("read the ring buffer: %w", err)
	}
	if a.counts, err = l.coll.Maps[bpf.NstraceMapCounts].Memory(); err != nil {
		return a, fmt.Errorf("map the counters: %w", err)
	}
	if a.folds, err = l.coll.Maps[bpf.NstraceMapFolds].Memory(); err != nil {
		return a, fmt.Errorf("map the counts of repeats: %w", err)
	}
	if a.shares, err = l.coll.Maps[bpf.NstraceMapShares].Memory(); err != nil {
		return a, fmt.Errorf("map the shares of the ring: %w", err)
	}
	unseen := l.spec.Variables[bpf.NstraceVarUnseenWrites]
	a.unseen, a.unseens = unseen.Offset, unseen.Size()/8
	if a.globals, err = l.coll.Maps[unseen.SectionName].Memory(); err != nil {
		return a, fmt.Errorf("map the times of writes that nobody sees: %w", err)
	}
	return a, nil
}

// observations returns how each observation is attached. It can be called once after
// loading.
func (l *loaded) observations() (all []event.Observation) {
	for _, c := range l.picks {
		all = append(all, c.report())
	}
	return all
}

// byTracepoint reports whether an observation is attached by the tracepoint way, which lacks
// what user space then finds out.
func (l *loaded) byTracepoint(observation string) bool {
	return slices.ContainsFunc(l.picks, func(c choice) bool {
		return c.obs.name == observation && c.way != nil && c.way.backend == Tracepoint
	})
}

// wake makes a read of the ring return.
func (a *attachment) wake() { a.ring.Flush() }

// setStopping makes the programs ignore calls that begin from now on, or not any more.
func (a *attachment) setStopping(stopping bool) error {
	if err := a.loaded.coll.Variables[bpf.NstraceVarStopping].Set(stopping); err != nil {
		return fmt.Errorf("set %s: %w", bpf.NstraceVarStopping, err)
	}
	return nil
}

// requestWakeup makes the next program that sends a record wake the reader. One that sent a
// record before does not.
func (a *attachment) requestWakeup() error {
	if err := a.loaded.coll.Variables[bpf.NstraceVarReaderAsleep].Set(uint32(1)); err != nil {
		return fmt.Errorf("set %s: %w", bpf.NstraceVarReaderAsleep, err)
	}
	return nil
}

// unseenWrite returns when the filter last dropped a record of a write to a parameter, one was folded or missed, or any
// record was lost, CLOCK_BOOTTIME. It is called for many writes, so it reads no more than that.
func (a *attachment) unseenWrite(file string) uint64 {
	var name [16]byte // with a NUL
	copy(name[:len(name)-1], path.Base(file))
	h := uint32(0)
	for _, b := range name {
		h = h*31 + uint32(b)
	}
	last, ok := timeAt(a.globals, a.unseen+h%a.unseens*8)
	for cpu := range a.loaded.coll.Maps[bpf.NstraceMapCounts].MaxEntries() {
		counters := cpu * uint32(unsafe.Sizeof(bpf.NstraceCounters{}))
		for _, offset := range [...]uintptr{unsafe.Offsetof(bpf.NstraceCounters{}.LastLost), unsafe.Offsetof(bpf.NstraceCounters{}.LastUnsent)} {
			at, found := timeAt(a.counts, counters+uint32(offset))
			last, ok = max(last, at), ok && found
		}
	}
	if !ok {
		return math.MaxUint64
	}
	return last
}

// timeAt reads a time that BPF programs set.
func timeAt(m *ebpf.Memory, offset uint32) (at uint64, ok bool) {
	var b [8]byte
	_, err := m.ReadAt(b[:], int64(offset))
	return binary.NativeEndian.Uint64(b[:]), err == nil
}

// snapshot returns the namespaces that exist.
func (a *attachment) snapshot() (inv taskSnapshot, err error) {
	if inv.tasks, err = a.tasks(); err != nil {
		return inv, err
	}
	// The walk found these.
	if err := a.loaded.coll.Variables[bpf.NstraceVarHostNs].Get(&inv.host); err != nil {
		return inv, fmt.Errorf("read the host's namespaces: %w", err)
	}
	var name [65]byte // __NEW_UTS_LEN + 1
	if err := a.loaded.coll.Variables[bpf.NstraceVarHostName].Get(&name); err != nil {
		return inv, fmt.Errorf("read the host's name: %w", err)
	}
	inv.name = unix.ByteSliceToString(name[:])
	return inv, nil
}

func (a *attachment) tasks() ([]bpf.NstraceTaskNs, error) {
	tasks, err := readIterator[bpf.NstraceTaskNs](a.walk)
	if err != nil {
		return nil, fmt.Errorf("walk the tasks: %w", err)
	}
	return tasks, nil
}

// readIterator runs an iterator and returns the records that it writes.
func readIterator[T any](program *ebpf.Program) ([]T, error) {
	it, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var records []T
	for len(all) > 0 {
		var r T
		if err := fixed(&all, &r); err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

func (a *attachment) fold(slot uint32) (k bpf.NstraceFold, err error) {
	b := make([]byte, unsafe.Sizeof(k))
	if _, err := a.folds.ReadAt(b, foldOffset(slot)); err != nil {
		return k, fmt.Errorf("read the counts of repeats: %w", err)
	}
	return k, fixed(&b, &k)
}

func (a *attachment) takeFold(slot uint32, taken uint64) error {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], taken)
	if _, err := a.folds.WriteAt(b[:], foldOffset(slot)+int64(unsafe.Offsetof(bpf.NstraceFold{}.Reported))); err != nil {
		return fmt.Errorf("take the counts of repeats: %w", err)
	}
	return nil
}

func foldOffset(slot uint32) int64 { return int64(slot) * int64(unsafe.Sizeof(bpf.NstraceFold{})) }

func (a *attachment) missedExits() uint64 {
	exit := a.loaded.coll.Programs[bpf.NstraceProgTpExit]
	if exit == nil {
		return 0
	}
	stats, err := exit.Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}

func (a *attachment) ownObject(key bpf.NstraceOwnKey) string { return a.objects[key] }

// registerOwn tells the programs which objects in the kernel are nstrace's own, so that they
// report which other processes act on these. The programs know nstrace's own process after the
// first walk of the tasks.
func (a *attachment) registerOwn() error {
	m := a.loaded.coll.Maps[bpf.NstraceMapOwnObjects]
	if err := empty(m); err != nil {
		return fmt.Errorf("empty the map %s: %w", bpf.NstraceMapOwnObjects, err)
	}
	a.objects = map[bpf.NstraceOwnKey]string{}
	add := func(object bpf.NstraceOwnObject, id uint32, name string) {
		a.objects[bpf.NstraceOwnKey{Object: uint32(object), Id: id}] = name
	}
	for name, lk := range a.loaded.links {
		// What older kernels have in place of links has no id. Only its descriptor leads to
		// it, which others cannot have.
		if info, err := lk.Info(); err == nil && info.ID != 0 {
			add(bpf.NstraceOwnObjectOWN_LINK, uint32(info.ID), name)
		}
	}
	for name, p := range a.loaded.coll.Programs {
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("get the id of program %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			add(bpf.NstraceOwnObjectOWN_PROGRAM, uint32(id), name)
		}
	}
	for name, m := range a.loaded.coll.Maps {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("get the id of map %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			add(bpf.NstraceOwnObjectOWN_MAP, uint32(id), name)
		}
	}
	for key := range a.objects {
		if err := m.Update(key, uint8(1), ebpf.UpdateAny); err != nil {
			return fmt.Errorf("add to the map %s: %w", bpf.NstraceMapOwnObjects, err)
		}
	}
	return nil
}

// reportEnds makes the kernel report the end of these mounts.
func (a *attachment) reportEnds(mounts []uint32) error {
	m := a.loaded.coll.Maps[bpf.NstraceMapPinned]
	for _, id := range mounts {
		// What the map has no room for ends unreported, as if it had been made while the
		// map was full.
		if err := m.Put(id, uint8(1)); err != nil && !errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("add to the map %s: %w", bpf.NstraceMapPinned, err)
		}
	}
	return nil
}

// track makes a process one whose events are wanted.
func (a *attachment) track(pid int) error {
	host, err := a.pids.host(uint32(pid))
	if err != nil {
		return err
	}
	return a.tracees.Put(host, uint8(1))
}

func (a *attachment) knowsEnds() bool { return a.pids.knowsEnds() }

// counters returns the kernel's counters, summed over the CPUs.
func (a *attachment) counters() (sum bpf.NstraceCounters, err error) {
	all := make([]byte, a.counts.Size()) // whole pages
	if _, err := a.counts.ReadAt(all, 0); err != nil {
		return sum, fmt.Errorf("read the counters: %w", err)
	}
	for range a.loaded.coll.Maps[bpf.NstraceMapCounts].MaxEntries() {
		var c bpf.NstraceCounters
		if err := fixed(&all, &c); err != nil {
			return sum, fmt.Errorf("read the counters: %w", err)
		}
		for k := range c.Seen {
			sum.Seen[k] += c.Seen[k]
			sum.Filtered[k] += c.Filtered[k]
			sum.Lost[k] += c.Lost[k]
			sum.Missed[k] += c.Missed[k]
			sum.Unended[k] += c.Unended[k]
		}
		sum.Folded += c.Folded
		sum.FtraceOff += c.FtraceOff
		if c.FirstLost != 0 && (sum.FirstLost == 0 || c.FirstLost < sum.FirstLost) {
			sum.FirstLost = c.FirstLost
		}
		sum.LastLost = max(sum.LastLost, c.LastLost)
	}
	return sum, nil
}

func (a *attachment) closeRing() error {
	if a.ring == nil {
		return nil
	}
	return a.ring.Close()
}
