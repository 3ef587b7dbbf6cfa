// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/metrics"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
	"github.com/nstrace/nstrace/tracer"
)

// A status tells others how a run is: Prometheus, systemd, and nstrace check.
type status struct {
	f       *streamFlags
	r       *run
	since   time.Time
	metrics *metrics.Metrics // nil without --metrics
	monitor *pipeline.Monitor[tracer.State]
}

// newStatus returns the status of a run that starts.
func (f *streamFlags) newStatus(r *run) *status {
	s := &status{f: f, r: r, since: time.Now()}
	if f.metrics == "" {
		return s
	}
	o := metrics.Options{
		Version: buildVersion(), SinkStats: r.sinkStats,
		Ask:  func(ctx context.Context) (tracer.State, error) { return s.monitor.Ask(ctx) },
		Ring: func() (used, size int) { return r.tracer.Ring() },
	}
	if f.alerts != nil {
		o.Rules = f.alerts.Names()
	}
	if f.history != nil {
		o.History = f.history.Stats
	}
	s.metrics = metrics.New(o)
	return s
}

// listen opens the socket of --metrics. It returns nil without that.
func (f *streamFlags) listen() (net.Listener, error) {
	if f.metrics == "" {
		return nil, nil
	}
	at, err := metrics.ParseAddr(f.metrics)
	if err != nil {
		return nil, usagef("--metrics: %w", err)
	}
	l, err := metrics.Listen(at)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	if f.verbose {
		fmt.Fprintf(os.Stderr, "nstrace: serves http://%s/metrics\n", l.Addr())
	}
	return l, nil
}

// serve answers on the socket of --metrics.
func (s *status) serve(l net.Listener) *metrics.Server {
	return s.metrics.Serve(l, func() error {
		if s.f.history == nil {
			return nil
		}
		select {
		case <-s.f.history.Opened():
			return nil
		default:
			return errors.New("the database is not open yet")
		}
	})
}

// took returns what a sink calls for each event that its destination took, nil without --metrics.
func (s *status) took(name string) func(time.Time) {
	if s.metrics == nil {
		return nil
	}
	return s.metrics.Took(name)
}

// timed returns a sink that measures when out has an event.
func (s *status) timed(out output.Sink, nowhere bool) output.Sink {
	if s.metrics == nil || nowhere {
		return out
	}
	return &timedSink{Sink: out, took: s.metrics.Took(metrics.Output)}
}

// A timedSink measures when the sink behind it has an event: at the flush that follows, or when it took maxUnflushed.
type timedSink struct {
	output.Sink
	took      func(time.Time)
	unflushed []time.Time
}

const maxUnflushed = 4096

func (s *timedSink) Write(e *event.Event) error {
	err := s.Sink.Write(e)
	if err == nil {
		if s.unflushed = append(s.unflushed, e.Time); len(s.unflushed) >= maxUnflushed {
			s.measure()
		}
	}
	return err
}

func (s *timedSink) Flush() error {
	err := s.Sink.Flush()
	if err == nil {
		s.measure()
	}
	return err
}

func (s *timedSink) measure() {
	for _, at := range s.unflushed {
		s.took(at)
	}
	s.unflushed = s.unflushed[:0]
}

// handler returns what takes the events of the tracer: the stage with what asks the tracer in front of it.
func (s *status) handler() tracer.Handler {
	var first pipeline.Handler = s.r.stage
	if s.f.heartbeat > 0 {
		beat := &pipeline.Heartbeat{Next: first, Every: s.f.heartbeat, Source: s.r.tracer}
		if s.f.history != nil {
			beat.Head = s.f.history.Head
		}
		first = beat
	}
	s.monitor = pipeline.NewMonitor(first, s.r.tracer.State, s.r.tracer.Wake)
	return s.monitor
}

// statusEvery is how often systemd learns the status.
const statusEvery = 5 * time.Second

// background starts what must happen while the run is quiet. It returns a function that ends that and waits.
func (s *status) background(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	if s.f.heartbeat > 0 {
		go pipeline.Wake(ctx, s.f.heartbeat, s.r.tracer.Wake)
	}
	go func() {
		defer close(done)
		if os.Getenv("NOTIFY_SOCKET") != "" {
			s.notifySystemd(ctx)
		}
	}()
	return func() { cancel(); <-done }
}

// notifySystemd keeps the status of the unit up to date.
func (s *status) notifySystemd(ctx context.Context) {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if text := describeState(s.state(ctx), location()); text != last && ctx.Err() == nil {
			if _, err := daemon.SdNotify(false, "STATUS="+flatten(text)); err == nil {
				last = text
			}
		}
	}
}

// answerTime is how long a run has to say how it is.
const answerTime = time.Second

// state returns what the run says of itself.
func (s *status) state(ctx context.Context) *history.State {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	st := &history.State{Version: buildVersion(), PID: os.Getpid(), Since: s.since, Events: s.r.steps.Written()}
	now, err := s.monitor.Ask(ctx)
	if err != nil {
		st.Problems = append(st.Problems, "the run does not answer")
	}
	st.Lost, st.MoreLost = now.Totals.Lost, s.r.steps.MoreLost()
	if s.f.history != nil {
		if h := s.f.history.Stats(); h.Fault != nil {
			st.Problems = append(st.Problems, fmt.Sprintf("%s wait for the database: %v", plural(uint64(h.Waiting), "event"), h.Fault))
		}
	}
	for _, sink := range s.r.sinkStats() {
		if sink.Failing {
			st.Problems = append(st.Problems, "the sink "+sink.Label+" does not work")
		}
		if sink.Lost > 0 {
			st.Problems = append(st.Problems, fmt.Sprintf("the sink %s lacks %s", sink.Label, plural(sink.Lost, "event")))
		}
	}
	return st
}

// describeState returns a state as one line.
func describeState(st *history.State, zone *time.Location) string {
	lost := "none lost"
	switch {
	case st.Lost > 0 && st.MoreLost:
		lost = plural(st.Lost, "event") + " and more lost"
	case st.Lost > 0:
		lost = fmt.Sprintf("%d lost", st.Lost)
	case st.MoreLost:
		lost = "an unknown number lost"
	}
	text := fmt.Sprintf("tracing since %s: %s, %s", st.Since.In(zone).Format(time.DateTime), plural(st.Events, "event"), lost)
	for _, p := range st.Problems {
		text += "; " + p
	}
	return text
}
