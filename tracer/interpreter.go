// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
)

// An interpreter turns records into events. It keeps what records refer to: the namespaces
// that are alive, processes, names of parameters, owners, and pins.
//
// It needs neither privileges nor a kernel. Events go to an emitter, and everything that it
// does not find in records it asks of a lookups. One goroutine calls its methods, which
// emit events in the order in which they happened; describe is for any goroutine.
type interpreter struct {
	filter  *event.Filter
	follow  bool   // emit only the events of processes that the kernel follows
	self    uint32 // nstrace's own pid in the initial PID namespace
	lookups lookups
	out     emitter
	clock   clock

	// mu guards registry and what it refers to, for describe. Each method that Tracer
	// calls and that changes the registry holds it, also while it emits events.
	mu       sync.Mutex
	registry *registry

	processes  epochCache[caller]
	workloads  attribution.Workloads
	resolved   uint64 // when resolveOwners ran last, CLOCK_BOOTTIME
	sysctl     *writeRecords
	folds      folds
	pins       pinTable
	ends       *endScanner // nil if the kernel reports the end of namespaces
	unreported *endScanner // of findEnds
	tables     tableEvents
	stop       stopSignal
	accounts   accounts
	proofs     *proofRecords
	tampered   map[bpf.NstraceOwnKey]bool // own objects on which others called bpf(2)

	renamed func(name string) // takes the host's new name, "" if it is unknown; can be nil

	note  func(format string, args ...any) // reports what is scarce; can be nil
	noted time.Time                        // when it was called last

	newest time.Time // of the events that were emitted

	kinds  []recordInterpreter // of recordKinds
	record record              // the one in hand

	// The event in hand and its namespace, reused.
	event     event.Event
	namespace event.Namespace
}

// An emitter takes the events. It sets the Ref of each. The event and what it refers to
// last until emit returns, as for a Handler.
type emitter interface {
	emit(e *event.Event) error
}

// A lookups answers what an interpreter asks. Questions and answers are plain data.
type lookups interface {
	kernelLookups
	hostLookups
}

// kernelLookups is what only the kernel side of a Tracer can answer. It needs privileges.
type kernelLookups interface {
	// tasks returns all tasks that are in namespaces other than the host's.
	tasks() ([]bpf.NstraceTaskNs, error)
	// fold returns the slot that counts repeats, and takeFold sets how many of them were
	// reported.
	fold(slot uint32) (bpf.NstraceFold, error)
	takeFold(slot uint32, taken uint64) error
	// missedExits returns how often the kernel could not run the program that reports the
	// end of a task.
	missedExits() uint64
	// knowsEnds reports whether a scan can find that a namespace ended.
	knowsEnds() bool
	// ownObject returns the name of a program, map or link of nstrace's own.
	ownObject(key bpf.NstraceOwnKey) string
}

// hostLookups is what user space finds in data that others wrote: in the user database, in
// /proc and in mounts.
type hostLookups interface {
	// userName returns "" for an unknown user.
	userName(uid uint32) string
	// commandLine returns nil if the process ended, if it does not run exe any more, or if its
	// memory cannot be read in time.
	commandLine(pid uint32, start uint64, exe string) []byte
	// runsHostFile reports whether a process runs the file that the host has at a path, and only
	// root can write to it. It is false if the process ended.
	runsHostFile(pid uint32, start uint64, path string) bool
	// cgroupPath returns the path of the cgroup that a process was in when it had the id,
	// "" if the process is elsewhere by now.
	cgroupPath(pid uint32, id uint64) string
	// netnsName returns the name that a network namespace has, "" for none, as of a time
	// not before at (CLOCK_BOOTTIME).
	netnsName(id uint32, at uint64) string
	// hostSysctl returns the value of a parameter of which the host has one copy, as of a time
	// not before at (CLOCK_BOOTTIME); "" if there is none.
	hostSysctl(name string, at uint64) string
	// deviceIndex returns the index of the device that has a name in a network namespace, as of a time
	// soon after at (CLOCK_BOOTTIME), 0 if it is unknown.
	deviceIndex(net uint32, name string, at uint64) uint32
	// mountedID returns the kernel's id of the namespace that is mounted at a path, 0 if
	// unknown.
	mountedID(path string) uint64
	// ended reports whether a namespace ended. known is false if the kernel has no handles
	// of namespaces.
	ended(ns procfs.Namespace) (ended, known bool)
	// heldByFiles returns the namespaces that a mount or a descriptor keeps alive, by
	// inode number, as a search found them that began after since. Users decide how long it takes: it goes
	// on in the background, and known is false until it has ended. wait says to wait for it a while.
	heldByFiles(since time.Time, wait bool) (held map[uint32]bool, known bool)
}

