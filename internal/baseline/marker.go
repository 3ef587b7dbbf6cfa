// SPDX-License-Identifier: Apache-2.0

package baseline

import (
	"strings"
	"sync/atomic"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
)

// A Marker marks the events that move a parameter of the host away from what is expected of it, or back. One goroutine
// at a time can call Mark, while another one calls Use.
type Marker struct {
	next  atomic.Pointer[Set] // to use from the next event on, nil for the same
	set   *Set
	known map[string]*marks // by parameter, nil for a parameter of which nothing is expected
}

// marks are what events of a parameter get.
type marks struct {
	expectation *Expectation
	away, back  *event.Expected
}

// maxKnown limits the memory: each network device has parameters of its own.
const maxKnown = 8192

// NewMarker returns a Marker for a set.
func NewMarker(s *Set) *Marker {
	m := &Marker{}
	m.Use(s)
	return m
}

// Use replaces the set.
func (m *Marker) Use(s *Set) { m.next.Store(s) }

// Mark sets Sysctl.Expected of e if both the value before and the one after are known, and one of them is as expected
// and the other one is not.
func (m *Marker) Mark(e *event.Event) {
	s := e.Sysctl
	if s == nil {
		return
	}
	s.Expected = nil
	if next := m.next.Load(); next != m.set {
		m.set, m.known = next, map[string]*marks{}
	}
	if e.Outcome == event.Failure || s.Truncated || s.Old == nil || s.After == nil || *s.Old == *s.After || !OfHost(s) {
		return
	}
	of := m.of(s.Name)
	if of == nil {
		return
	}
	before, after := of.expectation.Judge(*s.Old), of.expectation.Judge(*s.After)
	switch {
	case before == declared.Equal && after == declared.Different:
		s.Expected = of.away
	case before == declared.Different && after == declared.Equal:
		s.Expected = of.back
	}
}

// Unmet returns what is expected of a parameter of the host that just appeared, nil if nothing is, or if it has the
// expected value or one that nstrace cannot compare. It calls value only if it needs the value; false: it is unknown.
// Any number of goroutines can call Unmet.
func (m *Marker) Unmet(name string, value func() (string, bool)) *event.Unmet {
	x := m.next.Load().Of(name)
	if x == nil {
		return nil
	}
	is, ok := value()
	if !ok || len(is) >= maxMark || x.Judge(is) != declared.Different { // a long one can be cut
		return nil
	}
	return &event.Unmet{Name: valid(name), Value: valid(is), Expected: *x.expected(event.ExpectedUnmet)}
}

// OfHost reports whether a parameter belongs to the host, and not to a namespace of others.
func OfHost(s *event.Sysctl) bool {
	if s.Namespace == nil {
		return !strings.HasPrefix(s.Name, "net.") // then it is unknown to which network namespace it belongs
	}
	return s.Namespace.Host
}

func (m *Marker) of(name string) *marks {
	found, ok := m.known[name]
	if ok {
		return found
	}
	if x := m.set.Of(name); x != nil {
		found = &marks{x, x.expected(event.ExpectedAway), x.expected(event.ExpectedBack)}
	}
	if len(m.known) >= maxKnown {
		clear(m.known)
	}
	m.known[strings.Clone(name)] = found // the name of an event is valid only for a while
	return found
}

// maxMark is how many bytes of the values an event has.
const maxMark = 1024

func (x *Expectation) expected(state string) *event.Expected {
	e := &event.Expected{State: state, Comparison: string(x.Comparison), Severity: x.Severity, File: x.File, Line: uint32(max(x.Line, 0))}
	left := maxMark
	for _, v := range x.Values {
		if len(v) > left {
			v = valid(v[:left])
		}
		left -= len(v)
		if e.Values = append(e.Values, v); left == 0 {
			break
		}
	}
	return e
}
