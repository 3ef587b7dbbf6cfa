// SPDX-License-Identifier: Apache-2.0

// Package tracer traces what processes do to namespaces and kernel parameters.
//
// A Tracer loads the BPF programs that suit the running kernel, reads the records that they
// send, and emits them as events, in the order in which they happened as far as it can tell (see
// [event.Event].Late):
//
//	t, err := tracer.New(tracer.Options{})
//	if err != nil { ... }
//	defer t.Close()
//	for e, err := range t.Events(ctx) { ... }
//
// It needs the privileges of root, Linux 5.10 or newer, and BTF.
//
// # Structure
//
// Three types exchange plain data, so that they can run in separate processes one day:
//
//	attachment   has programs and maps in the kernel; needs privileges
//	interpreter  turns records into events; needs neither privileges nor a kernel
//	hostReader   parses what others wrote: the user database, /proc, mounts
//
// A Tracer connects them. The table observations says how each thing is observed, and the
// table recordKinds how each kind of record is interpreted.
package tracer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A Handler takes the events of a Tracer. An error from it ends Run, which returns it.
type Handler interface {
	// Event takes one event. The event and what it refers to are valid until Event
	// returns; Clone keeps it for longer. Only its Process is never reused: all events of
	// a process share it until something about the process changes.
	Event(e *event.Event) error
	// Idle is called after every event of what has happened so far: the time to flush. Events that the Tracer
	// holds to sort them come later, except that the next Idle after Wake comes behind those that happened
	// before Wake.
	Idle() error
}

// A Tracer is one run. After New call Run or Events, once, and then Close.
//
// Track, Wake and Scan are safe for concurrent use, also with Run. The other methods are for
// the goroutine of Run, so for a Handler too.
type Tracer struct {
	opts     Options
	info     hostInfo
	started  time.Time
	threads  *mountThread
	ftrace   *ftrace
	preempt  *preemption // nil if it does not matter any more
	notes    notes
	attached *attachment // nil if New fails before
	rest     *deferred   // what Run still has to attach, nil for nothing
	watch    *mountWatch // nil if the kernel reports pins
	picked   []event.Observation

	interpreter *interpreter
	out         stream
	name        *hostName
	reported    lossCounts
	scanned     time.Time // when findEnds last scanned
	looked      time.Time // when reportDetached last looked
	unsure      bool      // it has to scan again, rescan after that
	rescan      time.Duration

	prover *prover
	proof  proofState
	early  [][]byte // records that came before Run
	// What does not work, and how long ago it was tried:
	silent     map[string][]Backend // whose hooks of an observation the kernel does not run
	reattached map[string]bool      // observations that were attached again in the same way
	nothing    bool                 // nothing replaced what does not work: Run ends
	off        error                // why the kernel runs neither fentry nor kprobe, nil if it does
	tried      time.Time            // when that was last found out

	again  bool          // read the ring again before Run waits
	woken  atomic.Uint64 // when Wake was called and Idle has not been since, CLOCK_BOOTTIME; 0: not
	ran    atomic.Bool   // Run was called
	closed sync.Once
	// closeErr is what the first Close returned.
	closeErr error
}

// New attaches to the kernel. From then on nothing is missed. Its error wraps ErrUnsupported
// if this host cannot be traced, and ErrOption if an option is wrong.
func New(o Options) (*Tracer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := checkFiles(); err != nil {
		return nil, err
	}
	t := &Tracer{opts: o, info: readHostInfo(), started: time.Now(), threads: newMountThread(),
		proof: newProofState(o.ProveEvery), silent: map[string][]Backend{}, reattached: map[string]bool{}}
	t.notes.notify = o.Notify
	t.ftrace = openFtrace(&t.notes)
	t.out.host, t.out.bootID = t.info.host, t.info.bootID
	t.out.order.next = t.out.pass
	var err error
	t.threads.run(func() { err = t.attach() })
	if err == nil {
		_, err = t.learnPins() // on a thread in nstrace's own mount namespace
	}
	if err == nil {
		t.prover = newProver(t.interpreter.proofs)
		err = t.proveAtStart()
	}
	if err != nil {
		t.Close()
		return nil, explain(err)
	}
	return t, nil
}

