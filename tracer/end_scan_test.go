// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// brief is "destroy net 7", "unpin net 7 /run/netns/web".
func brief(e *event.Event) string {
	s := string(e.Type[len("namespace."):])
	s += fmt.Sprintf(" %s %d", e.Namespace.Type, e.Namespace.ID)
	if e.Namespace.Path != "" {
		s += " " + e.Namespace.Path
	}
	return s
}

func briefs(events []*event.Event) (all []string) {
	for _, e := range events {
		all = append(all, brief(e))
	}
	return all
}

// taskIn returns a task in these namespaces, by their types.
func taskIn(pid uint32, ns map[event.NSType]uint32) bpf.NstraceTaskNs {
	task := bpf.NstraceTaskNs{Pid: pid}
	for kind, typ := range nsTypes {
		if id := ns[typ]; id != 0 {
			task.Ns[kind] = bpf.NstraceNsChange{Kind: uint8(kind), Inum: id}
		}
	}
	return task
}

// TestEndScan has what a scan finds: with each row the user namespace 5 owns net 7, 1 is the
// host's network namespace, and mnt 8 is the host's user namespace's.
func TestEndScan(t *testing.T) {
	forChild := bpf.NstraceTaskNs{Pid: 3}
	forChild.ForChildren[0] = bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: 7}
	for _, row := range []struct {
		name   string
		tasks  []bpf.NstraceTaskNs
		held   []uint32 // by files, or for kernels with handles what is alive
		follow bool     // and only net 7 was made by a followed process
		want   []string
		again  bool // the next scan looks again although nothing happens
	}{
		{name: "tasks are in all", tasks: []bpf.NstraceTaskNs{taskIn(3, map[event.NSType]uint32{netNS: 7, userNS: 5, mntNS: 8})}},
		{name: "all ended, an owner last", want: []string{"destroy net 7", "destroy mnt 8", "destroy user 5"}},
		{name: "a task is in one", tasks: []bpf.NstraceTaskNs{taskIn(3, map[event.NSType]uint32{mntNS: 8})}, want: []string{"destroy net 7", "destroy user 5"}},
		{name: "an owner stays with what it owns", tasks: []bpf.NstraceTaskNs{taskIn(3, map[event.NSType]uint32{netNS: 7})}, held: []uint32{5}, want: []string{"destroy mnt 8"}, again: true},
		{name: "only children will be in it", tasks: []bpf.NstraceTaskNs{forChild}, held: []uint32{5}, want: []string{"destroy mnt 8"}, again: true},
		{name: "files hold one", held: []uint32{7, 5}, want: []string{"destroy mnt 8"}, again: true},
		{name: "another type has the number", tasks: []bpf.NstraceTaskNs{taskIn(3, map[event.NSType]uint32{mntNS: 7})}, want: []string{"destroy net 7", "destroy mnt 8", "destroy user 5"}},
		{name: "an exiting task", tasks: []bpf.NstraceTaskNs{{Pid: 3, Exiting: 1}}, want: []string{"destroy net 7", "destroy mnt 8", "destroy user 5"}, again: true},
		{name: "only a followed one has an event", follow: true, want: []string{"destroy net 7"}},
	} {
		for _, handles := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/handles=%v", row.name, handles), func(t *testing.T) {
				host := &fakeHost{inventory: row.tasks, handles: handles, alive: map[uint32]bool{}, held: map[uint32]bool{}}
				for _, id := range row.held {
					host.alive[id] = true
					host.held[id] = id != 5 // only what it owns keeps a user namespace alive
				}
				events := newCollect()
				in := offline(host, events)
				in.follow = row.follow
				in.registry.host[netNS] = 1
				in.registry.add(netNS, 1, 0, 0, 1)
				in.registry.add(userNS, 5, 0, 0, 1)
				net, _ := in.registry.add(netNS, 7, 0, 5, 1)
				net.follow = true
				in.registry.add(mntNS, 8, 0, 0, 1)
				s := newEndScanner(in)
				if err := s.run(); err != nil {
					t.Fatal(err)
				}
				if got := briefs(events.events); !slices.Equal(got, row.want) {
					t.Errorf("got %q, want %q", got, row.want)
				}
				for _, e := range events.events {
					if e.Namespace.Detected != event.DetectedScan {
						t.Errorf("%s: detected %q", brief(e), e.Namespace.Detected)
					}
				}
				if a := in.accounts; a.inferred != a.matched+a.filtered {
					t.Errorf("the accounts do not balance: %+v", a)
				}
				if s.held != row.again {
					t.Errorf("looks again: %v", s.held)
				}
			})
		}
	}
}