// accounts counts events for Totals, as far as they are not counted in the kernel.
type accounts struct {
	matched  uint64 // passed to the emitter, trace.* except trace.tamper not counted
	filtered uint64 // dropped by the interpreter
	inferred uint64 // events without a record
	joined   uint64 // records that are part of the event of an earlier one
	folded   uint64 // part of matched and filtered: repeats that the kernel counted
}

func newInterpreter(filter *event.Filter, follow bool, self uint32, lookups lookups, out emitter) *interpreter {
	in := &interpreter{
		filter: filter, follow: follow, self: self, lookups: lookups, out: out,
		clock: clock{now: bootNow}, tables: tableEvents{now: time.Now}, registry: newRegistry(), pins: newPinTable(),
		proofs: &proofRecords{}, kinds: make([]recordInterpreter, len(recordKinds)),
	}
	for kind, k := range recordKinds {
		if k.new != nil {
			in.kinds[kind] = k.new(in)
		}
	}
	return in
}

// interpret emits the events of one record. The record's bytes must not change until it
// returns.
func (in *interpreter) interpret(b []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	kind, err := in.parse(b)
	if err != nil {
		return err
	}
	in.clock.syncAt(in.record.head.Time)
	in.proofs.add(bpf.NstraceRecordKind(in.record.head.Kind), bpf.NstraceCallVia(in.record.head.Via))
	if in.record.head.Repeatable != 0 {
		in.folds.start(&in.record.fold, in.record.head.Time)
	}
	if err := in.emitTablesBefore(&in.record); err != nil {
		return err
	}
	return kind.interpret(&in.record)
}

// emitTablesBefore emits what waits for further tables and has to come before the event of a record: parameters
// that the same thread made appear, or that it writes.
func (in *interpreter) emitTablesBefore(r *record) error {
	if len(in.tables.waiting) == 0 {
		return nil
	}
	switch bpf.NstraceRecordKind(r.head.Kind) {
	case bpf.NstraceRecordKindREC_SYSCTL_WRITE:
		w := in.sysctl
		if p := w.parameters.find(w.wire.Param); p != nil {
			in.tables.dueBefore(p.name)
		}
		if err := in.emitTables(in.tables.takeDue()); err != nil {
			return err
		}
		return in.emitTables(in.tables.takeOf(w.wire.Caller.Tid, r.head.Time))
	case bpf.NstraceRecordKindREC_NETDEV_MOVE:
		return in.emitTables(in.tables.takeOf(in.kinds[r.head.Kind].(*moveRecords).wire.Caller.Tid, r.head.Time))
	}
	return nil
}

// parse makes b the record in hand and returns what interprets it.
func (in *interpreter) parse(b []byte) (recordInterpreter, error) {
	r := &in.record
	if err := r.open(b); err != nil {
		return nil, err
	}
	if int(r.head.Kind) >= len(in.kinds) || in.kinds[r.head.Kind] == nil {
		return nil, fmt.Errorf("%w: unknown kind %d", ErrRecord, r.head.Kind)
	}
	kind := in.kinds[r.head.Kind]
	return kind, kind.parse(r)
}

// due returns when overdue has something to do, the zero time for never.
func (in *interpreter) due() time.Time {
	due := in.folds.due()
	if next := in.tables.next(); due.IsZero() || !next.IsZero() && next.Before(due) {
		due = next
	}
	if in.ends != nil {
		if next := in.ends.next(); due.IsZero() || !next.IsZero() && next.Before(due) {
			due = next
		}
	}
	return due
}

