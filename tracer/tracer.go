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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/nstrace/nstrace/bpf"
)

// A Handler takes a Tracer's events. An error from it ends Run, which returns it.
type Handler interface {
	// Event is called for each event; e and what it refers to are the
	// handler's to keep.
	Event(e *Event) error
	// Idle is called when everything that has happened so far was given to
	// Event: the time to flush.
	Idle() error
}

// Tracer is a run of the tracer. Its methods are not to be called from several
// goroutines at once, except Track.
type Tracer struct {
	opts   Options
	mounts *mounts
	loaded *loaded
	ring   *ringbuf.Reader
	counts *ebpf.Memory
	host   hostInfo
	clock  clock
	users  users
	reg    *registry
	names  netnsNames
	scan   *scanner // nil where the kernel reports the end of namespaces

	seq      uint64
	started  time.Time
	picked   []Observation
	rec      record
	matched  uint64 // events given to the handler, trace.* not counted
	filtered uint64 // dropped here
	scanned  uint64 // events that no record stands for
	told     lossCount
}

// New attaches to the kernel; from then on nothing is missed. It fails with an
// error that wraps ErrUnsupported where this host cannot do it, and ErrOption
// where o is at fault.
func New(o Options) (*Tracer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	t := &Tracer{opts: o, host: readHost(), users: users{}, reg: newRegistry(), mounts: newMounts()}
	t.clock.sync()
	t.started = time.Now()
	var err error
	t.mounts.do(func() { err = t.attach() })
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tracer) attach() error {
	defer liftMemlock()()
	k, err := openKernel(t.mounts)
	if err != nil {
		return err
	}
	if t.loaded, err = k.load(&t.opts); err != nil {
		return err
	}
	t.reg.perType = !k.hasNSID()
	for _, c := range t.loaded.picks {
		t.picked = append(t.picked, c.report(t.loaded.spec))
		if c.way != nil && c.obs.name == "destroy" && c.way.backend == Tracepoint {
			t.scan = newScanner(t)
		}
	}
	t.loaded.release()
	if t.ring, err = ringbuf.NewReader(t.loaded.coll.Maps[bpf.NstraceMapRing]); err != nil {
		return fmt.Errorf("read the ring buffer: %w", err)
	}
	if t.counts, err = t.loaded.coll.Maps[bpf.NstraceMapCounts].Memory(); err != nil {
		return fmt.Errorf("map the counters: %w", err)
	}
	// After attaching: what is made in between is both here and in the ring.
	return t.takeInventory()
}

// Observations says how each thing that is watched is attached.
func (t *Tracer) Observations() []Observation { return t.picked }

// HostNS returns the ids of the host's own namespaces.
func (t *Tracer) HostNS() map[NSType]uint32 { return maps.Clone(t.reg.host) }

// Track makes the process pid, and all that will descend from it, one whose
// events are wanted. It is for Options.Follow.
func (t *Tracer) Track(pid int) error {
	if err := t.loaded.coll.Maps[bpf.NstraceMapTracees].Put(uint32(pid), uint8(1)); err != nil {
		return fmt.Errorf("track process %d: %w", pid, err)
	}
	return nil
}

// walk calls f for each namespace of each task that is in namespaces of its own.
// leaving says whether one of these tasks is about to leave them.
func (t *Tracer) walk(f func(*bpf.NstraceNsChange)) (leaving bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("walk the tasks: %w", err)
		}
	}()
	it, err := link.AttachIter(link.IterOptions{Program: t.loaded.coll.Programs[bpf.NstraceProgIterTasks]})
	if err != nil {
		return false, err
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		return false, err
	}
	for len(all) > 0 {
		var inv bpf.NstraceInventory
		if err := fixed(&all, &inv); err != nil {
			return false, err
		}
		leaving = leaving || inv.Exiting != 0
		for i := range inv.Ns {
			f(&inv.Ns[i])
		}
		for i := range inv.ForChildren {
			f(&inv.ForChildren[i])
		}
	}
	return leaving, nil
}

