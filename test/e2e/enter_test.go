// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A room is a process in its own namespaces of all eight types. Other processes enter them.
type room struct {
	*work
	inside int // the process's pid
	ns     map[event.NSType]uint32
}

// open starts a room. The caller or the end of the test stops it.
func (h *host) open(t *testing.T) *room {
	t.Helper()
	args := append(allFlags(), "--fork", "--kill-child", "--map-root-user", "sh", "-c", "echo pid=$$; exec cat")
	r := &room{work: h.start(t, "unshare", args)}
	if pid := r.value(t, "pid"); pid != "1" {
		t.Fatalf("in its own pid namespace it has pid %s", pid)
	}
	r.inside = childOf(t, r.pid)
	var err error
	if r.ns, err = namespacesOf(r.inside); err != nil {
		t.Fatal(err)
	}
	return r
}

// childOf returns the only child of a process.
func childOf(t testing.TB, pid int) int {
	t.Helper()
	children := strings.Fields(readFile(t, fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)))
	if len(children) != 1 {
		t.Fatalf("children of %d: %q", pid, children)
	}
	child, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func (r *room) path(typ event.NSType) string {
	return fmt.Sprintf("/proc/%d/ns/%s", r.inside, typ)
}

func testEnter(t *testing.T, h *host) {
	r := h.open(t)
	t.Run("ways", func(t *testing.T) { testEnterWays(t, h, r) })
	t.Run("refused", func(t *testing.T) { testEnterRefused(t, h, r) })
	r.stop(t)
	r.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", event.NSTypes()...)...)
		r.ends(t, s, events)
	})
}

// checkEntered checks the ids of successful entries into to, from from.
func checkEntered(t *testing.T, events []*emitted, to, from map[event.NSType]uint32) {
	t.Helper()
	for _, e := range events {
		ns := e.Namespace
		if ns.ID != to[ns.Type] || ns.From != from[ns.Type] {
			t.Errorf("%s: from %d to %d, want from %d to %d", ns.Type, ns.From, ns.ID, from[ns.Type], to[ns.Type])
		}
		if e.ChildPID != 0 {
			t.Errorf("child %d", e.ChildPID)
		}
	}
}

func testEnterWays(t *testing.T, h *host, r *room) {
	for _, typ := range event.NSTypes() {
		t.Run("nsenter "+string(typ), func(t *testing.T) {
			t.Parallel()
			// A mount or user namespace of a room has the same programs as the host.
			w := h.run(t, "nsenter", []string{flagOf[typ] + "=" + r.path(typ), "sh", "-c", printNS})
			inside := w.printedNS(t)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, enters("success", typ)...)
				checkEntered(t, events, r.ns, h.ns)
				if inside[typ] != r.ns[typ] {
					t.Errorf("the program saw %d, want %d", inside[typ], r.ns[typ])
				}
			})
		})
	}
	t.Run("nsenter all", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "nsenter", []string{"--target", strconv.Itoa(r.inside), "--all", "true"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			// nsenter tries some types in two orders, and one of these calls can fail.
			well := slices.DeleteFunc(slices.Clone(events), func(e *emitted) bool { return e.Outcome == event.Failure })
			same(t, well, enters("success", event.NSTypes()...)...)
			checkEntered(t, well, r.ns, h.ns)
		})
	})
	t.Run("bind mount", func(t *testing.T) {
		t.Parallel()
		pin := filepath.Join(scratch, "pinned-uts")
		bindNS(t, r.path("uts"), pin)
		w := h.run(t, "nsenter", []string{"--uts=" + pin, "true"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, enters("success", "uts")...)
			checkEntered(t, events, r.ns, h.ns)
		})
	})
	// Enter the user namespace first: the other types need its capabilities.
	several := event.NSTypes()
	for _, types := range [][]event.NSType{{"net"}, {"net", "uts", "ipc"}, several} {
		t.Run(fmt.Sprintf("pidfd %d", len(types)), func(t *testing.T) {
			t.Parallel()
			w := h.run(t, helper("nsset"), []string{"pidfd", strconv.Itoa(r.inside), join(types), "sh", "-c", printNS})
			// Every kernel that nstrace supports can do that, except for time.
			if got := w.printed("result"); !slices.Equal(got, []string{"ok"}) {
				t.Fatalf("setns: %q", w.stdout.String())
			}
			inside := w.printedNS(t)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, enters("success", types...)...)
				checkEntered(t, events, r.ns, h.ns)
				for _, e := range events {
					// A pid namespace is for children.
					if ns := e.Namespace; ns.Type != event.NSTypePID && ns.ID != inside[ns.Type] {
						t.Errorf("%s: id %d, the program saw %d", ns.Type, ns.ID, inside[ns.Type])
					}
					if e.Time != events[0].Time {
						t.Errorf("one call with two times: %v, %v", e.Time, events[0].Time)
					}
				}
			})
		})
	}
	for _, typ := range []event.NSType{"net", "uts", "ipc", "pid", "mnt", "cgroup"} {
		t.Run("own "+string(typ), func(t *testing.T) {
			t.Parallel()
			w := h.run(t, helper("nsset"), []string{"file", "/proc/self/ns/" + string(typ), "none"})
			if got := w.printed("result"); !slices.Equal(got, []string{"ok"}) {
				t.Fatalf("setns: %q", w.stdout.String())
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, enters("success", typ)...)
				checkEntered(t, events, h.ns, h.ns)
			})
		})
	}
	t.Run("another descriptor meanwhile", func(t *testing.T) {
		t.Parallel()
		const calls = 300
		w := h.run(t, helper("nsrace"), []string{strconv.Itoa(calls)})
		entered, err := strconv.Atoi(strings.Join(w.printed("entered"), ","))
		if err != nil || entered == 0 || entered == calls {
			t.Fatalf("%q: the descriptor was never another one, or always", w.stdout.String())
		}
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			var want []string
			want = append(want, creates("unshare", "success", "net")...)
			for range 1 + 2*entered { // in and out
				want = append(want, enters("success", "net")...)
			}
			for range calls - entered { // changed nothing, so the type is not certain
				want = append(want, "enter setns: success")
			}
			same(t, events, want...)
		})
	})
	t.Run("there and back", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "nsenter", []string{"--net=" + r.path("net"), helper("nsset"), "file", fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), "net"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, slices.Concat(enters("success", "net"), enters("success", "net"))...)
			if t.Failed() {
				return
			}
			checkEntered(t, events[:1], r.ns, h.ns)
			checkEntered(t, events[1:], h.ns, r.ns)
			if got := events[1].Process.NS["net"]; got != r.ns["net"] {
				t.Errorf("the process came from %d, want %d", got, r.ns["net"])
			}
		})
	})
}

