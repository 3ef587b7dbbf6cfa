// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
)

const (
	// snapshotName is the name of the stored snapshots in the history.
	snapshotName = "drift"
	// takeTime is how long Drift waits for a snapshot. drift.Take ends before, unless the kernel lets it
	// wait.
	takeTime = 40 * time.Second
)

// Only tests change these.
var (
	// endTime is how long Drift waits at the end of a run, and lastTime how much of that a snapshot may take.
	endTime  = 2 * time.Second
	lastTime = 1200 * time.Millisecond
	// snapshotEvery is how often Drift takes a snapshot. It stores it for the next run if anything
	// happened since the last one.
	snapshotEvery = time.Minute
	// snapshotRest is how much longer Drift waits after a snapshot than that took: users decide how
	// much there is to read.
	snapshotRest = time.Duration(50)
)

// DriftOptions configure a Drift.
type DriftOptions struct {
	History *history.Recorder
	DB      string       // the path of its database
	Filter  event.Filter // what the kernel applied to all other events
	// Scan finds the namespaces that are alive. complete is false if there was no time to find all.
	Scan func(context.Context) (found []drift.Found, complete bool, err error)
	// Complete says that the history has each write that this run traces. Then Drift also looks for
	// parameters that change while the run goes on and without a traced write.
	Complete bool
	// Tables says that no hook reports parameters that appear and vanish. Then Drift looks for them while the
	// run goes on.
	Tables bool
	// Unmet, if not nil, says which parameters of the host appear without their expected values. Any goroutine can
	// call it.
	Unmet func(name string, value func() (string, bool)) *event.Unmet
	// Wake makes the tracer call Idle soon.
	Wake func()
	// Report takes a message about what could not be compared or stored.
	Report func(message string)
}

// Drift compares the host's parameters and namespaces at the start of a run with those at
// the end of the previous one, and parameters again each minute. It adds an event for each difference, once,
// and stores snapshots for the next run.
//
// Two goroutines take part: that of the pipeline, which calls Event and Idle; and that of Keep, which
// takes and stores the snapshots and makes the comparison. It takes as long as users make it take, so
// nothing waits for it: neither the start, nor the events, nor the end for more than endTime.
type Drift struct {
	Next Handler
	o    DriftOptions

	started time.Time
	changed atomic.Bool // something happened since the last stored snapshot
	lossy   atomic.Bool // events were lost since the last comparison
	// complete is as in DriftOptions, and can change.
	complete atomic.Bool
	touched  touched            // during a comparison
	idle     chan chan struct{} // asks Idle to close what is sent, once all records were read
	found    chan differences   // for Idle to hand on

	syncHistory func() error // of the history; only tests change it
	writingMu   sync.Mutex
	writing     *write // of the history, for Sync; nil if none is under way

	// Only the goroutine of Keep uses these.
	taking  chan taken // from a snapshot that nobody waits for any more, nil if there is none
	last    stored     // the last stored snapshot
	encoded []byte     // the same, nil for none
	looked  time.Time  // when the last comparison began; zero if no snapshot of this run is stored
	lacking bool       // it lacks something, which was reported
}

// NewDrift returns a Drift for a run. Tracing must be active: what changes from now on is traced.
func NewDrift(o DriftOptions) *Drift {
	d := &Drift{
		o: o, started: time.Now(), syncHistory: o.History.Sync,
		idle: make(chan chan struct{}, 1), found: make(chan differences, 1),
	}
	select {
	case <-o.History.Opened():
		d.touched.start()
	default: // what happens until then will be in the history
	}
	d.complete.Store(o.Complete)
	return d
}

// setComplete changes DriftOptions.Complete. The history lacks some writes of the time before or of that after.
func (d *Drift) setComplete(complete bool) {
	if d.complete.Swap(complete) != complete {
		d.lossy.Store(true)
	}
}

