// SPDX-License-Identifier: Apache-2.0

// Package tracer watches what processes do to namespaces and kernel parameters.
//
// A Tracer loads the BPF programs that suit the running kernel, reads what they
// send, and gives it as Events, in the order in which it happened:
//
//	t, err := tracer.New(tracer.Options{})
//	if err != nil { ... }
//	defer t.Close()
//	err = t.Run(ctx, handler)
//
// It needs the privileges of root, Linux 5.10 or newer, and BTF.
package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// A Handler takes a Tracer's events. An error from it ends Run, which returns it.
type Handler interface {
	// Event is called for each event. e and what it refers to last until it
	// returns, but for e.Process, which is never changed and the same for all
	// events of a process that nothing has changed about. Clone keeps the rest.
	Event(e *event.Event) error
	// Idle is called when everything that has happened so far was given to
	// Event: the time to flush.
	Idle() error
}

// Tracer is a run of the tracer. Its methods are not to be called from several
// goroutines at once, except Track, Look and Wake.
type Tracer struct {
	opts    Options
	mounts  *mounts
	notes   notes
	ftrace  *ftrace
	loaded  *loaded
	walk    *ebpf.Program // iter_tasks; it and tracees outlast a fallBack
	tracees *ebpf.Map
	ring    *ringbuf.Reader
	counts  *ebpf.Memory
	host    hostInfo
	self    int // nstrace's own pid
	clock   clock
	users   interface{ Name(uid uint32) string }
	people  said[caller]
	reads   blockingReads // of processes, by who handles records
	params  said[param]
	reg     *registry
	names   netnsNames
	places  places
	folds   folds
	held    held
	scan    *scanner        // nil where the kernel reports the end of namespaces
	pins    map[uint32]*pin // by the number of the mount
	watch   *mountWatch     // nil where the kernel reports pins

	// known is held by whoever uses the registry while Run goes on: Look can be called
	// by another goroutine.
	known sync.Mutex

	stirred bool // Run has to look at the ring again before it sleeps

	settled uint64 // when the owners of namespaces were looked for last, CLOCK_BOOTTIME

	ref      uint64 // of the last event
	started  time.Time
	picked   []event.Observation
	matched  uint64 // events given to the handler, trace.* not counted
	filtered uint64 // dropped here
	scanned  uint64 // events that no record stands for
	folded   uint64 // of the matched, and filtered: repeats that the kernel counted
	told     lossCount
	objects  map[bpf.NstraceOwnKey]string // what of it is in the kernel
	stopped  stopSignal

	// The record in hand and the event that is made of it, reused.
	rec    record
	ev     event.Event
	evNS   event.Namespace
	evSys  event.Sysctl
	cause  event.Cause
	evDev  event.Netdev
	devNS  [2]event.Namespace // evDev.From and To
	text   [3]string          // evSys.Old, New and After
	values valueReader
}

