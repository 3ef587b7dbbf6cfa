// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// flagOf is the option of unshare(1) and nsenter(1) for each type.
var flagOf = map[event.NSType]string{
	"mnt": "--mount", "uts": "--uts", "ipc": "--ipc", "user": "--user",
	"pid": "--pid", "net": "--net", "cgroup": "--cgroup", "time": "--time",
}

// allFlags are the options of all types.
func allFlags() []string {
	var all []string
	for _, typ := range event.NSTypes() {
		all = append(all, flagOf[typ])
	}
	return all
}

// printNS is a shell command that prints its namespaces, such as "net=net:[4026531840]".
const printNS = `for n in mnt net ipc user pid uts cgroup time; do echo $n=$(readlink /proc/self/ns/$n); done`

// printedNS parses the output of printNS.
func (w *work) printedNS(t *testing.T) map[event.NSType]uint32 {
	t.Helper()
	m := map[event.NSType]uint32{}
	for _, typ := range event.NSTypes() {
		values := w.printed(string(typ))
		if len(values) != 1 {
			t.Fatalf("%d lines about %s in %q", len(values), typ, w.stdout.String())
		}
		m[typ] = parseID(t, values[0])
	}
	return m
}

// tester is a user without privileges.
const tester = 1000

func testCreate(t *testing.T, h *host) {
	t.Run("unshare", func(t *testing.T) { testUnshare(t, h) })
	t.Run("refused", func(t *testing.T) { testRefused(t, h) })
	t.Run("clone", func(t *testing.T) { testClone(t, h) })
	t.Run("threads", func(t *testing.T) { testThreads(t, h) })
	t.Run("tools", func(t *testing.T) { testTools(t, h) })
}

func testUnshare(t *testing.T, h *host) {
	for _, typ := range event.NSTypes() {
		// The new pid and time namespaces are for the next child.
		for _, fork := range []bool{false, true} {
			if fork && typ != event.NSTypePID && typ != event.NSTypeTime {
				continue
			}
			name, args := string(typ), []string{flagOf[typ]}
			if fork {
				name, args = name+" fork", append(args, "--fork")
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				// The first child of a shell would be the pid namespace's init, and the shell could
				// not fork again.
				unborn := typ == event.NSTypePID && !fork
				if unborn {
					args = append(args, "true")
				} else {
					args = append(args, "sh", "-c", printNS)
				}
				w := h.run(t, "unshare", args)
				var inside map[event.NSType]uint32
				if !unborn {
					inside = w.printedNS(t)
				}
				w.each(t, func(t *testing.T, s *stream, events []*emitted) {
					want := creates("unshare", "success", typ)
					if typ == event.NSTypeTime && !fork && entersByExec() {
						want = append(want, "enter time execve: success")
					}
					same(t, events, want...)
					if t.Failed() {
						return
					}
					e := events[0]
					if e.Namespace.ID != inside[typ] && !unborn {
						t.Errorf("id %d, the program saw %d", e.Namespace.ID, inside[typ])
					}
					for typ, id := range e.Process.NS {
						if id != h.ns[typ] {
							t.Errorf("the process came from %s %d, the host's is %d", typ, id, h.ns[typ])
						}
					}
					if int(e.Process.PID) != w.pid || e.Process.TID != e.Process.PID || e.ChildPID != 0 {
						t.Errorf("pid %d, tid %d, child %d; want pid %d", e.Process.PID, e.Process.TID, e.ChildPID, w.pid)
					}
					if want := "/usr/bin/unshare"; e.Process.Exe != want || e.Process.Comm != "unshare" ||
						!slices.Equal(e.Process.Args, w.cmd.Args) {
						t.Errorf("exe %q, comm %q, args %q", e.Process.Exe, e.Process.Comm, e.Process.Args)
					}
					w.ends(t, s, events)
				})
			})
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		opts []option
	}{
		{"all", []string{"--fork"}, nil},
		{"all by a user", []string{"--fork", "--map-root-user"}, []option{asUser(tester)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := h.run(t, "unshare", append(append(allFlags(), tt.args...), "sh", "-c", printNS), tt.opts...)
			inside := w.printedNS(t)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, creates("unshare", "success", event.NSTypes()...)...)
				uids := map[string]bool{}
				for _, e := range events {
					ns := e.Namespace
					if ns.ID != inside[ns.Type] {
						t.Errorf("%s: id %d, the program saw %d", ns.Type, ns.ID, inside[ns.Type])
					}
					owner := inside["user"]
					if ns.Type == event.NSTypeUser {
						owner = h.ns["user"]
					}
					if ns.UserNS != owner {
						t.Errorf("%s: owned by %d, want %d", ns.Type, ns.UserNS, owner)
					}
					if uids[ns.UID] {
						t.Errorf("%s: uid %s twice", ns.Type, ns.UID)
					}
					uids[ns.UID] = true
					if tt.opts != nil && e.Process.UID != tester {
						t.Errorf("uid %d", e.Process.UID)
					}
				}
				w.ends(t, s, events)
				if s.backend == tracer.Tracepoint {
					return
				}
				// A user namespace lives as long as the namespaces that it owns.
				all := s.since(w.from[s])
				var user *emitted
				for _, e := range events {
					if e.Namespace.Type == event.NSTypeUser {
						user = destroyOf(all, e.Namespace)
					}
				}
				for _, e := range events {
					d := destroyOf(all, e.Namespace)
					// If the kernel skipped an end, w.ends has reported that. A scan finds the end
					// later, or never if another namespace has the number.
					skipped := func(d *emitted) bool { return d == nil || d.Namespace.Detected != "" }
					if !skipped(d) && !skipped(user) && d.Seq > user.Seq {
						t.Errorf("%s ended after its owning user namespace", e.Namespace.Type)
					}
				}
			})
		})
	}
	t.Run("both in one process", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "unshare", []string{"--uts", "unshare", "--uts", "sh", "-c", printNS})
		inside := w.printedNS(t)
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, slices.Concat(creates("unshare", "success", "uts"), creates("unshare", "success", "uts"))...)
			if t.Failed() {
				return
			}
			first, second := events[0], events[1]
			if second.Process.NS["uts"] != first.Namespace.ID || second.Namespace.ID != inside["uts"] {
				t.Errorf("from %d to %d; made %d, the program saw %d", second.Process.NS["uts"], second.Namespace.ID, first.Namespace.ID, inside["uts"])
			}
			w.ends(t, s, events)
		})
	})
}

