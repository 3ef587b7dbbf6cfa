// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/schema/schematest"
)

func jsonSink(w io.Writer) output.Sink { return output.NewJSON(w) }

// encoded returns the lines that event.Encoder makes of events.
func encoded(events ...*event.Event) string {
	var enc event.Encoder
	var b []byte
	for _, ev := range events {
		b = append(enc.Append(b, ev), '\n')
	}
	return string(b)
}

// TestJSON checks that the sink writes the encoder's lines, each with a newline.
func TestJSON(t *testing.T) {
	events := sample()
	out := write(t, jsonSink, events...)
	if n := schematest.Lines(t, []byte(out)); n != len(events) {
		t.Errorf("%d lines for %d events", n, len(events))
	}
	if want := encoded(events...); out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestJSONLongLines has lines that are longer than the buffer.
func TestJSONLongLines(t *testing.T) {
	var events []*event.Event
	for i := range 20 {
		value := strings.Repeat("x", i*10000)
		events = append(events, sample()[1], &event.Event{Sysctl: &event.Sysctl{New: &value}})
	}
	if write(t, jsonSink, events...) != encoded(events...) {
		t.Error("the sink does not write the encoder's lines")
	}
}

func TestJSONDoesNotAllocate(t *testing.T) {
	for _, ev := range eventtest.Storm() {
		sink := output.NewJSON(io.Discard)
		n := testing.AllocsPerRun(1000, func() {
			ev.Seq++
			ev.Time = ev.Time.Add(time.Millisecond)
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations an event", ev.Type, n)
		}
	}
}