func (t *Tracer) attach() error {
	k, err := openKernel(t.threads, t.ftrace, nil)
	if err != nil {
		return err
	}
	defer func() {
		if t.rest == nil {
			k.close()
		}
	}()
	l, err := k.load(&t.opts)
	if err != nil {
		return err
	}
	if err := k.accept(l, &t.opts); err != nil {
		return errors.Join(err, l.close())
	}
	k.explain(l, &t.opts)
	t.off, t.tried = k.notRun(l, &t.opts), time.Now()
	t.attached, err = newAttachment(l, !k.hasNSID())
	if err != nil {
		return err
	}
	self, err := t.attached.pids.host(uint32(os.Getpid()))
	if err != nil {
		return err
	}
	t.interpreter = newInterpreter(&t.opts.Filter, t.opts.Follow, self, struct {
		*attachment
		*hostReader
	}{t.attached, newHostReader(t.opts.Resolver, t.threads, t.attached.pids)}, &t.out)
	t.interpreter.note = t.notes.add
	if t.opts.Unmet != nil {
		t.interpreter.tables.unmet = &unmetReader{unmet: t.opts.Unmet, host: t.interpreter.registry.host}
	}
	t.interpreter.workloads.Dirs = t.threads.cgroupDirs()
	t.interpreter.clock.sync()
	t.out.clock = &t.interpreter.clock
	t.interpreter.registry.perType = t.attached.perType
	t.readAfter()
	t.use(l)
	if l.defers() {
		t.rest = newRest(k, l)
	}
	if t.opts.Backend == Auto && l.uses(Fentry) && k.kprobe == nil {
		t.preempt = openPreemption()
	}
	// After attaching: what is made in between is in the inventory and in the ring.
	inv, err := t.attached.snapshot()
	if err != nil {
		return err
	}
	t.interpreter.takeSnapshot(inv)
	t.out.host = cmp.Or(inv.name, t.out.host) // nstrace's UTS namespace can have another
	t.name = newHostName(&t.out, t.interpreter.registry.host, &t.opts)
	t.interpreter.renamed = t.name.set
	return t.attached.registerOwn()
}

// use prepares what user space does for the programs that are attached.
func (t *Tracer) use(l *loaded) {
	t.picked = l.observations()
	t.out.ordered = l.uses(Tracepoint)
	t.attached.skips.count(l)
	switch scan := l.byTracepoint("destroy"); {
	case !scan:
		t.interpreter.ends = nil
	case t.interpreter.ends == nil:
		t.interpreter.ends = newEndScanner(t.interpreter)
		t.interpreter.ends.catchUp = t.drain
	}
	switch watch := l.byTracepoint("pin"); {
	case !watch:
		t.watch.close()
		t.watch = nil
	case t.watch == nil:
		t.watch = newMountWatch()
	}
	t.interpreter.pins.snapshots = t.watch != nil
	t.interpreter.pins.mntNS, _ = procfs.NamespaceOf("self", event.NSTypeMnt)
	t.out.reads.early = l.byTracepoint("sysctl")
	if t.out.reads.early && t.opts.Filter.Failed {
		t.notes.add("failed writes to parameters are missing: tracepoints do not show whether a write fails")
	}
	l.release()
}

// learnPins makes the pins in nstrace's own mount namespace known. It returns the earlier namespaces whose
// inode numbers other namespaces have now.
func (t *Tracer) learnPins() (ended []*liveNS, err error) {
	mounts, ended := t.interpreter.learnPins(procfs.Pinned())
	return ended, t.attached.reportEnds(mounts)
}

// Observations returns how each observation is attached.
func (t *Tracer) Observations() []event.Observation { return t.picked }