// testRefused has calls that the kernel refuses.
func testRefused(t *testing.T, h *host) {
	t.Run("EPERM", func(t *testing.T) {
		t.Parallel()
		w := h.try(t, "unshare", []string{"--net", "--uts", "--cgroup", "true"}, asUser(tester))
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, creates("unshare", "EPERM", "net", "uts", "cgroup")...)
			noneMade(t, s, w, events)
		})
	})
	// The limits belong to a separate user namespace.
	for _, tt := range []struct {
		limit string
		flags []string
		types []event.NSType
	}{
		{"user", []string{"--user"}, []event.NSType{"user"}},
		{"user", []string{"--user", "--net", "--ipc"}, []event.NSType{"user", "net", "ipc"}},
		// The kernel has made the namespaces before it, and frees them.
		{"net", []string{"--net", "--uts", "--ipc", "--pid", "--mount"}, []event.NSType{"net", "uts", "ipc", "pid", "mnt"}},
		{"uts", []string{"--net", "--uts", "--ipc", "--mount"}, []event.NSType{"net", "uts", "ipc", "mnt"}},
		{"time", allFlags()[1:], slices.DeleteFunc(event.NSTypes(), func(typ event.NSType) bool { return typ == event.NSTypeMnt })},
	} {
		t.Run(fmt.Sprintf("limit of %s for %d", tt.limit, len(tt.types)), func(t *testing.T) {
			t.Parallel()
			script := fmt.Sprintf(`cat /proc/sys/user/max_%s_namespaces >old; echo 0 >/proc/sys/user/max_%[1]s_namespaces
				cat old; ! unshare %s true 2>/dev/null`, tt.limit, strings.Join(tt.flags, " "))
			dir := t.TempDir()
			w := h.run(t, "unshare", []string{"--user", "--map-root-user", "sh", "-e", "-c", "cd " + dir + "\n" + script})
			old := strings.TrimSpace(w.stdout.String())
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, slices.Concat(creates("unshare", "success", "user"),
					[]string{write{name: "user.max_" + tt.limit + "_namespaces", old: old, new: "0"}.on(s)},
					creates("unshare", "ENOSPC", tt.types...))...)
				noneMade(t, s, w, events)
				w.ends(t, s, events)
			})
		})
	}
}

