// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"errors"
	"sync"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// A Target is a *Sink or a *Listener.
type Target interface {
	write(e *event.Event, shared *encoded) // never waits for a destination
	signal()                               // there are no more events for the moment
	finish()                               // there are no more events
	stats() Stats                          // safe for concurrent use
	end(ctx context.Context) error         // waits for what was written until the context ends
	setFilter(*filter.Program)             // from the next event on
}

// SetFilter replaces the filter of a sink, nil for none. No Write may be under way.
func SetFilter(t Target, p *filter.Program) { t.setFilter(p) }

// Replace replaces the sinks. No Write may be under way. The caller closes those that are not in the set any more, by
// another Set.
func (s *Set) Replace(sinks ...Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinks = sinks
}

// A Set is several sinks. Write, Flush and Close are for one goroutine at a time.
type Set struct {
	mu    sync.Mutex // for sinks, which only Replace changes
	sinks []Target
	enc   encoded
}

// NewSet returns a set of sinks.
func NewSet(sinks ...Target) *Set { return &Set{sinks: sinks} }

// Write puts an event into the queue of each sink. It never waits for a destination, and its error is always nil.
// Afterwards the caller may reuse the event and what it points to, except its process.
func (s *Set) Write(e *event.Event) error {
	s.enc.text, s.enc.event = nil, nil
	for _, sink := range s.sinks {
		sink.write(e, &s.enc)
	}
	return nil
}

// Flush wakes the sinks. Its error is always nil.
func (s *Set) Flush() error {
	for _, sink := range s.sinks {
		sink.signal()
	}
	return nil
}

// Close delivers what is in the queues, in a few seconds at most, and closes the destinations. The error says what
// the destinations lack.
func (s *Set) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	for _, sink := range s.sinks {
		sink.finish()
	}
	var errs []error
	for _, sink := range s.sinks {
		errs = append(errs, sink.end(ctx))
	}
	return errors.Join(errs...)
}

// encoded is what sinks share of an event.
type encoded struct {
	enc   event.Encoder
	buf   []byte
	text  []byte // of the current event, nil if no sink wanted it yet
	event *event.Event
}

// line returns the event as a line of JSON.
func (c *encoded) line(e *event.Event, skipped uint64) []byte {
	if skipped > 0 {
		with := *e
		with.Skipped = skipped
		return c.encode(&with)
	}
	if c.text == nil {
		c.text = c.encode(e)
	}
	return c.text
}

func (c *encoded) encode(e *event.Event) []byte {
	c.buf = append(c.enc.Append(c.buf[:0], e), '\n')
	return append(make([]byte, 0, len(c.buf)), c.buf...)
}

// clone returns a copy of the event to keep.
func (c *encoded) clone(e *event.Event) *event.Event {
	if c.event == nil {
		c.event = e.Clone()
	}
	return c.event
}
