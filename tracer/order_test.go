// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/attribution"
)

// TestOrderOfEvents holds events of the times given, in the order in which they come. A number is when an event
// happened, in milliseconds; "read N" says that the ring was empty at N, and "counted N" that folds were
// reported up to N.
func TestOrderOfEvents(t *testing.T) {
	window := orderWindow.Milliseconds()
	for _, row := range []struct {
		name string
		come string
		want string // before the end
		end  string // at the end
	}{
		{"nothing before its time", fmt.Sprint("10 20 read ", 9+window), "", "10 20"},
		{"one that is due", fmt.Sprint("10 20 read ", 10+window), "10", "20"},
		{"sorted", fmt.Sprint("20 10 15 read ", 20+window), "10 15 20", ""},
		{"equal times stay in the order in which they came", fmt.Sprint("20:a 10:b 20:c 10:d 20:e read ", 20+window), "10:b 10:d 20:a 20:c 20:e", ""},
		{"late", fmt.Sprint("20 read ", 20+window, " 10 20:a read ", 21+window), "20 10late 20:a", ""},
		{"the ring has more", "20 read 30", "", "20"},
		{"a time before the last one", fmt.Sprint("20 read ", 20+window, " read 5 21"), "20", "21"},
		{"counts are missing", fmt.Sprint("10 20 counted ", 10+window, " read ", 20+window), "10", "20"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			o := order{next: func(e *event.Event, _ *afterRead) error {
				s := e.Via
				if e.Late {
					s += "late"
				}
				got = append(got, s)
				return nil
			}}
			ms := func(s string) uint64 {
				var n uint64
				if _, err := fmt.Sscan(s, &n); err != nil {
					t.Fatal(err)
				}
				return n * uint64(time.Millisecond)
			}
			limit := uint64(1 << 62)
			words := strings.Fields(row.come)
			for i := 0; i < len(words); i++ {
				var err error
				switch words[i] {
				case "read":
					i++
					o.seen(ms(words[i]))
					err = o.release(limit)
				case "counted":
					i++
					limit = ms(words[i])
				default:
					err = o.hold(&event.Event{Via: words[i]}, ms(words[i]), nil)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(got, strings.Fields(row.want)) {
				t.Errorf("got %q, want %q", got, row.want)
			}
			got = nil
			if err := o.flush(); err != nil || !slices.Equal(got, strings.Fields(row.end)) {
				t.Errorf("at the end: %q, %v, want %q", got, err, row.end)
			}
		})
	}
}

// TestOrderKeepsEvents holds all kinds of events, changes what their maker uses again, and compares.
func TestOrderKeepsEvents(t *testing.T) {
	var got, want []string
	text := func(e *event.Event) string {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	o := order{next: func(e *event.Event, _ *afterRead) error {
		got = append(got, text(e))
		return nil
	}}
	for range 2 { // the second time in the events of the first time
		for _, e := range eventtest.Sample() {
			e.Late = false // the order decides
			want = append(want, text(e))
			if err := o.hold(e, 1, nil); err != nil {
				t.Fatal(err)
			}
			if s := e.Sysctl; s != nil {
				for _, v := range []*string{s.Old, s.New, s.After} {
					if v != nil {
						*v = "changed"
					}
				}
				if s.Namespace != nil {
					*s.Namespace = event.Namespace{}
				}
				if s.Cause != nil {
					*s.Cause = event.Cause{}
				}
				*s = event.Sysctl{}
			}
			if d := e.Netdev; d != nil {
				for _, ns := range []*event.Namespace{d.From, d.To} {
					if ns != nil {
						*ns = event.Namespace{}
					}
				}
				*d = event.Netdev{}
			}
			if e.Namespace != nil {
				*e.Namespace = event.Namespace{}
			}
			*e = event.Event{}
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestOrderIsBounded holds too many events, and too long ones. The oldest go, and none is lost.
func TestOrderIsBounded(t *testing.T) {
	long := strings.Repeat("x", maxValue)
	for _, row := range []struct {
		event *event.Event
		held  int
	}{
		{&event.Event{}, maxHeld},
		{&event.Event{Sysctl: &event.Sysctl{Old: &long, New: &long, After: &long}}, maxHeldText / (3 * maxValue)},
	} {
		n := 0
		o := order{next: func(*event.Event, *afterRead) error { n++; return nil }}
		for i := range 2 * maxHeld {
			if err := o.hold(row.event, uint64(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if len(o.held) != row.held || n != 2*maxHeld-row.held {
			t.Errorf("%d are held and %d went, want %d and the others", len(o.held), n, row.held)
		}
		if err := o.flush(); err != nil || n != 2*maxHeld || o.text != 0 {
			t.Errorf("%d went in all, and %d bytes are left: %v", n, o.text, err)
		}
	}
}

func TestOrderDoesNotAllocate(t *testing.T) {
	o := order{next: func(*event.Event, *afterRead) error { return nil }}
	storm := eventtest.Storm()
	boot := uint64(0)
	run := func() {
		for _, e := range storm {
			boot += uint64(time.Millisecond)
			if err := o.hold(e, boot, nil); err != nil {
				t.Fatal(err)
			}
		}
		o.seen(boot)
		if err := o.release(boot); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 { // until there are spare ones, in which each kind of event was
		run()
	}
	if n := testing.AllocsPerRun(200, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestOrderClock sets the wall clock. That neither holds an event for long, nor marks it as late.
func TestOrderClock(t *testing.T) {
	c := newCollect()
	now := uint64(time.Hour)
	clock := &clock{now: func() uint64 { return now }, offset: int64(1000 * time.Hour)}
	c.clock, c.ordered, c.order.next = clock, true, c.pass
	for _, set := range []time.Duration{time.Hour, -2 * time.Hour} {
		clock.offset += int64(set)
		for _, e := range []*event.Event{
			{Type: event.SysctlWrite, Time: clock.wall(now)},
			{Type: event.TraceLoss, Time: clock.wall(now).Add(2 * set)}, // the clock was set again meanwhile
			{Type: event.NamespaceDestroy},                              // at an unknown time
		} {
			if err := c.emit(e); err != nil {
				t.Fatal(err)
			}
		}
		now += uint64(time.Second)
		c.order.seen(now)
		if err := c.release(now); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.events) != 6 {
		t.Errorf("%d events, want 6", len(c.events))
	}
	for _, e := range c.events {
		if e.Late {
			t.Errorf("late: %+v", e)
		}
	}
}

// TestOrderEnds has a stream hand on what it holds before trace.stop, and when events need no order any more.
func TestOrderEnds(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		c := newCollect()
		c.clock = &clock{now: func() uint64 { return 1 }}
		c.ordered, c.order.next = true, c.pass
		if err := c.emit(&event.Event{Type: event.SysctlWrite}); err != nil || len(c.events) != 0 {
			t.Fatalf("%d events, %v", len(c.events), err)
		}
		c.ordered = ordered
		if err := c.emit(&event.Event{Type: event.TraceStop}); err != nil || len(c.events) != 2 || c.events[0].Type != event.SysctlWrite {
			t.Errorf("ordered=%v: %d events, %v", ordered, len(c.events), err)
		}
	}
}

// TestEndBeforeReuse has a scan find that a namespace is gone while the record of another one with its number
// is in the ring. The end comes before the creation, and once.
func TestEndBeforeReuse(t *testing.T) {
	events := newCollect()
	in := offline(&fakeHost{handles: true, alive: map[uint32]bool{}}, events)
	now := uint64(50)
	in.clock.now = func() uint64 { return now }
	in.registry.add(event.NSTypeUTS, 7, 11, 0, 1)
	in.ends = newEndScanner(in)
	in.ends.catchUp = func() error {
		in.mu.Lock()
		defer in.mu.Unlock()
		r := &record{}
		r.head.Time = 40
		_, err := (&createRecords{changeRecords: changeRecords{in: in}}).add(r, &bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: 7, NsId: 12}, &caller{process: &event.Process{}, workload: &attribution.Workload{}})
		now = 60
		return err
	}
	in.ends.soon()
	if err := in.scanEnds(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := briefs(events.events); !slices.Equal(got, []string{"destroy uts 7"}) {
		t.Fatalf("got %q", got)
	}
	if at := events.events[0].Time; !at.Equal(in.clock.wall(40)) {
		t.Errorf("the end is at %v, want %v", at, in.clock.wall(40))
	}
	if ns := in.registry.live[7]; ns == nil || ns.typ != netNS {
		t.Errorf("the new namespace is unknown: %+v", ns)
	}
}

// TestOrderPassed wants Idle after Wake only once all events from before Wake have been handed on.
func TestOrderPassed(t *testing.T) {
	const woken = uint64(time.Second)
	o := order{next: func(*event.Event, *afterRead) error { return nil }}
	if o.passed(woken) {
		t.Error("nothing has been read")
	}
	if err := errors.Join(o.hold(&event.Event{}, woken-1, nil), o.hold(&event.Event{}, woken+1, nil)); err != nil {
		t.Fatal(err)
	}
	o.seen(woken)
	if o.passed(woken) {
		t.Error("an event from before is held")
	}
	o.seen(woken + uint64(orderWindow))
	if err := o.release(1 << 62); err != nil || !o.passed(woken) || len(o.held) != 1 {
		t.Errorf("%d events are held, %v", len(o.held), err)
	}
}
