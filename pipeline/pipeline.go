// SPDX-License-Identifier: Apache-2.0

// Package pipeline has the steps between a tracer and the sinks that its events go to.
//
// Each step is a small type with one job. It takes events from the step before it and
// hands them to the next one. They stand in this order:
//
//	Monitor         answers how the run is
//	Heartbeat       adds trace.alive at intervals
//	runtimes.Stage  names containers
//	Gap             adds trace.gap for the time before this run
//	Drift           adds what changed while no nstrace was running
//	Writers         adds who set the limits that refused a namespace
//	Visitors        drops the enters of other processes of nstrace, which only look
//	Label           gives events the labels of the run
//	Select          keeps the events of the wanted containers and network namespaces
//	Expected        marks the events that move a parameter away from its expected value, or back
//	Alerts          marks the events that meet a rule
//	Filter          keeps the events that an expression holds for
//	Limit           ends the run after a number of events
//	Losses          adds trace.loss for what the history or another sink could not take
//	Number          assigns v, run_id, seq and the totals, once
//	Fanout          writes to every sink; those of --sink have queues, see internal/sink
//
// New builds the chain from Gap to Fanout. Nothing behind Number adds, drops or changes
// an event. A step that drops events counts them in Drops, so that the totals balance. The
// trace.loss of Losses enters behind Alerts and meets no rule.
//
// One step at a time runs: the runtimes.Stage in front calls them from two goroutines, but holds
// its lock while it does. Drift.Keep runs in a separate goroutine.
package pipeline

import (
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/history"
)

// A Handler takes events, one after another. An error ends the run.
type Handler interface {
	// Event takes the next event. The event and what it refers to are valid until Event
	// returns, except its Process, which never changes. event.Event.Clone keeps the rest.
	Event(e *event.Event) error
	// Idle is called when there are no more events for the moment: the time to flush.
	Idle() error
}

// Options say which steps a pipeline has. A zero field leaves its step out.
type Options struct {
	RunID     string            // of every event; see NewRunID
	Writers   *Writers          // for Writers; its Next is set by New
	Selection Selection         // for Select
	Expected  *baseline.Marker  // for Expected
	Alerts    *alert.Rules      // for Alerts
	Filter    *filter.Program   // for Filter
	Limit     uint64            // for Limit: events, not counting trace.*
	Labels    map[string]string // for Label; never changes
	LimitDone func()            // called once Limit is reached
	History   *history.Recorder // for Gap, Visitors, Losses and, as the first sink, for Fanout
	Drift     *Drift            // for Drift; its Next is set by New
	Sinks     []Sink            // for Fanout
	Source    Source            // the totals of the tracer, for Number
}

// A Pipeline is a chain of steps. It is a Handler.
type Pipeline struct {
	Handler
	number *Number

	labels   *Label
	selects  *Select
	expected *Expected
	alerts   *Alerts
	filter   *Filter
	drift    *Drift
}

// Settings are the options that can change while a pipeline runs.
type Settings struct {
	Selection Selection
	Expected  *baseline.Marker
	Alerts    *alert.Rules
	Filter    *filter.Program
	Labels    map[string]string
}

// Labels returns the labels of all events. They never change.
func (p *Pipeline) Labels() map[string]string { return p.labels.Labels }

// Use replaces settings, from the next event on. complete is as in DriftOptions. No event may be on its way, see
// runtimes.Stage.Between.
func (p *Pipeline) Use(s Settings, complete bool) {
	p.labels.Labels, p.number.labels = s.Labels, s.Labels
	p.selects.Selection = s.Selection
	p.expected.Marker = s.Expected
	p.alerts.Rules = s.Alerts
	p.filter.Program = s.Filter
	if p.drift != nil {
		p.drift.setComplete(complete)
	}
}

// New builds a pipeline.
func New(o Options) *Pipeline {
	fanout := &Fanout{}
	if o.History != nil {
		fanout.Sinks = append(fanout.Sinks, historySink{o.History})
	}
	fanout.Sinks = append(fanout.Sinks, o.Sinks...)

	drops := new(Drops)
	number := NewNumber(fanout, o.RunID, o.Source, drops)
	p := &Pipeline{Handler: number, number: number, drift: o.Drift}
	losses := &Losses{Next: p.Handler}
	if o.History != nil {
		losses.Take = append(losses.Take, func(bool) *event.Loss { return o.History.TakeLoss() }, o.History.TakeQuotaLoss)
	}
	for _, s := range o.Sinks {
		if r, ok := s.(*Retry); ok {
			losses.Take = append(losses.Take, func(bool) *event.Loss { return r.TakeLoss() })
		}
	}
	if o.Drift != nil {
		losses.Lost = o.Drift.Lost
	}
	if len(losses.Take) > 0 {
		p.Handler = losses
	}
	if o.Limit > 0 {
		p.Handler = &Limit{Next: p.Handler, Max: o.Limit, Done: o.LimitDone, Drops: drops}
	}
	// These are always there, so that Use can set them.
	p.filter = &Filter{Next: p.Handler, Program: o.Filter, Drops: drops}
	p.alerts = &Alerts{Next: p.filter, Rules: o.Alerts}
	p.expected = &Expected{Next: p.alerts, Marker: o.Expected}
	p.selects = &Select{Next: p.expected, Selection: o.Selection, Drops: drops}
	p.labels = &Label{Next: p.selects, Labels: o.Labels}
	number.labels = o.Labels
	p.Handler = p.labels
	if o.History != nil {
		p.Handler = &Visitors{Next: p.Handler, ByVisitor: o.History.ByVisitor, Drops: drops}
	}
	if o.Writers != nil {
		o.Writers.Next = p.Handler
		p.Handler = o.Writers
	}
	if o.Drift != nil {
		o.Drift.Next = p.Handler
		p.Handler = o.Drift
	}
	if o.History != nil {
		p.Handler = &Gap{Next: p.Handler, History: o.History}
	}
	return p
}

// Totals returns the totals of the run, nil before its trace.stop.
func (p *Pipeline) Totals() *event.Totals { return p.number.Totals() }

// Uncounted reports whether an unknown number of events was lost, which no total has.
func (p *Pipeline) Uncounted() bool { return p.number.Uncounted() }

// Written returns how many events were written so far. It is safe for concurrent use.
func (p *Pipeline) Written() uint64 { return p.number.Written() }

// MoreLost reports whether an unknown number of events was lost so far. It is safe for concurrent use.
func (p *Pipeline) MoreLost() bool { return p.number.MoreLost() }

// Alerts returns how many written events met each rule, by the rule's name.
func (p *Pipeline) Alerts() map[string]uint64 { return p.number.Alerts() }

// aboutTrace reports whether an event is about the run itself. Such an event passes every
// step.
func aboutTrace(e *event.Event) bool { return e.Type.Family() == "trace" }
