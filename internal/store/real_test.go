// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/internal/store"
	"github.com/nstrace/nstrace/internal/store/storetest"
)

// items returns the records of events, which get numbers, times and hosts of their own where they have none.
func items(host string, events []*event.Event) (all []otelmap.Item) {
	enc := new(event.Encoder)
	events = slices.DeleteFunc(events, func(e *event.Event) bool { return history.Check(e) != nil }) // no nstrace sends such
	for i, e := range events {
		e.V, e.RunID, e.Seq, e.Host, e.BootID = event.SchemaVersion, "run-"+host, uint64(i+1), host, "boot-"+host
		if e.Time.IsZero() {
			e.Time = eventtest.At(i)
		}
		new(event.BytesFinder).Set(e)
		all = append(all, otelmap.Item{Event: e, Line: enc.Append(nil, e)})
	}
	return all
}

// lines returns the lines of the events that a query selects.
func lines(t *testing.T, c *store.Client, q store.Query) (all []string) {
	t.Helper()
	enc := new(event.Encoder)
	for e, err := range c.Events(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(enc.Append(nil, e)))
	}
	if n, err := c.LeftOut(); n > 0 {
		t.Fatalf("left out %d: %v", n, err)
	}
	return all
}

func client(t *testing.T, url string) *store.Client {
	t.Helper()
	c, err := store.NewClient(url, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestRoundTrip sends all events to a real store, twice, and reads them back: each one once, byte for byte.
func TestRoundTrip(t *testing.T) {
	s := storetest.Start(t)
	var sent []otelmap.Item
	for _, host := range []string{"web-1", "web-2", "ex\"a\\m*ple"} {
		sent = append(sent, items(host, slices.Concat(eventtest.Sample(), eventtest.Hostile()))...)
	}
	s.Send(sent...)
	s.Send(sent...)
	slices.SortStableFunc(sent, func(a, b otelmap.Item) int { return a.Event.Time.Compare(b.Event.Time) })
	var want []string
	for _, it := range sent {
		want = append(want, string(it.Line))
	}
	c := client(t, s.URL)
	got := lines(t, c, store.Query{})
	check(t, "all", got, want)

	for i := 1; i < len(got); i++ {
		if a, b := timeOf(t, got[i-1]), timeOf(t, got[i]); a.After(b) {
			t.Fatalf("event %d is of %s, the one before of %s", i, b, a)
		}
	}
	reversed := lines(t, c, store.Query{Reverse: true})
	slices.Reverse(reversed)
	check(t, "in reverse", reversed, want)
	if newest := lines(t, c, store.Query{Reverse: true, Limit: 7}); len(newest) != 7 {
		t.Errorf("%d of 7 events", len(newest))
	}

	// What a query selects is what its local check selects of all events.
	for name, q := range map[string]store.Query{
		"host":         {Hosts: []string{"web-1"}},
		"hosts":        {Hosts: []string{"web-*", "none"}},
		"escaped host": {Hosts: []string{`ex"a\\m\*p[l]e`}},
		"time":         {Since: eventtest.At(100), Until: eventtest.At(5000)},
		"type":         {Types: map[event.Type]bool{event.SysctlWrite: true}},
		"parameter":    {Parameter: "net.ipv4.tcp_keepalive_time"},
		"parameters":   {Filter: event.Filter{Sysctl: []string{"net.*"}}},
		"pid":          {Filter: event.Filter{PIDs: []uint32{4712, 90214}}},
		"user":         {Filter: event.Filter{UIDs: []uint32{0}}},
		"failed":       {Filter: event.Filter{Failed: true}},
		"ns type":      {Filter: event.Filter{NSTypes: map[event.NSType]bool{event.NSTypeNet: true}}},
		"comm":         {Filter: event.Filter{Comms: []string{"sysctl", "runc:[1:CHILD]"}}, Trace: true},
		"boot":         {BootID: "boot-web-2"},
	} {
		f := q.Filter
		q.Match = f.MatchStored
		if !q.Trace {
			q.Match = func(e *event.Event) bool { return e.Type.Family() != "trace" && f.MatchStored(e) }
		}
		var want []string
		for _, it := range sent {
			e := it.Event
			if store.MatchHost(q.Hosts, e.Host) && (q.BootID == "" || e.BootID == q.BootID) && (q.Types == nil || q.Types[e.Type]) &&
				(q.Since.IsZero() || !e.Time.Before(q.Since)) && (q.Until.IsZero() || !e.Time.After(q.Until)) &&
				(q.Parameter == "" || e.Sysctl != nil && e.Sysctl.Name == q.Parameter) && q.Match(e) {
				want = append(want, string(it.Line))
			}
		}
		if len(want) == 0 {
			t.Errorf("%s: selects nothing", name)
		}
		check(t, name, lines(t, c, q), want)
	}
	for _, e := range eventtest.Hostile() {
		if e.Process == nil || len(e.Process.Comm) > 15 {
			continue
		}
		if got := lines(t, c, store.Query{Filter: event.Filter{Comms: []string{e.Process.Comm}}, Match: func(o *event.Event) bool { return o.Process != nil && o.Process.Comm == e.Process.Comm }}); len(got) == 0 {
			t.Errorf("finds no event of %q", e.Process.Comm)
		}
	}
}

func timeOf(t *testing.T, line string) time.Time {
	t.Helper()
	e := decode(t, line)
	return e.Time
}

// check compares two lists of lines without their order.
func check(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: got %d lines, want %d; line %d:\ngot  %s\nwant %s", what, len(got), len(want), i, at(got, i), at(want, i))
			return
		}
	}
}