// New attaches to the kernel; from then on nothing is missed. It fails with an
// error that wraps ErrUnsupported where this host cannot do it, and ErrOption
// where o is at fault.
func New(o Options) (*Tracer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	t := &Tracer{opts: o, host: readHost(), self: os.Getpid(), users: &attribution.Users{}, places: places{}, reg: newRegistry(), pins: map[uint32]*pin{}, mounts: newMounts(), names: newNetnsNames()}
	t.notes.notify = o.Notify
	t.ftrace = openFtrace(&t.notes)
	t.clock.sync()
	t.started = time.Now()
	var err error
	t.mounts.do(func() { err = t.attach() })
	if err == nil {
		err = t.takePins(bootNow()) // of all other threads' mount namespace
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tracer) attach() error {
	defer liftMemlock()()
	k, err := openKernel(t.mounts, t.ftrace, nil)
	if err != nil {
		return err
	}
	defer k.close()
	l, err := k.load(&t.opts)
	if err != nil {
		return err
	}
	k.explain(l, &t.opts)
	t.reg.perType = !k.hasNSID()
	t.use(l)
	t.walk = l.coll.Programs[bpf.NstraceProgIterTasks]
	t.tracees = l.coll.Maps[bpf.NstraceMapTracees]
	if t.ring, err = ringbuf.NewReader(l.coll.Maps[bpf.NstraceMapRing]); err != nil {
		return fmt.Errorf("read the ring buffer: %w", err)
	}
	if t.counts, err = l.coll.Maps[bpf.NstraceMapCounts].Memory(); err != nil {
		return fmt.Errorf("map the counters: %w", err)
	}
	if t.folds.mem, err = l.coll.Maps[bpf.NstraceMapFolds].Memory(); err != nil {
		return fmt.Errorf("map the counts of repeated writes: %w", err)
	}
	// After attaching: what is made in between is both here and in the ring.
	if _, err := t.takeInventory(); err != nil {
		return err
	}
	return t.watchOwn()
}

// use takes what was attached, with what user space has to do for it.
func (t *Tracer) use(l *loaded) {
	t.loaded, t.picked = l, nil
	for _, c := range l.picks {
		t.picked = append(t.picked, c.report(l.spec))
		if c.way == nil || c.way.backend != Tracepoint {
			continue
		}
		if c.obs.name == "destroy" && t.scan == nil {
			t.scan = newScanner(t)
		}
		if c.obs.name == "pin" && t.watch == nil {
			t.watch = newMountWatch()
		}
	}
	l.release()
}

// Observations says how each thing that is watched is attached.
func (t *Tracer) Observations() []event.Observation { return t.picked }

// HostNS returns the ids of the host's own namespaces.
func (t *Tracer) HostNS() map[event.NSType]uint32 { return maps.Clone(t.reg.host) }

// Track makes the process pid, and all that will descend from it, one whose
// events are wanted. It is for Options.Follow.
func (t *Tracer) Track(pid int) error {
	if err := t.tracees.Put(uint32(pid), uint8(1)); err != nil {
		return fmt.Errorf("track process %d: %w", pid, err)
	}
	return nil
}

// tasks returns those that are in namespaces of their own.
func (t *Tracer) tasks() (_ []bpf.NstraceInventory, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("walk the tasks: %w", err)
		}
	}()
	it, err := link.AttachIter(link.IterOptions{Program: t.walk})
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
	var tasks []bpf.NstraceInventory
	for len(all) > 0 {
		var inv bpf.NstraceInventory
		if err := fixed(&all, &inv); err != nil {
			return nil, err
		}
		tasks = append(tasks, inv)
	}
	return tasks, nil
}

// namespaces are those that a task is in, and those that only its children will be.
func namespaces(inv *bpf.NstraceInventory) iter.Seq[*bpf.NstraceNsChange] {
	return func(yield func(*bpf.NstraceNsChange) bool) {
		for i := range inv.Ns {
			if !yield(&inv.Ns[i]) {
				return
			}
		}
		for i := range inv.ForChildren {
			if !yield(&inv.ForChildren[i]) {
				return
			}
		}
	}
}

// takeInventory learns which namespaces there are, and whose. It returns those whose
// numbers others have by now.
func (t *Tracer) takeInventory() (ended []*liveNS, err error) {
	tasks, err := t.tasks()
	if err != nil {
		return nil, err
	}
	var host [len(nsTypes)]uint32 // known once the tasks were walked
	if err := t.loaded.coll.Variables[bpf.NstraceVarHostNs].Get(&host); err != nil {
		return nil, fmt.Errorf("read the host's namespaces: %w", err)
	}
	for kind, id := range host {
		if id != 0 {
			t.reg.host[nsTypes[kind]] = id
		}
	}
	now := bootNow()
	for i := range tasks {
		for c := range namespaces(&tasks[i]) {
			if _, old := t.reg.see(nsType(c.Kind), c.Inum, c.NsId, c.UserNs, now); old != nil {
				ended = append(ended, old)
			}
		}
	}
	for _, ns := range t.reg.live {
		t.names.learn(ns, now)
	}
	t.settle(tasks)
	return ended, nil
}

