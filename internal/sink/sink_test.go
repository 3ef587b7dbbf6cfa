// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// A fake is a destination that a test controls.
type fake struct {
	mu     sync.Mutex
	lines  []string
	fails  error         // of Deliver
	stuck  chan struct{} // Deliver waits until it is closed
	refuse func(line string) bool
	closed bool
}

func (f *fake) Deliver(_ context.Context, items []Item) (int, error) {
	if f.stuck != nil {
		<-f.stuck
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails != nil {
		return 0, f.fails
	}
	for i, it := range items {
		if f.refuse != nil && f.refuse(string(it.Line)) {
			return i, &Refused{N: 1, Err: errors.New("malformed")}
		}
		f.lines = append(f.lines, string(it.Line))
	}
	return len(items), nil
}

func (f *fake) Close() error { f.closed = true; return nil }

func (f *fake) set(fails error) { f.mu.Lock(); f.fails = fails; f.mu.Unlock() }

// events returns what the destination has.
func (f *fake) events(t *testing.T) (all []*event.Event) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.lines {
		var e event.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, &e)
	}
	return all
}

// silent is for tests in which nothing is reported, or it does not matter.
func silent(string) {}

// check follows the numbers of a stream. It returns how many events the stream has, and how many it lacks because
// a filter skipped them and because they were lost.
// Each hole in the numbers must be explained.
func check(t *testing.T, events []*event.Event) (has, skipped, lost uint64) {
	t.Helper()
	last := uint64(0)
	for _, e := range events {
		first := e.Seq
		if e.Loss != nil && e.Loss.Reason == event.LossSink {
			first = e.Loss.FirstSeq
			if e.Loss.LastSeq != e.Seq || e.RunID != "run" || e.Host != "host" {
				t.Errorf("%+v: %+v", e, e.Loss)
			}
			for _, n := range e.Loss.Records {
				lost += n
			}
		} else {
			has++
		}
		if first-last-1 != e.Skipped {
			t.Fatalf("%d follows %d, skipped %d", first, last, e.Skipped)
		}
		skipped += e.Skipped
		last = e.Seq
	}
	return has, skipped, lost
}

// numbered makes events.
type numbered struct{ seq uint64 }

func (n *numbered) next(typ event.Type) *event.Event {
	n.seq++
	return &event.Event{V: event.SchemaVersion, RunID: "run", Host: "host", Seq: n.seq, Type: typ, Time: time.Unix(int64(n.seq), 0).UTC()}
}

// TestStuck has a destination that never returns. The others get all events, and the memory stays bounded.
func TestStuck(t *testing.T) {
	stuck := &fake{stuck: make(chan struct{})}
	counts := &counter{done: make(chan struct{}), want: 500_000}
	set := NewSet(
		New(Options{Name: "stuck", Destination: stuck, Report: silent, Events: true}),
		New(Options{Name: "works", Destination: counts, Report: silent}),
	)
	before := heap()
	var n numbered
	e := n.next(event.SysctlWrite)
	for range counts.want {
		for { // a sink that works is slower than this loop
			s := set.sinks[1].(*Sink)
			s.mu.Lock()
			room := len(s.queue) < maxEvents
			s.mu.Unlock()
			if room {
				break
			}
			runtime.Gosched()
		}
		e.Seq = n.seq
		n.seq++
		if err := set.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	set.Flush()
	<-counts.done
	if grown := heap() - before; grown > 2*maxBytes {
		t.Errorf("the memory grew by %d bytes", grown)
	}
	close(stuck.stuck)
	err := set.Close()
	if err == nil || !strings.Contains(err.Error(), "stuck lacks up to") || strings.Contains(err.Error(), "works lacks") {
		t.Error(err)
	}
	has, skipped, lost := check(t, stuck.events(t))
	if has+lost != uint64(counts.want) || has == 0 || skipped != 0 {
		t.Errorf("%d events and %d lost of %d; %d skipped", has, lost, counts.want, skipped)
	}
}

// A counter counts items.
type counter struct {
	n, want int
	done    chan struct{}
}

func (c *counter) Deliver(_ context.Context, items []Item) (int, error) {
	if c.n += len(items); c.n == c.want {
		close(c.done)
	}
	return len(items), nil
}
func (c *counter) Close() error { return nil }

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestWorksAgain has a destination that fails for a while. Its loss follows without another event.
func TestWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &fake{fails: errors.New("no space left")}
		var said []string
		set := NewSet(New(Options{Name: "the disk", Destination: to, Report: func(s string) { said = append(said, s) }}))
		var n numbered
		for range maxEvents + 10 {
			set.Write(n.next(event.NamespaceCreate))
		}
		set.Flush()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(to.events(t)) != 0 || len(said) != 1 || said[0] != "the disk: no space left; nstrace goes on, and tries again" {
			t.Errorf("%q", said)
		}
		to.set(nil)
		time.Sleep(lastBackoff)
		synctest.Wait()
		got := to.events(t)
		if has, _, lost := check(t, got); has != maxEvents || lost != 10 {
			t.Errorf("%d events, %d lost", has, lost)
		}
		if l := got[len(got)-1].Loss; l == nil || l.FirstSeq != maxEvents+1 || l.LastSeq != maxEvents+10 || l.From.Unix() != maxEvents+1 || l.To.Unix() != maxEvents+10 {
			t.Errorf("%+v", l)
		}
		if len(said) != 2 || said[1] != "the disk works again; it lacks 10 events so far" {
			t.Errorf("%q", said)
		}
		if err := set.Close(); err == nil || err.Error() != "the disk lacks up to 10 events" || !to.closed {
			t.Error(err)
		}
	})
}

