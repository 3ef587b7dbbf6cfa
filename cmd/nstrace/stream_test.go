// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// written is a sink that keeps what tells its events apart.
type written struct {
	seqs []uint64
	pids []uint32
	last event.Event
}

func (w *written) Write(e *event.Event) error {
	w.seqs, w.last = append(w.seqs, e.Seq), *e
	if e.Process != nil {
		w.pids = append(w.pids, e.Process.PID)
	}
	return nil
}
func (w *written) Flush() error { return nil }
func (w *written) Close() error { return nil }

// TestSinkHandler gives ten events, some for several, with a loss among them: what is
// written has no gaps, and the books balance.
func TestSinkHandler(t *testing.T) {
	for _, row := range []struct {
		filter              string
		limit               uint64
		pids                []uint32
		lines               int
		writtenOf, filtered uint64
	}{
		{"", 0, []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 13, 37, 5},
		{"process.pid in [2, 3, 8]", 0, []uint32{2, 3, 8}, 6, 12, 30},
		{"process.pid >= 5", 2, []uint32{5, 6}, 5, 11, 31},
		{"count > 1", 1, []uint32{1}, 4, 3, 39},
		{"false", 1, nil, 3, 0, 42},
		{"", 3, []uint32{0, 1, 2}, 6, 5, 37},
	} {
		out, done := new(written), 0
		h := &sinkHandler{sink: out, limit: row.limit, done: func() { done++ }}
		if row.filter != "" {
			var err error
			if h.match, err = filter.Compile(row.filter); err != nil {
				t.Fatal(err)
			}
		}
		// As the tracer does: 10 lines that stand for 37, and 5 filtered before.
		seq := uint64(0)
		give := func(e event.Event) {
			seq++
			e.Seq = seq
			if err := h.Event(&e); err != nil {
				t.Fatal(err)
			}
		}
		give(event.Event{Type: event.TraceStart})
		for pid := range uint32(10) {
			e := event.Event{Type: event.SysctlWrite, Process: &event.Process{PID: pid}}
			e.Count = []uint64{0, 3, 0, 4, 0, 5, 6, 4, 7, 5}[pid]
			give(e)
			if pid == 4 {
				give(event.Event{Type: event.TraceLoss})
			}
		}
		give(event.Event{Type: event.TraceStop, Trace: &event.Trace{Totals: &event.Totals{Seen: 44, Written: 37, Filtered: 5, Lost: 2}}})

		if !slices.Equal(out.pids, row.pids) || len(out.seqs) != row.lines {
			t.Errorf("%q -n %d: wrote %v in %d lines, want %v in %d", row.filter, row.limit, out.pids, len(out.seqs), row.pids, row.lines)
		}
		for i, seq := range out.seqs {
			if seq != uint64(i)+1 {
				t.Errorf("%q -n %d: line %d has seq %d", row.filter, row.limit, i+1, seq)
			}
		}
		sum := out.last.Trace.Totals
		if h.stop != sum || sum.Written != row.writtenOf || sum.Filtered != row.filtered || sum.Seen != sum.Written+sum.Filtered+sum.Lost {
			t.Errorf("%q -n %d: %+v, want %d written and %d filtered", row.filter, row.limit, *sum, row.writtenOf, row.filtered)
		}
		if reached := row.limit > 0 && len(row.pids) == int(row.limit); (done > 0) != reached {
			t.Errorf("%q -n %d: told %d times that it is done", row.filter, row.limit, done)
		}
	}
}

// TestCause has a write with what changed along with it: the latter says the number that
// the former has in the stream, if it is there.
func TestCause(t *testing.T) {
	for _, row := range []struct {
		filter string
		want   []uint64 // the causes' numbers
	}{
		{"", []uint64{2, 2, 5}},
		{`process.pid != 1`, []uint64{2}},
		{`via == "cascade"`, []uint64{0, 0, 0}},
	} {
		out := new(causes)
		h := &sinkHandler{sink: out}
		if row.filter != "" {
			var err error
			if h.match, err = filter.Compile(row.filter); err != nil {
				t.Fatal(err)
			}
		}
		for i, e := range []struct {
			pid   uint32
			cause uint64
		}{{1, 0}, {1, 2}, {1, 2}, {2, 0}, {2, 5}} {
			ev := &event.Event{Seq: uint64(i) + 2, Type: event.SysctlWrite, Via: "write", Process: &event.Process{PID: e.pid}, Sysctl: &event.Sysctl{}}
			if e.cause != 0 {
				ev.Via, ev.Sysctl.Cause = "cascade", &event.Cause{Seq: e.cause}
			}
			if i == 0 {
				if err := h.Event(&event.Event{Seq: 1, Type: event.TraceStart}); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.Event(ev); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(out.seqs, row.want) {
			t.Errorf("%q: the causes are %d, want %d", row.filter, out.seqs, row.want)
		}
	}
}

// causes is a sink that keeps the numbers of the causes.
type causes struct{ seqs []uint64 }

func (c *causes) Write(e *event.Event) error {
	if e.Sysctl != nil && e.Sysctl.Cause != nil {
		c.seqs = append(c.seqs, e.Sysctl.Cause.Seq)
	}
	return nil
}
func (c *causes) Flush() error { return nil }
func (c *causes) Close() error { return nil }
