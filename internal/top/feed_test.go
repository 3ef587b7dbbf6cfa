// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// TestFeedBounds writes a storm that nobody takes. The feed keeps a bounded part of it, and counts
// all of it.
func TestFeedBounds(t *testing.T) {
	const storm = 100_000
	f := NewFeed()
	for i := range uint32(storm) {
		if err := f.Write(create(i+1, start)); err != nil {
			t.Fatal(err)
		}
		f.Notify(fmt.Sprint("message ", i))
	}
	b := f.take()
	if len(b.events) != batchEvents || b.skipped != storm-batchEvents || b.total != storm {
		t.Errorf("%d events, %d skipped, %d in all", len(b.events), b.skipped, b.total)
	}
	if len(b.changes) != batchChanges || !b.missed || !b.moved || len(b.counts) != batchCounts {
		t.Errorf("%d changes, some missed: %v, %d counts", len(b.changes), b.missed, len(b.counts))
	}
	if all := f.Messages(); len(all) != maxMessages || b.message != fmt.Sprint("message ", storm-1) {
		t.Errorf("%d messages, the last one is %q", len(all), b.message)
	}
	if b := f.take(); b.total != 0 || len(b.events) != 0 {
		t.Errorf("a second batch has %d events", b.total)
	}

	v := newBench(t, 80, 24)
	v.send(batchMsg{b})
	text := strings.Join(v.screen(), "\n")
	for _, want := range []string{fmt.Sprintf("%d events", storm), fmt.Sprintf("%d not shown", storm-batchEvents), fmt.Sprintf("… %d events not shown", storm-batchEvents)} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q on the screen:\n%s", want, text)
		}
	}
	for range 20 {
		v.send(batchMsg{b})
	}
	if len(v.m.events) != maxLines {
		t.Errorf("the view keeps %d events", len(v.m.events))
	}
}

// TestFeedKeepsNothing changes an event after Write.
func TestFeedKeepsNothing(t *testing.T) {
	f := NewFeed()
	ev := write(1001, "1")
	_ = f.Write(ev)
	ev.Sysctl.Namespace.ID, ev.Sysctl.Name = 7, "changed"
	b := f.take()
	if got := b.events[0].Sysctl; got.Name != "net.ipv4.ip_forward" || got.Namespace.ID != 1001 || b.counts[inventory.Ref{Type: event.NSTypeNet, ID: 1001}] != 1 {
		t.Errorf("%+v, counts %v", got, b.counts)
	}
}

// TestLoss counts what the tracer lost.
func TestLoss(t *testing.T) {
	b := newBench(t, 120, 24)
	b.feed(&event.Event{Type: event.TraceLoss, Time: start, Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 40, event.NamespaceCreate: 2}}})
	if got := b.screen()[0]; !strings.Contains(got, "42 lost") {
		t.Errorf("title %q", got)
	}
}

// TestIntervals checks how often an inventory is taken.
func TestIntervals(t *testing.T) {
	for _, c := range []struct{ cost, moved, rest time.Duration }{
		{time.Millisecond, time.Second, 5 * time.Second},
		{20 * time.Millisecond, 2 * time.Second, 5 * time.Second},
		{time.Second, 100 * time.Second, 200 * time.Second},
	} {
		if moved, rest := intervals(c.cost); moved != c.moved || rest != c.rest {
			t.Errorf("an inventory that takes %v: %v and %v, want %v and %v", c.cost, moved, rest, c.moved, c.rest)
		}
	}
}
