// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	paramfile "github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// The record of a write does not always show the value after it: the memory of some parameters is not what their
// files show, and with tracepoints the record comes before the handler runs. Then a goroutine reads the file. The
// event waits for that, and the events behind it wait with it: some milliseconds at most. Nothing is read while no
// such event comes.
//
// The value counts only if nothing else changed it in between, as far as the records show. So the event also waits
// until all records from before the end of the read were interpreted. If one of these is of another write to the
// parameter, the kernel read the value for that one, and the event gets this value. A write that can change the
// parameter too leaves it without one.

const (
	// readWithin is how long after a write its value may be read. That takes as long only if the host is busy, or if
	// the write came before Run.
	readWithin = uint64(500 * time.Millisecond)
	// readHold is how long an event waits for a value.
	readHold = 100 * time.Millisecond
	// readPoll is how often the ring is read while an event waits.
	readPoll = 500 * time.Microsecond
	// readSettle is how long after a record that came before the handler the value is read. A handler seldom
	// takes longer.
	readSettle = uint64(time.Millisecond)
	// maxWaiting is how many events wait at most.
	maxWaiting = 4096
	// waitAtMost is how long events wait without a pause, one after another: Handler.Idle waits with them.
	waitAtMost = 200 * time.Millisecond
	// readRest is how many times as long as a read took the reader rests: users decide how many writes there are.
	// Reads may begin up to readAhead before their rest is over.
	readRest  = 4
	readAhead = 100 * time.Millisecond
)

// A parameterCopy identifies a parameter of a namespace, by its path and the inode number.
type parameterCopy struct {
	path string
	ns   uint32 // 0: it belongs to no namespace
}

// An afterRead is the value after one write.
type afterRead struct {
	parameterCopy
	name    string
	kind    string // of the parameter, and its memory after the write; nil: unknown
	raw     []byte
	whole   bool    // the memory is all there
	in      *liveNS // its namespace, nil for none
	netns   string  // the name of that
	process *event.Process
	time    uint64 // of the record, CLOCK_BOOTTIME
	early   bool   // the record came before the handler ran
	old     string // before the write
	known   bool   // old is known
	same    bool   // the write was of the old value

	place   int     // in afterReads.fresh, from 1; 0: it is not there
	settled bool    // nothing remains to wait for
	value   *string // what is known then
	cut     bool

	needless atomic.Bool // the value is not needed any more

	// The goroutine sets these, and then done.
	read paramfile.Value
	ok   bool
	at   uint64 // when it had read the value, CLOCK_BOOTTIME
	done atomic.Bool
}

// A waitingEvent waits for a value or behind such an event.
type waitingEvent struct {
	event *event.Event
	since time.Time
	read  *afterRead // nil: it waits behind another one
}

// afterReads are the events that wait. Its methods are for the goroutine of Tracer.Run.
type afterReads struct {
	now    uint64                   // when Run began to read the records at hand, CLOCK_BOOTTIME
	hurry  bool                     // the ring fills: read nothing
	early  bool                     // records of writes come before the handler runs
	unseen func(path string) uint64 // when a write to the parameter was last dropped by the filter or lost, CLOCK_BOOTTIME
	alive  func(ns *liveNS) bool    // whether no record reported its end
	learn  func(kind string, raw []byte, whole bool, text string)
	pids   *pidSpace

	next    *afterRead   // of the event that comes next
	fresh   []*afterRead // for start; nil: not needed any more
	queue   []waitingEvent
	since   time.Time // when the queue was last empty
	pending map[parameterCopy]*afterRead
	wanted  chan *afterRead // to the goroutine; nil: it does not run
	woken   chan struct{}   // by the goroutine
	late    *afterRead      // the goroutine was still reading it when its event had waited long enough
	rested  atomic.Int64    // until when the goroutine has to rest, ns since 1970
}

// ofParameter identifies the parameter of a record.
func ofParameter(p *parameter, ns *liveNS) parameterCopy {
	c := parameterCopy{path: p.path}
	if ns != nil {
		c.ns = ns.id
	}
	return c
}

// wrote takes a write. If an earlier write to the same parameter waits, old is what the kernel read after that;
// nil if that is unknown.
func (a *afterReads) wrote(c parameterCopy, name string, tid uint32, old *string) {
	if a == nil || len(a.pending) == 0 {
		return
	}
	for _, other := range a.pending {
		if other.ns == c.ns && drift.Coupled(name, other.name) {
			a.settle(other)
		}
	}
	r := a.pending[c]
	if r == nil {
		return
	}
	a.settle(r)
	// Another thread can have begun before the handler of the earlier write ran.
	if old == nil || tid != r.process.TID && *old == r.old || a.unseen(r.path) >= r.time {
		return
	}
	text := strings.Clone(*old)
	r.value = &text
}

// want says that the next event needs the value after its write.
func (a *afterReads) want(r *afterRead) {
	if a != nil && a.now < r.time+readWithin {
		r.early = a.early
		a.next = r
	}
}

