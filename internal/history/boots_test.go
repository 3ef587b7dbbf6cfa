// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// recordBoot records n events of a boot, a minute apart. After the first one comes a namespace of another boot that is
// gone, as the run after a reboot finds it.
func recordBoot(t *testing.T, path, host, id, gone string, start time.Time, n int) {
	t.Helper()
	r := create(t, history.Options{Path: path, Host: host, BootID: id})
	s := newStorm(t)
	for i := range n {
		e := s.next()
		e.Host, e.BootID, e.Time, e.RunID = host, id, start.Add(time.Duration(i)*time.Minute), fmt.Sprintf("%032x", start.Unix())
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
		if i > 0 || gone == "" {
			continue
		}
		if err := r.Append(&event.Event{
			V: event.SchemaVersion, Type: event.NamespaceGone, Time: start, Host: host, BootID: gone, RunID: e.RunID,
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532001, UID: "1"},
			Between:   &event.Between{From: start.Add(-time.Hour), To: start},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Boots counts each event for the boot in its boot_id, over runs and names of the host, and Query.BootID selects
// exactly these.
func TestBoots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	const first, second, third = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"
	day := func(n int) time.Time { return time.Date(2026, 11, n, 8, 0, 0, 0, time.UTC) }
	recordBoot(t, path, "old", first, "", day(1), 5)
	recordBoot(t, path, "new", first, "", day(2), 7)
	recordBoot(t, path, "new", second, first, day(3), 4)
	recordBoot(t, path, "new", third, "", day(4), 3)

	defer history.SetBootStep(history.SetBootStep(3))
	db := open(t, path)
	all, err := db.Boots()
	if err != nil {
		t.Fatal(err)
	}
	want := []history.Boot{
		{ID: first, Host: "new", Events: 13, First: day(1), Last: day(2).Add(6 * time.Minute)},
		{ID: second, Host: "new", Events: 4, First: day(3), Last: day(3).Add(3 * time.Minute)},
		{ID: third, Host: "new", Events: 3, First: day(4), Last: day(4).Add(2 * time.Minute)},
	}
	if !slices.Equal(all, want) {
		t.Errorf("got  %+v\nwant %+v", all, want)
	}
	for _, b := range want {
		for name, q := range map[string]history.Query{
			"all": {}, "reversed": {Reverse: true}, "of a parameter": {Parameter: find(t, db, history.Query{})[1].Event.Sysctl.Name},
		} {
			n := 0
			q.Match = func(e *event.Event) bool {
				if e.BootID == b.ID {
					n++
				}
				return true
			}
			find(t, db, q)
			whole := n
			q.BootID = b.ID
			got := find(t, db, q)
			if len(got) != whole || name == "all" && uint64(whole) != b.Events {
				t.Errorf("boot %s, %s: %d events, want %d", b.ID, name, len(got), whole)
			}
			for _, s := range got {
				if s.Event.BootID != b.ID {
					t.Errorf("boot %s, %s: %s", b.ID, name, line(s.Event))
				}
			}
		}
	}
	for offset, id := range map[int]string{0: third, -1: second, -2: first, -3: "", 1: first, 3: third, 4: ""} {
		if b, ok := history.BootAt(all, offset); b.ID != id || ok != (id != "") {
			t.Errorf("boot %d is %q, want %q", offset, b.ID, id)
		}
	}
	for id, want := range map[string]string{second: second, "22222222222242228222222222222222": second, "2222": ""} {
		if b, ok := history.BootWith(all, id); b.ID != want || ok != (want != "") {
			t.Errorf("boot %s is %q, want %q", id, b.ID, want)
		}
	}
}

// Boots ends soon for a database that others made: with gaps between the ids, events of no origin, or too many origins.
func TestBootsForeign(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		ok     bool
	}{
		"a gap":            {"UPDATE event SET id = 1000000000000000 WHERE id = (SELECT max(id) FROM event)", true},
		"a larger gap":     {"UPDATE event SET id = 9223372036854775807 WHERE id = (SELECT max(id) FROM event)", false},
		"no origin":        {"DELETE FROM origin", true},
		"too many origins": {"WITH RECURSIVE c(x) AS (SELECT 1000 UNION ALL SELECT x + 1 FROM c LIMIT 70000) INSERT INTO origin SELECT x, '', x, '' FROM c", false},
	} {
		path := copied(t, history.SchemaVersion)
		change(t, path, tt.script)
		db := open(t, path)
		within(t, name, func() {
			if _, err := db.Boots(); (err == nil) != tt.ok || err != nil && !errors.Is(err, history.ErrNotHistory) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
