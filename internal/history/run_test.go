// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/nstrace/nstrace/internal/history"
)

// runIDs are the ids of two runs.
var runIDs = [...]string{"00112233445566778899aabbccddeeff", "0123456789abcdef0123456789abcdef"}

// recordRun records n events with a host and run id in a run of a recorder, and returns their
// lines.
func recordRun(t *testing.T, path, host, runID string, n int) (lines []string) {
	t.Helper()
	r := create(t, history.Options{Path: path, Host: host})
	s := newStorm(t)
	s.run = runID
	for range n {
		e := s.next()
		e.Host = host
		lines = append(lines, line(e))
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// checkLines compares the events of a history with the lines of the stream.
func checkLines(t *testing.T, path string, want []string) {
	t.Helper()
	got := find(t, open(t, path), history.Query{})
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i, s := range got {
		if l := line(s.Event); l != want[i] {
			t.Fatalf("event %d:\ngot  %s\nwant %s", s.ID, l, want[i])
		}
	}
	if v := verify(t, path); len(v.Problems) > 0 {
		t.Error(v.Problems)
	}
}

// Events of consecutive runs keep their run ids: in the table, in the lists and in an export. For
// that, no event needs to keep its JSON line, and no namespace needs a second row.
func TestRunsKeepTheirIDs(t *testing.T) {
	const each = 300
	path := filepath.Join(t.TempDir(), "history.db")
	var want []string
	for _, id := range []string{runIDs[0], runIDs[1], ""} {
		want = append(want, recordRun(t, path, "guest", id, each)...)
	}
	checkLines(t, path, want)
	db := open(t, path)
	name := find(t, db, history.Query{})[1].Event.Sysctl.Name
	runs := map[string]int{}
	for _, s := range find(t, db, history.Query{Parameter: name}) {
		if runs[s.Event.RunID]++; line(s.Event) != want[s.ID-1] {
			t.Errorf("in the list, event %d is %s", s.ID, line(s.Event))
		}
	}
	if len(runs) != 3 {
		t.Errorf("%s was written in the runs %v", name, runs)
	}
	for query, want := range map[string]int64{
		"SELECT count(*) FROM event WHERE line IS NOT NULL": 0,
		"SELECT count(*) FROM origin WHERE run_id <> ''":    2,
		"SELECT count(*) FROM events JOIN event USING (id) WHERE length(events.run_id) = 32 AND events.seq = event.seq AND event.seq > 0": 2 * each,
		"SELECT count(*) FROM namespace WHERE origin IN (SELECT id FROM origin WHERE run_id <> '')":                                       0,
		"SELECT count(*) FROM run WHERE origin IN (SELECT id FROM origin WHERE run_id <> '')":                                             0,
		// The namespaces of the writes have one row each.
		"SELECT count(*) - count(DISTINCT type || inode || uid || origin) FROM namespace WHERE id IN (SELECT namespace FROM event WHERE parameter IS NOT NULL)": 0,
	} {
		if got := number(t, path, query); got != want {
			t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
	again := filepath.Join(t.TempDir(), "again.db")
	if _, err := history.Import(context.Background(), again, bytes.NewReader(export(t, path))); err != nil {
		t.Fatal(err)
	}
	checkLines(t, again, want)
}

// Imported events of another host keep their run ids when this host records to the same history.
func TestImportKeepsRunIDs(t *testing.T) {
	from := filepath.Join(t.TempDir(), "other.db")
	want := append(recordRun(t, from, "other", runIDs[0], 200), recordRun(t, from, "other", runIDs[1], 200)...)
	path := filepath.Join(t.TempDir(), "history.db")
	if _, err := history.Import(context.Background(), path, bytes.NewReader(export(t, from))); err != nil {
		t.Fatal(err)
	}
	want = append(want, recordRun(t, path, "guest", runIDs[0], 200)...)
	checkLines(t, path, want)
	if got := number(t, path, "SELECT count(*) FROM origin WHERE run_id <> ''"); got != 3 {
		t.Errorf("%d origins with a run id, want 3", got)
	}
}

// The events of an older version have no run id, and new ones in the same history do.
func TestOlderVersionGoesOn(t *testing.T) {
	for version := 1; version < 3; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			path := copied(t, version)
			r := create(t, history.Options{Path: path})
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, s := range find(t, open(t, path), history.Query{}) {
				if s.Event.RunID != "" {
					t.Fatalf("event %d has the run id %q", s.ID, s.Event.RunID)
				}
				want = append(want, line(s.Event))
			}
			want = append(want, recordRun(t, path, "guest", runIDs[1], 100)...)
			checkLines(t, path, want)
		})
	}
}
