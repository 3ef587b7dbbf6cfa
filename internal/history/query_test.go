// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// LastWritesTo finds what LastWrites finds, by indexes.
func TestLastWritesTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	recordRun(t, path, "a", "r1", 300)
	db := open(t, path)
	want := map[string][]string{}
	var names []string
	for w, err := range db.LastWrites(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if want[w.Parameter] == nil {
			names = append(names, w.Parameter)
		}
		want[w.Parameter] = append(want[w.Parameter], eventOf(w.Stored))
	}
	if len(names) < 2 {
		t.Fatalf("%q", names)
	}
	slices.Reverse(names)
	got, order := map[string][]string{}, []string{}
	for w, err := range db.LastWritesTo(t.Context(), append(names, "none")...) {
		if err != nil {
			t.Fatal(err)
		}
		if got[w.Parameter] == nil {
			order = append(order, w.Parameter)
		}
		got[w.Parameter] = append(got[w.Parameter], eventOf(w.Stored))
	}
	if !reflect.DeepEqual(got, want) || !slices.Equal(order, names) {
		t.Errorf("%v in the order %q, want %v in the order %q", got, order, want, names)
	}
	steps, err := db.PlanOfLastWritesTo()
	if err != nil || len(steps) == 0 {
		t.Fatal(steps, err)
	}
	for _, s := range steps {
		if strings.Contains(s, "SCAN") {
			t.Errorf("the query reads a whole table: %q", steps)
		}
	}
}

// A query for processes or values finds what a query with Match finds, in the lists of segments and after them.
func TestProcessQuery(t *testing.T) {
	defer history.SetSegment(history.SetSegment(100))
	path := filepath.Join(t.TempDir(), "history.db")
	recordRun(t, path, "a", "r1", 450)
	db := open(t, path)
	parameters := map[string]int{"": 1} // the empty one: all events
	var someone *event.Process
	for _, s := range find(t, db, history.Query{}) {
		if p := s.Event.Sysctl; p != nil {
			parameters[p.Name]++
			someone = s.Event.Process
		}
	}
	is := func(p *event.Process) bool {
		return p != nil && someone != nil && p.Comm == someone.Comm && p.PID%2 == 0
	}
	found := map[string]int{}
	for name := range parameters {
		for _, limit := range []int{0, 1, 7} {
			for _, reverse := range []bool{false, true} {
				even := func(value string) bool { return value != "" && value[len(value)-1]%2 == 0 }
				for what, qs := range map[string][2]history.Query{
					"process": {{Process: is}, {Match: func(e *event.Event) bool { return is(e.Process) }}},
					"value":   {{New: even}, {Match: func(e *event.Event) bool { return e.Sysctl != nil && e.Sysctl.New != nil && even(*e.Sysctl.New) }}},
				} {
					var results [2][]string
					for i, q := range qs {
						q.Parameter, q.Limit, q.Reverse = name, limit, reverse
						results[i] = texts(find(t, db, q))
					}
					got, want := results[0], results[1]
					if found[what] += len(want); !slices.Equal(got, want) {
						t.Errorf("%s, %q, limit %d, reverse %t: %d events, want %d: %.300q", what, name, limit, reverse, len(got), len(want), got)
					}
				}
			}
		}
	}
	if found["process"] == 0 || found["value"] == 0 {
		t.Errorf("no event matches: %v", found)
	}
}

func texts(all []history.Stored) (texts []string) {
	for _, s := range all {
		texts = append(texts, eventOf(s))
	}
	return texts
}

// TestLikely compares queries that say what is likely with those that read every event, for values of recorded events.
func TestLikely(t *testing.T) {
	for _, step := range []int64{16, 1 << 19} {
		defer history.SetSparseStep(history.SetSparseStep(step))
		path := filepath.Join(t.TempDir(), "history.db")
		r := create(t, history.Options{Path: path})
		events := captured(t)
		for _, e := range events {
			if err := r.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		// Others can leave gaps, and give events any id.
		if err := sqlitex.ExecuteScript(conn, "DELETE FROM event WHERE id BETWEEN 20 AND 40; UPDATE event SET id = 1 << 62 WHERE id = (SELECT max(id) FROM event);", nil); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		db := open(t, path)
		pids, uids, comms, inodes := map[uint32]bool{1 << 30: true}, map[uint32]bool{0: true}, map[string]bool{"none": true}, map[uint32]bool{7: true}
		for _, e := range events {
			if p := e.Process; p != nil {
				pids[p.PID], uids[p.UID], comms[p.Comm] = true, true, true
			}
			for _, ns := range e.Namespaces() {
				if ns != nil {
					inodes[ns.ID] = true
				}
			}
		}
		type selection struct {
			likely history.Likely
			match  func(*event.Event) bool
		}
		var all []selection
		filter := func(l history.Likely) {
			f := event.Filter{PIDs: l.PIDs, UIDs: l.UIDs, Comms: l.Comms}
			all = append(all, selection{l, f.MatchStored})
		}
		for comm := range comms {
			filter(history.Likely{Comms: []string{comm}})
			filter(history.Likely{Comms: []string{comm, "sh"}, UIDs: []uint32{0}})
		}
		for uid := range uids {
			filter(history.Likely{UIDs: []uint32{uid}})
		}
		for pid := range pids {
			if len(all) < 60 || pid == 1<<30 {
				filter(history.Likely{PIDs: []uint32{pid}})
			}
		}
		n := 0
		for id := range inodes {
			if n++; n > 15 && id != 7 {
				continue
			}
			all = append(all, selection{history.Likely{Inodes: []uint32{id}}, func(e *event.Event) bool {
				return slices.ContainsFunc(namespacesOf(e), func(ns *event.Namespace) bool { return ns != nil && ns.ID == id })
			}})
		}
		all = append(all, selection{history.Likely{Contained: true}, func(e *event.Event) bool {
			return e.Container != nil || e.Pod != nil || slices.ContainsFunc(namespacesOf(e), func(ns *event.Namespace) bool {
				return ns != nil && ns.Owner != nil && (ns.Owner.Container != nil || ns.Owner.Pod != nil)
			})
		}})
		found := 0
		for _, s := range all {
			for _, q := range []history.Query{{}, {Reverse: true}, {Limit: 2}, {Reverse: true, Limit: 1}, {After: 10, To: 60}, {After: 10, To: 60, Reverse: true}} {
				q.Match = s.match
				want := texts(find(t, db, q))
				q.Likely = &s.likely
				got := texts(find(t, db, q))
				if !slices.Equal(got, want) {
					t.Errorf("step %d, %+v, reverse %t, limit %d: %d events, want %d", step, s.likely, q.Reverse, q.Limit, len(got), len(want))
				}
				found += len(want)
			}
		}
		if found < 1000 {
			t.Errorf("the selections select only %d events", found)
		}
	}
}

func namespacesOf(e *event.Event) []*event.Namespace {
	all := e.Namespaces()
	return all[:]
}