// HostNS returns the ids of the host's own namespaces.
func (t *Tracer) HostNS() map[event.NSType]uint32 { return maps.Clone(t.interpreter.registry.host) }

// Track makes the process pid, and every process that will descend from it, one whose events
// are wanted. It is for Options.Follow, has no effect without it, and can be called again
// for the same process. pid is of the caller's PID namespace.
func (t *Tracer) Track(pid int) error {
	if err := t.attached.track(pid); err != nil {
		return fmt.Errorf("track process %d: %w", pid, err)
	}
	return nil
}

// Wake makes Run call its Handler's Idle soon, even if nothing happens. It has no effect
// before and after Run.
func (t *Tracer) Wake() {
	t.woken.Store(bootNow())
	t.wake()
}

// wake makes Run look at what else it has to do.
func (t *Tracer) wake() { t.attached.wake() }

// A stream stamps events with their origin and passes them to a Handler.
type stream struct {
	handler      Handler
	host, bootID string
	ref          uint64 // of the last event
	clock        *clock
	ordered      bool // by order
	order        order
	bytes        event.BytesFinder
	reads        *afterReads
}

func (s *stream) emit(e *event.Event) error {
	s.ref++
	e.Ref, e.Host, e.BootID = s.ref, s.host, s.bootID
	s.bytes.Set(e)
	read := s.reads.begin()
	if s.ordered && e.Type != event.TraceStart && e.Type != event.TraceStop {
		return s.order.hold(e, s.happened(e), read)
	}
	if err := s.order.flush(); err != nil {
		return err
	}
	return s.pass(e, read)
}

// pass hands on an event, once the value that is read for it is known.
func (s *stream) pass(e *event.Event, read *afterRead) error {
	if s.reads.hold(e, read) {
		return nil
	}
	return s.hand(e)
}

// hand hands on an event. It can have a value that emit did not see.
func (s *stream) hand(e *event.Event) error {
	if e.Sysctl != nil && e.Sysctl.AfterRead {
		s.bytes.Set(e)
	}
	return s.handler.Event(e)
}

// begin notes that Run begins to read records at the time now, CLOCK_BOOTTIME. If the ring fills, it is better to lose
// the order of some events and values after writes than events.
func (s *stream) begin(now uint64, fills bool) {
	s.order.hurry = fills
	if s.reads != nil {
		s.reads.now, s.reads.hurry = now, fills
	}
}

// happened returns when an event happened, CLOCK_BOOTTIME.
func (s *stream) happened(e *event.Event) uint64 {
	if e.Time.IsZero() || e.Process == nil && (e.Type == event.TraceLoss || e.Type == event.TraceTamper) {
		return s.clock.now() // its time is the wall time now, and the clock may just have been set
	}
	at := uint64(e.Time.UnixNano() - s.clock.offset)
	if at <= s.clock.newest { // as nearly always: to ask the kernel for the time costs a system call
		return at
	}
	return min(at, s.clock.now())
}

// release hands on the events that are due.
func (s *stream) release(limit uint64) error {
	if !s.ordered {
		return s.order.flush()
	}
	return s.order.release(limit)
}

const (
	// nap is how long Run waits for more after it emptied the ring, before it asks to be
	// woken. A wakeup costs the process whose event causes it more than everything else
	// that is done for the event, and events come in bursts.
	nap = 2 * time.Millisecond
	// batch is after how many records Run does its other work although there are more.
	batch = 4096
)

// errLeft is the cause of the end of a context if nobody wants further events.
var errLeft = errors.New("no more events are wanted")