// settle finds out whose the namespaces are whose makers do not tell, by who of tasks
// lives in them.
func (t *Tracer) settle(tasks []bpf.NstraceInventory) {
	s := settlement{t: t, cgroup: map[uint64]*place{}, homes: map[*liveNS][]*place{}}
	for i := range tasks {
		s.add(&tasks[i])
	}
	t.settled = bootNow()
	s.done(t.settled)
}

// settleAgain is how long a namespace that nobody lived in when it was looked for
// waits for the next look, since each goes through all tasks: twice as long after each,
// settleDoubled times.
const (
	settleAgain   = uint64(250 * time.Millisecond)
	settleDoubled = 8
)

// own finds out whose ns is, if its maker does not tell and that was not tried a moment
// ago.
func (t *Tracer) own(ns *liveNS) error {
	if !ns.orphan || t.walk == nil {
		return nil
	}
	if now := bootNow(); now < ns.again || now < t.settled+settleAgain {
		return nil
	}
	tasks, err := t.tasks()
	if err != nil {
		return err
	}
	t.settle(tasks)
	return nil
}

// Wake has Run call its Handler's Idle soon, also where nothing happens. It can be called
// from any goroutine.
func (t *Tracer) Wake() { t.ring.Flush() }

// Run gives everything that happens to h until ctx ends, then what had happened
// by then, then a trace.stop. It returns nil after that.
func (t *Tracer) Run(ctx context.Context, h Handler) error {
	if err := t.emit(h, &event.Event{Type: event.TraceStart, Time: t.started.UTC(), Trace: &event.Trace{
		Version: t.opts.Version, Kernel: t.host.kernel, Arch: runtime.GOARCH, Observations: t.picked, Notes: t.notes.take(),
	}}); err != nil {
		return err
	}
	if err := h.Idle(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { t.ring.Flush() })
	defer stop()
	t.watch.start(func() { t.ring.Flush() })

	var rec ringbuf.Record
	var until time.Time // set once ctx has ended
	awake := true       // looking at the ring every nap, whether there is something in it or not
	quiet := false      // nothing came since the last nap
	for {
		if until.IsZero() && ctx.Err() != nil {
			until = time.Now().Add(t.opts.Linger)
		}
		if !until.IsZero() && (time.Now().After(until) || !t.reg.following()) {
			t.known.Lock()
			defer t.known.Unlock()
			return t.finish(h)
		}
		deadline := t.deadline(until)
		if awake {
			if soon := time.Now().Add(nap); deadline.IsZero() || soon.Before(deadline) {
				deadline = soon
			}
		}
		t.ring.SetDeadline(deadline)
		n, err := t.read(h, &rec)
		if err != nil {
			return err
		}
		if err := t.overdue(h, n < batch); err != nil {
			return err
		}
		if err := t.idle(h); err != nil {
			return err
		}
		switch {
		case n > 0, t.stirred:
			t.stirred = false
			awake, quiet = true, false
			continue
		case !awake:
			continue
		case !quiet:
			quiet = true
			continue
		}
		// Whoever sends a record from now on wakes this, but one that came
		// before it was said has not.
		if err := t.loaded.coll.Variables[bpf.NstraceVarReaderAsleep].Set(uint32(1)); err != nil {
			return fmt.Errorf("ask to be woken: %w", err)
		}
		awake = t.ring.AvailableBytes() > 0
	}
}

