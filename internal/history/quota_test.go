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

// TestQuota has a user cause as many events as would drop all others from the history. Those of root
// and of other users stay, and the loss is counted.
func TestQuota(t *testing.T) {
	oneGoroutine(t)
	const size, flood = 4 << 20, 40_000
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
	for range 10 {
		add("root", 0, nil, "/system.slice/a.service")
	}
	for n := range flood {
		// Also with the ids and the control groups that users can have in namespaces of their own.
		add("flood", 100000+uint32(n), &login, "/user.slice/user-1000.slice/user@1000.service/"+strings.Repeat("x", n%10))
	}
	for range 10 {
		add("other", 1001, nil, "/user.slice/user-1001.slice/session-1.scope")
		add("root", 0, &login, "/user.slice/user-1000.slice/session-1.scope") // sudo
	}
	loss := r.TakeQuotaLoss(false)
	if loss == nil || loss.Reason != event.LossQuota || loss.From.IsZero() || loss.To.IsZero() {
		t.Fatalf("%+v", loss)
	}
	add("flood", 1000, &login, "")
	if again := r.TakeQuotaLoss(false); again != nil {
		t.Errorf("a loss follows at once: %+v", again)
	}
	last := r.TakeQuotaLoss(true)
	if last == nil {
		t.Fatal("no loss at the end")
	}
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
	if stored["root"] != 20 || stored["other"] != 10 {
		t.Errorf("%v are left", stored)
	}
	var lost uint64
	for _, l := range []*event.Loss{loss, last} {
		for _, n := range l.Records {
			lost += n
		}
	}
	if lost == 0 || stored["flood"] == 0 || stored["flood"]+lost != flood+1 {
		t.Errorf("%d lost, %d stored", lost, stored["flood"])
	}
	used, err := open(t, path).Used()
	if err != nil || used > size/4 {
		t.Errorf("%d bytes are in use: %v", used, err)
	}
	if len(reports) != 1 || !strings.Contains(reports[0], "user 1000") {
		t.Errorf("%q", reports)
	}
}

// TestQuotaComesBack spends a budget, and waits.
func TestQuotaComesBack(t *testing.T) {
	add := history.NewQuota(1000)
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		bytes int
		want  bool
	}{{0, 900, true}, {0, 200, false}, {0, 100, true}, {time.Second, 1, false}, {6 * time.Hour, 300, false}, {0, 250, true}, {1000 * time.Hour, 1001, false}, {0, 1000, true}} {
		now = now.Add(step.after)
		if got := add(&event.Event{Type: event.SysctlWrite, Process: &event.Process{UID: 7}}, step.bytes, now); got != step.want {
			t.Errorf("%+v: %t", step, got)
		}
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
		{event.Event{Process: &event.Process{Cgroup: "/kubepods.slice/kubepods-x.slice/kubepods-x-1.slice/cri.scope"}, Container: box}, "/kubepods.slice/kubepods-x.slice/kubepods-x-1.slice"},
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
	} {
		if got := history.Account(&tt.e); got != tt.want {
			t.Errorf("%q, want %q: %s", got, tt.want, line(&tt.e))
		}
	}
}
