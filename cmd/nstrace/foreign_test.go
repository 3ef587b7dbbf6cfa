// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/blame"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// capturedEvents returns events of real runs.
func capturedEvents(t testing.TB) (events []*event.Event) {
	t.Helper()
	files, err := filepath.Glob("../../tracer/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured events: %v", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			e := &event.Event{}
			if err := json.Unmarshal(line, e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
	}
	return events
}

// A reader uses an event as the commands use an event of a history. It panics if one of them would.
type reader struct {
	flags historyFlags
	query history.Query
}

// stored is a history of one event.
type stored struct{ event *event.Event }

func (s stored) LastWrites(context.Context, func(string) bool) iter.Seq2[history.LastWrite, error] {
	return func(yield func(history.LastWrite, error) bool) {
		e := s.event
		yield(history.LastWrite{Parameter: e.Sysctl.Name, Namespace: e.Sysctl.Namespace, Stored: history.Stored{Event: e}}, nil)
	}
}

func (s stored) LastWritesTo(ctx context.Context, _ ...string) iter.Seq2[history.LastWrite, error] {
	return s.LastWrites(ctx, nil)
}

func (s stored) LastWritesIn(_ context.Context, _ string, found iter.Seq2[history.LastWrite, error]) iter.Seq2[history.LastWrite, error] {
	return found
}

func (s stored) Events(_ context.Context, q history.Query) iter.Seq2[history.Stored, error] {
	return func(yield func(history.Stored, error) bool) {
		if q.Match == nil || q.Match(s.event) {
			yield(history.Stored{Event: s.event}, nil)
		}
	}
}

func (stored) LifeOf(context.Context, *event.Namespace, string) (*history.Life, error) {
	return &history.Life{}, nil
}

func (stored) WatchedSince(context.Context, int64) (bool, error) { return false, nil }

func (stored) Initial(context.Context, string, string) (*string, error) { return nil, nil }

func newEventReader(t testing.TB) *reader {
	t.Helper()
	r := &reader{}
	r.flags.format, r.flags.group, r.flags.grep = "json", "off", "x"
	r.flags.sysctls, r.flags.containers, r.flags.netns, r.flags.nsTypes = []string{"net.*", "kernel.*"}, []string{"web"}, []string{"web", "4026532281"}, []string{"net"}
	r.flags.events = []string{"namespace", "sysctl", "netdev"}
	r.flags.filter = `process.comm != "x" or namespace.id != 1 or sysctl.name == "x" or any(process.ancestors, .comm == "x")`
	if err := r.flags.query(&r.query); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reader) read(t testing.TB, events ...*event.Event) {
	t.Helper()
	host := procfs.NamespacesOf("1")
	var sinks []output.Sink
	for _, o := range []output.TableOptions{{HostNS: host}, {HostNS: host, Wide: true, Color: true}} {
		sinks = append(sinks, output.NewTable(io.Discard, o))
		for _, open := range []bool{false, true} {
			sinks = append(sinks, output.NewGroup(output.NewTable(io.Discard, o), output.GroupOptions{Open: open}))
		}
	}
	sinks = append(sinks, output.NewJSON(io.Discard))
	for _, s := range sinks {
		for _, e := range events {
			if err := s.Write(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	blames := []blameSink{output.NewBlameJSON(io.Discard)}
	for _, wide := range []bool{false, true} {
		o := output.TableOptions{HostNS: host, Wide: wide}
		blames = append(blames, output.NewBlameTable(io.Discard, o), output.NewBlameGroup(output.NewBlameTable(io.Discard, o), true))
	}
	for _, e := range events {
		s := &drift.Snapshot{}
		s.Apply(e)
		s.Forget(e)
		_ = r.query.Match(e)
		if e.Sysctl == nil {
			continue
		}
		rows, err := blame.Find(t.Context(), stored{e}, blame.Options{AllNets: true})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%d rows: %v", len(rows), err)
		}
		for _, b := range blames {
			if err := b.Add(rows[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range blames {
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// pointers calls do with everything in v that can be nil.
func pointers(v reflect.Value, do func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		do(v)
		if !v.IsNil() {
			pointers(v.Elem(), do)
		}
	case reflect.Slice, reflect.Map:
		do(v)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type() != reflect.TypeFor[time.Time]() {
				pointers(v.Field(i), do)
			}
		}
	}
}

// types returns all event types.
var types = []event.Type{
	event.NamespaceCreate, event.NamespaceEnter, event.NamespaceDestroy, event.NamespacePin, event.NamespaceUnpin, event.SysctlWrite,
	event.NetdevMove, event.TraceStart, event.TraceLoss, event.TraceTamper, event.TraceGap, event.TraceStop,
	event.SysctlDrift, event.SysctlAppear, event.SysctlVanish, event.NamespaceAppeared, event.NamespaceGone,
}

// TestAnyShape reads events that lack members or have members of other types. Each command must
// accept such an event or skip it.
func TestAnyShape(t *testing.T) {
	r := newEventReader(t)
	seen := map[string]bool{}
	kept, left := 0, 0
	try := func(line []byte) {
		t.Helper()
		e := &event.Event{}
		if err := json.Unmarshal(line, e); err != nil {
			t.Fatal(err)
		}
		if history.Check(e) != nil {
			left++
			return
		}
		kept++
		r.read(t, e, e, e, e)
	}
	for _, e := range capturedEvents(t) {
		// One of each shape.
		shape := string(e.Type) + string(e.Outcome)
		pointers(reflect.ValueOf(e).Elem(), func(v reflect.Value) { shape += fmt.Sprint(v.IsNil()) })
		if seen[shape] {
			continue
		}
		seen[shape] = true
		line := new(event.Encoder).Append(nil, e)
		try(line)
		for _, typ := range types {
			other := *e
			other.Type = typ
			try(new(event.Encoder).Append(nil, &other))
			try([]byte(fmt.Sprintf(`{"type":%q}`, typ)))
			for _, part := range []string{"namespace", "sysctl", "netdev", "process", "trace", "loss", "tamper", "between"} {
				try([]byte(fmt.Sprintf(`{"type":%q,%q:{}}`, typ, part)))
			}
		}
		n := 0
		pointers(reflect.ValueOf(e).Elem(), func(reflect.Value) { n++ })
		for i := range n {
			less := &event.Event{}
			if err := json.Unmarshal(line, less); err != nil {
				t.Fatal(err)
			}
			at := 0
			pointers(reflect.ValueOf(less).Elem(), func(v reflect.Value) {
				if at == i && !v.IsNil() {
					v.SetZero()
				}
				at++
			})
			try(new(event.Encoder).Append(nil, less))
		}
	}
	if kept < 100 || left < 100 {
		t.Errorf("%d events were accepted, %d left out", kept, left)
	}
}

// FuzzShape does the same with any line.
func FuzzShape(f *testing.F) {
	for i, e := range capturedEvents(f) {
		if i%20 == 0 {
			f.Add(string(new(event.Encoder).Append(nil, e)))
		}
	}
	for _, typ := range types {
		f.Add(fmt.Sprintf(`{"type":%q,"namespace":{},"sysctl":{"new":"","after":"1"},"netdev":{},"trace":{},"loss":{},"tamper":{},"between":{},"process":{"ancestors":[{}]}}`, typ))
	}
	r := newEventReader(f)
	f.Fuzz(func(t *testing.T, line string) {
		e := &event.Event{}
		if json.Unmarshal([]byte(line), e) == nil && history.Check(e) == nil {
			r.read(t, e, e, e)
		}
	})
}

// The line on stderr about a history's skipped rows contains nothing that controls a terminal.
func TestOneLine(t *testing.T) {
	if got, want := oneLine(errors.New("a\nb \x1b[2J\u009b\xff ü")), `a; b \x1b[2J\u009b� ü`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A read from a pipe ends with the context.
func TestInterruptibleReader(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	ctx, cancel := context.WithCancel(context.Background())
	r := interruptibleReader(ctx, in)
	if _, err := out.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil || b[0] != 'x' {
		t.Fatalf("%q %v", b, err)
	}
	cancel()
	if _, err := r.Read(b[:]); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	r = interruptibleReader(context.Background(), strings.NewReader("all"))
	if text, err := io.ReadAll(r); err != nil || string(text) != "all" {
		t.Errorf("%q %v", text, err)
	}
}
