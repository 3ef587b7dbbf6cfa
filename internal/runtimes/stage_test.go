// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// nobody is a Handler that keeps the last event.
type nobody struct{ last event.Event }

func (n *nobody) Event(e *event.Event) error { n.last = *e; return nil }
func (n *nobody) Idle() error                { return nil }

// stage returns a Stage that queries no runtime and knows n containers.
func stage(tb testing.TB, next Handler, n int) *Stage {
	tb.Helper()
	s, err := New([]string{None}, DefaultWait)
	if err != nil {
		tb.Fatal(err)
	}
	s.SetNext(next)
	tb.Cleanup(func() { s.Close() })
	for i := range n {
		s.cache.take(&Info{
			ID: containerID(i), Name: fmt.Sprintf("k8s_web_web-%d_shop_%s_0", i, podUID(i)), Image: "registry.example/shop/web:1.29",
			Runtime: "docker", PodName: fmt.Sprintf("web-%d", i), PodNamespace: "shop", PodUID: podUID(i),
		}, "")
	}
	return s
}

func containerID(i int) string { return fmt.Sprintf("%064x", i) }
func podUID(i int) string      { return fmt.Sprintf("8fbb1b12-7d3c-4fd0-a6a7-%012x", i) }

// known returns an event of a container that the runtime has reported, in its own network.
func known(i int) *event.Event {
	c := &event.Container{ID: containerID(i), Runtime: "docker", Source: event.FromCgroup}
	pod := &event.Pod{UID: podUID(i), Source: event.FromCgroup}
	return &event.Event{Type: event.SysctlWrite, Process: &event.Process{}, Container: c, Pod: pod, Sysctl: &event.Sysctl{
		Namespace: &event.Namespace{Type: "net", ID: 4026532281, Owner: &event.Owner{Container: c, Pod: pod, Source: event.FromNamespace}},
	}}
}

// TestPodDisagreement has a cgroup and a runtime that name different pods. The event then has no
// pod.
func TestPodDisagreement(t *testing.T) {
	var got nobody
	s := stage(t, &got, 2)
	for _, row := range []struct {
		uid  string
		want bool
	}{{podUID(1), true}, {podUID(0), false}} {
		e := known(1)
		e.Pod = &event.Pod{UID: row.uid, Source: event.FromCgroup}
		if err := s.Event(e); err != nil {
			t.Fatal(err)
		}
		if (got.last.Pod != nil) != row.want || got.last.Container.Name == "" {
			t.Errorf("the cgroup says pod %s: %+v, %+v", row.uid, got.last.Pod, got.last.Container)
		}
	}
}

// TestSharedPod names a namespace that several containers of a pod share.
func TestSharedPod(t *testing.T) {
	s := stage(t, &nobody{}, 1)
	pod := func(user string) *event.Namespace {
		p := &event.Pod{UID: podUID(0), Source: event.FromCgroup, UserID: user}
		return &event.Namespace{Type: "net", ID: 4026532281, Owner: &event.Owner{Pod: p, Source: event.FromNamespace}}
	}
	shared, users := pod(""), pod("1000")
	if !s.NameNamespaces(t.Context(), []*event.Namespace{shared, users}) {
		t.Error("it did not wait for the list of all containers")
	}
	if p := shared.Owner.Pod; p.Path() != "shop/web-0" || shared.Name != "shop/web-0" {
		t.Errorf("the pod is %+v, the network %q", p, shared.Name)
	}
	if p := users.Owner.Pod; p.Name != "" || users.Name != "" {
		t.Errorf("the pod of a user with the same UID is %+v", p)
	}
}

// TestPodOfUser has the runtime of a user report a pod with the UID of one of the host. It names only the
// user's pods.
func TestPodOfUser(t *testing.T) {
	var got nobody
	s := stage(t, &got, 1)
	lie := &Info{ID: containerID(9), Name: "mine", Runtime: "podman", PodName: "kube-apiserver", PodUID: podUID(0)}
	s.cache.take(lie, "1000")
	for id, want := range map[string]string{"": "web-0", "1000": "kube-apiserver"} {
		e := &event.Event{Type: event.SysctlWrite, Process: &event.Process{}, Pod: &event.Pod{UID: podUID(0), Source: event.FromCgroup, UserID: id}}
		if err := s.Event(e); err != nil {
			t.Fatal(err)
		}
		if got.last.Pod.Name != want {
			t.Errorf("the pod of user %q is %+v, want %s", id, got.last.Pod, want)
		}
	}
}