// Run passes everything that happens to h until ctx ends. Then it detaches, passes what has
// happened by then, waits up to Options.Linger, and passes a trace.stop as the last event. It
// returns nil after that. If h returns an error Run returns it at once, without a trace.stop,
// and Close detaches. Run can be called once.
func (t *Tracer) Run(ctx context.Context, h Handler) error {
	if t.ran.Swap(true) {
		return errors.New("this Tracer has run already: want a new one for each run")
	}
	t.out.handler = h
	t.ftrace.taken.Store(t.opts.TakesSignals)
	defer t.ftrace.taken.Store(false)
	if err := t.out.emit(&event.Event{Type: event.TraceStart, Time: t.started.UTC(), Trace: &event.Trace{
		Version: t.opts.Version, Kernel: t.info.kernel, Arch: runtime.GOARCH, Observations: t.picked, Notes: t.notes.take(),
	}}); err != nil {
		return err
	}
	for _, raw := range t.early {
		if err := t.interpreter.interpret(raw); err != nil {
			return err
		}
	}
	t.early = nil
	t.loadRest()
	if err := h.Idle(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, t.wake)
	defer stop()
	t.watch.start(t.wake)

	var rec ringbuf.Record
	var until time.Time // set once ctx has ended
	napping := true     // read the ring after each nap, instead of waiting for a wakeup
	quiet := false      // nothing came since the last nap
	for {
		if until.IsZero() && ctx.Err() != nil {
			until = time.Now()
			if !errors.Is(context.Cause(ctx), errLeft) {
				until = until.Add(t.opts.Linger)
			}
		}
		if !until.IsZero() && (time.Now().After(until) || !t.interpreter.following()) {
			return t.finish()
		}
		deadline := t.deadline(until)
		if napping {
			if soon := time.Now().Add(nap); deadline.IsZero() || soon.Before(deadline) {
				deadline = soon
			}
		}
		t.attached.ring.SetDeadline(deadline)
		began := bootNow()
		t.out.begin(began, t.attached.ring.AvailableBytes() > t.attached.ring.BufferSize()/4)
		n, err := t.read(&rec, began)
		if err != nil {
			return err
		}
		t.out.reads.start()
		if n == batch {
			began = 0 // the ring was not empty
		}
		if err := t.out.releaseRead(began, false); err != nil {
			return err
		}
		if err := t.overdue(n < batch); err != nil {
			return err
		}
		if err := t.idle(); err != nil {
			return err
		}
		switch {
		case n > 0, t.again:
			t.again = false
			napping, quiet = true, false
			continue
		case !napping:
			continue
		case !quiet:
			quiet = true
			continue
		}
		if err := t.attached.requestWakeup(); err != nil {
			return err
		}
		napping = t.attached.ring.AvailableBytes() > 0
	}
}

// read waits for a record, until the ring's deadline, and interprets it and all that are
// behind it, up to batch. It returns how many there were. It is called at the time began, CLOCK_BOOTTIME.
func (t *Tracer) read(rec *ringbuf.Record, began uint64) (n int, err error) {
	for ; n < batch; n++ {
		err := t.attached.ring.ReadInto(rec)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("read the ring buffer: %w", err)
		}
		if n == 0 {
			t.name.begin()
		}
		if err := t.interpreter.interpret(rec.RawSample); err != nil {
			return n, err
		}
		t.out.order.seen(t.interpreter.record.head.Time)
		t.proof.behind -= ringBytes(rec)
		if n == 0 {
			// Do not wait if the ring has more bytes but no more records: a program wakes
			// the reader by a record that it discards.
			t.attached.ring.SetDeadline(time.Unix(1, 0))
		}
	}
	switch {
	case n == 0:
		t.out.order.seen(began) // the ring was empty at that time or later
	case n < batch:
		t.name.end()
	}
	return n, nil
}

