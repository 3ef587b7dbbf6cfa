// SPDX-License-Identifier: Apache-2.0

package deviation_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/deviation"
	"github.com/nstrace/nstrace/internal/history"
)

var start = time.Now().Truncate(time.Second).Add(-time.Hour).UTC()

// A recording is what a recorder of one boot stores. An event is written as "OLD>NEW"; "?" is an unknown value. d: is
// for a drift, b: for one over a reboot, r: for one that a reboot set back, f: for a failed write, o: for a write in
// another namespace, u: for a write without a mark.
type recording struct{ boot, events string }

// find records, and returns the deviations of kernel.a, of which 1 is expected, as text.
func find(t *testing.T, o deviation.Options, recordings ...recording) string {
	t.Helper()
	set, err := baseline.Parse(baseline.Options{}, "/b.yaml", []byte("baseline: [{name: kernel.a, value: 1}, {name: kernel.b, value: 1}]"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "history.db")
	at, seq := start, uint64(0)
	for _, rec := range recordings {
		r, err := history.Create(history.Options{Path: path, BootID: rec.boot})
		if err != nil {
			t.Fatal(err)
		}
		m := baseline.NewMarker(set)
		for _, text := range strings.Fields(rec.events) {
			kind, values, ok := strings.Cut(text, ":")
			if !ok {
				kind, values = "", text
			}
			old, value, _ := strings.Cut(values, ">")
			known := func(s string) *string {
				if s == "?" {
					return nil
				}
				return &s
			}
			at, seq = at.Add(time.Second), seq+1
			e := &event.Event{
				V: event.SchemaVersion, Time: at, Seq: seq, BootID: rec.boot, Type: event.SysctlWrite, Outcome: event.Success, Via: event.ViaWrite, Process: &event.Process{PID: uint32(seq), Comm: "x"},
				Sysctl: &event.Sysctl{Name: "kernel.a", Path: "/proc/sys/kernel/a", Old: known(old), New: &value, After: known(value)},
			}
			switch kind {
			case "d", "b", "r":
				e.Type, e.Outcome, e.Via, e.Process, e.Sysctl.New = event.SysctlDrift, "", "", nil, nil
				e.Between = &event.Between{From: start, To: at, Boot: "same", Reset: kind == "r"}
				if kind != "d" {
					e.Between.Boot = "different"
				}
			case "f":
				e.Outcome, e.Error = event.Failure, "EINVAL"
			case "o":
				e.Sysctl.Namespace = &event.Namespace{Type: event.NSTypeUTS, ID: 7, UID: "7"}
			}
			if kind != "u" {
				m.Mark(e)
			}
			if err := r.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(r.Sync(), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all, err := deviation.Find(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	second := func(at time.Time) string {
		if at.IsZero() {
			return "?"
		}
		return fmt.Sprint(int(at.Sub(start).Seconds()))
	}
	for _, d := range all {
		value := "?"
		if d.Value != nil {
			value = *d.Value
			if d.Last != nil && *d.Last != value {
				value += "-" + *d.Last
			}
		}
		lines = append(lines, fmt.Sprintf("%s %s from %s to %s", d.State, value, second(d.From()), second(d.To())))
	}
	return strings.Join(lines, "; ")
}

// TestFind has every way in which a deviation can begin and end.
func TestFind(t *testing.T) {
	is := func(value string) deviation.Options {
		return deviation.Options{BootID: "b", Value: func(string) *string { return &value }}
	}
	unreadable := deviation.Options{BootID: "b", Value: func(string) *string { return nil }}
	one := func(events string) []recording { return []recording{{"b", events}} }
	for _, c := range []struct {
		title string
		o     deviation.Options
		recs  []recording
		want  string
	}{
		{"none", is("1"), one("1>1 2>3"), ""},
		{"away and back", is("1"), one("1>0 0>1"), "ended 0 from 1 to 2"},
		{"several wrong values", is("1"), one("1>0 0>2 2>1 1>4 4>1"), "ended 0-2 from 1 to 3; ended 4 from 4 to 5"},
		{"still wrong", is("7"), one("1>0"), "open 0-7 from 1 to ?"},
		{"right again, nobody knows how", is("1"), one("1>0"), "unknown 0 from 1 to ?"},
		{"unreadable", unreadable, one("1>0"), "unknown 0 from 1 to ?"},
		{"of another host", deviation.Options{BootID: "other", Value: is("0").Value}, one("1>0"), "unknown 0 from 1 to ?"},
		{"wrong before the first event", is("1"), one("0>1"), "ended 0 from ? to 1"},
		{"by drift", is("1"), one("d:1>0 d:0>1"), "ended 0 from 1 to 2"},
		{"failed writes and other namespaces", is("0"), one("1>0 f:0>1 o:0>1"), "open 0 from 1 to ?"},
		{"a missing write back", is("1"), one("1>0 1>2 2>1"), "unknown 0 from 1 to ?; ended 2 from 2 to 3"},
		{"a missing write away", is("1"), one("1>0 0>1 5>1"), "ended 0 from 1 to 2; ended 5 from ? to 3"},
		{"an unknown result, then back", is("1"), one("1>0 0>? 0>1"), "ended 0 from 1 to 3"},
		{"an unknown result, and then right", is("1"), one("1>0 0>? 1>1"), "unknown 0 from 1 to ?"},
		{"back by a write without a mark", is("1"), one("1>0 u:0>1 u:1>0"), "ended 0 from 1 to 2"},
		{"only without marks", is("0"), one("u:1>0"), ""},
		{"a reboot", is("0"), []recording{{"a", "1>0"}, {"b", "0>2"}}, "reboot 0 from 1 to ?"},
		{"a reboot, and nothing since", is("0"), []recording{{"a", "1>0"}, {"b", "o:2>3"}}, "reboot 0 from 1 to ?"},
		{"reset by the reboot", is("1"), []recording{{"a", "1>0"}, {"b", "r:0>1"}}, "reset 0 from 1 to 2"},
		{"right after the reboot", is("1"), []recording{{"a", "1>0"}, {"b", "b:0>1"}}, "reboot 0 from 1 to ?"},
		{"another wrong value after the reboot", is("2"), []recording{{"a", "1>0"}, {"b", "b:0>2"}}, "reboot 0 from 1 to ?; open 2 from 2 to ?"},
		{"wrong since the reboot", is("0"), []recording{{"a", "0>1"}, {"b", "b:1>0"}}, "ended 0 from ? to 1; open 0 from 2 to ?"},
		{"right since the reboot", is("1"), []recording{{"a", "u:1>0"}, {"b", "b:0>1 1>3"}}, "unknown 3 from 3 to ?"},
		{"back in the next boot", is("1"), []recording{{"a", "1>0"}, {"b", "0>1"}}, "reboot 0 from 1 to ?; ended 0 from ? to 2"},
		{"two recorders", is("1"), []recording{{"b", "1>0"}, {"b", "d:0>1"}}, "ended 0 from 1 to 2"},
		{"until", deviation.Options{Until: start.Add(2 * time.Second)}, one("1>0 0>1 1>5 5>1"), "ended 0 from 1 to 2"},
		{"since", deviation.Options{Since: start.Add(3 * time.Second)}, one("1>0 0>1 1>5 5>1"), "ended 5 from 3 to 4"},
		{"within", deviation.Options{Since: start.Add(time.Second + 1), Until: start.Add(time.Second + 2)}, one("1>0 0>1 1>5 5>1"), "ended 0 from 1 to 2"},
		{"who", deviation.Options{Match: func(e *event.Event) bool { return e.Process.PID == 4 }}, one("1>0 0>1 1>5 5>1"), "ended 5 from 3 to 4"},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			if got := find(t, c.o, c.recs...); got != c.want {
				t.Errorf("%q\nwant %q", got, c.want)
			}
		})
	}
}

// TestFindEnds checks that Find ends with its context.
func TestFindEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: path, BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	old, value := "1", "0"
	e := &event.Event{
		V: event.SchemaVersion, Time: start, Seq: 1, BootID: "b", Type: event.SysctlWrite, Outcome: event.Success, Process: &event.Process{PID: 1, Comm: "x"},
		Sysctl: &event.Sysctl{Name: "kernel.a", Path: "/proc/sys/kernel/a", Old: &old, New: &value, After: &value, Expected: &event.Expected{State: event.ExpectedAway, Comparison: "equal", Values: []string{"1"}, File: "x"}},
	}
	if err := errors.Join(r.Append(e), r.Sync(), r.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := deviation.Find(ended, db, deviation.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
