// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/filter"
)

// Visitors drops the calls of setns of other processes of nstrace, such as nstrace blame. They enter namespaces only
// to read what is there.
type Visitors struct {
	Next      Handler
	ByVisitor func(*event.Event) bool
	Drops     *Drops
}

// Event hands on e unless a visitor made it.
func (v *Visitors) Event(e *event.Event) error {
	if v.ByVisitor(e) {
		v.Drops.add(e)
		return nil
	}
	return v.Next.Event(e)
}

// Idle hands on the call.
func (v *Visitors) Idle() error { return v.Next.Idle() }

// Alerts marks the events that meet a rule. Of the events about the run itself, only
// trace.loss and trace.tamper can meet one. A parameter that a reboot set back meets none.
type Alerts struct {
	Next  Handler
	Rules *alert.Rules // nil for none
}

// Event marks e and hands it on.
func (a *Alerts) Event(e *event.Event) error {
	reset := e.Between != nil && e.Between.Reset
	if a.Rules != nil && !reset && (!aboutTrace(e) || e.Type == event.TraceLoss || e.Type == event.TraceTamper) {
		a.Rules.Mark(e)
	}
	return a.Next.Event(e)
}

// Idle hands on the call.
func (a *Alerts) Idle() error { return a.Next.Idle() }

// Filter drops the events that an expression does not hold for. It stands behind Alerts,
// because an expression can ask for the rules that an event meets.
type Filter struct {
	Next    Handler
	Program *filter.Program // nil: it holds for all
	Drops   *Drops
}

// Event hands on e if the expression holds for it.
func (f *Filter) Event(e *event.Event) error {
	if f.Program != nil && !aboutTrace(e) && !f.Program.Match(e) {
		f.Drops.add(e)
		return nil
	}
	return f.Next.Event(e)
}

// Idle hands on the call.
func (f *Filter) Idle() error { return f.Next.Idle() }

// Limit hands on Max events and calls Done when it has. It drops all later events, because
// the ring can hold more than the last event that was asked for.
type Limit struct {
	Next  Handler
	Max   uint64
	Done  func()
	Drops *Drops

	n uint64
}

// Event hands on e unless the limit is reached.
func (l *Limit) Event(e *event.Event) error {
	if aboutTrace(e) {
		return l.Next.Event(e)
	}
	if l.n >= l.Max {
		l.Drops.add(e)
		return nil
	}
	l.n++
	err := l.Next.Event(e)
	if l.n == l.Max {
		l.Done()
	}
	return err
}

// Idle hands on the call.
func (l *Limit) Idle() error { return l.Next.Idle() }
