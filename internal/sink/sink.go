// SPDX-License-Identifier: Apache-2.0

// Package sink delivers events to several destinations at once: files, the journal, syslog.
//
// Each Sink has a bounded queue and a goroutine of its own. So a destination that is slow or stuck delays neither the
// caller nor another sink. What does not fit into the queue is dropped, and the sink's own stream says so: a
// trace.loss with the reason "sink" stands for the events from Loss.FirstSeq to Loss.LastSeq. It follows as soon as
// half of the queue is free again, and has the number of the last of these events.
//
// A sink can have a filter. Event.Skipped of the next line says how many events the filter left out. So in each
// stream, the numbers between a line and the one before it are either skipped, or lost behind nstrace.
package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/format"
)

// Limits of a queue and of a batch.
const (
	maxEvents   = 16384
	maxBytes    = 16 << 20
	batchEvents = 1024
	batchBytes  = 256 << 10
	overhead    = 128 // bytes that an item has besides its line
	eventBytes  = 3   // times the line: what an event keeps, if its destination wants it
)

// A sink that failed is tried again after a time that doubles from the first to the second.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// closeTime is how long Close waits for what is still in the queues.
const closeTime = 5 * time.Second

// An Item is an event on its way to a destination.
type Item struct {
	Line  []byte       // the event as JSON, with a newline; nobody changes it
	Event *event.Event // if the destination wants it; nobody changes it

	seq, skipped uint64
	typ          event.Type
	count        uint64
	time         time.Time
	from         origin
	loss         *event.Loss // of a trace.loss of the sink itself
}

// A Destination takes what a Sink has. One goroutine uses it.
type Destination interface {
	// Deliver hands over items in their order. It returns how many it is done with. If that is not all, the error
	// says why, and the others come again later; a *Later says when. Items that can never be delivered are in a *Refused. The context
	// ends when there is no more time.
	Deliver(ctx context.Context, items []Item) (int, error)
	// Close ends the stream.
	Close() error
}

// Refused is an error of Deliver about the N items behind those that it is done with: they can never be delivered.
type Refused struct {
	N   int
	Err error
}

func (r *Refused) Error() string { return r.Err.Error() }
func (r *Refused) Unwrap() error { return r.Err }

// Rejected is an error of Deliver about the last Of items that it is done with: the server took them except N, and does
// not say which.
type Rejected struct {
	N   uint64
	Of  int
	Err error
}

func (r *Rejected) Error() string { return r.Err.Error() }
func (r *Rejected) Unwrap() error { return r.Err }

// Options are what all sinks have in common.
type Options struct {
	Name        string // for messages
	Label       string // for Stats
	Destination Destination
	Filter      *filter.Program // nil for all events. No other sink may have it
	Format      format.Func     // of Item.Line; nil for nstrace's own JSON
	Events      bool            // the destination wants Item.Event
	Once        bool            // an error of the destination ends the sink: it cannot work again
	MaxEvents   int             // of the queue; 0 means the default
	MaxBytes    int
	Report      func(message string)
	Took        func(at time.Time) // if not nil: is called with the time of each event that the destination took
}

// A Sink is a queue in front of a destination.
type Sink struct {
	o       Options
	wake    chan struct{} // holds at most one value: there is something to do
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{} // closed when the goroutine has ended
	skipped uint64        // of the caller of write

	mu     sync.Mutex
	queue  []Item
	size   int
	lost   *lost  // what did not fit since the last trace.loss
	total  uint64 // all that was lost
	taken  uint64 // all that the destination took
	failed bool   // the last delivery failed
	closed bool
}

// lost is what a sink lacks between two lines.
type lost struct {
	loss    event.Loss
	skipped uint64 // before it
	at      origin
}

// origin is what a trace.loss has of the events that it stands for.
type origin struct {
	runID, host, bootID string
	labels              map[string]string
}

