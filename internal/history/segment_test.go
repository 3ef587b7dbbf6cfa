// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// eventOf returns an event's id and line, which is what its list contains.
func eventOf(s history.Stored) string { return fmt.Sprint(s.ID, " ", line(s.Event)) }

func plain(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsRune(text, utf8.RuneError)
}

// checkLists queries each parameter and each namespace, and compares the results with a scan.
func checkLists(t *testing.T, path string) {
	t.Helper()
	db := open(t, path)
	if n, _, err := db.Segments(); err != nil || n == 0 {
		t.Fatalf("%d segments: %v", n, err)
	}
	parameters, namespaces := map[string][]string{}, map[history.NamespaceQuery][]string{}
	for _, s := range find(t, db, history.Query{}) {
		ns := s.Event.Namespace
		if p := s.Event.Sysctl; p != nil {
			parameters[p.Name] = append(parameters[p.Name], eventOf(s))
			if ns == nil {
				ns = p.Namespace
			}
		}
		// JSON replaces invalid UTF-8, so events that are kept as lines do not match such a value.
		if ns != nil && ns.ID != 0 && ns.UID != "" && plain(string(ns.Type)+ns.UID+s.Event.BootID) {
			q := history.NamespaceQuery{Type: ns.Type, ID: ns.ID, UID: ns.UID, BootID: s.Event.BootID}
			namespaces[q] = append(namespaces[q], eventOf(s))
		}
	}
	check := func(q history.Query, want []string) {
		t.Helper()
		for _, q.Limit = range []int{0, 3} {
			for _, q.Reverse = range []bool{false, true} {
				for _, q.After = range []int64{0, 100, 350} {
					for _, q.To = range []int64{0, 200, 351} {
						var got []string
						for _, s := range find(t, db, q) {
							got = append(got, eventOf(s))
						}
						if want := chosen(want, q); !slices.Equal(got, want) {
							t.Fatalf("%+v %+v:\ngot  %q\nwant %q", q, q.Namespace, got, want)
						}
					}
				}
			}
		}
	}
	for name, want := range parameters {
		if name != "" {
			check(history.Query{Parameter: name}, want)
		}
	}
	for q, want := range namespaces {
		check(history.Query{Namespace: &q}, want)
	}
	if len(parameters) < 5 || len(namespaces) < 10 {
		t.Errorf("%d parameters and %d namespaces are too few", len(parameters), len(namespaces))
	}
}

// chosen returns the events that q selects.
func chosen(all []string, q history.Query) (some []string) {
	for _, e := range all {
		id := int64(0)
		if _, err := fmt.Sscan(e, &id); err != nil {
			panic(err)
		}
		if id > q.After && (q.To == 0 || id <= q.To) {
			some = append(some, e)
		}
	}
	if q.Reverse {
		slices.Reverse(some)
	}
	if q.Limit > 0 {
		some = some[:min(len(some), q.Limit)]
	}
	return some
}

// varied returns events in which any field can differ from the last event's, or be missing.
func varied(t *testing.T, n int) (events []*event.Event) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	real := captured(t)
	for i := range n {
		e := *real[i%len(real)]
		switch i % 3 {
		case 0: // any values
			fill(reflect.ValueOf(&e).Elem(), rng, true)
			e.V, e.Trace, e.Loss = event.SchemaVersion, nil, nil
			if e.Sysctl != nil {
				e.Namespace, e.ChildPID = nil, uint32(i%2)
				e.Sysctl.Name = fmt.Sprint("test.", rng.IntN(20))
			}
		case 1: // a series of writes
			if e.Sysctl != nil {
				s := *e.Sysctl
				e.Sysctl = &s
				text := fmt.Sprint(i)
				switch rng.IntN(4) {
				case 0:
					e.Process, e.Unit = nil, text
				case 1:
					e.Time, e.Seq = time.Unix(rng.Int64N(4e9)-1e9, rng.Int64N(1e9)).UTC(), rng.Uint64N(1<<63)
				case 2:
					text = "\xff\x00" + strings.Repeat("日", 60)
				}
				if s.Old, s.New, s.After = s.After, &text, &text; i%4 == 0 {
					s.Truncated, e.Count, e.LastTime = true, uint64(i), e.Time.Add(time.Second)
				}
			}
		}
		events = append(events, &e)
	}
	return events
}