func join(types []event.NSType) string {
	names := make([]string, len(types))
	for i, typ := range types {
		names[i] = string(typ)
	}
	return strings.Join(names, ",")
}

// bindNS keeps a namespace alive by a bind mount until the test's end.
func bindNS(t *testing.T, ns, at string) {
	t.Helper()
	if err := os.WriteFile(at, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(ns, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s: %v", ns, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Error(err)
		}
	})
}

func testEnterRefused(t *testing.T, h *host, r *room) {
	theirs := strconv.Itoa(r.inside)
	mounted := filepath.Join(openDir(t, 0o755), "net")
	bindNS(t, r.path("net"), mounted)
	for _, tt := range []struct {
		name  string
		args  []string // of nsset
		errno string
		types []event.NSType // none: even the wanted types are unknown
		to    map[event.NSType]uint32
		opts  []option
	}{
		{name: "no descriptor", args: []string{"fd", "99", "net"}, errno: "EBADF", types: []event.NSType{"net"}},
		{name: "no descriptor of no type", args: []string{"fd", "99", "none"}, errno: "EBADF"},
		{name: "negative", args: []string{"fd", "99", "net,uts"}, errno: "EBADF", types: []event.NSType{"net", "uts"}},
		{name: "another type", args: []string{"file", r.path("net"), "uts"}, errno: "EINVAL", types: []event.NSType{"net"}, to: r.ns},
		{name: "another type than that of a mounted file", args: []string{"file", mounted, "uts"}, errno: "EINVAL", types: []event.NSType{"net"}, to: r.ns},
		{name: "a mounted file by a user", args: []string{"file", mounted, "none"}, errno: "EPERM", types: []event.NSType{"net"}, to: r.ns, opts: []option{asUser(tester)}},
		{name: "a file", args: []string{"file", "/etc/passwd", "net"}, errno: "EINVAL", types: []event.NSType{"net"}},
		{name: "a folder of no type", args: []string{"file", "/etc", "none"}, errno: "EINVAL"},
		{name: "by a user", args: []string{"file", "/proc/self/ns/net", "net"}, errno: "EPERM", types: []event.NSType{"net"}, to: h.ns, opts: []option{asUser(tester)}},
		{name: "own user namespace", args: []string{"file", "/proc/self/ns/user", "user"}, errno: "EINVAL", types: []event.NSType{"user"}, to: h.ns},
		{name: "pidfd of another by a user", args: []string{"pidfd", theirs, "net,uts"}, errno: "EPERM", types: []event.NSType{"net", "uts"}, to: r.ns, opts: []option{asUser(tester)}},
		{name: "pidfd of no type", args: []string{"pidfd", theirs, "none"}, errno: "EINVAL"},
		// The call enters all or nothing: the permission for the last type is missing.
		{name: "half-way", args: []string{"pidfd", theirs, "user,net,uts,fs"}, errno: "EINVAL", types: []event.NSType{"user", "net", "uts"}, to: r.ns},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := h.run(t, helper("nsset"), append(tt.args, "sh", "-c", printNS), tt.opts...)
			if got := w.printed("error"); !slices.Equal(got, []string{tt.errno}) {
				t.Fatalf("setns: %q", w.stdout.String())
			}
			for typ, id := range w.printedNS(t) {
				if id != h.ns[typ] {
					t.Errorf("the call failed, but the process is in %s %d", typ, id)
				}
			}
			want := enters(tt.errno, tt.types...)
			if len(want) == 0 {
				want = []string{"enter setns: " + tt.errno}
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, want...)
				if len(tt.types) > 0 {
					checkEntered(t, events, tt.to, h.ns)
				}
				for _, e := range events {
					checkRequest(t, e, tt.args, mounted)
				}
			})
		})
	}
}

// checkRequest compares the request of a failed call with the arguments of nsset.
func checkRequest(t *testing.T, e *emitted, args []string, mounted string) {
	t.Helper()
	var want event.Request
	for _, typ := range []event.NSType{"user", "net", "uts"} { // in the order of the kinds in a record
		if slices.Contains(strings.Split(args[2], ","), string(typ)) {
			want.Types = append(want.Types, typ)
		}
	}
	switch args[0] {
	case "pidfd":
		pid, err := strconv.ParseUint(args[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		want.PID = uint32(pid)
	case "file":
		if args[1] == mounted {
			want.Path = mounted
		}
	}
	got := event.Request{}
	if e.Request != nil {
		got = *e.Request
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %+v, want %+v: %s", got, want, e.line)
	}
}
