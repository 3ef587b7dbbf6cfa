// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/pipeline"
)

// A broken sink has no room for more than one event until it is repaired, as a full disk.
type broken struct {
	sink
	err error // of each attempt
}

func (b *broken) Write(e *event.Event) error {
	if b.err != nil && len(b.events) > 0 {
		return b.err
	}
	return b.sink.Write(e)
}

func (b *broken) Flush() error {
	if b.err != nil {
		return b.err
	}
	return b.sink.Flush()
}

// TestRetry has one of two sinks fail for a while. The other one gets everything, and both get a trace.loss
// with what the first one lacks, once it works again.
func TestRetry(t *testing.T) {
	bad, good := &broken{err: syscall.ENOSPC}, new(sink)
	var said []string
	retry := &pipeline.Retry{Sink: bad, Report: func(message string) { said = append(said, message) }}
	p := pipeline.New(pipeline.Options{Sinks: []pipeline.Sink{retry, good}, Source: &source{event.Totals{Seen: 5, Written: 5}}})
	idle := func() {
		t.Helper()
		if err := p.Idle(); err != nil {
			t.Fatal(err)
		}
	}
	write := func(second int) *event.Event { return &event.Event{Type: event.SysctlWrite, Time: at(second)} }
	feed(t, p, &event.Event{Type: event.TraceStart, Time: at(0)}, write(1), write(2))
	idle()
	if retry.Lost() != 2 || len(said) != 1 {
		t.Errorf("%d events lost; %q", retry.Lost(), said)
	}
	bad.err = nil
	idle() // notices that it works
	if len(said) != 2 {
		t.Errorf("%q", said)
	}
	feed(t, p, write(3), &event.Event{Type: event.TraceStop, Time: at(4)})
	types := func(s *sink) (all []event.Type) {
		for _, e := range s.events {
			all = append(all, e.Type)
		}
		return all
	}
	if want := []event.Type{event.TraceStart, event.TraceLoss, event.SysctlWrite, event.TraceStop}; !slices.Equal(types(&bad.sink), want) {
		t.Errorf("%v, want %v", types(&bad.sink), want)
	}
	if want := []event.Type{event.TraceStart, event.SysctlWrite, event.SysctlWrite, event.TraceLoss, event.SysctlWrite, event.TraceStop}; !slices.Equal(types(good), want) {
		t.Errorf("%v, want %v", types(good), want)
	}
	if l := bad.events[1].Loss; l.Reason != event.LossOutput || l.Records[event.SysctlWrite] != 2 || !l.From.Equal(at(1)) || !l.To.Equal(at(2)) {
		t.Errorf("%+v", l)
	}
	if retry.Lost() != 0 {
		t.Errorf("%d events are lost and not reported", retry.Lost())
	}
}

// TestRetryReader has a sink whose reader is gone, which ends the run.
func TestRetryReader(t *testing.T) {
	gone := fmt.Errorf("write |1: %w", syscall.EPIPE)
	retry := &pipeline.Retry{Sink: &broken{err: gone, sink: sink{events: make([]*event.Event, 1)}}, Report: func(message string) { t.Error(message) }}
	if err := retry.Write(&event.Event{Type: event.SysctlWrite}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	if err := retry.Flush(); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
}

func at(second int) time.Time { return time.Unix(int64(second), 0) }

// A buffered sink cannot write what it took.
type buffered struct{ sink }

func (b *buffered) Flush() error {
	if len(b.events) == 0 {
		return nil
	}
	return syscall.ENOSPC
}

func (b *buffered) Close() error { return b.Flush() }

// TestRetryClose ends a run with events in the buffer of a sink that cannot write them.
func TestRetryClose(t *testing.T) {
	bad := new(buffered)
	retry := &pipeline.Retry{Sink: bad, Report: func(string) {}}
	for _, count := range []uint64{0, 3} {
		if err := retry.Write(&event.Event{Type: event.SysctlWrite, Count: count}); err != nil {
			t.Fatal(err)
		}
	}
	if retry.Lost() != 0 {
		t.Errorf("%d events are lost before the end", retry.Lost())
	}
	if err := retry.Close(); !errors.Is(err, syscall.ENOSPC) || retry.Lost() != 4 {
		t.Errorf("%d events lost: %v", retry.Lost(), err)
	}
	// What was flushed is not lost.
	good := &pipeline.Retry{Sink: new(sink), Report: func(string) {}}
	if err := errors.Join(good.Write(&event.Event{Type: event.SysctlWrite}), good.Flush()); err != nil {
		t.Fatal(err)
	}
	good.Sink = bad
	if err := good.Close(); err == nil || good.Lost() != 0 {
		t.Errorf("%d events lost: %v", good.Lost(), err)
	}
}