// hold takes an event that has to wait: for the value that is read for it, if r is not nil, or behind another
// one. It reports false if the event need not wait.
func (a *afterReads) hold(e *event.Event, r *afterRead) bool {
	if a == nil || len(a.queue) == 0 && (r == nil || a.hurry || r.settled && r.value != nil) {
		if r != nil {
			a.settle(r)
			a.show(e.Sysctl, r)
		}
		return false
	}
	now := time.Now()
	if len(a.queue) == 0 {
		a.since = now
	}
	a.queue = append(a.queue, waitingEvent{e.Clone(), now, r})
	return true
}

// begin takes the value that the event in hand needs for start, and returns it; nil if it needs none.
func (a *afterReads) begin() *afterRead {
	if a == nil || a.next == nil {
		return nil
	}
	r := a.next
	a.next = nil
	a.read(r)
	return r
}

// read takes a value for start, unless the goroutine is busy.
func (a *afterReads) read(r *afterRead) {
	if a.late != nil && a.late.done.Load() {
		a.late = nil
	}
	ahead := readAhead
	if r.process.UID != 0 {
		ahead /= 2 // the rest is root's
	}
	if a.late != nil || a.rested.Load() > time.Now().Add(ahead).UnixNano() || len(a.fresh) == maxWaiting {
		r.settled = true
		return
	}
	a.fresh = append(a.fresh, r)
	r.place = len(a.fresh)
	a.pending[r.parameterCopy] = r
}

// start has the goroutine read the values that no later record has told.
func (a *afterReads) start() {
	if a == nil || len(a.fresh) == 0 {
		return
	}
	for _, r := range a.fresh {
		if r == nil {
			continue
		}
		if a.hurry {
			a.settle(r)
			continue
		}
		if a.wanted == nil {
			a.wanted, a.woken = make(chan *afterRead, maxWaiting), make(chan struct{}, 1)
			go a.readAll(a.wanted, a.woken)
		}
		r.place = 0
		select {
		case a.wanted <- r:
		default:
			a.settle(r)
		}
	}
	clear(a.fresh)
	a.fresh = a.fresh[:0]
}

// settle ends the wait for a value.
func (a *afterReads) settle(r *afterRead) {
	r.settled = true
	r.needless.Store(true)
	if a.pending[r.parameterCopy] == r {
		delete(a.pending, r.parameterCopy)
	}
	if r.place == 0 {
		return
	}
	a.fresh[r.place-1], r.place = nil, 0
	for n := len(a.fresh); n > 0 && a.fresh[n-1] == nil; n-- {
		a.fresh = a.fresh[:n-1]
	}
}

// waiting reports whether events wait.
func (a *afterReads) waiting() bool { return a != nil && len(a.queue) > 0 }

// tooLong reports whether events have waited without a pause for as long as they may.
func (a *afterReads) tooLong() bool { return time.Since(a.since) > waitAtMost }

// due returns when to call take next, the zero time for never.
func (a *afterReads) due() time.Time {
	if !a.waiting() {
		return time.Time{}
	}
	return time.Now().Add(readPoll)
}

// take returns the events that need not wait any more. All records from before through, of CLOCK_BOOTTIME, were
// interpreted. all says that no event may wait any longer.
func (a *afterReads) take(through uint64, all bool) (ready []*event.Event) {
	if !a.waiting() {
		return nil
	}
	n := 0
	all = all || len(a.queue) > maxWaiting
	for ; n < len(a.queue); n++ {
		h := &a.queue[n]
		if r := h.read; r != nil {
			a.check(h, through, all)
			if !r.settled {
				break
			}
			a.show(h.event.Sysctl, r)
		}
		ready = append(ready, h.event)
	}
	a.queue = slices.Delete(a.queue, 0, n)
	return ready
}

// check settles a value that was read, and one that takes too long.
func (a *afterReads) check(h *waitingEvent, through uint64, all bool) {
	r := h.read
	switch done := r.done.Load(); {
	case r.settled:
	case done && !r.ok:
		a.settle(r)
	case done && through >= r.at:
		a.settle(r)
		if a.unseen(r.path) < r.time && (r.in == nil || a.alive(r.in)) {
			r.value, r.cut = &r.read.Text, r.read.Cut
		}
	case all || time.Since(h.since) > readHold:
		a.settle(r)
		if !done {
			a.late = r
		}
	}
}

// show puts a value into its event.
func (a *afterReads) show(s *event.Sysctl, r *afterRead) {
	if r.value == nil {
		return
	}
	text := *r.value
	if len(text) > maxValue {
		text, r.cut = text[:maxValue], true
	}
	s.After, s.AfterRead = &text, true
	if r.cut {
		s.Truncated = true
	} else if r.raw != nil {
		a.learn(r.kind, r.raw, r.whole, text)
	}
}

// close ends the goroutine.
func (a *afterReads) close() {
	if a != nil && a.wanted != nil {
		close(a.wanted)
	}
}