// overdue does the work whose time has come. drained says that the ring was just empty: as
// long as it is not, records in it can report what a scan would find.
func (t *Tracer) overdue(drained bool) error {
	now := time.Now()
	if err := t.interpreter.takeFolds(now); err != nil {
		return err
	}
	if due := t.proofDue(); !due.IsZero() && !now.Before(due) {
		if err := t.prove(); err != nil {
			return err
		}
	}
	if t.rest.isLoaded() {
		if err := t.attachRest(); err != nil {
			return err
		}
	}
	if due := t.recoverDue(); !due.IsZero() && !now.Before(due) {
		if err := t.recover(); err != nil {
			return err
		}
	}
	if err := t.proveHooks(now, drained); err != nil {
		return err
	}
	if drained && !now.Before(t.detachedDue()) { // the ring can have a record of who did it
		if err := t.reportDetached(); err != nil {
			return err
		}
	}
	if !now.Before(t.skipsDue()) {
		if err := t.reportSkips(false); err != nil {
			return err
		}
		if err := t.avoidPreemption(); err != nil {
			return err
		}
	}
	if !drained {
		return nil
	}
	if err := t.findEnds(false); err != nil {
		return err
	}
	if t.mountsDue() {
		if t.watch.snapshot == nil {
			t.takeMounts()
			return nil // it is compared before any end is inferred
		}
		if err := t.compareMounts(); err != nil {
			return err
		}
	}
	return t.interpreter.scanEnds(now)
}

// mountsDue reports whether a snapshot of the mounts is to be taken or compared.
func (t *Tracer) mountsDue() bool {
	return t.watch != nil && (t.watch.due() || t.interpreter.pins.stale)
}

func (t *Tracer) takeMounts() {
	t.interpreter.pins.stale = false
	t.watch.take()
}

func (t *Tracer) compareMounts() error {
	s := t.watch.snapshot
	t.watch.snapshot = nil
	return t.interpreter.comparePins(*s)
}