// read waits for a record, until the ring's deadline, and handles it and all that are
// there behind it, up to batch. It returns how many there were.
func (t *Tracer) read(h Handler, rec *ringbuf.Record) (n int, err error) {
	for ; n < batch; n++ {
		err := t.ring.ReadInto(rec)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("read the ring buffer: %w", err)
		}
		t.known.Lock()
		err = t.handle(h, rec.RawSample)
		t.known.Unlock()
		if err != nil {
			return n, err
		}
		if n == 0 {
			// The ring can have more to read than records, since who wakes this
			// does it by one that is discarded: not a reason to wait.
			t.ring.SetDeadline(time.Unix(1, 0))
		}
	}
	return n, nil
}

// nap is how long Run waits for more after it emptied the ring, before it asks to
// be woken: to wake it costs the process whose event does it more than all
// else that is done for an event, and events come in bursts.
const nap = 2 * time.Millisecond

// batch is after how many records Run sees to what else is to be done, though
// there are more.
const batch = 4096

// overdue does what is to be done at a time, if it has come. drained says whether
// the ring has just been empty: what the scanner finds gone, records that are still in the
// ring can tell of.
func (t *Tracer) overdue(h Handler, drained bool) error {
	now := time.Now()
	if due := t.folds.due(); !due.IsZero() && !now.Before(due) {
		if err := t.takeFolds(h); err != nil {
			return err
		}
	}
	t.known.Lock()
	defer t.known.Unlock()
	if due := t.proofDue(); !due.IsZero() && !now.Before(due) {
		if err := t.prove(h); err != nil {
			return err
		}
	}
	switch {
	case !drained || !t.watch.due():
	case t.watch.looked != 0:
		if err := t.comparePins(h); err != nil {
			return err
		}
	default:
		t.watch.see()
		return nil // what it found is compared before anything else ends
	}
	if due := t.scanDue(); drained && !due.IsZero() && !now.Before(due) {
		return t.scan.run(h)
	}
	return nil
}