// Queries by list find the same events as a scan: in complete segments, after the last one, and
// after retention has dropped the first events of a segment.
func TestLists(t *testing.T) {
	oneGoroutine(t)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("no sqlite3 shell")
	}
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, Batch: 50})
	for i, e := range varied(t, 600) {
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
		if i%70 == 0 {
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkLists(t, path)
	if v := verify(t, path); len(v.Problems) > 0 {
		t.Error(v.Problems)
	}
	// Drop events up to the middle of the second segment.
	shell(t, path, "DELETE FROM event WHERE id <= 150")
	checkLists(t, path)
	if v := verify(t, path); len(v.Problems) != 1 || v.Problems[0].To != 150 {
		t.Error(v.Problems)
	}
}

// A query by parameter and namespace finds the events that have both.
func TestParameterInNamespace(t *testing.T) {
	oneGoroutine(t)
	db := open(t, recorded(t, 1000, history.Options{}))
	all := find(t, db, history.Query{})
	ns := all[0].Event.Sysctl.Namespace
	if ns == nil {
		ns = all[1].Event.Sysctl.Namespace
	}
	found := 0
	for i := range 200 {
		name := fmt.Sprintf("net.ipv4.neigh.eth%d.base_reachable_time_ms", i)
		var want, got []string
		for _, s := range all {
			if e := s.Event.Sysctl; e != nil && e.Name == name && e.Namespace != nil && e.Namespace.ID == ns.ID && e.Namespace.UID == ns.UID {
				want = append(want, eventOf(s))
			}
		}
		for _, s := range find(t, db, history.Query{Parameter: name, Namespace: &history.NamespaceQuery{ID: ns.ID, UID: ns.UID}}) {
			got = append(got, eventOf(s))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s: got %q, want %q", name, got, want)
		}
		found += len(want)
	}
	if found == 0 {
		t.Error("no event matches")
	}
}

// A query by an inode that thousands of namespaces had reads all lists of a segment.
func TestNumberUsedAgain(t *testing.T) {
	oneGoroutine(t)
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	s := newStorm(t)
	want := 0
	for n := range 3000 {
		e := s.next()
		if n%2 == 0 {
			e.Sysctl, e.Type, e.Via = nil, event.NamespaceCreate, "unshare"
			e.Namespace = &event.Namespace{Type: "net", ID: 4026999999, UID: fmt.Sprint("again:", n)}
			want++
		}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got := find(t, open(t, path), history.Query{Namespace: &history.NamespaceQuery{ID: 4026999999}})
	if len(got) != want || want <= 1000 {
		t.Errorf("%d of %d events", len(got), want)
	}
	for i, s := range got {
		if s.ID != int64(2*i+1) {
			t.Fatalf("event %d instead of %d", s.ID, 2*i+1)
		}
	}
}

// A damaged list is an error that names the segment's events.
func TestDamagedList(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("no sqlite3 shell")
	}
	path := recorded(t, 300, history.Options{})
	name := strings.TrimSpace(shell(t, path, "SELECT name FROM parameter WHERE id = 7"))
	shell(t, path, "UPDATE parameter_list SET events = substr(events, 1, length(events) - 1) WHERE id = (1 << 32) + 7")
	for s, err := range open(t, path).Events(context.Background(), history.Query{Parameter: name}) {
		if err == nil {
			t.Fatalf("%+v", s)
		}
		if !strings.Contains(err.Error(), "events 1 to 128: their list is damaged") {
			t.Error(err)
		}
	}
}

// Retention drops segments with their events.
func TestSegmentsAreDropped(t *testing.T) {
	oneGoroutine(t)
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, Keep: time.Hour})
	s := newStorm(t)
	append := func(n int, at time.Time) {
		t.Helper()
		s.at = at
		for range n {
			if err := r.Append(s.next()); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	append(500, time.Now().Add(-2*time.Hour))
	append(500, time.Now())
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = create(t, history.Options{Path: path, Keep: time.Hour}) // retention runs at once
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if v := verify(t, path); len(v.Problems) > 0 {
			t.Fatal(v.Problems)
		} else if v.Dropped == 500 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not dropped")
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkLists(t, path)
	// Some events of the segment 385 to 512 are left.
	if left := strings.Fields(shell(t, path, `SELECT min(id) || ' ' || min(first_event) || ' ' || (SELECT min(id) >> 32 FROM parameter_list)
		|| ' ' || (SELECT min(id) >> 32 FROM namespace_list) FROM segment`)); !slices.Equal(left, []string{"4", "385", "4", "4"}) {
		t.Error(left)
	}
}

// A value that is used again and again has one row, however many other values occur once in
// between.
func TestOneRowOfWhatIsUsedAllTheTime(t *testing.T) {
	oneGoroutine(t)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("no sqlite3 shell")
	}
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	s := newStorm(t)
	user := *s.users[0]
	user.PID, user.Comm = 1, "always"
	const once = 30_000
	for n := range once {
		e := s.next()
		e.Sysctl, e.Type, e.Via = nil, event.NamespaceEnter, "setns"
		p := user
		p.PID, p.Comm = uint32(10+n), "once"
		e.Process, e.Namespace = &p, &event.Namespace{Type: "net", ID: uint32(4026532000 + n), UID: fmt.Sprint("once:", n)}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 {
			e.Process, e.Namespace = &user, &event.Namespace{Type: "net", ID: 4026531840, UID: "always"}
			if err := r.Append(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(shell(t, path, `SELECT (SELECT count(*) FROM process WHERE comm = 'always') || ' ' || (SELECT count(*) FROM process WHERE comm = 'once')
		|| ' ' || (SELECT count(*) FROM namespace_view JOIN namespace n ON n.id = namespace WHERE n.uid = 'always')`))
	if want := fmt.Sprint(1, " ", once, " ", 1); got != want {
		t.Errorf("rows of the process, of the others and of the namespace: %s, want %s", got, want)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte{0x0e, 0x3d, 0xe6, 0xc2, 0xe4, 0x93, 0xa8, 0xb3, 0xd5, 0xea, 0x31, 0x0e, 0x04, 0x02, 0x00, 0x00, 0x01, '6', 0x01, '7'})
	f.Add([]byte{0x05, 0x49, 0x49})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, list []byte) {
		entries, err := history.ReadList(list)
		if len(entries) > len(list) {
			t.Errorf("%d entries of %d bytes, %v", len(entries), len(list), err)
		}
	})
}