// Event hands on e.
func (d *Drift) Event(e *event.Event) error {
	switch e.Type {
	case event.TraceStart, event.TraceGap:
	case event.TraceLoss:
		d.lossy.Store(true)
	case event.TraceStop:
		if err := d.add(); err != nil {
			return err
		}
	default:
		d.changed.Store(true)
		d.touched.add(e)
	}
	return d.Next.Event(e)
}

// Lost notes that events of the run are not in the history.
func (d *Drift) Lost() { d.lossy.Store(true) }

// Idle adds the differences once they are known, and hands on the call.
func (d *Drift) Idle() error { return errors.Join(d.add(), d.Next.Idle()) }

// differences are events for Idle to hand on. It closes done after that.
type differences struct {
	events []*event.Event
	done   chan struct{}
}

// add hands on differences. The next snapshot is stored only after that, so that the history contains the
// differences up to that snapshot.
func (d *Drift) add() error {
	select {
	case idle := <-d.idle:
		close(idle)
	default:
	}
	var found differences
	select {
	case found = <-d.found:
	default:
		return nil
	}
	for _, e := range found.events {
		if !d.o.Filter.MatchStored(e) {
			continue
		}
		if err := d.Next.Event(e); err != nil {
			return err
		}
	}
	close(found.done)
	return nil
}

// hand passes differences to Idle, and waits until it has handed them on. It reports false if work ended.
func (d *Drift) hand(work context.Context, events []*event.Event) bool {
	done := make(chan struct{})
	d.found <- differences{events, done}
	d.o.Wake()
	select {
	case <-done:
		return true
	case <-work.Done():
		return false
	}
}

// Keep makes the comparison and stores snapshots for the next run: as soon as the differences were added,
// once a minute if something changed, and when ctx ends. The run must continue until the context that Keep
// returns ends, which is after the last snapshot: events in between are recorded after that snapshot.
func (d *Drift) Keep(ctx context.Context) (context.Context, context.CancelFunc) {
	run, cancel := context.WithCancel(context.Background())
	work, end := endAfter(run, ctx, lastTime), endAfter(run, ctx, endTime)
	worked, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(worked)
		d.work(ctx, work)
	}()
	go func() {
		defer close(done)
		defer cancel()
		select {
		case <-worked:
		case <-end.Done():
			if run.Err() == nil {
				d.o.Report(noTimeAtEnd)
			}
		}
	}()
	return run, func() { cancel(); <-done }
}

const noTimeAtEnd = "no time at the end for a snapshot of the parameters and namespaces: the next run compares with the one before and the recorded events"

// endAfter returns a context that ends with parent, and a while after ctx.
func endAfter(parent, ctx context.Context, while time.Duration) context.Context {
	c, end := context.WithCancel(parent)
	context.AfterFunc(ctx, func() { time.AfterFunc(while, end) })
	return c
}

// work is the goroutine of Keep. ctx ends when the run is to end, and work when there is no more time.
func (d *Drift) work(ctx, work context.Context) {
	select {
	case <-d.o.History.Opened():
	default:
		select {
		case <-d.o.History.Opened():
		case <-ctx.Done():
			return
		case <-work.Done():
			return
		}
		d.touched.start()
		d.o.Wake() // for Gap
	}
	events, err := d.compare(work)
	d.touched.stop()
	if work.Err() != nil { // not compared: the next run must find the same snapshot
		if ctx.Err() != nil {
			d.o.Report(noTimeAtEnd)
		}
		return
	}
	if err != nil {
		d.reportUnknown(err)
	}
	if !d.hand(work, events) {
		return
	}
	took := d.store(work, ctx.Err() != nil)
	for ctx.Err() == nil {
		timer := time.NewTimer(max(snapshotEvery, snapshotRest*took))
		select {
		case <-timer.C:
			if changed := d.changed.Swap(false); (d.complete.Load() || d.o.Tables) && !d.looked.IsZero() {
				took = d.look(work, changed)
			} else if changed || d.complete.Load() || d.o.Tables {
				took = d.store(work, false)
			}
		case <-ctx.Done():
			timer.Stop()
			d.store(work, true)
		case <-work.Done():
			return
		}
	}
}

