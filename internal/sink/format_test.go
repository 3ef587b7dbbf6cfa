// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/format"
)

// collector is a destination that keeps all lines.
type collector struct{ lines [][]byte }

func (c *collector) Deliver(_ context.Context, items []Item) (int, error) {
	for _, it := range items {
		c.lines = append(c.lines, slices.Clone(it.Line))
	}
	return len(items), nil
}

func (c *collector) Close() error { return nil }

// TestFormat checks that each sink has its own format.
func TestFormat(t *testing.T) {
	var own, ecs collector
	set := NewSet(New(Options{Name: "own", Destination: &own, Report: func(string) {}}), New(Options{Name: "ecs", Destination: &ecs, Format: format.ByName("ecs"), Report: func(string) {}}))
	events := eventtest.Sample()
	for _, ev := range events {
		if err := set.Write(ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if len(own.lines) != len(events) || len(ecs.lines) != len(events) {
		t.Fatalf("%d and %d lines of %d events", len(own.lines), len(ecs.lines), len(events))
	}
	for i, ev := range events {
		want, err := format.ByName("ecs")(ev)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Skipped == 0 && !bytes.Equal(ecs.lines[i], append(want, '\n')) {
			t.Errorf("got  %s\nwant %s", ecs.lines[i], want)
		}
		if bytes.Contains(own.lines[i], []byte("@timestamp")) {
			t.Errorf("the other sink got ECS: %s", own.lines[i])
		}
	}
}