func at(all []string, i int) string {
	if i < len(all) {
		return all[i]
	}
	return "none"
}

// TestBlame asks a real store who changed a parameter on which of many hosts.
func TestBlame(t *testing.T) {
	s := storetest.Start(t)
	const hosts = 20
	host := &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true}
	other := &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web"}
	write := func(ms int, who, value string, outcome event.Outcome, ns *event.Namespace) *event.Event {
		return &event.Event{Type: event.SysctlWrite, Time: eventtest.At(ms), Outcome: outcome, Process: eventtest.ViaSSH(uint32(ms), who),
			Sysctl: &event.Sysctl{Name: "net.ipv4.ip_forward", Old: eventtest.Ptr("0"), New: &value, After: &value, Namespace: ns}}
	}
	for i := range hosts {
		unknown := write(40, "ignored", "1", "", host) // it left the old value
		unknown.Sysctl.After = eventtest.Ptr("0")
		s.Send(items(fmt.Sprintf("host-%d", i), []*event.Event{
			write(10, "first", "0", event.Success, host), write(20, "last", "1", event.Success, host),
			write(30, "refused", "0", event.Failure, host), unknown,
			write(50, "container", "1", event.Success, other),
		})...)
	}
	c := client(t, s.URL)
	rows, err := c.Blame(t.Context(), store.BlameQuery{Globs: []string{"net.ipv4"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != hosts {
		t.Fatalf("%d rows of %d hosts", len(rows), hosts)
	}
	for _, r := range rows {
		if r.Last.Process.Comm != "last" || *r.Recorded != "1" || r.Value != nil || r.State != "stored" {
			t.Errorf("%s: %s set %q, value %v, state %s", r.Last.Host, r.Last.Process.Comm, *r.Recorded, r.Value, r.State)
		}
	}
	for _, tt := range []struct {
		name string
		q    store.BlameQuery
		want string
		rows int
	}{
		{"host", store.BlameQuery{Query: store.Query{Hosts: []string{"host-1?"}}}, "last", 10},
		{"until", store.BlameQuery{Query: store.Query{Until: eventtest.At(15)}}, "first", hosts},
		{"since", store.BlameQuery{Query: store.Query{Since: eventtest.At(45)}}, "", 0},
		{"name", store.BlameQuery{NetName: "web", Globs: []string{"net.ipv4.ip_forward"}}, "container", hosts},
		{"id", store.BlameQuery{NetID: other.ID}, "container", hosts},
		{"all", store.BlameQuery{AllNets: true}, "", 2 * hosts},
		{"other", store.BlameQuery{Globs: []string{"kernel.*"}}, "", 0},
	} {
		rows, err := c.Blame(t.Context(), tt.q)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if len(rows) != tt.rows {
			t.Errorf("%s: %d rows, want %d", tt.name, len(rows), tt.rows)
		}
		for _, r := range rows {
			if tt.want != "" && r.Last.Process.Comm != tt.want {
				t.Errorf("%s: by %s, want %s", tt.name, r.Last.Process.Comm, tt.want)
			}
		}
	}
}
