// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/pipeline"
)

// A sink keeps copies of its events.
type sink struct {
	events  []*event.Event
	flushes int
}

func (s *sink) Write(e *event.Event) error {
	c := e.Clone()
	s.events = append(s.events, c)
	return nil
}
func (s *sink) Flush() error { s.flushes++; return nil }

// A source is a tracer with the given totals.
type source struct{ totals event.Totals }

func (s *source) Totals() (event.Totals, error) { return s.totals, nil }

func compile(t *testing.T, expr string) *filter.Program {
	t.Helper()
	if expr == "" {
		return nil
	}
	p, err := filter.Compile(expr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// feed gives events to a pipeline as a Tracer does: each has a Ref.
func feed(t *testing.T, p pipeline.Handler, events ...*event.Event) {
	t.Helper()
	for i, e := range events {
		e.Ref = uint64(i + 1)
		if err := p.Event(e); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNumber gives ten events, some of which stand for several, with a loss among them. The
// lines that are written have the numbers 1, 2, 3... and one run id, and the totals balance.
func TestNumber(t *testing.T) {
	for _, row := range []struct {
		filter            string
		limit             uint64
		pids              []uint32
		lines             int
		written, filtered uint64
	}{
		{"", 0, []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 13, 37, 5},
		{"process.pid in [2, 3, 8]", 0, []uint32{2, 3, 8}, 6, 12, 30},
		{"process.pid >= 5", 2, []uint32{5, 6}, 5, 11, 31},
		{"count > 1", 1, []uint32{1}, 4, 3, 39},
		{"false", 1, nil, 3, 0, 42},
		{"", 3, []uint32{0, 1, 2}, 6, 5, 37},
	} {
		out, done := new(sink), 0
		// The tracer gave 10 lines that stand for 37, filtered 5 before, and lost 2.
		p := pipeline.New(pipeline.Options{
			RunID: "0123", Filter: compile(t, row.filter), Limit: row.limit, LimitDone: func() { done++ },
			Sinks: []pipeline.Sink{out}, Source: &source{event.Totals{Seen: 44, Written: 37, Filtered: 5, Lost: 2}},
		})
		events := []*event.Event{{Type: event.TraceStart}}
		for pid, count := range []uint64{0, 3, 0, 4, 0, 5, 6, 4, 7, 5} {
			events = append(events, &event.Event{Type: event.SysctlWrite, Count: count, Process: &event.Process{PID: uint32(pid)}})
			if pid == 4 {
				events = append(events, &event.Event{Type: event.TraceLoss})
			}
		}
		feed(t, p, append(events, &event.Event{Type: event.TraceStop})...)

		var pids []uint32
		for i, e := range out.events {
			if e.Seq != uint64(i+1) || e.RunID != "0123" || e.V != event.SchemaVersion {
				t.Errorf("%q -n %d: line %d has v %d, run_id %q, seq %d", row.filter, row.limit, i+1, e.V, e.RunID, e.Seq)
			}
			if e.Process != nil {
				pids = append(pids, e.Process.PID)
			}
		}
		if !slices.Equal(pids, row.pids) || len(out.events) != row.lines {
			t.Errorf("%q -n %d: wrote %v in %d lines, want %v in %d", row.filter, row.limit, pids, len(out.events), row.pids, row.lines)
		}
		sum := out.events[len(out.events)-1].Trace.Totals
		if got := p.Totals(); !reflect.DeepEqual(got, sum) || sum.Written != row.written || sum.Filtered != row.filtered || sum.Seen != sum.Written+sum.Filtered+sum.Lost {
			t.Errorf("%q -n %d: %+v, want %d written and %d filtered", row.filter, row.limit, *sum, row.written, row.filtered)
		}
		if reached := row.limit > 0 && len(row.pids) == int(row.limit); (done > 0) != reached {
			t.Errorf("%q -n %d: Done was called %d times", row.filter, row.limit, done)
		}
	}
}

// TestCause gives writes with the changes that the kernel made along with them. A change
// refers to the number of its write, if the write is in the stream.
func TestCause(t *testing.T) {
	for _, row := range []struct {
		filter string
		want   []uint64
	}{
		{"", []uint64{2, 2, 5}},
		{`process.pid != 1`, []uint64{2}},
		{`via == "cascade"`, []uint64{0, 0, 0}},
		{`not (process.pid == 2 and via == "write")`, []uint64{2, 2, 0}},
	} {
		out := new(sink)
		p := pipeline.New(pipeline.Options{Filter: compile(t, row.filter), Sinks: []pipeline.Sink{out}, Source: &source{}})
		events := []*event.Event{{Type: event.TraceStart}}
		for _, w := range []struct {
			pid   uint32
			cause uint64 // Ref of the write
		}{{1, 0}, {1, 2}, {1, 2}, {2, 0}, {2, 5}} {
			e := &event.Event{Type: event.SysctlWrite, Via: "write", Process: &event.Process{PID: w.pid}, Sysctl: &event.Sysctl{}}
			if w.cause != 0 {
				e.Via, e.Sysctl.Cause = "cascade", &event.Cause{Ref: w.cause}
			}
			events = append(events, e)
		}
		feed(t, p, events...)
		var got []uint64
		for _, e := range out.events {
			if e.Sysctl != nil && e.Sysctl.Cause != nil {
				got = append(got, e.Sysctl.Cause.Seq)
			}
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%q: the causes are %d, want %d", row.filter, got, row.want)
		}
	}
}

// TestAlerts has rules that events meet. A filter can select by alert, and only written events
// count.
func TestAlerts(t *testing.T) {
	rules, err := alert.Parse("rules.yaml", []byte("rules:\n"+
		"  - {name: low, when: 'type == \"sysctl.write\" and process.pid < 3', severity: info, message: m}\n"+
		"  - {name: lost, when: 'type == \"trace.loss\"', severity: critical, message: m}\n"+
		"  - {name: started, when: 'type == \"trace.start\"', severity: info, message: m}\n"))
	if err != nil {
		t.Fatal(err)
	}
	out := new(sink)
	p := pipeline.New(pipeline.Options{
		Alerts: rules, Filter: compile(t, `any(alert, .name == "low") and process.pid != 1`), Sinks: []pipeline.Sink{out}, Source: &source{},
	})
	events := []*event.Event{{Type: event.TraceStart}, {Type: event.TraceLoss}}
	for pid := range uint32(5) {
		events = append(events, &event.Event{Type: event.SysctlWrite, Process: &event.Process{PID: pid}})
	}
	feed(t, p, append(events, &event.Event{Type: event.TraceStop})...)
	met := p.Alerts()
	if met["low"] != 2 || met["lost"] != 1 || met["started"] != 0 || p.Totals().Alerts != 3 || p.Totals().Written != 2 {
		t.Errorf("met %v, totals %+v", met, *p.Totals())
	}
}

// TestSelect selects by what an event is about: a device's move is about the namespace that it
// left, the one that it entered, and their owners.
func TestSelect(t *testing.T) {
	const id = 0xf0000042
	web := &event.Container{ID: strings.Repeat("c", 64), Name: "web-1"}
	host := &event.Namespace{Type: "net", ID: id - 1, Host: true}
	inside := &event.Namespace{Type: "net", ID: id, Name: "blue", Owner: &event.Owner{Container: web}}
	move := func(from, to *event.Namespace) *event.Event {
		return &event.Event{Type: event.NetdevMove, Netdev: &event.Netdev{Name: "eth0", From: from, To: to}}
	}
	events := map[string]*event.Event{
		"in": move(host, inside), "out": move(inside, host), "gone": move(host, nil),
		"write":  {Type: event.SysctlWrite, Sysctl: &event.Sysctl{Namespace: inside}},
		"acted":  {Type: event.NamespaceCreate, Container: web, Namespace: &event.Namespace{Type: "uts"}},
		"create": {Type: event.NamespaceCreate, Namespace: host},
		"loss":   {Type: event.TraceLoss},
	}
	for _, row := range []struct {
		selection pipeline.Selection
		want      string
	}{
		{pipeline.Selection{}, "acted create gone in loss out write"},
		{pipeline.Selection{Nets: []pipeline.NetSelector{{Name: "blue"}}}, "in loss out write"},
		{pipeline.Selection{Nets: []pipeline.NetSelector{{Name: "web-1"}}}, "in loss out write"},
		{pipeline.Selection{Nets: []pipeline.NetSelector{{ID: id}}}, "in loss out write"},
		{pipeline.Selection{Nets: []pipeline.NetSelector{{ID: id - 1}}}, "create gone in loss out"},
		{pipeline.Selection{Containers: []string{"web-1"}}, "acted in loss out write"},
		{pipeline.Selection{Containers: []string{"cccc"}, Nets: []pipeline.NetSelector{{Name: "blue"}}}, "in loss out write"},
		{pipeline.Selection{Containers: []string{"ccc"}}, "loss"},
	} {
		var got []string
		for name, e := range events {
			out := new(sink)
			feed(t, pipeline.New(pipeline.Options{Selection: row.selection, Sinks: []pipeline.Sink{out}, Source: &source{}}), e.Clone())
			if len(out.events) > 0 {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != row.want {
			t.Errorf("%+v: %s, want %s", row.selection, got, row.want)
		}
	}
}

// TestHistoryLoss fills a history's buffer. The stream has a trace.loss for what the history
// did not take, and a trace.gap behind trace.start, each with its own number.
func TestHistoryLoss(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	var r *history.Recorder
	for range 2 { // there was a run before
		var err error
		if r != nil {
			err = r.Close()
		}
		if err == nil {
			r, err = history.Create(history.Options{Path: db, Buffer: 2, Delay: time.Hour})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out := new(sink)
	p := pipeline.New(pipeline.Options{History: r, Sinks: []pipeline.Sink{out}, Source: &source{event.Totals{Seen: 3, Written: 3}}})
	at := func(typ event.Type, second int64) *event.Event {
		return &event.Event{Type: typ, Time: time.Unix(second, 0), Host: "here"}
	}
	// With the gap, the buffer is full after trace.start.
	feed(t, p, at(event.TraceStart, 1), at(event.SysctlWrite, 2), at(event.SysctlWrite, 3), at(event.SysctlWrite, 4))
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := p.Idle(); err != nil {
		t.Fatal(err)
	}
	feed(t, p, at(event.TraceStop, 5))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	want := []event.Type{event.TraceStart, event.TraceGap, event.SysctlWrite, event.SysctlWrite, event.SysctlWrite, event.TraceLoss, event.TraceStop}
	if len(out.events) != len(want) || out.flushes != 1 {
		t.Fatalf("%d lines, want %d; %d flushes", len(out.events), len(want), out.flushes)
	}
	for i, e := range out.events {
		if e.Type != want[i] || e.Seq != uint64(i+1) {
			t.Errorf("line %d: %s with the number %d, want %s", i+1, e.Type, e.Seq, want[i])
		}
		if e.Type == event.TraceLoss && e.Loss.Records[event.SysctlWrite] != 3 {
			t.Errorf("lost %v, want 3 writes", e.Loss.Records)
		}
	}
	if sum := p.Totals(); sum.Seen != 3 || sum.Written != 3 || sum.Filtered != 0 {
		t.Errorf("%+v", *sum)
	}
}

// TestAdded has events that no tracer made between those of a tracer. They count as seen, whether
// they are written or dropped. They do not separate a write from its consequences.
func TestAdded(t *testing.T) {
	out := new(sink)
	p := pipeline.New(pipeline.Options{
		Filter: compile(t, `sysctl.name != "vm.dropped"`), Sinks: []pipeline.Sink{out}, Source: &source{event.Totals{Seen: 2, Written: 2}},
	})
	drifted := func(name string) *event.Event {
		return &event.Event{Type: event.SysctlDrift, Sysctl: &event.Sysctl{Name: name}}
	}
	cascade := &event.Event{Type: event.SysctlWrite, Ref: 2, Sysctl: &event.Sysctl{Name: "vm.a", Cause: &event.Cause{Ref: 1}}}
	for _, e := range []*event.Event{
		{Type: event.SysctlWrite, Ref: 1, Sysctl: &event.Sysctl{Name: "vm.b"}},
		drifted("vm.c"), drifted("vm.dropped"), drifted("vm.dropped"), cascade, {Type: event.TraceStop, Ref: 3},
	} {
		if err := p.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if sum := *p.Totals(); sum.Seen != 5 || sum.Written != 3 || sum.Filtered != 2 {
		t.Errorf("%+v", sum)
	}
	if cascade.Sysctl.Cause.Seq != 1 {
		t.Errorf("the cause is %d, want 1", cascade.Sysctl.Cause.Seq)
	}
}
