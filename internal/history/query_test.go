// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

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