// TestBounded checks that ten thousand containers take little memory, and that the number of cached
// ones is limited.
func TestBounded(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := stage(t, &nobody{}, 10000)
	const most = 16 << 20
	if used := heap() - before; used > most {
		t.Errorf("10000 containers take %d bytes, more than %d", used, most)
	}
	for i := range 2 * rootLimit.containers {
		s.cache.take(&Info{ID: containerID(i), PodUID: podUID(i)}, "")
	}
	root := s.cache.shares[""]
	if n, p := len(root.containers), len(root.pods); n > rootLimit.containers || p > rootLimit.pods+1 {
		t.Errorf("%d containers and %d pods are remembered, more than %d", n, p, rootLimit.containers)
	}
	if root.containers[containerID(2*rootLimit.containers-1)] == nil {
		t.Error("the latest was forgotten")
	}
}

// TestUserBounded has the runtime of a user report more than anybody has. It costs nobody else a name.
func TestUserBounded(t *testing.T) {
	var got nobody
	s := stage(t, &got, 1)
	for i := range 10 * userLimit.containers {
		s.cache.take(&Info{ID: containerID(i), Name: strings.Repeat("A", 1024), PodName: "p", PodUID: podUID(i)}, "1000")
		s.cache.take(&Info{ID: containerID(0), Name: "n", PodName: strings.Repeat("A", 1024), PodUID: podUID(i)}, "1000")
		s.cache.take(&Info{ID: containerID(i), Name: "short"}, "1001")
	}
	s.cache.take(&Info{ID: containerID(7), Name: strings.Repeat("A", 5<<20)}, "1000")
	for user, sh := range s.cache.shares {
		if user == "" {
			continue
		}
		bytes := 0
		for _, e := range sh.containers {
			bytes += e.bytes
		}
		if bytes != sh.bytes {
			t.Errorf("user %s: counted %d bytes, not %d", user, sh.bytes, bytes)
		}
		if bytes > userLimit.bytes+maxNames || len(sh.containers) > userLimit.containers || len(sh.pods) > userLimit.pods {
			t.Errorf("user %s: %d bytes, %d containers, %d pods", user, bytes, len(sh.containers), len(sh.pods))
		}
	}
	for uid := range 2 * maxUsers {
		s.cache.take(&Info{ID: containerID(1), Name: "x"}, fmt.Sprint(uid+2000))
	}
	if n := len(s.cache.shares); n > maxUsers {
		t.Errorf("%d users have a share", n)
	}
	if err := s.Event(known(0)); err != nil {
		t.Fatal(err)
	}
	if got.last.Container.Name == "" {
		t.Error("a user's containers cost one of root its name")
	}
}

// TestOtherContainer has processes in cgroups whose names have the id of a container of root, and a runtime of
// a user that says what it likes of that id.
func TestOtherContainer(t *testing.T) {
	var got nobody
	s := stage(t, &got, 1)
	roots := s.cache.shares[""].containers[containerID(0)].container.Name
	check := func(when, user string, unverified bool, want string) {
		t.Helper()
		e := known(0)
		c, pod := *e.Container, *e.Pod
		c.UserID, c.Unverified, pod.UserID, pod.Unverified = user, unverified, user, unverified
		e.Container, e.Pod, e.Sysctl.Namespace.Owner = &c, &pod, &event.Owner{Container: &c, Pod: &pod}
		if err := s.Event(e); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		err := s.flush()
		s.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		owner := got.last.Sysctl.Namespace.Owner.Container
		if got.last.Container.Name != want || owner.Name != want || got.last.Container.UserID != user {
			t.Errorf("%s: of user %q, unverified=%v: %+v, its namespace of %+v, want %q", when, user, unverified, got.last.Container, owner, want)
		}
		if want == "" && (got.last.Pod.Name != "" || got.last.Sysctl.Namespace.Name != "") {
			t.Errorf("%s: %+v, %+v", when, got.last.Pod, got.last.Sysctl.Namespace)
		}
	}
	check("first", "1000", false, "")
	check("first", "", true, "")
	check("first", "", false, roots)
	s.cache.take(&Info{ID: containerID(0), Name: "harmless", Image: "i", Runtime: "podman"}, "1000")
	check("after the lie", "1000", false, "harmless")
	check("after the lie", "1001", false, "")
	check("after the lie", "1000", true, "")
	check("after the lie", "", false, roots)
}

// A silent is the runtime of a user that never answers.
type silent struct{ Candidate }

