// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// DefaultWait is how long an event waits for the name of its container by default.
const DefaultWait = 200 * time.Millisecond

// maxQueue is the maximum number of waiting events.
const maxQueue = 16384

// A Stage adds the names from container runtimes to the events of a tracer, and hands the events
// on in their order. An event of a cached container costs a map lookup. An event of an unknown
// container waits for an answer, at most for the time given to New, and the events behind it wait
// with it. Without an answer it is handed on as it is; later events can have the name.
type Stage struct {
	next  Handler
	wait  time.Duration
	cache *cache
	ctx   context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup
	// listed is closed once the runtimes that were there at first have listed their containers, or
	// failed to.
	listed chan struct{}

	mu     sync.Mutex // held whenever next is called
	queue  []waiting
	idle   bool // the tracer is idle since the last event of the queue
	closed bool
	timer  *time.Timer
	woken  chan struct{}
	err    error  // of next, to be returned by the next call
	failed func() // see OnError; can be nil
}

type waiting struct {
	event *event.Event
	until time.Time
}

// A Handler takes events, one after another. It has the methods of pipeline.Handler.
type Handler interface {
	Event(e *event.Event) error
	Idle() error
}

// SetNext sets the handler behind the Stage. It must be called before the first event.
func (s *Stage) SetNext(next Handler) { s.next = next }

// Between calls f while no event is on its way through the handler behind the Stage.
func (s *Stage) Between(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// OnError sets what is called if the handler behind the Stage returns an error while no call of the Stage
// is under way. The next call returns the error, so f makes sure that one comes. OnError must be called
// before the first event.
func (s *Stage) OnError(f func()) { s.failed = f }

// New returns a Stage that queries the runtimes of specs (see Open). Without specs it searches
// the host for runtimes, now and later on. New waits until the runtimes have listed their
// containers, but at most for wait.
func New(specs []string, wait time.Duration) (*Stage, error) { return NewBy(here{}, specs, wait) }

// NewBy is New with runtimes that an Opener opens.
func NewBy(by Opener, specs []string, wait time.Duration) (*Stage, error) {
	srcs, err := openSources(specs, by)
	if err != nil {
		return nil, err
	}
	s := &Stage{wait: wait, cache: newCache(srcs), woken: make(chan struct{}, 1), listed: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.cache.wait, s.cache.changed, s.cache.more, s.cache.spawn = wait, s.wake, s.more, s.done.Go
	s.timer = time.AfterFunc(time.Hour, s.wake)
	s.timer.Stop()
	s.done.Go(func() { s.follow(s.listed) })
	ctx, cancel := context.WithTimeout(s.ctx, wait)
	defer cancel()
	s.AwaitList(ctx)
	return s, nil
}

// Event takes the next event of the tracer.
func (s *Stage) Event(e *event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.idle = false
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

// Idle hands on the call. If events wait, it hands it on after them.
func (s *Stage) Idle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.queue) > 0 {
		s.idle = true
		return s.err
	}
	return s.next.Idle()
}

// Close ends the goroutines of the Stage.
func (s *Stage) Close() error {
	s.stop()
	s.mu.Lock()
	s.closed = true // a wake that is under way hands on nothing more
	s.timer.Stop()
	s.mu.Unlock()
	s.done.Wait()
	return s.cache.sources.close()
}

// wake hands on the events that need not wait any more.
func (s *Stage) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	before := s.err
	s.drain(time.Now())
	if before == nil && s.err != nil && s.failed != nil {
		go s.failed() // it can call the Stage
	}
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// drain hands on the events at the head of the queue that have their names or waited long
// enough.
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
		// Only if the tracer is idle: Drift takes an Idle for the end of what was in the ring.
		if s.err == nil && s.idle {
			s.err = s.next.Idle()
		}
		return
	}
	s.timer.Reset(time.Until(s.queue[0].until))
}

// flush hands on all events. Each still waits for its name.
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

// name adds the cached names to e, and reports whether no query for e is pending.
func (s *Stage) name(e *event.Event, now time.Time) bool {
	if e.Container == nil && e.Pod == nil && e.Namespace == nil && e.Sysctl == nil && e.Netdev == nil {
		return true
	}
	cc := s.cache
	cc.mu.Lock()
	defer cc.mu.Unlock()
	ready := true
	if e.Container != nil {
		entry, wait := cc.find(s.ctx, e.Container, now)
		if entry.container != nil {
			e.Pod = entry.podOr(e.Pod)
			e.Container = entry.container
		}
		ready = ready && !wait
	}
	e.Pod = cc.podOf(e.Pod)
	for _, ns := range e.Namespaces() {
		if ns != nil {
			ready = s.nameNS(ns, now) && ready
		}
	}
	return ready
}

func (s *Stage) nameNS(ns *event.Namespace, now time.Time) bool {
	switch {
	case ns.Owner == nil:
		return true
	case ns.Owner.Container == nil:
		s.namePod(ns)
		return true
	}
	entry, wait := s.cache.find(s.ctx, ns.Owner.Container, now)
	ns.Owner = s.cache.ownerOf(entry, ns.Owner)
	// A name of ip netns has priority.
	if ns.Type == event.NSTypeNet && ns.Name == "" && entry.container != nil {
		ns.Name = entry.network
	}
	return !wait
}

// namePod adds the name of the pod that a namespace belongs to, which several of its containers share.
func (s *Stage) namePod(ns *event.Namespace) {
	pod := s.cache.podOf(ns.Owner.Pod)
	if pod != ns.Owner.Pod {
		owner := *ns.Owner // it never changes
		owner.Pod = pod
		ns.Owner = &owner
	}
	if pod != nil && ns.Type == event.NSTypeNet && ns.Name == "" {
		ns.Name = pod.Path()
	}
}

// Knows reports whether a runtime has told of a container or pod that --container means by want.
func (s *Stage) Knows(want string) bool {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	for _, share := range s.cache.shares {
		for _, e := range share.containers {
			if e.container != nil && e.container.Is(want) || e.pod != nil && e.pod.Name != "" && e.pod.Path() == want {
				return true
			}
		}
		for _, pod := range share.pods {
			if pod.Name != "" && pod.Path() == want {
				return true
			}
		}
	}
	return false
}