// noneMade checks that no namespace ends that was not made: the kernel also frees namespaces that
// it allocated for a call that then failed.
func noneMade(t *testing.T, s *stream, w *work, events []*emitted) {
	t.Helper()
	for _, e := range events {
		if e.Outcome == event.Failure && (e.Namespace.ID != 0 || e.Namespace.UID != "" || e.ChildPID != 0) {
			t.Errorf("a failed call made a namespace: %s", e.line)
		}
	}
	for _, d := range only(s.since(w.from[s]), event.NamespaceDestroy) {
		if d.Namespace.Creator == nil && !w.host.before[d.Namespace.ID] && !w.host.made(d.Namespace) {
			t.Errorf("the end of a namespace that never existed: %s", d.line)
		}
	}
}

// made reports whether a stream has a namespace's creation, if the stream could have missed it.
func (h *host) made(ns *event.Namespace) bool {
	return canMiss(event.NamespaceCreate) && slices.ContainsFunc(h.streams, func(s *stream) bool {
		return slices.ContainsFunc(s.since(0), func(e *emitted) bool {
			return e.Type == event.NamespaceCreate && e.Namespace.ID == ns.ID && e.Namespace.Type == ns.Type
		})
	})
}

func testClone(t *testing.T, h *host) {
	// absent is a clone3 whose arguments are not in memory when it begins.
	for _, way := range []string{"clone", "clone3", "absent"} {
		via := way
		if way == "absent" {
			via = "clone3"
		}
		types := []event.NSType{"mnt", "uts", "ipc", "user", "pid", "net", "cgroup"}
		if via == "clone3" {
			types = append(types, "time") // clone has no free bit for it
		}
		for _, tt := range []struct {
			name  string
			types []event.NSType
		}{
			{"net", []event.NSType{"net"}},
			{"pid", []event.NSType{"pid"}},
			{"all", types},
		} {
			t.Run(way+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				flags := make([]string, len(tt.types))
				for i, typ := range tt.types {
					flags[i] = string(typ)
				}
				// The next event is the child's.
				w := h.run(t, helper("nsclone"), []string{way, strings.Join(flags, ","), "unshare", "--uts", "sh", "-c", printNS})
				inside := w.printedNS(t)
				child, err := strconv.Atoi(strings.Join(w.printed("child"), ","))
				if err != nil {
					t.Fatal(err)
				}
				w.each(t, func(t *testing.T, s *stream, events []*emitted) {
					same(t, events, slices.Concat(creates(via, "success", tt.types...), creates("unshare", "success", "uts"))...)
					for i, e := range events {
						if last := i == len(events)-1; last != (e.Via == "unshare") {
							t.Errorf("event %d of %d is of %s", i, len(events), e.Via)
						}
						switch {
						case e.Via == "unshare":
							if int(e.Process.PID) != child || int(e.Process.PPID) != w.pid {
								t.Errorf("pid %d and ppid %d, want %d and %d", e.Process.PID, e.Process.PPID, child, w.pid)
							}
							for _, typ := range tt.types {
								if id := ids(events[:i])[typ]; e.Process.NS[typ] != id {
									t.Errorf("the child was in %s %d, the new one is %d", typ, e.Process.NS[typ], id)
								}
							}
						case int(e.Process.PID) != w.pid || int(e.ChildPID) != child:
							t.Errorf("pid %d, child %d; want %d, %d", e.Process.PID, e.ChildPID, w.pid, child)
						case e.Namespace.Type != event.NSTypeUTS && e.Namespace.ID != inside[e.Namespace.Type]:
							t.Errorf("%s: id %d, the program saw %d", e.Namespace.Type, e.Namespace.ID, inside[e.Namespace.Type])
						}
					}
					w.ends(t, s, events)
				})
			})
		}
		for _, tt := range []struct {
			flags, errno string
			opts         []option
		}{
			{"net,uts", "EPERM", []option{asUser(tester)}},
			{"mnt,fs", "EINVAL", nil}, // the two contradict each other
		} {
			t.Run(way+" "+tt.errno, func(t *testing.T) {
				t.Parallel()
				w := h.run(t, helper("nsclone"), []string{way, tt.flags}, tt.opts...)
				if got := w.printed("error"); !slices.Equal(got, []string{tt.errno}) {
					t.Fatalf("the call returned %q", w.stdout.String())
				}
				var types []event.NSType
				for typ := range strings.SplitSeq(tt.flags, ",") {
					if typ != "fs" {
						types = append(types, event.NSType(typ))
					}
				}
				w.each(t, func(t *testing.T, s *stream, events []*emitted) {
					same(t, events, creates(via, tt.errno, types...)...)
					noneMade(t, s, w, events)
				})
			})
		}
		t.Run(way+" without", func(t *testing.T) {
			t.Parallel()
			w := h.run(t, helper("nsclone"), []string{way, "none"})
			w.each(t, func(t *testing.T, s *stream, events []*emitted) { same(t, events) })
		})
	}
	t.Run("a signal is no flag", func(t *testing.T) {
		t.Parallel()
		// In clone(2), the bit of CLONE_NEWTIME belongs to the number of the signal.
		w := h.run(t, helper("nsclone"), []string{"clone", "time"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) { same(t, events) })
	})
}