func (silent) Inspect(ctx context.Context, _ string) (*Info, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (silent) List(context.Context) ([]*Info, error)          { return nil, ErrNotFound }
func (silent) Watch(ctx context.Context, _ func(*Info)) error { <-ctx.Done(); return ctx.Err() }
func (silent) Close() error                                   { return nil }

// A quick is the runtime of root, which knows all containers.
type quick struct{ silent }

func (quick) Inspect(_ context.Context, id string) (*Info, error) {
	return &Info{ID: id, Name: "web"}, nil
}

// TestOwnSlots has a user with many containers and a runtime that never answers. A container of root gets its
// name at once.
func TestOwnSlots(t *testing.T) {
	s := stage(t, &nobody{}, 0)
	s.cache.sources.order = []Source{silent{Candidate{Kind: Podman, Path: "/run/user/1000/podman/podman.sock", UID: 1000}}, quick{}}
	namespace := func(i int, user string) *event.Namespace {
		c := &event.Container{ID: containerID(i), UserID: user}
		return &event.Namespace{Type: "net", ID: 4026532281, Owner: &event.Owner{Container: c}}
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 2 * userLimit.pending {
		s.NameNamespaces(now, []*event.Namespace{namespace(i, "1000")})
	}
	if n := s.cache.shares["1000"].pending; n > userLimit.pending {
		t.Errorf("%d queries wait for a user's runtime", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), askTimeout/2)
	defer cancel()
	ns := namespace(1, "")
	if !s.NameNamespaces(ctx, []*event.Namespace{ns}) || ns.Owner.Container.Name != "web" {
		t.Errorf("the container of root is %+v", ns.Owner.Container)
	}
}

// A slow is a runtime that answers when it may go on.
type slow struct {
	silent
	goOn chan struct{}
}

func (s slow) Inspect(context.Context, string) (*Info, error) {
	<-s.goOn
	return nil, ErrNotFound
}

// TestLateUser has the runtime of a user answer later than an event waits. The next events do not wait for it.
func TestLateUser(t *testing.T) {
	s := stage(t, &nobody{}, 0)
	s.cache.wait = 0
	runtime := slow{silent{Candidate{UID: 1000}}, make(chan struct{})}
	s.cache.sources.order = []Source{runtime}
	waits := func(ctx context.Context, id int) bool {
		c := &event.Container{ID: containerID(id), UserID: "1000"}
		return !s.NameNamespaces(ctx, []*event.Namespace{{Type: "net", Owner: &event.Owner{Container: c}}})
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if !waits(now, 1) {
		t.Error("the first event did not wait")
	}
	runtime.goOn <- struct{}{}
	if waits(t.Context(), 1) {
		t.Fatal("there was no answer")
	}
	if waits(now, 2) {
		t.Error("an event waited for a runtime that was late")
	}
	runtime.goOn <- struct{}{}
}

// BenchmarkKnown measures the time to add names to an event of a known container.
func BenchmarkKnown(b *testing.B) {
	s := stage(b, &nobody{}, 1000)
	template := known(7)
	e, sysctl, ns := *template, *template.Sysctl, *template.Sysctl.Namespace
	b.ReportAllocs()
	for b.Loop() {
		e.Container, e.Pod = template.Container, template.Pod
		ns.Owner, ns.Name = template.Sysctl.Namespace.Owner, ""
		sysctl.Namespace = &ns
		e.Sysctl = &sysctl
		if err := s.Event(&e); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnansweredNames asks a runtime that never answers for the name of a container.
func TestUnansweredNames(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	listen(t, path)
	s, err := New([]string{Docker + ":" + path}, DefaultWait)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	ns := &event.Namespace{Type: "net", ID: 4026532281, Owner: &event.Owner{Container: &event.Container{ID: containerID(7)}}}
	if s.NameNamespaces(ctx, []*event.Namespace{ns}) || ns.Owner.Container.Name != "" {
		t.Errorf("it got an answer: %+v", ns.Owner.Container)
	}
}

// broken is a Handler that returns an error.
type broken struct{ nobody }

func (*broken) Event(*event.Event) error { return os.ErrClosed }

// TestStageError has the handler fail for an event that waited, when no other one comes. The Stage says so,
// and its next call returns the error.
func TestStageError(t *testing.T) {
	s := stage(t, &broken{}, 0)
	failed := make(chan error, 1)
	s.OnError(func() { failed <- s.Idle() })
	s.mu.Lock()
	s.queue = []waiting{{&event.Event{Type: event.SysctlWrite}, time.Now()}}
	s.timer.Reset(time.Millisecond)
	s.mu.Unlock()
	select {
	case err := <-failed:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("the next call returns %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing says that the handler failed")
	}
}
