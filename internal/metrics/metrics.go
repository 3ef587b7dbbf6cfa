// SPDX-License-Identifier: Apache-2.0

// Package metrics serves the numbers of a run to Prometheus, and whether the run works.
//
// Each label has few values: types and outcomes of events, causes of losses, types of namespaces, and names that the
// one who starts nstrace chose (rules, sinks). No label has a name that another user can choose.
package metrics

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/tracer"
)

// Names of sinks that are not of --sink.
const (
	Output  = "output"  // standard output, or --output-file
	History = "history" // the database of nstrace record
)

// Options say where the numbers come from. A nil function leaves out its metrics.
type Options struct {
	Version string
	Rules   []string // names of the rules of --alert
	// Ask asks the run how it is, until the context ends.
	Ask       func(context.Context) (tracer.State, error)
	Ring      func() (used, size int)
	SinkStats func() []sink.Stats
	History   func() history.Stats
}

// askTime is how long a run has to answer.
const askTime = 2 * time.Second

// Metrics counts the events of a run. It is a pipeline.Sink.
type Metrics struct {
	o        Options
	registry *prometheus.Registry

	events  *prometheus.CounterVec
	lost    *prometheus.CounterVec
	unknown *prometheus.CounterVec
	alerts  *prometheus.CounterVec
	latency *prometheus.HistogramVec

	counters map[eventKey]prometheus.Counter // of events, for the goroutine of Write
}

type eventKey struct {
	typ     event.Type
	outcome event.Outcome
}

// latencyBuckets are seconds.
var latencyBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300}

// New returns the metrics of a run.
func New(o Options) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		o: o, registry: prometheus.NewRegistry(), counters: map[eventKey]prometheus.Counter{},
		events:  counter("nstrace_events_total", "Events written, by type and outcome. An event that stands for several counts as that many.", "type", "outcome"),
		lost:    counter("nstrace_lost_events_total", "Events missing from the stream, by type and cause: the reason in trace.loss.", "type", "cause"),
		unknown: counter("nstrace_unknown_losses_total", "How often an unknown number of events was lost, by cause.", "cause"),
		alerts:  counter("nstrace_alerts_total", "Alerts of the written events, by rule.", "rule"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nstrace_delivery_latency_seconds", Help: "Time from an event in the kernel until a sink took it.", Buckets: latencyBuckets,
		}, []string{"sink"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nstrace_build_info", Help: "The value is 1. The labels describe the program.",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, m.events, m.lost, m.unknown, m.alerts, m.latency, &state{o},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.begin()
	return m
}

// begin makes the counters whose increase matters most. An increase from nothing to a number is none for Prometheus.
func (m *Metrics) begin() {
	for _, family := range event.Families() {
		for _, typ := range family.Types {
			for _, cause := range []string{event.LossRingFull, event.LossUserShare, event.LossMissed} {
				m.lost.WithLabelValues(string(typ), cause)
			}
		}
	}
	for _, cause := range []string{event.LossFtraceOff, event.LossProbesOff, event.LossHookSilent, event.LossReattach} {
		m.unknown.WithLabelValues(cause)
	}
	for _, rule := range m.o.Rules {
		m.alerts.WithLabelValues(rule)
	}
	m.counter(eventKey{event.TraceTamper, ""})
}

// unknownOutcome is the label of an event whose outcome is not known, or that has none.
const unknownOutcome = "unknown"

func (m *Metrics) counter(k eventKey) prometheus.Counter {
	c := m.counters[k]
	if c == nil {
		outcome := string(k.outcome)
		if outcome == "" {
			outcome = unknownOutcome
		}
		c = m.events.WithLabelValues(string(k.typ), outcome)
		m.counters[k] = c
	}
	return c
}

// Write counts an event. Its error is always nil.
func (m *Metrics) Write(e *event.Event) error {
	m.counter(eventKey{e.Type, e.Outcome}).Add(float64(max(1, e.Count)))
	if l := e.Loss; l != nil {
		for typ, n := range l.Records {
			m.lost.WithLabelValues(string(typ), l.Reason).Add(float64(n))
		}
		if len(l.Records) == 0 {
			m.unknown.WithLabelValues(l.Reason).Inc()
		}
	}
	for i := range e.Alert {
		m.alerts.WithLabelValues(e.Alert[i].Name).Inc()
	}
	return nil
}

// Flush does nothing.
func (m *Metrics) Flush() error { return nil }

// Took returns a function that takes the time of each event that a sink took. It is safe for concurrent use.
func (m *Metrics) Took(sink string) func(at time.Time) {
	latency := m.latency.WithLabelValues(sink)
	return func(at time.Time) { latency.Observe(max(0, time.Since(at).Seconds())) }
}