// compareTime is how long the comparison may take. Users decide how many events it reads.
const compareTime = 2 * time.Minute

// compare returns the differences between the end of the previous run and the start of this one. By the
// time that it reads the history, that has events of this run. compare misses a parameter that changed
// while no nstrace was running and was written again since: only the old value of that write shows the
// change.
func (d *Drift) compare(ctx context.Context) ([]*event.Event, error) {
	s, ok := d.o.History.Snapshot(snapshotName)
	if !ok {
		return nil, nil
	}
	before, err := drift.Decode(s.Version, s.Data)
	if err != nil {
		return nil, err
	}
	d.last = storedOf(before)
	if d.o.History.StoodBy() && gapBefore(d.o.History, d.started) == nil {
		return nil, nil // one of the two recorders was tracing at any time
	}
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	after, err := d.take(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.Sync(ctx); err != nil { // the history must contain everything up to now
		return nil, err
	}
	from := before.Time
	if err := d.update(ctx, before, after.Time, after); err != nil {
		return nil, err
	}
	if !d.touched.forgetIn(before, after) {
		d.o.Report("did not compare namespaces and their parameters with the previous run: too much changed since the start")
	}
	if lacks := before.Lacks(); lacks != "" {
		d.o.Report("did not compare everything with the previous run, which had no time for " + lacks)
	}
	if lacks := after.Lacks(); lacks != "" {
		d.o.Report("did not compare everything with the previous run: no time for " + lacks)
	}
	before.Time, after.Time = d.unwatchedSince(from), d.started
	events := drift.Compare(before, after)
	if before.BootID == after.BootID {
		return events, nil
	}
	if previous := d.o.History.Previous(); previous != nil {
		for _, e := range events {
			if e.BootID == previous.BootID && e.BootID != "" {
				e.Host = previous.Host
			}
		}
	}
	return events, d.markResets(ctx, events, before.BootID)
}

// resetTime is how long markResets may take. Users decide how many events it reads.
const resetTime = 10 * time.Second

// markResets marks the parameters that a reboot set back to the value that they had before their first recorded
// write of the previous boot. It leaves those unmarked for which there is no time.
func (d *Drift) markResets(ctx context.Context, events []*event.Event, bootID string) error {
	ctx, cancel := context.WithTimeout(ctx, resetTime)
	defer cancel()
	db, err := history.OpenContext(ctx, d.o.DB)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Type != event.SysctlDrift {
			continue
		}
		initial, err := db.Initial(ctx, e.Sysctl.Name, bootID)
		if ctx.Err() != nil {
			d.o.Report("no time to find all parameters that the reboot set back")
			break
		}
		if err != nil {
			return errors.Join(err, db.Close())
		}
		if initial != nil && event.SameValue(*initial, *e.Sysctl.After) {
			b := *e.Between
			b.Reset = true
			e.Between = &b
		}
	}
	return db.Close()
}