// New starts a sink.
func New(o Options) *Sink {
	o.encode()
	o.MaxEvents, o.MaxBytes = cmp.Or(o.MaxEvents, maxEvents), cmp.Or(o.MaxBytes, maxBytes)
	s := &Sink{o: o, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	go s.run()
	return s
}

// weight is how many events a line stands for.
func weight(e *event.Event) uint64 { return max(1, e.Count) }

// write puts an event into the queue, or counts it.
func (s *Sink) write(e *event.Event, shared *encoded) {
	if s.o.Filter != nil && e.Type.Family() != "trace" && !s.o.Filter.Match(e) {
		s.skipped++
		return
	}
	skipped := s.skipped
	s.skipped = 0
	s.mu.Lock()
	defer s.mu.Unlock()
	from := origin{e.RunID, e.Host, e.BootID, e.Labels}
	full := len(s.queue) >= s.o.MaxEvents || s.size >= s.o.MaxBytes
	if s.lost != nil && !s.roomy() || full {
		s.lose(skipped, e.Seq, e.Type, weight(e), e.Time, from)
		return
	}
	s.addLoss()
	it := Item{Line: shared.line(e, skipped), seq: e.Seq, skipped: skipped, typ: e.Type, count: weight(e), time: e.Time, from: from}
	if s.o.Events {
		it.Event = shared.clone(e)
	}
	s.add(it)
	if len(s.queue) >= batchEvents {
		s.signal()
	}
}

func (s *Sink) setFilter(p *filter.Program) { s.o.Filter = p }

// roomy reports whether there is room for more than the next few events. Otherwise a slow sink would have a
// trace.loss between any two events.
func (s *Sink) roomy() bool { return len(s.queue) <= s.o.MaxEvents/2 && s.size <= s.o.MaxBytes/2 }

func (s *Sink) add(it Item) {
	s.queue = append(s.queue, it)
	s.size += it.size()
}

func (it *Item) size() int {
	n := len(it.Line) + overhead
	if it.Event != nil {
		n += eventBytes * len(it.Line)
	}
	return n
}

// lose counts an event that the sink lacks.
func (s *Sink) lose(skipped, seq uint64, typ event.Type, count uint64, at time.Time, from origin) {
	l := s.lost
	if l == nil {
		l = &lost{skipped: skipped, loss: event.Loss{Reason: event.LossSink, Records: map[event.Type]uint64{}, FirstSeq: seq, From: at}}
		s.lost = l
	}
	l.add(seq, typ, count, at, from)
	s.total += count
}

func (l *lost) add(seq uint64, typ event.Type, count uint64, at time.Time, from origin) {
	l.loss.Records[typ] += count
	l.loss.LastSeq, l.at = seq, from
	if at.Before(l.loss.From) {
		l.loss.From = at
	}
	if at.After(l.loss.To) {
		l.loss.To = at
	}
}

// addLoss puts a trace.loss for what is missing into the queue.
func (s *Sink) addLoss() {
	if s.lost == nil {
		return
	}
	s.add(s.lost.item(&s.o))
	s.lost = nil
}

func (l *lost) item(o *Options, notes ...string) Item {
	e := &event.Event{
		V: event.SchemaVersion, Type: event.TraceLoss, Time: time.Now().UTC(), RunID: l.at.runID, Host: l.at.host, BootID: l.at.bootID, Labels: l.at.labels,
		Seq: l.loss.LastSeq, Skipped: l.skipped, Loss: &l.loss,
	}
	if len(notes) > 0 {
		e.Trace = &event.Trace{Notes: notes}
	}
	var enc event.Encoder
	it := Item{Line: append(enc.Append(nil, e), '\n'), seq: e.Seq, skipped: e.Skipped, typ: e.Type, count: 1, time: e.Time, from: l.at, loss: e.Loss}
	if o.Events {
		it.Event = e
	}
	return it
}

func (s *Sink) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// batch waits for items and returns the next ones. They stay in the queue until drop. It returns nil at the end.
func (s *Sink) batch() []Item {
	for {
		s.mu.Lock()
		if s.lost != nil && s.roomy() {
			s.addLoss()
		}
		items, closed := s.queue, s.closed
		s.mu.Unlock()
		if len(items) > 0 {
			n, size := 0, 0
			for n < min(len(items), batchEvents) && (n == 0 || size+len(items[n].Line) <= batchBytes) {
				size += len(items[n].Line)
				n++
			}
			return items[:n:n]
		}
		if closed {
			return nil
		}
		<-s.wake
	}
}

// drop removes the first n items from the queue.
func (s *Sink) drop(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		s.size -= s.queue[i].size()
		s.queue[i] = Item{} // the array lives on while items are added
	}
	s.queue = s.queue[n:]
}

