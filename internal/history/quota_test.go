// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// TestQuota has a user cause as many events as would drop all others from a full history. Those of root
// and of other users stay, and the loss is counted. A history that is not full takes all events.
func TestQuota(t *testing.T) {
	oneGoroutine(t)
	const size, before, fill, flood = 4 << 20, 2_000, 60_000, 40_000
	var mu sync.Mutex
	var reports []string
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, KeepSize: size, Report: func(m string) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, m)
	}})
	s := newStorm(t)
	login := uint32(1000)
	add := func(comm string, uid uint32, login *uint32, cgroup string) {
		e := s.next()
		p := *e.Process
		p.Comm, p.UID, p.LoginUID, p.Cgroup = comm, uid, login, cgroup
		e.Process, e.Container = &p, nil
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	floods := func(count int) {
		for n := range count {
			// Also with the ids and the control groups that users can have in namespaces of their own.
			add("flood", 100000+uint32(n), &login, "/user.slice/user-1000.slice/user@1000.service/"+strings.Repeat("x", n%10))
		}
	}
	floods(before)
	if loss := r.TakeQuotaLoss(true); loss != nil {
		t.Errorf("the history is not full, and a user lost %+v", loss)
	}
	for n := range fill {
		add("fill", 0, nil, "/system.slice/a.service")
		if n%1000 == 0 {
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 10 {
		add("root", 0, nil, "/system.slice/a.service")
	}
	floods(flood)
	for n := range flood {
		add("late", 200000+uint32(n), nil, "/user.slice/user-1002.slice/session-1.scope")
	}
	for range 10 {
		add("other", 1001, nil, "/user.slice/user-1001.slice/session-1.scope")
		add("root", 0, &login, "/user.slice/user-1000.slice/session-1.scope") // sudo
	}
	loss := r.TakeQuotaLoss(true)
	if loss == nil || loss.Reason != event.LossQuota || loss.From.IsZero() || loss.To.IsZero() {
		t.Fatalf("%+v", loss)
	}
	add("flood", 1000, &login, "/user.slice/user-1000.slice/session-1.scope")
	if again := r.TakeQuotaLoss(false); again != nil {
		t.Errorf("a loss follows at once: %+v", again)
	}
	last := r.TakeQuotaLoss(true)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	stored := map[string]uint64{}
	for e, err := range open(t, path).Events(context.Background(), history.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		stored[e.Event.Process.Comm]++
	}
	if stored["root"] != 20 || stored["other"] != 10 || stored["fill"] == 0 {
		t.Errorf("%v are left", stored)
	}
	var lost uint64
	for _, l := range []*event.Loss{loss, last} {
		if l == nil {
			continue
		}
		for _, n := range l.Records {
			lost += n
		}
	}
	// Few bytes of the first budget came back meanwhile, and the first events are gone.
	if stored["flood"] > 10 || stored["late"] == 0 || lost < 2*flood-stored["late"]-10 || lost > 2*flood+1-stored["late"] {
		t.Errorf("%d lost, %v stored", lost, stored)
	}
	if len(reports) != 2 || !strings.Contains(reports[0], "user 1000") || !strings.Contains(reports[1], "user-1002") {
		t.Errorf("%q", reports)
	}
}

// TestQuotaComesBack spends a budget, and waits.
func TestQuotaComesBack(t *testing.T) {
	add := history.NewQuota(1000)
	now := time.Now()
	e := &event.Event{Type: event.SysctlWrite, Process: &event.Process{UID: 7}}
	for _, step := range []struct {
		after time.Duration
		bytes int
		full  bool
		want  bool
	}{
		{0, 900, true, true}, {0, 200, true, false}, {0, 100, true, true}, {time.Second, 1, true, false},
		{6 * time.Hour, 300, true, false}, {0, 250, true, true}, {1000 * time.Hour, 1001, true, false}, {0, 1000, true, true},
		{24 * time.Hour, 900, false, true}, {0, 200, false, true}, {0, 1, true, false}, // what was added before the database was full
	} {
		now = now.Add(step.after)
		if got := add(e, step.bytes, step.full, now); got != step.want {
			t.Errorf("%+v: %t", step, got)
		}
	}
	// A whole budget comes back in a day, however often the user tries.
	for range 864 {
		now = now.Add(100 * time.Second)
		if add(e, 1001, true, now) {
			t.Error("the budget grew")
		}
	}
	if !add(e, 999, true, now) {
		t.Error("the budget did not come back")
	}
}

// TestAccount checks who pays for an event.
func TestAccount(t *testing.T) {
	const session = "/user.slice/user-1000.slice/session-1.scope"
	login, box := uint32(1000), &event.Container{ID: "1"}
	owned := func(creator *event.Actor, o event.Owner) event.Event {
		return event.Event{Namespace: &event.Namespace{Creator: creator, Owner: &o}}
	}
	for _, tt := range []struct {
		e    event.Event
		want string
	}{
		{event.Event{Type: event.TraceStop}, ""},
		{event.Event{Process: &event.Process{}}, ""},
		{event.Event{Process: &event.Process{LoginUID: &login}}, ""}, // sudo
		{event.Event{Process: &event.Process{UID: 7, LoginUID: &login, Cgroup: session}}, "user 1000"},
		{event.Event{Process: &event.Process{LoginUID: &login, Cgroup: session}, Container: box}, "user 1000"},
		// Where no login set the id, a process can.
		{event.Event{Process: &event.Process{UID: 7, LoginUID: &login}}, "user 7"},
		{event.Event{Process: &event.Process{UID: 7, LoginUID: &login, Cgroup: "/system.slice/a.service"}}, "/system.slice/a.service"},
		{event.Event{Process: &event.Process{LoginUID: &login, Cgroup: "/docker/1/user.slice/x"}, Container: box}, "/docker/1"},
		{event.Event{Process: &event.Process{UID: 7}}, "user 7"},
		{event.Event{Process: &event.Process{UID: 7, Cgroup: "/"}}, "user 7"},
		{event.Event{Process: &event.Process{UID: 7, Cgroup: "/a/b/c"}}, "/a"},
		{event.Event{Process: &event.Process{UID: 7, Cgroup: "/user.slice/user-7.slice/user@7.service/x.scope"}}, "/user.slice/user-7.slice"},
		{event.Event{Process: &event.Process{Cgroup: "/system.slice/docker-1.scope/x"}, Container: box}, "/system.slice/docker-1.scope"},
		{event.Event{Process: &event.Process{Cgroup: "/docker/1/x"}, Container: box}, "/docker/1"},
		{event.Event{Process: &event.Process{Cgroup: "/kubepods/burstable/pod1/1"}, Container: box}, "/kubepods/burstable/pod1"},
		{event.Event{Process: &event.Process{Cgroup: "/kubepods/pod1/1"}, Container: box}, "/kubepods/pod1"},
		{event.Event{Process: &event.Process{Cgroup: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope/x"}, Container: box}, "/kubepods.slice/kubepods-pod1.slice"},
		{event.Event{Process: &event.Process{Cgroup: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri.scope"}, Container: box}, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"},
		{event.Event{Namespace: &event.Namespace{Creator: &event.Actor{}}}, ""},
		{event.Event{Namespace: &event.Namespace{Creator: &event.Actor{UID: 7}}}, "user 7"},
		{event.Event{Namespace: &event.Namespace{}}, ""},
		{event.Event{}, ""},
		{owned(&event.Actor{}, event.Owner{Container: box}), "container 1"},
		{owned(&event.Actor{}, event.Owner{Pod: &event.Pod{UID: "1"}}), "pod 1"},
		{owned(&event.Actor{}, event.Owner{Unit: "a.service"}), ""},
		{owned(nil, event.Owner{Container: box, Unit: "a.service"}), "container 1"},
		{owned(nil, event.Owner{Container: &event.Container{ID: "1", UserID: "7"}}), "user 7"},
		{owned(nil, event.Owner{Container: &event.Container{ID: "1", Unverified: true}}), "unverified containers"},
		{owned(nil, event.Owner{Unit: "a.service"}), "unit a.service"},
		// The user chooses the part below the service manager.
		{owned(nil, event.Owner{Unit: "user@7.service/app.slice/a.service"}), "unit user@7.service"},
	} {
		if got := history.Account(&tt.e); got != tt.want {
			t.Errorf("%q, want %q: %s", got, tt.want, line(&tt.e))
		}
	}
}

// TestNoQuotaOnStandby has a recorder stand by. Its database drops no event for the ones that it gets.
func TestNoQuotaOnStandby(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	defer create(t, history.Options{Path: path}).Close()
	r := create(t, history.Options{Path: path, KeepSize: 8, Report: func(string) {}}) // each budget is a byte
	defer r.Close()
	for range 10 {
		if err := r.Append(&event.Event{Type: event.SysctlWrite, Process: &event.Process{UID: 7}}); err != nil {
			t.Fatal(err)
		}
	}
	if loss := r.TakeQuotaLoss(true); loss != nil || r.Waiting() != 10 {
		t.Errorf("%d events wait, and %+v are lost", r.Waiting(), loss)
	}
}