// Sync returns nil once everything that has happened so far is in the history, on the disk. It works
// while the tracer runs.
func (d *Drift) Sync(ctx context.Context) error {
	// The first round ends the batch that the tracer is reading. The second one reads what came during the
	// first.
	for range 2 {
		idle := make(chan struct{})
		select {
		case d.idle <- idle: // before the wake-up: the tracer can become idle once and not again
		case <-ctx.Done():
			return ctx.Err()
		}
		d.o.Wake()
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		w, mine := d.startWrite()
		select {
		case <-w.done:
			if mine {
				return w.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A write is a Sync of the history.
type write struct {
	done chan struct{} // closed when it has ended
	err  error
}

// startWrite starts a write, and reports true. If one is under way already, which lacks the newest events, it
// returns that: while the disk hangs, calls of Sync must not add up.
func (d *Drift) startWrite() (w *write, mine bool) {
	d.writingMu.Lock()
	defer d.writingMu.Unlock()
	if d.writing != nil {
		return d.writing, false
	}
	w = &write{done: make(chan struct{})}
	d.writing = w
	go func() {
		w.err = d.syncHistory()
		d.writingMu.Lock()
		d.writing = nil
		d.writingMu.Unlock()
		close(w.done)
	}()
	return w, true
}

// unwatchedSince returns the start of the time in which no nstrace was running: the end of the
// previous run, or the time of the snapshot if that is later.
func (d *Drift) unwatchedSince(snapshot time.Time) time.Time {
	if g := gapBefore(d.o.History, d.started); g != nil && g.Trace.From.After(snapshot) {
		return g.Trace.From
	}
	return snapshot
}

func (d *Drift) reportUnknown(err error) {
	d.o.Report(fmt.Sprintf("cannot compare parameters and namespaces with the previous run: %v", noTime(err)))
}

// noTime returns an error in plain words if it is that of a context whose time is over.
func noTime(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return errors.New("no time")
	}
	return err
}

// update brings before up to a time: it applies the events that were recorded until then. Later events can be in
// any of the snapshots or not, so before and others forget what they are about.
func (d *Drift) update(ctx context.Context, before *drift.Snapshot, until time.Time, others ...*drift.Snapshot) error {
	db, err := history.OpenContext(ctx, d.o.DB)
	if err != nil {
		return err
	}
	q := history.Query{Since: before.Time, Types: map[event.Type]bool{}}
	for _, family := range event.Families() {
		for _, t := range family.Types {
			q.Types[t] = true
		}
	}
	for stored, err := range db.Events(ctx, q) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, db.Close())
		}
		if e := stored.Event; e.Time.Before(until) {
			before.Apply(e)
		} else {
			before.Forget(e)
			for _, s := range others {
				s.Forget(e)
			}
		}
	}
	if _, first := db.LeftOut(); first != nil {
		d.reportUnknown(first)
	}
	return db.Close()
}

// A taken is the result of taking a snapshot.
type taken struct {
	snapshot *drift.Snapshot
	err      error
}

// take takes a snapshot of now. If the kernel lets it wait for ever, take returns an error, and so do
// all further calls.
func (d *Drift) take(ctx context.Context) (*drift.Snapshot, error) {
	if d.taking != nil {
		select {
		case <-d.taking:
			d.taking = nil
		default:
			return nil, errors.New("the previous snapshot still waits for the kernel")
		}
	}
	done := make(chan taken, 1)
	go func() {
		at := time.Now()
		found, complete, err := d.o.Scan(ctx)
		if err != nil {
			done <- taken{err: err}
			return
		}
		s, err := drift.Take(ctx, found, at)
		if err == nil {
			s.Incomplete = !complete
		}
		done <- taken{s, err}
	}()
	timer := time.NewTimer(takeTime)
	defer timer.Stop()
	select {
	case t := <-done:
		return t.snapshot, t.err
	case <-timer.C:
		d.taking = done
		return nil, fmt.Errorf("the kernel does not answer for %v", takeTime)
	}
}

// A stored says what a stored snapshot lacks.
type stored struct {
	at  time.Time // zero for no snapshot
	cut int       // namespaces without some parameters
	// incomplete says that the host's parameters or namespaces are not complete.
	incomplete bool
}

func storedOf(s *drift.Snapshot) stored {
	return stored{at: s.Time, cut: s.CutNamespaces(), incomplete: s.Incomplete || s.Cut}
}

// betterThan reports whether a snapshot has what other lacks.
func (s stored) betterThan(other stored) bool {
	return !s.at.IsZero() && (s.cut < other.cut || !s.incomplete && other.incomplete)
}