// readAll is the goroutine. It reads in the order of the writes.
func (a *afterReads) readAll(wanted <-chan *afterRead, woken chan<- struct{}) {
	runtime.LockOSThread() // for root
	defer runtime.UnlockOSThread()
	own := procfs.NamespacesOf("thread-self")
	root, err := paramfile.Open()
	if err == nil {
		defer root.Close()
	}
	for r := range wanted {
		if r.needless.Load() { // in a storm, the next write has shown the value of nearly all
			r.done.Store(true)
			continue
		}
		if err == nil && bootNow() < r.time+readWithin {
			r.read, r.ok = a.readOne(root, own, r)
			r.ok = r.ok && bootNow() < r.time+readWithin
		}
		r.at = bootNow()
		r.done.Store(true)
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}

func (a *afterReads) readOne(root *paramfile.Root, own map[event.NSType]uint32, r *afterRead) (v paramfile.Value, ok bool) {
	if r.early {
		sleepUntil(r.time + readSettle)
	}
	// A user could make a look at the thread wait for ever: execve(2) holds a lock while it closes files of the
	// user's own file systems.
	trusted := r.process.UID == 0
	for !r.needless.Load() {
		// Before the read: what it returns is then from after the handler.
		busy := r.early && !r.same && !(trusted && !a.mayWrite(r.process))
		if v, ok = a.readIn(root, own, r); !ok {
			return v, false
		}
		if !busy || r.known && v.Text != r.old {
			return v, true
		}
		// The old value: the write failed or was ignored, or its handler has not run yet.
		if !trusted || bootNow() > r.time+readWithin {
			return v, false
		}
		time.Sleep(time.Duration(readSettle))
	}
	return v, false
}

func sleepUntil(boot uint64) {
	if now := bootNow(); now < boot {
		time.Sleep(time.Duration(boot - now))
	}
}

// readIn reads a value in the namespace that has it.
func (a *afterReads) readIn(root *paramfile.Root, own map[event.NSType]uint32, r *afterRead) (v paramfile.Value, ok bool) {
	began := time.Now()
	defer func() {
		rested := max(a.rested.Load(), began.UnixNano())
		a.rested.Store(rested + readRest*int64(time.Since(began)))
	}()
	if r.in == nil || own[r.in.typ] == r.in.id {
		v, err := root.Read(r.path)
		return v, err == nil
	}
	if !paramfile.Enterable(r.in.typ) {
		return v, false
	}
	err := paramfile.OnThread(func(t *paramfile.Thread) error {
		there, err := t.Enter(r.in.typ, r.in.id, a.paths(r))
		if err != nil {
			return err
		}
		v, err = there.Read(r.path)
		return err
	})
	return v, err == nil
}

// maxAncestors is how many ancestors of a process are asked for the namespace that it wrote to: it can have ended.
const maxAncestors = 4

// paths returns where the namespace of a write can be found.
func (a *afterReads) paths(r *afterRead) (paths []string) {
	pids := []uint32{r.process.PID}
	for _, actor := range r.process.Ancestors[:min(maxAncestors, len(r.process.Ancestors))] {
		pids = append(pids, actor.PID)
	}
	for i, pid := range pids {
		proc, ok := a.pids.proc(pid)
		if !ok {
			continue
		}
		if i == 0 && proc == pid && r.process.TID != pid {
			paths = append(paths, fmt.Sprintf("/proc/%d/task/%d/ns/%s", pid, r.process.TID, r.in.typ))
		}
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/%s", proc, r.in.typ))
	}
	if r.netns != "" && !strings.Contains(r.netns, "/") {
		for _, dir := range procfs.NetnsDirs {
			paths = append(paths, dir+"/"+r.netns)
		}
	}
	return paths
}

// mayWrite reports whether a thread can be in a system call that writes. It is true if that is unknown.
func (a *afterReads) mayWrite(p *event.Process) bool {
	proc, ok := a.pids.proc(p.PID)
	if !ok || proc != p.PID && p.TID != p.PID || strings.HasPrefix(p.Comm, "iou-") {
		return true
	}
	tid := p.TID
	if tid == p.PID {
		tid = proc
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", proc, tid))
	if err != nil {
		_, gone := os.Stat(fmt.Sprintf("/proc/%d/task/%d", proc, tid))
		return !os.IsNotExist(gone)
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	nr, err := strconv.Atoi(number)
	return err != nil || slices.Contains(writeCalls, nr) // "running"
}

// releaseRead hands on the events that need not wait for a value any more.
func (s *stream) releaseRead(through uint64, all bool) error {
	for _, e := range s.reads.take(through, all) {
		if err := s.hand(e); err != nil {
			return err
		}
	}
	return nil
}

// releaseAll hands on all events. Those that wait for a value still do. Values that were read after the time through
// do not count.
func (s *stream) releaseAll(through uint64) error {
	if err := s.order.flush(); err != nil {
		return err
	}
	s.reads.start()
	for s.reads.waiting() {
		if err := s.releaseRead(through, false); err != nil {
			return err
		}
		if s.reads.waiting() {
			select {
			case <-s.reads.woken:
			case <-time.After(readPoll):
			}
		}
	}
	return nil
}
