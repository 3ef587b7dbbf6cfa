// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
		}, 0)
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
	const user = 1000
	lie := &Info{ID: containerID(9), Name: "mine", Runtime: "podman", PodName: "kube-apiserver", PodUID: podUID(0)}
	s.cache.take(lie, user)
	s.cache.update(lie, user)
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
	for i := range 2 * maxContainers {
		s.cache.take(&Info{ID: containerID(i), PodUID: podUID(i)}, 0)
	}
	if n, p := len(s.cache.containers), len(s.cache.pods); n > maxContainers || p > maxContainers+1 {
		t.Errorf("%d containers and %d pods are remembered, more than %d", n, p, maxContainers)
	}
	if s.cache.containers[containerID(2*maxContainers-1)] == nil {
		t.Error("the latest was forgotten")
	}
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
