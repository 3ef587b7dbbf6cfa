// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// takeInventory takes an inventory from a source. Guests with 5.10 have both sources, too.
func takeInventory(t *testing.T, source inventory.Source) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Take(t.Context(), inventory.Options{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	if inv.Source != source {
		t.Fatalf("asked for %s, got %s", source, inv.Source)
	}
	return inv
}

// holdersOf returns everything that keeps a namespace alive. Both sources must find the same.
func holdersOf(t *testing.T, typ event.NSType, id uint32) *inventory.Namespace {
	t.Helper()
	var found []*inventory.Namespace
	for _, source := range []inventory.Source{inventory.Iterators, inventory.Proc} {
		n := takeInventory(t, source).Find(inventory.Ref{Type: typ, ID: id})
		if n == nil {
			t.Fatalf("%s: namespace %d was not found", source, id)
		}
		found = append(found, n)
	}
	if a, b := holderText(found[0]), holderText(found[1]); a != b {
		t.Errorf("the sources differ:\n%s\n%s", a, b)
	}
	return found[0]
}

// holderText is all that the sources must agree on. Other tests come and go in the host's namespaces.
func holderText(n *inventory.Namespace) string {
	text := fmt.Sprintf("%v parent %d user %d", n.Ref, n.Parent, n.UserNS)
	if n.Host {
		return text
	}
	oldest := uint32(0)
	if n.Oldest != nil {
		oldest = n.Oldest.PID
	}
	return text + fmt.Sprintf(" %d processes, oldest %d, threads %v for children %v fds %v sockets %v children %v owned %v mounts %v",
		n.Processes, oldest, n.Threads, n.ForChildren, n.Descriptors, n.Sockets, n.Children, n.Owned, len(n.Mounts))
}

// heldByFiles returns the namespace as an inventory of files alone has it, which the tracepoint backend
// takes to find the ends of namespaces; nil if no file holds it.
func heldByFiles(t *testing.T, typ event.NSType, id uint32) *inventory.Namespace {
	t.Helper()
	inv, err := inventory.Take(t.Context(), inventory.Options{FilesOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return inv.Find(inventory.Ref{Type: typ, ID: id})
}

// lsnsCount returns how many processes lsns(8) sees in a namespace.
func lsnsCount(t *testing.T, id uint32) (typ event.NSType, processes int) {
	t.Helper()
	var list struct {
		Namespaces []struct {
			NS     uint32       `json:"ns"`
			Type   event.NSType `json:"type"`
			NProcs int          `json:"nprocs"`
		} `json:"namespaces"`
	}
	text := output(t, "lsns", "--json", "--output", "NS,TYPE,NPROCS")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("lsns: %v\n%s", err, text)
	}
	for _, ns := range list.Namespaces {
		if ns.NS == id {
			return ns.Type, ns.NProcs
		}
	}
	return "", 0
}

// mustID is nsID for a file that exists.
func mustID(t *testing.T, path string) uint32 {
	t.Helper()
	id, err := nsID(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func parseInt(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHolders keeps namespaces alive in each way that can be seen.
func TestHolders(t *testing.T) {
	h := &host{ns: map[event.NSType]uint32{}}
	var err error
	if h.ns, err = namespacesOf(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	// A shell that does not exec. A command that it ran would have another name a moment later.
	const wait = "echo ready=yes; read x || exit 0"
	quit := func(w *work) {
		w.stdin.Close()
		w.end(t)
	}

	t.Run("processes", func(t *testing.T) {
		w := h.start(t, "unshare", []string{"--uts", "sh", "-c", wait})
		w.value(t, "ready")
		id := mustID(t, fmt.Sprintf("/proc/%d/ns/uts", w.pid))
		got := holdersOf(t, event.NSTypeUTS, id)
		typ, n := lsnsCount(t, id)
		if got.Type != typ || got.Processes != n || n < 1 {
			t.Errorf("lsns has %d in a %s namespace: %+v", n, typ, got)
		}
		if got.Oldest == nil || got.Oldest.PID != uint32(w.pid) || got.Oldest.Comm != "sh" {
			t.Errorf("%d is not the oldest: %+v", w.pid, got.Oldest)
		}
		if len(got.Mounts)+len(got.Descriptors)+len(got.ForChildren) != 0 || got.UserNS != h.ns["user"] {
			t.Errorf("more than processes, or another owner than %d: %+v", h.ns["user"], got)
		}
		if owner := holdersOf(t, event.NSTypeUser, h.ns["user"]); !slices.Contains(owner.Owned, inventory.Ref{Type: "uts", ID: id}) {
			t.Errorf("its owner does not own %d: %+v", id, owner.Owned)
		}
		quit(w)
	})

	t.Run("mount", func(t *testing.T) {
		const name, path = "nstrace-e2e-h", "/run/netns/nstrace-e2e-h"
		output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
		got := holdersOf(t, event.NSTypeNet, mustID(t, path))
		i := slices.IndexFunc(got.Mounts, func(m inventory.Mount) bool { return m.MountNS == h.ns["mnt"] })
		if got.Type != event.NSTypeNet || got.Processes != 0 || i < 0 || got.Mounts[i].Path != path {
			t.Errorf("%+v", got)
		}
		if got.UserNS != h.ns["user"] {
			t.Errorf("its owner is %d: %+v", h.ns["user"], got)
		}
		if files := heldByFiles(t, event.NSTypeNet, got.ID); files == nil || len(files.Mounts) != len(got.Mounts) {
			t.Errorf("of files alone: %+v, want %d mounts", files, len(got.Mounts))
		}
	})

	t.Run("descriptor", func(t *testing.T) {
		w := h.start(t, "unshare", []string{"--ipc", "sh", "-c", wait})
		w.value(t, "ready")
		file := fmt.Sprintf("/proc/%d/ns/ipc", w.pid)
		id := mustID(t, file)
		keeper := h.start(t, "sh", []string{"-c", "exec 3<" + file + "; " + wait})
		keeper.value(t, "ready")
		quit(w)
		got := holdersOf(t, event.NSTypeIPC, id)
		want := inventory.Descriptor{PID: uint32(keeper.pid), TID: uint32(keeper.pid), Comm: "sh", FD: 3}
		if got.Type != event.NSTypeIPC || got.Processes != 0 || !slices.Equal(got.Descriptors, []inventory.Descriptor{want}) {
			t.Errorf("want %+v: %+v", want, got)
		}
		if files := heldByFiles(t, event.NSTypeIPC, id); files == nil || !slices.Equal(files.Descriptors, got.Descriptors) {
			t.Errorf("of files alone: %+v, want %+v", files, got.Descriptors)
		}
		quit(keeper)
		if files := heldByFiles(t, event.NSTypeIPC, id); files != nil {
			t.Errorf("nothing holds it any more, and of files alone there is %+v", files)
		}
	})

	t.Run("descriptor of a mount", func(t *testing.T) {
		// In /proc, such a descriptor has the name of the mount and not net:[4026532116].
		const name = "nstrace-e2e-hd"
		output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
		id := mustID(t, "/run/netns/"+name)
		keeper := h.start(t, "sh", []string{"-c", "exec 3</run/netns/" + name + "; " + wait})
		keeper.value(t, "ready")
		want := inventory.Descriptor{PID: uint32(keeper.pid), TID: uint32(keeper.pid), Comm: "sh", FD: 3}
		if got := holdersOf(t, event.NSTypeNet, id); !slices.Equal(got.Descriptors, []inventory.Descriptor{want}) {
			t.Errorf("want %+v: %+v", want, got)
		}
		quit(keeper)
	})

	t.Run("children", func(t *testing.T) {
		w := h.start(t, "unshare", []string{"--user", "--map-root-user", "unshare", "--user", "--net", "sh", "-c", wait})
		w.value(t, "ready")
		inner, net := mustID(t, fmt.Sprintf("/proc/%d/ns/user", w.pid)), mustID(t, fmt.Sprintf("/proc/%d/ns/net", w.pid))
		got := holdersOf(t, event.NSTypeUser, inner)
		// No process is in the outer one. Only its child keeps it alive.
		outer := holdersOf(t, event.NSTypeUser, got.Parent)
		if outer.Type != event.NSTypeUser || outer.Processes != 0 || outer.Parent != h.ns["user"] {
			t.Errorf("the outer one: %+v", outer)
		}
		if !slices.Equal(outer.Children, []inventory.Ref{{Type: "user", ID: inner}}) {
			t.Errorf("the outer one does not have %d: %+v", inner, outer)
		}
		if !slices.Equal(got.Owned, []inventory.Ref{{Type: "net", ID: net}}) || got.UserNS != got.Parent {
			t.Errorf("the inner one does not own %d: %+v", net, got)
		}
		quit(w)
	})

	t.Run("for children", func(t *testing.T) {
		// /proc does not show a namespace that has no first process yet.
		w := h.start(t, "unshare", []string{"--pid", "sh", "-c", "exec 4<&0; cat <&4 & " + wait})
		w.value(t, "ready")
		id := mustID(t, fmt.Sprintf("/proc/%d/ns/pid_for_children", w.pid))
		got := holdersOf(t, event.NSTypePID, id)
		want := inventory.Task{PID: uint32(w.pid), TID: uint32(w.pid), Comm: "sh"}
		if got.Type != event.NSTypePID || got.Processes != 1 || !slices.Equal(got.ForChildren, []inventory.Task{want}) || got.Parent != h.ns["pid"] {
			t.Errorf("want %+v: %+v", want, got)
		}
		quit(w)
	})

	t.Run("socket", func(t *testing.T) {
		w := h.start(t, "unshare", []string{"--net", helper("nssock"), fmt.Sprintf("/proc/%d/ns/net", os.Getpid())})
		fd := parseInt(t, w.value(t, "fd"))
		if now := mustID(t, fmt.Sprintf("/proc/%d/ns/net", w.pid)); now != h.ns["net"] {
			t.Fatalf("the process is in %d", now)
		}
		for _, source := range []inventory.Source{inventory.Iterators, inventory.Proc} {
			found := 0
			for _, got := range takeInventory(t, source).Namespaces() {
				if !slices.Contains(got.Sockets, inventory.Descriptor{PID: uint32(w.pid), TID: uint32(w.pid), Comm: "nssock", FD: uint32(fd)}) {
					continue
				}
				found++
				if got.Type != event.NSTypeNet || got.ID == h.ns["net"] || got.Processes+len(got.Mounts)+len(got.Descriptors) != 0 || got.UserNS != h.ns["user"] {
					t.Errorf("%+v", got)
				}
			}
			if found != 1 {
				t.Errorf("%s: socket %d of %d is in %d namespaces", source, fd, w.pid, found)
			}
		}
		quit(w)
	})

	t.Run("thread", func(t *testing.T) {
		w := h.start(t, helper("nsthread"), []string{"1", "uts"})
		text, _, _ := strings.Cut(w.value(t, "thread"), " ")
		tid := parseInt(t, text)
		w.value(t, "made")
		got := holdersOf(t, event.NSTypeUTS, mustID(t, fmt.Sprintf("/proc/%d/task/%d/ns/uts", w.pid, tid)))
		if want := (inventory.Task{PID: uint32(w.pid), TID: uint32(tid), Comm: "nsthread-worker"}); !slices.Equal(got.Threads, []inventory.Task{want}) || got.Processes != 0 {
			t.Errorf("want %+v: %+v", want, got)
		}
		quit(w)
	})
}
