// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/output"
)

// Short names for what most tests use.
var (
	sample, hostile, bare = eventtest.Sample, eventtest.Hostile, eventtest.Bare
	viaSSH, runc          = eventtest.ViaSSH, eventtest.Runc
	at                    = eventtest.At
	hostNS                = eventtest.HostNS()
)

func ptr[T any](v T) *T { return &v }

// asRoot makes p a process that no user has logged in for.
func asRoot(p *event.Process) *event.Process {
	p.LoginUID, p.LoginUser, p.SessionID, p.TTY = nil, "", nil, ""
	return p
}

func TestMain(m *testing.M) {
	// The tests must not depend on the locale.
	twwidth.SetEastAsian(false)
	os.Exit(m.Run())
}

// write returns what a sink writes for events.
func write(t testing.TB, newSink func(io.Writer) output.Sink, events ...*event.Event) string {
	t.Helper()
	var buf bytes.Buffer
	sink := newSink(&buf)
	for _, ev := range events {
		if err := sink.Write(ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func tableSink(opts output.TableOptions) func(io.Writer) output.Sink {
	return func(w io.Writer) output.Sink { return output.NewTable(w, opts) }
}

var sinks = map[string]func(io.Writer) output.Sink{
	"json":  jsonSink,
	"table": tableSink(output.TableOptions{}),
	"wide":  tableSink(output.TableOptions{Wide: true}),
}

// A record keeps the bytes of each Write. Write fails while err is set.
type record struct {
	writes []string
	err    error
	accept int // how many bytes Write accepts while err is set
}

func (r *record) Write(p []byte) (int, error) {
	if r.err != nil {
		n := min(r.accept, len(p))
		r.writes = append(r.writes, string(p[:n]))
		return n, r.err
	}
	r.writes = append(r.writes, string(p))
	return len(p), nil
}

func TestNothingIsWrittenBeforeFlush(t *testing.T) {
	for name, newSink := range sinks {
		rec := &record{}
		sink := newSink(rec)
		for _, ev := range sample() {
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
		}
		if len(rec.writes) != 0 {
			t.Errorf("%s: %d writes before Flush", name, len(rec.writes))
		}
		for range 2 {
			if err := sink.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if len(rec.writes) != 1 {
			t.Errorf("%s: %d writes for a Flush and one with nothing to do", name, len(rec.writes))
		}
	}
}

// TestWritesAreWholeLines checks that each write is whole lines, so that a file that is
// rotated between two writes ends with a whole event.
func TestWritesAreWholeLines(t *testing.T) {
	for name, newSink := range sinks {
		rec := &record{}
		sink := newSink(rec)
		for range 200 {
			for _, ev := range sample() {
				if err := sink.Write(ev); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		if len(rec.writes) < 2 {
			t.Errorf("%s: %d writes: not enough for this test", name, len(rec.writes))
		}
		for i, w := range rec.writes {
			if !strings.HasSuffix(w, "\n") {
				t.Errorf("%s: write %d ends within a line", name, i)
			}
		}
	}
}

// TestWriterRecovers checks that a disk that is full for a while costs only the events that
// do not fit into the buffer, and that the caller gets an error for each.
func TestWriterRecovers(t *testing.T) {
	for name, newSink := range sinks {
		rec := &record{err: syscall.ENOSPC, accept: 777}
		sink := newSink(rec)
		ev := sample()[1]
		taken := 0
		for {
			err := sink.Write(ev)
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if taken++; taken > 10000 {
				t.Fatalf("%s: the buffer grows without end", name)
			}
		}
		rec.err = nil
		if err := sink.Write(ev); err != nil {
			t.Fatal(err)
		}
		taken++
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		want := write(t, newSink, slicesRepeat(ev, taken)...)
		if got := strings.Join(rec.writes, ""); got != want {
			t.Errorf("%s: %d bytes for %d events taken, want %d", name, len(got), taken, len(want))
		}
	}
}

func slicesRepeat(ev *event.Event, n int) []*event.Event {
	events := make([]*event.Event, n)
	for i := range events {
		events[i] = ev
	}
	return events
}

func TestBrokenPipe(t *testing.T) {
	for name, newSink := range sinks {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		r.Close()

		sink := newSink(w)
		if err := sink.Write(sample()[1]); err != nil {
			t.Errorf("%s: Write with room in the buffer: %v", name, err)
		}
		if err := sink.Flush(); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: Flush: %v", name, err)
		}
		for range 10000 {
			if err = sink.Write(sample()[1]); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: Write: %v", name, err)
		}
		if err := sink.Close(); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: Close: %v", name, err)
		}
	}
}
