// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// DefaultWait is how long an event waits for the name of its container.
const DefaultWait = 200 * time.Millisecond

// maxQueue is how many events wait at most, whatever for.
const maxQueue = 16384

// A Stage adds what runtimes know of containers to a tracer's events, and hands them
// on in their order. An event waits for a name that nobody has told yet, at most for the
// time given to New, and those behind it wait with it; it then goes without, and a later
// one has it. An event of a container that is known costs a look into a map.
type Stage struct {
	next Handler
	wait time.Duration
	book *book
	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex // held whenever next is called
	queue []waiting
	timer *time.Timer
	woken chan struct{}
	err   error // of next, when nobody was there to be told
}

type waiting struct {
	event *event.Event
	until time.Time
}

// A Handler takes events, one after another: what pipeline.Handler is.
type Handler interface {
	Event(e *event.Event) error
	Idle() error
}

// SetNext sets what the events go to. It comes before the first event.
func (s *Stage) SetNext(next Handler) { s.next = next }

// New returns a Stage that asks the runtimes behind specs (see Open),
// or, without any, those that it finds on the host, also later on. It waits for what they
// have now, but not for longer than for an event.
func New(specs []string, wait time.Duration) (*Stage, error) {
	srcs, err := openSources(specs)
	if err != nil {
		return nil, err
	}
	s := &Stage{wait: wait, book: newBook(srcs), woken: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.book.wait, s.book.learned, s.book.more, s.book.spawn = wait, s.wake, s.more, s.done.Go
	s.timer = time.AfterFunc(time.Hour, s.wake)
	s.timer.Stop()
	listed := make(chan struct{})
	s.done.Go(func() { s.follow(listed) })
	select {
	case <-listed:
	case <-time.After(wait):
	}
	return s, nil
}

// Event takes the tracer's next event.
func (s *Stage) Event(e *event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if e.Type == event.TraceStop {
		if err := s.flush(); err != nil {
			return err
		}
	}
	now := time.Now()
	if len(s.queue) == 0 && s.name(e, now) {
		return s.next.Event(e)
	}
	if len(s.queue) >= maxQueue {
		s.queue[0].until = now
		if s.drain(now); s.err != nil {
			return s.err
		}
	}
	s.queue = append(s.queue, waiting{e.Clone(), now.Add(s.wait)})
	if len(s.queue) == 1 {
		s.timer.Reset(s.wait)
	}
	return nil
}

// Idle is passed on unless events wait: then it comes after them.
func (s *Stage) Idle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.queue) > 0 {
		return s.err
	}
	return s.next.Idle()
}

// Close ends what goes on in the background.
func (s *Stage) Close() error {
	s.stop()
	s.timer.Stop()
	s.done.Wait()
	return s.book.sources.close()
}

// wake hands on what need not wait any more.
func (s *Stage) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain(time.Now())
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// drain hands on the events at the queue's head that have their names, or waited
// for long enough.
func (s *Stage) drain(now time.Time) {
	n := 0
	for ; n < len(s.queue) && s.err == nil; n++ {
		w := &s.queue[n]
		if !s.name(w.event, now) && now.Before(w.until) {
			break
		}
		s.err = s.next.Event(w.event)
		w.event = nil
	}
	if n == 0 {
		return
	}
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil
		s.timer.Stop()
		if s.err == nil {
			s.err = s.next.Idle()
		}
		return
	}
	s.timer.Reset(time.Until(s.queue[0].until))
}

// flush hands on everything, waiting as long as is left.
func (s *Stage) flush() error {
	for len(s.queue) > 0 && s.err == nil {
		left := time.Until(s.queue[0].until)
		s.mu.Unlock()
		select {
		case <-s.woken:
		case <-time.After(left):
		}
		s.mu.Lock()
		s.drain(time.Now())
	}
	return s.err
}

// name adds to e what is known, and says whether that is all that there will be in a
// moment.
func (s *Stage) name(e *event.Event, now time.Time) bool {
	if e.Container == nil && e.Pod == nil && e.Namespace == nil && e.Sysctl == nil && e.Netdev == nil {
		return true
	}
	b := s.book
	b.mu.Lock()
	defer b.mu.Unlock()
	ready := true
	if e.Container != nil {
		entry, wait := b.find(s.ctx, e.Container, now)
		if entry.container != nil {
			e.Pod = entry.podOr(e.Pod)
			e.Container = entry.container
		}
		ready = ready && !wait
	}
	if e.Pod != nil && e.Pod.Source != event.FromRuntime && b.pods[e.Pod.UID] != nil {
		e.Pod = b.pods[e.Pod.UID]
	}
	for _, ns := range e.Namespaces() {
		if ns != nil {
			ready = s.nameNS(ns, now) && ready
		}
	}
	return ready
}

func (s *Stage) nameNS(ns *event.Namespace, now time.Time) bool {
	if ns.Owner == nil || ns.Owner.Container == nil {
		return true
	}
	entry, wait := s.book.find(s.ctx, ns.Owner.Container, now)
	ns.Owner = entry.ownerOf(ns.Owner)
	// What ip netns calls it comes first.
	if ns.Type == "net" && ns.Name == "" && entry.container != nil {
		ns.Name = entry.network
	}
	return !wait
}
