// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// testDestroy has namespaces that something other than a process keeps alive.
func testDestroy(t *testing.T, h *host) {
	t.Run("ip netns", func(t *testing.T) { testNetns(t, h) })
	t.Run("bind mount", func(t *testing.T) {
		t.Parallel()
		pin := filepath.Join(scratch, "pinned-ipc")
		w := h.start(t, "unshare", []string{"--ipc", "sh", "-c", "echo ready=yes; exec cat"})
		w.value(t, "ready")
		bindNS(t, fmt.Sprintf("/proc/%d/ns/ipc", w.pid), pin)
		w.stop(t)
		w.outlives(t, func() {
			if err := unix.Unmount(pin, 0); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("open file", func(t *testing.T) {
		t.Parallel()
		w := h.start(t, "unshare", []string{"--uts", "sh", "-c", "echo ready=yes; exec cat"})
		w.value(t, "ready")
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", w.pid))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w.stop(t)
		w.outlives(t, func() { f.Close() })
	})
	t.Run("child", func(t *testing.T) {
		t.Parallel()
		// The user namespace that owns another one, which is mounted.
		pin := filepath.Join(scratch, "pinned-net")
		w := h.start(t, "unshare", []string{"--user", "--net", "sh", "-c", "echo ready=yes; exec cat"})
		w.value(t, "ready")
		bindNS(t, fmt.Sprintf("/proc/%d/ns/net", w.pid), pin)
		w.stop(t)
		w.outlives(t, func() {
			if err := unix.Unmount(pin, 0); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// look waits until each stream has scanned for live namespaces. It makes a namespace, ends it, and
// waits for the event.
func (h *host) look(t *testing.T) {
	t.Helper()
	w := h.run(t, "unshare", []string{"--uts", "true"})
	for _, s := range h.streams {
		events := w.all(s)
		if len(events) == 0 && canMiss(event.NamespaceCreate) {
			h.look(t) // once more
			return
		}
		if len(events) != 1 {
			t.Fatalf("%v: %s", s, dump(events))
		}
		s.awaitDestroy(t, w.from[s], events[0].Namespace)
	}
}

// alive checks that no stream has reported the end of the namespaces that events made.
func (w *work) alive(t *testing.T, s *stream, events []*emitted) {
	t.Helper()
	all := s.since(w.from[s])
	for _, e := range only(events, event.NamespaceCreate) {
		if d := destroyOf(all, e.Namespace); d != nil {
			t.Errorf("the event reports the end of a live namespace: %s", d.line)
		}
	}
}

// outlives checks that the namespaces of w outlive it, until release.
func (w *work) outlives(t *testing.T, release func()) {
	t.Helper()
	w.host.look(t)
	made := map[*stream][]*emitted{}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		made[s] = only(events, event.NamespaceCreate)
		if len(made[s]) == 0 {
			t.Error("no namespace was made")
		}
		w.alive(t, s, made[s])
	})
	release()
	for _, s := range w.host.streams {
		w.ends(t, s, made[s])
	}
}

func testNetns(t *testing.T, h *host) {
	const name = "nstrace-e2e"
	t.Cleanup(func() { // if it still exists
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			output(t, "ip", "netns", "del", name)
		}
	})
	add := h.run(t, "ip", []string{"netns", "add", name})
	id, err := nsID("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	named := map[event.NSType]uint32{"net": id}
	add.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, only(events, event.NamespaceCreate), creates("unshare", "success", "net")...)
		if ids(only(events, event.NamespaceCreate))["net"] != id {
			t.Errorf("the events have %v, and %s is %d", ids(events), name, id)
		}
	})
	checkName := func(t *testing.T, e *emitted) {
		t.Helper()
		ns := e.Namespace
		if e.Sysctl != nil {
			ns = e.Sysctl.Namespace
		}
		if ns == nil || ns.ID != id || ns.Name != name {
			t.Errorf("want namespace %d, %s: %s", id, name, e.line)
		}
	}

	exec := h.run(t, "ip", []string{"netns", "exec", name, "sysctl", "-w", "net.ipv4.tcp_fin_timeout=61"})
	exec.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, slices.Concat(enters("success", "net"), creates("unshare", "success", "mnt"),
			[]string{write{name: "net.ipv4.tcp_fin_timeout", old: "60", new: "61"}.on(s)})...)
		if t.Failed() {
			return
		}
		checkEntered(t, only(events, event.NamespaceEnter), named, h.ns)
		checkName(t, only(events, event.NamespaceEnter)[0])
		checkName(t, only(events, event.SysctlWrite)[0])
		exec.ends(t, s, events)
	})

	// So far it has outlived every process.
	h.look(t)
	sit := h.start(t, "ip", []string{"netns", "exec", name, "sh", "-c", "echo ready=yes; exec cat"})
	sit.value(t, "ready")
	for _, s := range h.streams {
		add.alive(t, s, add.all(s))
	}

	// The name goes away, and the process stays.
	h.run(t, "ip", []string{"netns", "del", name})
	h.look(t)
	for _, s := range h.streams {
		add.alive(t, s, add.all(s))
	}
	sit.stop(t)
	for _, s := range h.streams {
		for _, e := range only(add.all(s), event.NamespaceCreate) {
			d := s.awaitDestroy(t, sit.from[s], e.Namespace)
			if d == nil {
				return
			}
			checkDestroy(t, s, e, d)
			checkName(t, d)
		}
	}
}