// deadline is when Run has to look up from the ring though nothing came, zero
// for never.
func (t *Tracer) deadline(until time.Time) time.Time {
	if t.watch.due() {
		return time.Unix(1, 0)
	}
	first := until
	for _, due := range [...]time.Time{t.folds.due(), t.scanDue(), t.proofDue()} {
		if !due.IsZero() && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	return first
}

func (t *Tracer) scanDue() time.Time {
	if t.scan == nil {
		return time.Time{}
	}
	return t.scan.next()
}

// idle is where the ring has just been emptied.
func (t *Tracer) idle(h Handler) error {
	if len(t.held.by) > 0 {
		if now := bootNow(); now > epoch {
			if err := t.giveOrphans(h, now-epoch); err != nil {
				return err
			}
		}
	}
	if err := t.tellLoss(h); err != nil {
		return err
	}
	return h.Idle()
}

// finish detaches, drains the ring and closes the books.
func (t *Tracer) finish(h Handler) error {
	deaf, until := t.loaded.deaf(), time.Now()
	if err := t.loaded.coll.Variables[bpf.NstraceVarStopping].Set(true); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	var detachErr error
	t.mounts.do(func() {
		t.countProbeMisses()
		detachErr = t.loaded.detach()
	})
	if detachErr != nil {
		return detachErr
	}
	if err := t.drain(h); err != nil {
		return err
	}
	if err := t.giveOrphans(h, math.MaxUint64); err != nil {
		return err
	}
	if err := t.takeFolds(h); err != nil {
		return err
	}
	if t.watch != nil {
		t.watch.see()
		if err := t.comparePins(h); err != nil {
			return err
		}
	}
	if t.scan != nil {
		if err := t.scan.run(h); err != nil {
			return err
		}
	}
	if err := t.tellLoss(h); err != nil {
		return err
	}
	if deaf != "" {
		noted := t.notes.take() // of the detaching, which trace.stop tells
		if err := t.tellDeaf(h, deaf, t.loaded.proven, until, nil); err != nil {
			return err
		}
		t.notes.kept = noted
	}
	stop := &event.Event{Type: event.TraceStop, Time: time.Now().UTC(), Trace: &event.Trace{}}
	t.stopped.into(stop)
	if err := t.emit(h, stop); err != nil {
		return err
	}
	return h.Idle()
}

// drain handles what is in the ring.
func (t *Tracer) drain(h Handler) error {
	var rec ringbuf.Record
	t.ring.SetDeadline(time.Time{})
	t.ring.Flush()
	for {
		err := t.ring.ReadInto(&rec)
		if errors.Is(err, ringbuf.ErrFlushed) {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // one of before, that was still to be told
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if err := t.handle(h, rec.RawSample); err != nil {
			return err
		}
	}
}

// emit says where an event is from and hands it on.
func (t *Tracer) emit(h Handler, e *event.Event) error {
	t.ref++
	e.Ref, e.Host, e.BootID = t.ref, t.host.host, t.host.bootID
	return h.Event(e)
}

// give emits an event that passes the filter. by has made what an event is about that
// no process caused.
func (t *Tracer) give(h Handler, e *event.Event, by *event.Actor) error {
	if !t.opts.Filter.MatchLive(e, by) {
		t.filtered++
		return nil
	}
	t.matched++
	return t.emit(h, e)
}

// handle turns one record into its events.
func (t *Tracer) handle(h Handler, b []byte) error {
	r := &t.rec
	if err := r.parse(b); err != nil {
		return err
	}
	t.clock.syncAt(r.head.Time)
	switch bpf.NstraceRecordKind(r.head.Kind) {
	case bpf.NstraceRecordKindREC_WHO:
		t.describe(r)
	case bpf.NstraceRecordKindREC_PARAM:
		p := new(param)
		p.name, p.path = sysctlName(components(r.name))
		t.params.add(r.param.Id, r.head.Time, p)
	case bpf.NstraceRecordKindREC_NS_CREATE:
		return t.handleCreate(h, r)
	case bpf.NstraceRecordKindREC_NS_ENTER:
		return t.handleEnter(h, r)
	case bpf.NstraceRecordKindREC_NS_DESTROY:
		return t.handleDestroy(h, r)
	case bpf.NstraceRecordKindREC_SYSCTL_WRITE:
		return t.handleWrite(h, r, b)
	case bpf.NstraceRecordKindREC_TAMPER:
		return t.handleTamper(h, r)
	case bpf.NstraceRecordKindREC_NETDEV_MOVE:
		return t.handleMove(h, r)
	case bpf.NstraceRecordKindREC_NS_PIN:
		return t.handlePin(h, r, event.NamespacePin)
	case bpf.NstraceRecordKindREC_NS_UNPIN:
		return t.handlePin(h, r, event.NamespaceUnpin)
	case bpf.NstraceRecordKindREC_PIN_END:
		return t.handlePinEnd(h, r)
	case bpf.NstraceRecordKindREC_TASK_EXIT:
		t.look()
	}
	return nil
}

// look has the scanner look soon, where there is one.
func (t *Tracer) look() {
	if t.scan != nil {
		t.scan.soon()
	}
}

// begin starts the event that a record stands for.
func (t *Tracer) begin(r *record, typ event.Type, c *caller) *event.Event {
	e := &t.ev
	*e = event.Event{
		Type: typ, Time: t.clock.wall(r.head.Time), Via: viaNames[min(int(r.head.Via), len(viaNames)-1)],
		Process: c.p, Container: c.place.container, Pod: c.place.pod, Unit: c.place.unit,
	}
	e.Outcome, e.Error = r.outcome()
	return e
}

// show gives a namespace as the event in hand shows it.
func (t *Tracer) show(ns *liveNS) *event.Namespace { return t.reg.show(ns, &t.evNS) }

// unknown is a namespace of which the event in hand says no more than its type.
func (t *Tracer) unknown(kind uint8) *event.Namespace {
	t.evNS = event.Namespace{Type: nsType(kind)}
	return &t.evNS
}

// see returns the namespace that a record tells of, nil for none, under the name
// that it has now. If another had its number, that one's end comes first.
func (t *Tracer) see(h Handler, c *bpf.NstraceNsChange, boot uint64) (*liveNS, error) {
	ns, ended := t.reg.see(nsType(c.Kind), c.Inum, c.NsId, c.UserNs, boot)
	if ns != nil {
		t.names.learn(ns, boot)
	}
	if ended != nil {
		return ns, t.inferEnd(h, ended, boot)
	}
	return ns, nil
}

func (t *Tracer) handleCreate(h Handler, r *record) error {
	who := t.caller(&r.ns.Caller)
	p := who.p
	for i := range r.changes {
		c := &r.changes[i]
		var ns *liveNS
		if !r.failed() {
			delete(t.reg.gone, c.Inum)
			switch old := t.reg.end(c.Inum, 0); {
			case old == nil:
			case old.bootNS > r.head.Time:
				// What was done with it on another CPU was read before this.
				if old.is(nsType(c.Kind), c.NsId) {
					t.reg.live[c.Inum], old.bootNS = old, r.head.Time
				}
			case c.NsId == 0 || old.kernel != c.NsId:
				// A number that was alive and is made anew: its end was not seen.
				if err := t.inferEnd(h, old, r.head.Time); err != nil {
					return err
				}
			}
			var err error
			if ns, err = t.see(h, c, r.head.Time); err != nil {
				return err
			}
			if ns == nil {
				return fmt.Errorf("%w: a namespace was made that has no inode number", ErrRecord)
			}
			ns.created = t.clock.wall(r.head.Time)
			ns.creator = &event.Actor{PID: p.PID, UID: p.UID, Comm: p.Comm}
			ns.follow = true
			if t.scan != nil && holderless(r.head.Via) {
				t.scan.keep()
			}
			ns.madeBy(p, who.place, r.has(bpf.NstraceRecordFlagF_CHILD_CGROUP))
		}
		e := t.begin(r, event.NamespaceCreate, who)
		e.ChildPID = r.ns.Child
		if ns != nil {
			e.Namespace = t.show(ns)
		} else {
			e.Namespace = t.unknown(c.Kind)
		}
		if err := t.give(h, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// holderless says whether a call makes namespaces that only a descriptor keeps.
func holderless(via uint8) bool {
	return bpf.NstraceCallVia(via) == bpf.NstraceCallViaVIA_OPEN_TREE || bpf.NstraceCallVia(via) == bpf.NstraceCallViaVIA_FSMOUNT
}

func (t *Tracer) handleEnter(h Handler, r *record) error {
	t.look() // what was left may have ended
	who := t.caller(&r.ns.Caller)
	for i := range r.changes {
		c := &r.changes[i]
		ns, err := t.see(h, c, r.head.Time)
		if err != nil {
			return err
		}
		if ns != nil {
			if !r.failed() {
				ns.enteredBy(who.p, who.place)
			}
			if err := t.own(ns); err != nil {
				return err
			}
		}
		if int(who.p.PID) == t.self { // nstrace itself looks around in it
			t.filtered++
			continue
		}
		e := t.begin(r, event.NamespaceEnter, who)
		if ns != nil {
			e.Namespace = t.show(ns)
		} else {
			e.Namespace = t.unknown(c.Kind)
		}
		e.Namespace.From = c.From
		if err := t.give(h, e, nil); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tracer) handleDestroy(h Handler, r *record) error {
	ns := t.reg.end(r.destroy.Inum, r.destroy.NsId)
	if ns == nil { // given back by a call that failed
		t.filtered++
		return nil
	}
	return t.giveEnd(h, ns, r.head.Time, "")
}

// inferEnd reports the end of a namespace that no record told of.
func (t *Tracer) inferEnd(h Handler, ns *liveNS, boot uint64) error {
	t.scanned++
	return t.giveEnd(h, ns, boot, "scan")
}

// giveEnd emits the end of a namespace if it is wanted.
func (t *Tracer) giveEnd(h Handler, ns *liveNS, boot uint64, detected string) error {
	if err := t.endPins(h, ns, boot); err != nil {
		return err
	}
	if t.opts.Follow && !ns.follow {
		t.filtered++
		return nil
	}
	e := &t.ev
	*e = event.Event{Type: event.NamespaceDestroy, Time: t.clock.wall(boot), Namespace: t.show(ns)}
	e.Namespace.Detected = detected
	if !ns.created.IsZero() {
		ms := int64(boot-ns.bootNS) / int64(time.Millisecond)
		e.Namespace.Created, e.Namespace.LifetimeMS, e.Namespace.Creator = ns.created, &ms, ns.creator
	}
	return t.give(h, e, ns.creator)
}

func (t *Tracer) handleWrite(h Handler, r *record, b []byte) error {
	if bpf.NstraceCallVia(r.head.Via) == bpf.NstraceCallViaVIA_CASCADE {
		t.held.add(r.sysctl.FoldKey, r.head.Time, b)
		return nil
	}
	id, at := r.sysctl.FoldKey, r.head.Time
	if r.sysctl.FoldSlot != 0 {
		id = 0
	}
	given, name, err := t.giveWrite(h, r, nil)
	if err != nil || id == 0 {
		return err
	}
	cause := event.Cause{Name: name}
	if given {
		cause.Ref = t.ref
	}
	return t.giveHeld(h, id, cause, at)
}

// giveWrite gives the event of a write's record, or of what changed for a cause. It
// returns whether it passed the filter, and the parameter's name.
func (t *Tracer) giveWrite(h Handler, r *record, cause *event.Cause) (given bool, name string, err error) {
	who := t.caller(&r.sysctl.Caller)
	ns, err := t.see(h, &r.sysctl.Ns, r.head.Time)
	if err != nil {
		return false, "", err
	}
	if ns != nil {
		if err := t.own(ns); err != nil {
			return false, "", err
		}
	}
	e := t.begin(r, event.SysctlWrite, who)
	s := &t.evSys
	*s = event.Sysctl{}
	e.Sysctl = s
	p := t.params.find(r.sysctl.Param)
	if p == nil {
		p = unnamed
	}
	s.Name, s.Path = p.name, p.path
	s.Truncated = r.has(bpf.NstraceRecordFlagF_OLD_CUT) || r.has(bpf.NstraceRecordFlagF_NEW_CUT)
	old, written, after := &t.text[0], &t.text[1], &t.text[2]
	if r.has(bpf.NstraceRecordFlagF_OLD_KNOWN) {
		*old, s.Old = value(r.old, &s.Truncated), old
	}
	if r.has(bpf.NstraceRecordFlagF_NEW_KNOWN) {
		*written, s.New = value(r.new, &s.Truncated), written
	}
	if changed(r.head.Via) {
		// Nobody wrote a text: the memory before and after is all there is, one number.
		if text, ok := t.values.number(r.raw); ok {
			*old, s.Old = string(text), old
		}
		if text, ok := t.values.number(r.after); ok {
			*after, s.After = string(text), after
		}
		s.Cause = cause
	} else if r.has(bpf.NstraceRecordFlagF_AFTER_KNOWN) && s.Old != nil {
		if text, ok := t.values.after(r.raw, *old, int(r.sysctl.Maxlen), r.after, s.New, e.Outcome); ok {
			*after, s.After = view(text), after
		}
	}
	if s.After != nil && r.has(bpf.NstraceRecordFlagF_AFTER_CUT) && len(*s.After) >= len(r.after) {
		s.Truncated = true
	}
	if ns != nil {
		s.Namespace = t.show(ns)
	}
	wanted := t.opts.Filter.MatchLive(e, nil)
	if r.sysctl.FoldSlot != 0 {
		t.folds.own(r.sysctl.FoldSlot-1, r.sysctl.FoldKey, e, wanted)
	}
	if !wanted {
		t.filtered++
		return false, s.Name, nil
	}
	t.matched++
	return true, s.Name, t.emit(h, e)
}

func (t *Tracer) handleMove(h Handler, r *record) error {
	who := &caller{place: nowhere} // a worker of the kernel
	if r.netdev.Caller.Who != 0 {
		who = t.caller(&r.netdev.Caller)
	}
	from, err := t.see(h, &r.netdev.From, r.head.Time)
	if err != nil {
		return err
	}
	to, err := t.see(h, &r.netdev.To, r.head.Time)
	if err != nil {
		return err
	}
	e := t.begin(r, event.NetdevMove, who)
	d := &t.evDev
	e.Netdev = d
	*d = event.Netdev{
		Name: cString(r.netdev.Name[:]), Ifindex: r.netdev.Ifindex,
		Created: r.has(bpf.NstraceRecordFlagF_CREATED),
	}
	if name := cString(r.netdev.NewName[:]); name != d.Name {
		d.NewName = name
	}
	if r.netdev.NewIfindex != d.Ifindex {
		d.NewIfindex = r.netdev.NewIfindex
	}
	for _, end := range [...]struct {
		ns    *liveNS
		buf   *event.Namespace
		shown **event.Namespace
	}{{from, &t.devNS[0], &d.From}, {to, &t.devNS[1], &d.To}} {
		if end.ns == nil {
			continue
		}
		if err := t.own(end.ns); err != nil {
			return err
		}
		*end.shown = t.reg.show(end.ns, end.buf)
	}
	// With no process it is the doing of who made the namespace that ended.
	if t.opts.Follow && e.Process == nil && (from == nil || !from.follow) {
		t.filtered++
		return nil
	}
	var by *event.Actor
	if from != nil {
		by = from.creator
	}
	return t.give(h, e, by)
}

// maxValue is VALUE_LEN of bpf/lib/record.h.
const maxValue = 1024

// value is a parameter's value without the newline that ends it, and without a
// NUL that a program wrote along. It sets cut where it is longer than maxValue.
func value(b []byte, cut *bool) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	if len(b) > maxValue {
		b, *cut = b[:maxValue], true
	}
	return view(b)
}

// view is b as a string, without a copy: it lasts as long as b stays as it is.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Close detaches and frees everything. What is still in the ring is lost unless
// Run has returned.
func (t *Tracer) Close() error {
	var errs []error
	if t.loaded != nil {
		t.mounts.do(func() { errs = append(errs, t.loaded.close()) })
	}
	t.watch.close()
	if t.ring != nil {
		errs = append(errs, t.ring.Close())
	}
	t.mounts.close()
	t.ftrace.close()
	return errors.Join(errs...)
}

// counters reads the kernel's books, summed over the CPUs.
func (t *Tracer) counters() (sum bpf.NstraceCounters, err error) {
	all := make([]byte, t.counts.Size()) // whole pages
	if _, err := t.counts.ReadAt(all, 0); err != nil {
		return sum, fmt.Errorf("read the counters: %w", err)
	}
	for range t.loaded.coll.Maps[bpf.NstraceMapCounts].MaxEntries() {
		var c bpf.NstraceCounters
		if err := fixed(&all, &c); err != nil {
			return sum, fmt.Errorf("read the counters: %w", err)
		}
		for k := range c.Seen {
			sum.Seen[k] += c.Seen[k]
			sum.Filtered[k] += c.Filtered[k]
			sum.Lost[k] += c.Lost[k]
			sum.Missed[k] += c.Missed[k]
		}
		sum.Folded += c.Folded
		if c.FirstLost != 0 && (sum.FirstLost == 0 || c.FirstLost < sum.FirstLost) {
			sum.FirstLost = c.FirstLost
		}
		sum.LastLost = max(sum.LastLost, c.LastLost)
	}
	return sum, nil
}