// replace puts an item in the place of the first n.
func (s *Sink) replace(n int, it Item) {
	s.drop(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += it.size()
	s.queue = append([]Item{it}, s.queue...)
}

// miss counts events that the destination lacks.
func (s *Sink) miss(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += n
}

// missing returns how many events the destination lacks.
func (s *Sink) missing() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// refused returns a trace.loss that stands for items, and how many events more are missing than before.
func refused(items []Item, o *Options) (Item, uint64) {
	first := items[0]
	l := &lost{skipped: first.skipped, loss: event.Loss{Reason: event.LossSink, Records: map[event.Type]uint64{}, FirstSeq: first.seq, From: first.time}}
	n := uint64(0)
	for i, it := range items {
		if it.loss == nil {
			l.add(it.seq, it.typ, it.count, it.time, it.from)
			n += it.count
			continue
		}
		if i == 0 {
			l.loss.FirstSeq = it.loss.FirstSeq
		}
		for typ, count := range it.loss.Records {
			l.add(it.seq, typ, count, it.loss.From, it.from)
			l.add(it.seq, typ, 0, it.loss.To, it.from)
		}
	}
	return l.item(o), n
}

// rejected returns a trace.loss about items that were delivered, but for some.
func rejected(items []Item, r *Rejected, o *Options) Item {
	first, last := items[0], items[len(items)-1]
	l := &lost{loss: event.Loss{Reason: event.LossRejected, FirstSeq: first.seq, LastSeq: last.seq, From: first.time, To: first.time}, at: last.from}
	for _, it := range items {
		if it.time.Before(l.loss.From) {
			l.loss.From = it.time
		}
		if it.time.After(l.loss.To) {
			l.loss.To = it.time
		}
	}
	return l.item(o, r.Error())
}

// A source has items for a destination.
type source interface {
	batch() []Item                // waits for items and returns the next ones, which stay until drop; nil at the end
	drop(n int)                   // removes the first n items
	replace(n int, it Item)       // puts an item in the place of the first n
	took(items []Item, err error) // counts what the destination took; err is the error of the delivery
	miss(n uint64)                // counts events that the destination lacks
	missing() uint64
}

// deliver delivers what a source has, until its end or that of the context. kept is called after each error that can
// pass.
func deliver(ctx context.Context, from source, o *Options, kept func()) {
	failing, wait := false, firstBackoff
	for {
		items := from.batch()
		if items == nil {
			return
		}
		n, err := o.Destination.Deliver(ctx, items)
		from.took(items[:n], err)
		var not *Refused
		var partly *Rejected
		switch {
		case errors.As(err, &partly):
			it := rejected(items[n-partly.Of:n], partly, o)
			from.miss(partly.N)
			from.replace(n, it)
			o.Report(fmt.Sprintf("%s: %v", o.Name, err))
			continue
		case err == nil && n == len(items):
			from.drop(n)
			if failing {
				failing = false
				message := o.Name + " works again"
				if n := from.missing(); n > 0 {
					message += fmt.Sprintf("; it lacks %d events so far", n)
				}
				o.Report(message)
			}
			wait = firstBackoff
			continue
		case errors.As(err, &not) && not.N > 0:
			o.Report(fmt.Sprintf("%s: %v; these events cannot be delivered", o.Name, err))
			if not.N == 1 && items[n].loss != nil {
				from.drop(n + 1) // another one would be refused too
			} else {
				it, lost := refused(items[n:n+not.N], o)
				from.miss(lost)
				from.drop(n)
				from.replace(not.N, it)
			}
			if pause(ctx, firstBackoff) != nil {
				return
			}
			continue
		case err == nil:
			err = errors.New("not all was taken")
		}
		from.drop(n)
		if ctx.Err() != nil || o.Once {
			return
		}
		if !failing {
			failing = true
			o.Report(fmt.Sprintf("%s: %v; nstrace goes on, and tries again", o.Name, err))
		}
		if kept != nil {
			kept()
		}
		after := wait
		var later *Later
		if errors.As(err, &later) {
			after = max(after, later.After)
		}
		if pause(ctx, after) != nil {
			return
		}
		wait = min(2*wait, lastBackoff)
	}
}

// pause waits, unless there is no more time.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// run delivers until the sink is closed.
func (s *Sink) run() {
	defer close(s.done)
	var kept func()
	if to, ok := s.o.Destination.(keeper); ok {
		kept = func() { to.keep(s.pending()) }
	}
	deliver(s.ctx, s, &s.o, kept)
}

// A keeper is a destination that remembers what is missing if the process ends now.
type keeper interface {
	keep(it *Item) // a trace.loss, nil for nothing
}

// pending returns a trace.loss that stands for the queue, and for what did not fit into it. nil means nothing.
func (s *Sink) pending() *Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := s.queue[:len(s.queue):len(s.queue)]
	if s.lost != nil {
		items = append(items, s.lost.item(&s.o))
	}
	if len(items) == 0 {
		return nil
	}
	it, _ := refused(items, &s.o)
	return &it
}

// finish says that no more events come.
func (s *Sink) finish() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

// end waits for what is in the queue until the context ends. It returns an error if the destination lacks events.
func (s *Sink) end(ctx context.Context) error {
	var err error
	select {
	case <-s.done:
	case <-ctx.Done():
		s.stop()
		select {
		case <-s.done:
		case <-time.After(firstBackoff): // stuck in the kernel, which nothing can end
		}
	}
	select {
	case <-s.done: // else the goroutine still uses it
		if to, ok := s.o.Destination.(keeper); ok {
			to.keep(s.pending())
		}
		err = s.o.Destination.Close()
	default:
	}
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.total
	for _, it := range s.queue {
		if it.loss == nil {
			n += it.count
		}
	}
	if n > 0 {
		err = errors.Join(err, fmt.Errorf("%s lacks up to %d events", s.o.Name, n))
	}
	return err
}