// takeInventory learns which namespaces there are.
func (t *Tracer) takeInventory() error {
	now := bootNow()
	if _, err := t.walk(func(c *bpf.NstraceNsChange) {
		t.reg.see(nsType(c.Kind), c.Inum, c.Uid, c.UserNs, now)
	}); err != nil {
		return err
	}
	var host [len(nsTypes)]uint32
	if err := t.loaded.coll.Variables[bpf.NstraceVarHostNs].Get(&host); err != nil {
		return fmt.Errorf("read the host's namespaces: %w", err)
	}
	for kind, id := range host {
		if id != 0 {
			t.reg.host[nsTypes[kind]] = id
		}
	}
	for _, p := range pinned() {
		t.reg.see(p.typ, p.id, p.kernel, 0, now)
	}
	for _, ns := range t.reg.live {
		t.names.learn(ns)
	}
	return nil
}

// Run gives everything that happens to h until ctx ends, then what had happened
// by then, then a trace.stop. It returns nil after that.
func (t *Tracer) Run(ctx context.Context, h Handler) error {
	if err := t.emit(h, &Event{Type: TraceStart, Time: t.started.UTC(), Trace: &Trace{
		Version: t.opts.Version, Kernel: t.host.kernel, Arch: runtime.GOARCH, Observations: t.picked,
	}}); err != nil {
		return err
	}
	if err := h.Idle(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { t.ring.Flush() })
	defer stop()

	var rec ringbuf.Record
	var until time.Time // set once ctx has ended
	for {
		if !until.IsZero() && (time.Now().After(until) || !t.reg.following()) {
			return t.finish(h)
		}
		t.ring.SetDeadline(t.deadline(until))
		err := t.ring.ReadInto(&rec)
		switch {
		case err == nil:
			if err := t.handle(h, rec.RawSample); err != nil {
				return err
			}
			if rec.Remaining > 0 {
				continue
			}
			if err := t.idle(h); err != nil {
				return err
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			if t.scan != nil {
				if err := t.scan.run(h); err != nil {
					return err
				}
			}
			if err := t.idle(h); err != nil {
				return err
			}
		case errors.Is(err, ringbuf.ErrFlushed):
			if ctx.Err() != nil {
				until = time.Now().Add(t.opts.Linger)
			}
		default:
			return fmt.Errorf("read the ring buffer: %w", err)
		}
	}
}

// deadline is when Run has to look up from the ring though nothing came.
func (t *Tracer) deadline(until time.Time) time.Time {
	var scan time.Time
	if t.scan != nil {
		scan = t.scan.next()
	}
	if scan.IsZero() || (!until.IsZero() && until.Before(scan)) {
		return until
	}
	return scan
}

// idle is where the ring has just been emptied.
func (t *Tracer) idle(h Handler) error {
	if err := t.tellLoss(h); err != nil {
		return err
	}
	return h.Idle()
}

// finish detaches, drains the ring and closes the books.
func (t *Tracer) finish(h Handler) error {
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
	var rec ringbuf.Record
	t.ring.SetDeadline(time.Time{})
	t.ring.Flush()
	for {
		err := t.ring.ReadInto(&rec)
		if errors.Is(err, ringbuf.ErrFlushed) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if err := t.handle(h, rec.RawSample); err != nil {
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
	totals, err := t.Totals()
	if err != nil {
		return err
	}
	if err := t.emit(h, &Event{Type: TraceStop, Time: time.Now().UTC(), Trace: &Trace{Totals: &totals}}); err != nil {
		return err
	}
	return h.Idle()
}

// Drop is for a handler that does not want an event after all: the event counts
// as filtered, and its number is given to the next.
func (t *Tracer) Drop(e *Event) error {
	if e.Seq != t.seq {
		return fmt.Errorf("drop event %d: the last one was %d", e.Seq, t.seq)
	}
	t.seq--
	t.matched--
	t.filtered++
	return nil
}

// emit numbers an event and hands it on.
func (t *Tracer) emit(h Handler, e *Event) error {
	t.seq++
	e.V, e.Seq, e.Host, e.BootID = SchemaVersion, t.seq, t.host.host, t.host.bootID
	return h.Event(e)
}

// give emits an event that passes the filter.
func (t *Tracer) give(h Handler, e *Event, ns *liveNS) error {
	if !t.opts.Filter.match(e, ns) {
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
	case bpf.NstraceRecordKindREC_NS_CREATE:
		return t.handleCreate(h, r)
	case bpf.NstraceRecordKindREC_NS_ENTER:
		return t.handleEnter(h, r)
	case bpf.NstraceRecordKindREC_NS_DESTROY:
		return t.handleDestroy(h, r)
	case bpf.NstraceRecordKindREC_SYSCTL_WRITE:
		return t.handleWrite(h, r)
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

// base starts the event that a record stands for.
func (t *Tracer) base(r *record, typ Type, p *Process) *Event {
	e := &Event{Type: typ, Time: t.clock.wall(r.head.Time), Via: viaNames[min(int(r.head.Via), len(viaNames)-1)], Process: p}
	e.Outcome, e.Error = r.outcome()
	return e
}

func (t *Tracer) handleCreate(h Handler, r *record) error {
	p := t.process(r)
	for _, c := range r.changes {
		e := t.base(r, NamespaceCreate, p)
		e.ChildPID = r.ns.Child
		var ns *liveNS
		if e.Outcome == Failure {
			e.Namespace = &Namespace{Type: nsType(c.Kind)}
		} else {
			// A number that was alive and is made anew: its end was not seen.
			if old := t.reg.end(c.Inum, 0); old != nil {
				if err := t.inferEnd(h, old, r.head.Time); err != nil {
					return err
				}
			}
			if ns = t.reg.see(nsType(c.Kind), c.Inum, c.Uid, c.UserNs, r.head.Time); ns == nil {
				return fmt.Errorf("%w: a namespace was made that has no inode number", ErrRecord)
			}
			ns.created = e.Time
			ns.creator = &Actor{PID: p.PID, Comm: p.Comm}
			ns.uidOf = p.UID
			ns.follow = true
			t.names.learn(ns)
			e.Namespace = t.reg.event(ns)
		}
		if err := t.give(h, e, ns); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tracer) handleEnter(h Handler, r *record) error {
	t.look() // what was left may have ended
	p := t.process(r)
	for _, c := range r.changes {
		e := t.base(r, NamespaceEnter, p)
		if c.Inum == 0 {
			e.Namespace = &Namespace{Type: nsType(c.Kind)}
		} else {
			ns := t.reg.see(nsType(c.Kind), c.Inum, c.Uid, c.UserNs, r.head.Time)
			t.names.learn(ns)
			e.Namespace = t.reg.event(ns)
		}
		e.Namespace.From = c.From
		if err := t.give(h, e, nil); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tracer) handleDestroy(h Handler, r *record) error {
	ns := t.reg.end(r.destroy.Inum, r.destroy.Uid)
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
	if t.opts.Follow && !ns.follow {
		t.filtered++
		return nil
	}
	e := &Event{Type: NamespaceDestroy, Time: t.clock.wall(boot), Namespace: t.reg.event(ns)}
	e.Namespace.Detected = detected
	if !ns.created.IsZero() {
		ms := int64(boot-ns.bootNS) / int64(time.Millisecond)
		e.Namespace.Created, e.Namespace.LifetimeMS, e.Namespace.Creator = ns.created, &ms, ns.creator
	}
	return t.give(h, e, ns)
}

func (t *Tracer) handleWrite(h Handler, r *record) error {
	e := t.base(r, SysctlWrite, t.process(r))
	s := &Sysctl{}
	s.Name, s.Path = sysctlName(components(r.name))
	s.Truncated = r.has(bpf.NstraceRecordFlagF_OLD_CUT) || r.has(bpf.NstraceRecordFlagF_NEW_CUT)
	if r.has(bpf.NstraceRecordFlagF_OLD_KNOWN) {
		s.Old = value(r.old, &s.Truncated)
	}
	if r.has(bpf.NstraceRecordFlagF_NEW_KNOWN) {
		s.New = value(r.new, &s.Truncated)
	}
	if r.has(bpf.NstraceRecordFlagF_AFTER_KNOWN) && s.Old != nil {
		s.After = readAfter(r.raw, *s.Old, int(r.sysctl.Maxlen), r.afterV, s.New, e.Outcome)
	}
	if s.After != nil && r.has(bpf.NstraceRecordFlagF_AFTER_CUT) && len(*s.After) >= len(r.afterV) {
		s.Truncated = true
	}
	if c := r.sysctl.Ns; c.Inum != 0 {
		ns := t.reg.see(nsType(c.Kind), c.Inum, c.Uid, c.UserNs, r.head.Time)
		t.names.learn(ns)
		s.Namespace = t.reg.event(ns)
	}
	e.Sysctl = s
	return t.give(h, e, nil)
}

// maxValue is VALUE_LEN of bpf/record.h.
const maxValue = 1024

// value is a parameter's value without the newline that ends it, and without a
// NUL that a program wrote along. It sets cut where it is longer than maxValue.
func value(b []byte, cut *bool) *string {
	b = bytes.TrimRight(b, "\n\x00")
	if len(b) > maxValue {
		b, *cut = b[:maxValue], true
	}
	s := string(b)
	return &s
}

// process makes the Process of a record.
func (t *Tracer) process(r *record) *Process {
	w := &r.who
	p := &Process{
		PID: w.Pid, TID: w.Tid, PPID: w.Ppid, UID: w.Uid, GID: w.Gid,
		StartTime: t.clock.start(w.StartTime),
		Comm:      cString(w.Comm[:]),
		TTY:       cString(w.Tty[:]),
		Exe:       absPath(r.exe, r.has(bpf.NstraceRecordFlagF_EXE_CUT)),
		Cgroup:    absPath(r.cgroup, r.has(bpf.NstraceRecordFlagF_CGROUP_CUT)),
		User:      t.users.name(w.Uid),
		NS:        make(map[NSType]uint32, len(nsTypes)),
	}
	if p.Cgroup == "" {
		p.Cgroup = "/"
	}
	args := r.args
	if r.has(bpf.NstraceRecordFlagF_ARGS_MISSING) {
		args = argsFromProc(w.Pid, w.StartTime)
	}
	p.Args = argv(args)
	if r.has(bpf.NstraceRecordFlagF_LOGINUID) {
		login, session := w.Loginuid, w.Sessionid
		p.LoginUID, p.SessionID = &login, &session
		p.LoginUser = t.users.name(login)
	}
	for kind, id := range w.Ns {
		if id != 0 {
			p.NS[nsTypes[kind]] = id
		}
	}
	for i := range r.ancestors {
		a := &r.ancestors[i]
		p.Ancestors = append(p.Ancestors, Actor{PID: a.Pid, Comm: cString(a.Comm[:])})
	}
	return p
}

// Close detaches and frees everything. What is still in the ring is lost unless
// Run has returned.
func (t *Tracer) Close() error {
	var errs []error
	if t.loaded != nil {
		t.mounts.do(func() { errs = append(errs, t.loaded.close()) })
	}
	if t.ring != nil {
		errs = append(errs, t.ring.Close())
	}
	t.mounts.close()
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
		if c.FirstLost != 0 && (sum.FirstLost == 0 || c.FirstLost < sum.FirstLost) {
			sum.FirstLost = c.FirstLost
		}
		sum.LastLost = max(sum.LastLost, c.LastLost)
	}
	return sum, nil
}