// deadline returns when Run has to stop waiting for records, the zero time for never.
func (t *Tracer) deadline(until time.Time) time.Time {
	if t.mountsDue() {
		return time.Unix(1, 0)
	}
	first := until
	for _, due := range [...]time.Time{t.interpreter.due(), t.proofDue(), t.proof.next(), t.recoverDue(), t.skipsDue(), t.rescanDue(), t.detachedDue(), t.reported.refusals.due(), t.releaseDue(), t.out.reads.due()} {
		if !due.IsZero() && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	return first
}

// idle is called whenever the ring has just been emptied.
func (t *Tracer) idle() error {
	if err := t.interpreter.idle(); err != nil {
		return err
	}
	if err := t.reportLoss(false); err != nil {
		return err
	}
	if err := t.out.release(t.interpreter.folds.counted()); err != nil {
		return err
	}
	if t.out.reads.waiting() {
		if !t.out.reads.tooLong() {
			return nil
		}
		if err := t.out.releaseRead(0, true); err != nil {
			return err
		}
	}
	if woken := t.woken.Load(); woken != 0 {
		if !t.out.order.passed(woken) {
			return nil
		}
		t.woken.CompareAndSwap(woken, 0)
	}
	return t.out.handler.Idle()
}

// releaseDue returns when to release the next held event, or to call Idle because of Wake; the zero time
// for not before something else happens.
func (t *Tracer) releaseDue() time.Time {
	o := &t.out.order
	switch {
	case len(o.held) > 0:
		due := o.held[0].boot + uint64(orderWindow)
		if due > t.interpreter.folds.counted() { // takeFolds comes first
			return time.Time{}
		}
		return time.Now().Add(time.Duration(due) - time.Duration(bootNow()))
	case t.woken.Load() > o.read:
		return time.Unix(1, 0)
	}
	return time.Time{}
}

// readAfter has values read that the records of writes do not show.
func (t *Tracer) readAfter() {
	w := t.interpreter.sysctl
	w.values = newValueReader(kernelHZ())
	t.out.reads = &afterReads{
		unseen: t.attached.unseenWrite, learn: w.values.learn, pids: t.attached.pids, pending: map[parameterCopy]*afterRead{},
		alive: func(ns *liveNS) bool { return t.interpreter.registry.live[ns.id] == ns },
	}
	w.reads = t.out.reads
}

// finish detaches, drains the ring, and emits trace.stop.
func (t *Tracer) finish() error {
	t.dropRest()
	if err := t.drain(); err != nil {
		return err
	}
	if err := t.reportDetached(); err != nil {
		return err
	}
	silent, until := t.attached.loaded.silent(), time.Now()
	var quiet []string
	var err error
	if !t.nothing {
		if quiet, err = t.silentAtEnd(); err != nil {
			return err
		}
	}
	if silent == "" {
		if _, err := t.reportShortOff(until); err != nil {
			return err
		}
	}
	if err := t.attached.setStopping(true); err != nil {
		return err
	}
	ended := bootNow()
	t.threads.run(func() {
		t.attached.skips.read()
		err = t.attached.loaded.detach()
	})
	if err != nil {
		return err
	}
	if err := t.drain(); err != nil {
		return err
	}
	if err := t.interpreter.flush(); err != nil {
		return err
	}
	if t.watch != nil {
		t.takeMounts()
		if err := t.compareMounts(); err != nil {
			return err
		}
	}
	if err := t.interpreter.finalScan(); err != nil {
		return err
	}
	if err := t.reportSkips(true); err != nil {
		return err
	}
	if err := t.findEnds(true); err != nil {
		return err
	}
	if err := t.reportLoss(true); err != nil {
		return err
	}
	if silent != "" || len(quiet) > 0 {
		r := replacement{reason: silent, since: t.attached.proven, what: whatSilent(silent), then: "the run ends"}
		if silent == "" {
			r = replacement{reason: event.LossHookSilent, since: t.proof.proven, then: "the run ends",
				what: "the kernel does not run the hooks of " + strings.Join(quiet, ", ")}
		}
		ofDetaching := t.notes.take() // for trace.stop
		t.noteReplacement(&r, until)
		if err := t.emitReplacement(&r, until, nil); err != nil {
			return err
		}
		t.notes.pending = ofDetaching
	}
	t.woken.Store(0)
	if err := t.out.releaseAll(ended); err != nil {
		return err
	}
	stop := &event.Event{Type: event.TraceStop, Time: time.Now().UTC(), Trace: &event.Trace{Notes: t.notes.take()}}
	t.interpreter.stop.describe(stop)
	if err := t.out.emit(stop); err != nil {
		return err
	}
	return t.out.handler.Idle()
}

// ringBytes returns how much of the ring a record takes (__bpf_ringbuf_reserve() in
// kernel/bpf/ringbuf.c).
func ringBytes(rec *ringbuf.Record) int {
	const header, align = 8, 8
	return (header + len(rec.RawSample) + align - 1) / align * align
}

// drain interprets what is in the ring now, and nothing that comes later: others can fill the ring as
// fast as it is read.
func (t *Tracer) drain() error {
	var rec ringbuf.Record
	t.attached.ring.SetDeadline(time.Unix(1, 0))
	for left := t.attached.ring.AvailableBytes(); left > 0; left -= ringBytes(&rec) {
		err := t.attached.ring.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			return nil // only discarded records were left
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if err := t.take(rec.RawSample); err != nil {
			return err
		}
		t.proof.behind -= ringBytes(&rec)
	}
	return nil
}

// Close detaches and frees everything. Call it after Run has returned; records that Run has
// not read are lost. Further calls return what the first one returned.
func (t *Tracer) Close() error {
	t.closed.Do(func() { t.closeErr = t.close() })
	return t.closeErr
}

func (t *Tracer) close() error {
	var errs []error
	t.dropRest()
	if t.attached != nil {
		t.threads.run(func() { errs = append(errs, t.attached.loaded.close()) })
	}
	t.watch.close()
	t.prover.close()
	t.preempt.close()
	t.out.reads.close()
	if t.interpreter != nil {
		t.interpreter.tables.unmet.close()
	}
	if t.attached != nil {
		errs = append(errs, t.attached.closeRing())
	}
	t.threads.close()
	t.ftrace.close()
	return errors.Join(errs...)
}