// TestFindEnds has namespaces that no record reported as ended: the second scan reports those that the
// first one found too, or the last scan of a run.
func TestFindEnds(t *testing.T) {
	host := &fakeHost{handles: true, alive: map[uint32]bool{}}
	events := newCollect()
	in := offline(host, events)
	in.registry.host[netNS] = 1
	for _, id := range []uint32{1, 7, 8, 9} {
		in.registry.add(netNS, id, 0, 0, 1)
	}
	for _, step := range []struct {
		alive []uint32
		last  bool
		want  []string // so far
		again time.Duration
	}{
		{alive: []uint32{8, 9}, again: scanAgain},
		{alive: []uint32{7, 9}, again: scanAgain}, // 7 was between two mounts
		{alive: []uint32{9}, want: []string{"destroy net 8"}, again: scanAgain},
		{last: true, want: []string{"destroy net 8", "destroy net 7", "destroy net 9"}},
	} {
		clear(host.alive)
		for _, id := range step.alive {
			host.alive[id] = true
		}
		again, err := in.findEnds(step.last)
		if err != nil {
			t.Fatal(err)
		}
		if got := briefs(events.events); !slices.Equal(got, step.want) || again != step.again {
			t.Errorf("alive %v: got %q, again %v; want %q, %v", step.alive, got, again, step.want, step.again)
		}
	}
}

// TestFindEndsSearch has a search of the files that takes longer than a scan, each time. The second result
// reports the end that the first one found too: a scan without a result between them changes nothing.
func TestFindEndsSearch(t *testing.T) {
	host := &fakeHost{held: map[uint32]bool{9: true}}
	events := newCollect()
	in := offline(host, events)
	for _, id := range []uint32{7, 9} {
		in.registry.add(netNS, id, 0, 0, 1)
	}
	for i, step := range []struct {
		searching bool
		want      []string
		again     time.Duration
	}{
		{searching: true, again: 2 * scanAfter},
		{searching: true, again: 4 * scanAfter},
		{again: scanAgain},
		{searching: true, again: 2 * scanAfter},
		{want: []string{"destroy net 7"}},
	} {
		host.searching = step.searching
		again, err := in.findEnds(false)
		if err != nil {
			t.Fatal(err)
		}
		if got := briefs(events.events); !slices.Equal(got, step.want) || again != step.again {
			t.Errorf("step %d: got %q, again after %v; want %q, %v", i, got, again, step.want, step.again)
		}
	}
}