// takeFolds emits the events of repeats that the kernel counted, if it is time.
func (in *interpreter) takeFolds(now time.Time) error {
	if due := in.folds.due(); due.IsZero() || now.Before(due) {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.folds.take(in)
}

// scanEnds emits the ends of namespaces that the kernel does not report, if it is time.
// Call it when the ring is empty: records in it can report these ends.
func (in *interpreter) scanEnds(now time.Time) error {
	if in.ends == nil {
		return nil
	}
	if due := in.ends.next(); due.IsZero() || now.Before(due) {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ends.run()
}

// idle is to be called whenever the ring is empty.
func (in *interpreter) idle() error {
	if len(in.tables.waiting) > 0 {
		if err := in.idleTables(); err != nil {
			return err
		}
	}
	if len(in.sysctl.cascades.pending) == 0 {
		return nil
	}
	now := in.clock.now()
	if now <= epoch {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sysctl.emitOrphans(now - epoch)
}

func (in *interpreter) idleTables() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.emitTables(in.tables.takeDue())
}

// flush emits what waits for records, of which no more will come.
func (in *interpreter) flush() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.sysctl.emitOrphans(math.MaxUint64); err != nil {
		return err
	}
	if err := in.emitTables(in.tables.takeAll()); err != nil {
		return err
	}
	return in.folds.take(in)
}

// finalScan emits the ends of namespaces that the last scan finds.
func (in *interpreter) finalScan() error {
	if in.ends == nil {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ends.last = true
	return in.ends.run()
}

// findEnds emits the ends of namespaces that no record reported. It returns how long after now it has to
// be called again to be sure about some, 0 for not at all. last says that it is not called again.
func (in *interpreter) findEnds(last bool) (again time.Duration, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.unreported == nil {
		in.unreported = newEndScanner(in)
	}
	s := in.unreported
	switch {
	case last:
		s.suspects, s.last = nil, true
	case s.suspects == nil:
		s.suspects = map[*liveNS]bool{}
	}
	s.soon()
	err = s.run()
	return s.again(), err
}

// following reports whether a namespace is alive that a followed process made.
func (in *interpreter) following() bool { return in.registry.following() }

// scanSoon makes the end scanner, if there is one, run soon.
func (in *interpreter) scanSoon() {
	if in.ends != nil {
		in.ends.soon()
	}
}

// begin starts the event of a record that a process caused.
func (in *interpreter) begin(r *record, typ event.Type, c *caller) *event.Event {
	e := &in.event
	*e = event.Event{
		Type: typ, Time: in.clock.wall(r.head.Time), Via: r.via(), Process: c.process,
		Container: c.workload.Container, Pod: c.workload.Pod, Unit: c.workload.Unit,
	}
	e.Outcome, e.Error = r.outcome()
	return e
}

// show returns a namespace as the event in hand shows it.
func (in *interpreter) show(ns *liveNS) *event.Namespace {
	return in.registry.show(ns, &in.namespace)
}

// showKind returns the namespace of the event in hand: ns, or one of which only its kind is
// known if ns is nil.
func (in *interpreter) showKind(ns *liveNS, kind uint8) *event.Namespace {
	if ns != nil {
		return in.show(ns)
	}
	in.namespace = event.Namespace{Type: nsType(kind)}
	return &in.namespace
}

// offer emits an event that passes the filter. maker is the process that made what an event
// without a process is about.
func (in *interpreter) offer(e *event.Event, maker *event.Actor) error {
	if !in.filter.MatchTraced(e, maker) {
		in.accounts.filtered++
		return nil
	}
	return in.emit(e)
}

// offerOf is offer for an event of a record whose repeats the kernel can count. It reports whether the
// event passed the filter.
func (in *interpreter) offerOf(r *record, e *event.Event, maker *event.Actor) (passed bool, err error) {
	if !in.filter.MatchTraced(e, maker) {
		in.drop(r)
		return false, nil
	}
	if r.head.Repeatable != 0 {
		in.folds.add(&r.fold, e)
	}
	return true, in.emit(e)
}

// drop counts an event of a record that is not to be emitted.
func (in *interpreter) drop(r *record) {
	if r.head.Repeatable != 0 {
		in.folds.add(&r.fold, nil)
	}
	in.accounts.filtered++
}

// emit emits an event that passed the filter.
func (in *interpreter) emit(e *event.Event) error {
	in.accounts.matched++
	if e.Time.After(in.newest) {
		in.newest = e.Time
	}
	return in.out.emit(e)
}

// lookup returns the namespace that a record refers to, with its current name; nil if it
// refers to none. If another namespace had its inode number, lookup emits the end of that
// one first.
func (in *interpreter) lookup(c *bpf.NstraceNsChange, boot uint64) (*liveNS, error) {
	ns, ended := in.registry.add(nsType(c.Kind), c.Inum, c.NsId, c.UserNs, boot)
	if ns != nil {
		in.learnName(ns, boot)
	}
	if ended != nil {
		return ns, in.inferEnd(ended, boot)
	}
	return ns, nil
}

// learnName updates the name of a network namespace. A namespace keeps its last name, because the name
// is gone already when it ends, until another namespace gets that name.
func (in *interpreter) learnName(ns *liveNS, boot uint64) {
	if ns.typ != event.NSTypeNet || in.registry.live[ns.id] != ns {
		return
	}
	name := in.lookups.netnsName(ns.id, boot)
	if name == "" || name == ns.name {
		return
	}
	in.registry.rename(ns, name)
}

// inferEnd emits the end of a namespace that no record reported.
func (in *interpreter) inferEnd(ns *liveNS, boot uint64) error {
	in.accounts.inferred++
	return in.emitEnd(ns, boot, event.DetectedScan)
}

// emitEnd emits the ends of a namespace's pins and its own end.
func (in *interpreter) emitEnd(ns *liveNS, boot uint64, detected string) error {
	if err := in.endPins(ns, boot); err != nil {
		return err
	}
	if in.follow && !ns.follow {
		in.accounts.filtered++
		return nil
	}
	e := &in.event
	*e = event.Event{Type: event.NamespaceDestroy, Time: in.clock.wall(boot), Namespace: in.show(ns)}
	e.Namespace.Detected = detected
	if !ns.created.IsZero() {
		ms := int64(boot-ns.bootNS) / int64(time.Millisecond)
		e.Namespace.Created, e.Namespace.LifetimeMS, e.Namespace.Creator = ns.created, &ms, ns.creator
	}
	return in.offer(e, ns.creator)
}

// A taskSnapshot is what the kernel knew at one moment.
type taskSnapshot struct {
	tasks []bpf.NstraceTaskNs
	host  [len(nsTypes)]uint32 // the host's namespaces, 0 if unknown
	name  string               // the host's name, "" if unknown
}

// takeSnapshot adds the namespaces that exist to the registry, and finds their owners. It
// returns the earlier namespaces whose inode numbers other namespaces have now.
func (in *interpreter) takeSnapshot(inv taskSnapshot) (ended []*liveNS) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for kind, id := range inv.host {
		if id != 0 {
			in.registry.host[nsTypes[kind]] = id
		}
	}
	now := in.clock.now()
	for i := range inv.tasks {
		for c := range namespacesOf(&inv.tasks[i]) {
			if _, old := in.registry.add(nsType(c.Kind), c.Inum, c.NsId, c.UserNs, now); old != nil {
				ended = append(ended, old)
			}
		}
	}
	for _, ns := range in.registry.live {
		in.learnName(ns, now)
	}
	in.resolveOwners(inv.tasks)
	return ended
}

// inferEnds emits the ends of namespaces that no record reported.
func (in *interpreter) inferEnds(ended []*liveNS) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, ns := range ended {
		if err := in.inferEnd(ns, in.clock.now()); err != nil {
			return err
		}
	}
	return nil
}

// describe completes a namespace that a scan found with what only the registry knows. kernel
// is the kernel's id of it, 0 if unknown. It is safe for concurrent use.
func (in *interpreter) describe(ns *event.Namespace, kernel uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.registry.describe(ns, kernel)
}
