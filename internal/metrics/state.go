// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/sink"
)

// A state collects what others know at the moment of a scrape.
type state struct{ o Options }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	responding = desc("nstrace_responding", "1 if the run answered within two seconds, 0 if it hangs.")
	seen       = desc("nstrace_seen_events_total", "Events that the hooks in the kernel saw, before any filter.")
	proven     = desc("nstrace_hooks_proven_timestamp_seconds", "When the hooks were last known to see what happens.")
	namespaces = desc("nstrace_namespaces", "Namespaces that are known to be alive, by type.", "type")

	ringUsed = desc("nstrace_ring_used_bytes", "Bytes of the ring buffer that nstrace has not read yet.")
	ringSize = desc("nstrace_ring_size_bytes", "Size of the ring buffer.")

	queueEvents = desc("nstrace_sink_queue_events", "Events in memory for a sink.", "sink")
	queueBytes  = desc("nstrace_sink_queue_bytes", "Memory of the events for a sink.", "sink")
	delivered   = desc("nstrace_sink_delivered_events_total", "Events that a sink took.", "sink")
	sinkLost    = desc("nstrace_sink_lost_events_total", "Events that a sink lacks. The stream and other sinks can have them.", "sink")
	failing     = desc("nstrace_sink_failing", "1 if the last delivery to a sink failed.", "sink")
	spoolBytes  = desc("nstrace_sink_spool_bytes", "Bytes on the disk of the events for a sink.", "sink")
)

// Describe describes no metric, because their number depends on the options.
func (s *state) Describe(chan<- *prometheus.Desc) {}

// Collect asks everybody.
func (s *state) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	if s.o.Ring != nil {
		used, size := s.o.Ring()
		gauge(ringUsed, float64(used))
		gauge(ringSize, float64(size))
	}
	queue := func(name string, st sink.Stats) {
		gauge(queueEvents, float64(st.QueueEvents), name)
		gauge(queueBytes, float64(st.QueueBytes), name)
		counter(delivered, st.Delivered, name)
		gauge(failing, number(st.Failing), name)
	}
	if s.o.SinkStats != nil {
		for _, st := range s.o.SinkStats() {
			name := st.Label
			queue(name, st)
			counter(sinkLost, st.Lost, name)
			if st.Spool != nil {
				gauge(spoolBytes, float64(st.Spool.Bytes), name)
			}
		}
	}
	if s.o.History != nil {
		h := s.o.History()
		queue(History, sink.Stats{QueueEvents: h.Waiting, QueueBytes: int(h.WaitingBytes), Delivered: h.Written, Failing: h.Fault != nil})
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	st, err := s.o.Ask(ctx)
	gauge(responding, number(err == nil))
	if err != nil {
		return
	}
	counter(seen, st.Totals.Seen)
	gauge(proven, float64(st.Proven.UnixNano())/float64(time.Second))
	for _, typ := range event.NSTypes() {
		gauge(namespaces, float64(st.Namespaces[typ]), string(typ))
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