// TestEndScanOwners has user namespaces that only what they own keeps alive.
func TestEndScanOwners(t *testing.T) {
	for _, row := range []struct {
		name string
		gone []uint32 // of user 1 <- user 2 <- net 3, and net 4 of the host
		want []uint32
	}{
		{"all", []uint32{1, 2, 3}, []uint32{1, 2, 3}},
		{"the owned one is alive", []uint32{1, 2}, nil},
		{"the middle one is alive", []uint32{1, 3}, []uint32{3}},
		{"unrelated", []uint32{4}, []uint32{4}},
	} {
		r := newRegistry()
		r.add(userNS, 1, 0, 0, 1)
		r.add(userNS, 2, 0, 1, 1)
		r.add(netNS, 3, 0, 2, 1)
		r.add(netNS, 4, 0, 0, 1)
		var gone []*liveNS
		for _, id := range row.gone {
			gone = append(gone, r.live[id])
		}
		var got []uint32
		for _, ns := range withoutOwners(gone, r) {
			got = append(got, ns.id)
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// TestEndScanDue says when a scan runs.
func TestEndScanDue(t *testing.T) {
	host := &fakeHost{}
	in := offline(host, newCollect())
	in.registry.host[netNS] = 1
	in.registry.add(netNS, 1, 0, 0, 1)
	s := newEndScanner(in)
	if due := s.next(); !due.IsZero() {
		t.Errorf("due at %v, though only the host's namespaces are alive", due)
	}
	in.registry.add(netNS, 7, 0, 0, 1)
	if due := s.next(); !due.Equal(s.ran.Add(scanEvery)) {
		t.Errorf("due at %v, last at %v", due, s.ran)
	}
	s.soon()
	first := s.since
	if due := s.next(); !due.Equal(first.Add(scanAfter)) || time.Since(first) > time.Minute {
		t.Errorf("due at %v, wanted at %v", due, first)
	}
	s.soon()
	if s.since != first {
		t.Error("a second event delayed the scan")
	}
	if err := s.run(); err != nil || host.walks != 1 {
		t.Fatalf("%d walks, %v", host.walks, err)
	}
	// Nothing happened since, and no namespace is held without a task: net 7 ended.
	if err := s.run(); err != nil || host.walks != 1 {
		t.Errorf("%d walks, %v", host.walks, err)
	}
	if s.watch(); s.run() != nil || host.walks != 2 {
		t.Errorf("%d walks after a namespace without tasks", host.walks)
	}
}

// TestEndScanSearch has a search of the files that takes longer than a scan. What no task is in ends once
// its result is there, and only if no task was in it when the search began.
func TestEndScanSearch(t *testing.T) {
	in3 := []bpf.NstraceTaskNs{taskIn(3, map[event.NSType]uint32{netNS: 8})}
	host := &fakeHost{inventory: in3, held: map[uint32]bool{9: true}, searching: true}
	events := newCollect()
	in := offline(host, events)
	for _, id := range []uint32{7, 8, 9} {
		in.registry.add(netNS, id, 0, 0, 1)
	}
	s := newEndScanner(in)
	run := func(want ...string) {
		t.Helper()
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		if got := briefs(events.events); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	run()
	if again := s.again(); again == 0 || again > scanEvery || s.next().IsZero() || time.Until(s.next()) > scanEvery {
		t.Errorf("while the search goes on: again after %v, next scan in %v", again, time.Until(s.next()))
	}
	host.inventory = nil // a file can hold 8 now, as the search did not see
	run()
	host.searching = false
	run("destroy net 7")
	run("destroy net 7", "destroy net 8")
	if again := s.again(); again != 0 {
		t.Errorf("again %v after the search", again)
	}
}

// TestFileSearch has a search that takes as long as the test likes. Nobody waits for it, and only a search
// that began later tells what is true then.
func TestFileSearch(t *testing.T) {
	results := make(chan map[uint32]bool)
	f := fileSearch{search: func() map[uint32]bool { return <-results }}
	first := time.Now()
	for _, wait := range []bool{false, true} {
		if _, known := f.find(first, wait); known {
			t.Error("known before the search ended")
		}
	}
	if took := time.Since(first); took > searchLast+5*time.Second {
		t.Errorf("waited for %v", took)
	}
	later := time.Now()
	results <- map[uint32]bool{1: true}
	if held, known := f.find(first, true); !known || !held[1] {
		t.Errorf("held %v, known %v", held, known)
	}
	if _, known := f.find(later, false); known {
		t.Error("an older search answers")
	}
	go func() { results <- nil }() // no time for all
	go func() { results <- map[uint32]bool{2: true} }()
	for end := time.Now().Add(10 * time.Second); ; {
		held, known := f.find(later, true)
		if known {
			if !held[2] || held[1] {
				t.Errorf("held %v", held)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("no result")
		}
	}
}

// TestFileSearchRests has a caller that comes late for each result. Searches run at once until they took
// searchAhead together, and then for a part of the time.
func TestFileSearchRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = searchAhead / 10
		var searches atomic.Int64
		f := fileSearch{search: func() map[uint32]bool {
			searches.Add(1)
			time.Sleep(took)
			return map[uint32]bool{}
		}}
		use := func(long time.Duration) int64 {
			before, began := searches.Load(), time.Now()
			for time.Since(began) < long {
				f.find(time.Now(), false)
				time.Sleep(took * 3 / 2)
			}
			return searches.Load() - before
		}
		if n := use(searchAhead); n < 5 {
			t.Errorf("%d searches of %v in %v", n, took, searchAhead)
		}
		use(time.Minute)
		if n, most := use(time.Minute), int64(time.Minute/took/searchRest)+1; n < most/2 || n > most {
			t.Errorf("%d searches of %v in a minute, want %d", n, took, most)
		}
		synctest.Wait()
	})
}

// TestEndScanScarce has no descriptor for the walk over the tasks. The run goes on, says so once, and finds
// the ends later.
func TestEndScanScarce(t *testing.T) {
	host := &fakeHost{tasksErr: fmt.Errorf("walk the tasks: %w", unix.EMFILE), handles: true, alive: map[uint32]bool{}}
	events := newCollect()
	in := offline(host, events)
	var notes []string
	in.note = func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	ns, _ := in.registry.add(netNS, 7, 0, 0, 1)
	ns.ownership.pending = ownerHasTasks
	s := newEndScanner(in)
	for range 3 {
		if err := errors.Join(s.run(), in.resolveOwner(ns)); err != nil {
			t.Fatal(err)
		}
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "too many open files (the limit, ulimit -n, is ") || len(events.events) > 0 {
		t.Errorf("%q, %q", notes, briefs(events.events))
	}
	host.tasksErr = nil
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if got := briefs(events.events); !slices.Equal(got, []string{"destroy net 7"}) {
		t.Errorf("then got %q", got)
	}
	host.tasksErr = unix.EINVAL
	s.held = true
	if err := s.run(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("another error: %v", err)
	}
}