// TestEndFails has a destination that fails at the end. Close does not wait for ever.
func TestEndFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := NewSet(New(Options{Name: "it", Destination: &fake{fails: errors.New("down")}, Report: silent}))
		var n numbered
		set.Write(n.next(event.TraceStart))
		start := time.Now()
		if err := set.Close(); err == nil || err.Error() != "it lacks up to 1 events" || time.Since(start) > 2*closeTime {
			t.Error(err, time.Since(start))
		}
	})
}

// TestFilter checks that a filter leaves no hole without an explanation, also if the sink loses events.
func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		program, err := filter.Compile(`type == "sysctl.write"`)
		if err != nil {
			t.Fatal(err)
		}
		to, all := &fake{}, &fake{}
		set := NewSet(
			New(Options{Name: "some", Destination: to, Filter: program, Report: silent}),
			New(Options{Name: "all", Destination: all, Report: silent}),
		)
		var n numbered
		write := func(types ...event.Type) {
			for _, typ := range types {
				set.Write(n.next(typ))
			}
		}
		create, sysctl := event.NamespaceCreate, event.SysctlWrite
		write(event.TraceStart, create, create, sysctl, sysctl, create)
		set.Flush()
		synctest.Wait()
		to.set(errors.New("down"))
		for range maxEvents {
			write(sysctl)
		}
		set.Flush()
		write(create, sysctl, create, sysctl, create) // two of them are lost
		to.set(nil)
		time.Sleep(lastBackoff)
		write(create, event.TraceStop)
		if err := set.Close(); err == nil || !strings.Contains(err.Error(), "some lacks up to 2 events") {
			t.Error(err)
		}
		got := to.events(t)
		if has, skipped, lost := check(t, got); has != 4+maxEvents || lost != 2 || skipped != 6 || got[len(got)-1].Type != event.TraceStop {
			t.Errorf("%d events, %d skipped, %d lost", has, skipped, lost)
		}
		if l := got[len(got)-2]; l.Skipped != 1 || l.Loss.Records[sysctl] != 2 || len(l.Loss.Records) != 1 || l.Loss.LastSeq-l.Loss.FirstSeq != 2 {
			t.Errorf("%+v: %+v", l, l.Loss)
		}
		if has, skipped, lost := check(t, all.events(t)); has != n.seq || skipped != 0 || lost != 0 {
			t.Errorf("without a filter: %d events of %d", has, n.seq)
		}
	})
}

// TestRefused has a destination that takes some events never.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, losses := range []bool{false, true} { // whether it also refuses the lines about that
			to := &fake{refuse: func(line string) bool {
				return strings.Contains(line, `"sysctl.write"`) && (losses || !strings.Contains(line, "trace.loss"))
			}}
			set := NewSet(New(Options{Name: "it", Destination: to, Report: silent}))
			var n numbered
			for _, typ := range []event.Type{event.TraceStart, event.SysctlWrite, event.NamespaceCreate, event.SysctlWrite, event.SysctlWrite, event.TraceStop} {
				set.Write(n.next(typ))
			}
			if err := set.Close(); err == nil || err.Error() != "it lacks up to 3 events" {
				t.Error(err)
			}
			got := to.events(t)
			if losses {
				if len(got) != 3 {
					t.Errorf("%d lines", len(got))
				}
			} else if has, _, lost := check(t, got); has != 3 || lost != 3 {
				t.Errorf("%d events, %d lost", has, lost)
			}
		}
	})
}