func testThreads(t *testing.T, h *host) {
	const n = 3
	w := h.start(t, helper("nsthread"), []string{strconv.Itoa(n), "net,uts"})
	made := map[uint32]uint32{} // tid to network namespace
	for range n {
		tid, link, _ := strings.Cut(w.value(t, "thread"), " ")
		id, err := strconv.ParseUint(tid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		made[uint32(id)] = parseID(t, link)
	}
	if all := w.value(t, "made"); all != "all" {
		t.Fatal(all)
	}
	w.stop(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, slices.Repeat(creates("unshare", "success", "net", "uts"), n)...)
		found := map[uint32]uint32{}
		for _, e := range events {
			if int(e.Process.PID) != w.pid {
				t.Errorf("pid %d, want %d", e.Process.PID, w.pid)
			}
			if e.Process.Comm != "nsthread-worker" || e.Process.LeaderComm != "nsthread" {
				t.Errorf("the thread is called %q, its main thread %q", e.Process.Comm, e.Process.LeaderComm)
			}
			if e.Namespace.Type == event.NSTypeNet {
				found[e.Process.TID] = e.Namespace.ID
			}
		}
		if fmt.Sprint(found) != fmt.Sprint(made) {
			t.Errorf("the threads' namespaces are %v, want %v", found, made)
		}
		w.ends(t, s, events)
	})
}

// testTools runs other programs that make namespaces.
func testTools(t *testing.T, h *host) {
	t.Run("busybox", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "busybox", []string{"unshare", "-n", "-u", "-i", "sh", "-c", printNS})
		inside := w.printedNS(t)
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, creates("unshare", "success", "net", "uts", "ipc")...)
			for _, e := range events {
				if e.Namespace.ID != inside[e.Namespace.Type] {
					t.Errorf("%s: id %d, the program saw %d", e.Namespace.Type, e.Namespace.ID, inside[e.Namespace.Type])
				}
				if e.Process.Comm != "busybox" {
					t.Errorf("comm %q", e.Process.Comm)
				}
			}
			w.ends(t, s, events)
		})
	})
	for _, uid := range []int{0, tester} {
		t.Run("bwrap "+strconv.Itoa(uid), func(t *testing.T) {
			t.Parallel()
			var opts []option
			if uid != 0 {
				opts = append(opts, asUser(uint32(uid)))
			}
			w := h.run(t, "bwrap", []string{"--unshare-all", "--dev-bind", "/", "/", "sh", "-c", printNS}, opts...)
			inside := w.printedNS(t)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				made := map[uint32]*emitted{}
				for _, e := range only(events, event.NamespaceCreate) {
					if e.Outcome == event.Success {
						made[e.Namespace.ID] = e
					}
					if int(e.Process.UID) != uid {
						t.Errorf("uid %d", e.Process.UID)
					}
				}
				own := 0
				for typ, id := range inside {
					if id == h.ns[typ] {
						continue
					}
					own++
					if made[id] == nil || made[id].Namespace.Type != typ {
						t.Errorf("the program was in %s %d, which no event made", typ, id)
					}
				}
				if own < 6 { // bwrap does not always make a cgroup and a user namespace
					t.Errorf("only %d of its namespaces are new: %v", own, inside)
				}
				w.ends(t, s, events)
			})
		})
	}
}

// aliveNow returns the namespaces that processes are in.
func aliveNow() map[uint32]bool {
	alive := map[uint32]bool{}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		for _, typ := range event.NSTypes() {
			for _, name := range []string{string(typ), string(typ) + "_for_children"} {
				if id, err := nsID("/proc/" + p.Name() + "/ns/" + name); err == nil {
					alive[id] = true
				}
			}
		}
	}
	return alive
}