// store stores a snapshot of now, after all events so far. It returns how long that took.
func (d *Drift) store(ctx context.Context, end bool) time.Duration {
	start := time.Now()
	s, err := d.take(ctx)
	if err == nil {
		err = d.put(s, end)
	}
	d.looked = time.Time{}
	if err == nil && d.encoded != nil {
		d.looked = start
	}
	d.reportUnstored(err)
	return time.Since(start)
}

// put stores a snapshot. At the end of a run, for which there is less time, it keeps the previous snapshot if
// that has more.
func (d *Drift) put(s *drift.Snapshot, end bool) error {
	now := storedOf(s)
	if end && d.last.betterThan(now) {
		d.o.Report(noTimeAtEnd)
		return nil
	}
	data, err := s.Encode()
	if err == nil {
		d.encoded = data // also if it cannot be stored: the next look must not report the same again
		err = errors.Join(d.o.History.Sync(), d.o.History.PutSnapshot(snapshotName, drift.Version, data))
	}
	if err != nil {
		return err
	}
	d.last = now
	lacks := s.Lacks()
	if lacks != "" && !d.lacking {
		d.o.Report("the snapshot for the next run has no time for " + lacks)
	}
	d.lacking = lacks != ""
	return nil
}

func (d *Drift) reportUnstored(err error) {
	if err != nil {
		d.o.Report(fmt.Sprintf("cannot store a snapshot for the next run: %v", noTime(err)))
	}
}

// look reports the parameters that changed since the last look without a traced write, and stores a snapshot
// if anything changed. It returns how long that took.
func (d *Drift) look(ctx context.Context, changed bool) time.Duration {
	start := time.Now()
	d.touched.start()
	after, err := d.take(ctx)
	if err != nil {
		d.touched.stop()
		d.reportUnstored(err)
		return time.Since(start)
	}
	events, err := d.unseen(ctx, after)
	d.touched.stop()
	if err != nil { // the next look compares with the same snapshot
		if ctx.Err() == nil {
			d.o.Report(fmt.Sprintf("cannot tell which parameters changed without a traced write: %v", noTime(err)))
		}
		d.changed.Store(true)
		return time.Since(start)
	}
	d.looked = start
	if len(events) > 0 && !d.hand(ctx, events) {
		return time.Since(start)
	}
	if changed || len(events) > 0 {
		d.reportUnstored(d.put(after, false))
	}
	return time.Since(start)
}

// unseen returns an event for each parameter that has another value in after than the last stored snapshot
// and the events since explain, and the events of parameters that appeared and vanished if no hook reports them.
func (d *Drift) unseen(ctx context.Context, after *drift.Snapshot) ([]*event.Event, error) {
	before, err := drift.Decode(drift.Version, d.encoded)
	if err != nil {
		return nil, err
	}
	var tables []*event.Event
	if d.o.Tables {
		before.Time = d.looked
		tables = drift.Tables(before, after, hostHas) // before the events since add parameters
		if d.o.Unmet != nil {
			drift.Unmet(tables, after, d.o.Unmet)
		}
		if !d.complete.Load() {
			return tables, nil
		}
		if before, err = drift.Decode(drift.Version, d.encoded); err != nil {
			return nil, err
		}
	}
	before.Running = true
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	if err := d.Sync(ctx); err != nil {
		return nil, err
	}
	if err := d.update(ctx, before, after.Time); err != nil {
		return nil, err
	}
	if !d.touched.forgetIn(before) {
		d.o.Report("cannot tell which parameters of namespaces changed without a traced write: too much changed in the meantime")
	}
	before.Time = d.looked
	events := slices.DeleteFunc(drift.Compare(before, after), func(e *event.Event) bool { return e.Type != event.SysctlDrift })
	lossy := d.lossy.Swap(false)
	for _, e := range events {
		e.Between.Recording = !lossy // they share it
	}
	return append(tables, events...), nil
}

// hostHas reports whether the host has a parameter.
func hostHas(name string) bool {
	_, err := os.Lstat(event.SysctlPath(name))
	return err == nil
}
