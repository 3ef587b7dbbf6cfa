// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testOtherCalls tests the other system calls of newer kernels that create or enter namespaces, and unusual
// uses of clone, unshare and setns.
func testOtherCalls(t *testing.T, h *host) {
	t.Run("mount", func(t *testing.T) { testMountCalls(t, h) })
	t.Run("exec", func(t *testing.T) { testExec(t, h) })
	t.Run("handle", func(t *testing.T) { testHandle(t, h) })
	t.Run("cgroup", func(t *testing.T) { testIntoCgroup(t, h) })
	t.Run("unused", func(t *testing.T) { testUnused(t, h) })
}

// testMountCalls makes mount namespaces that no process is in, or that are empty.
func testMountCalls(t *testing.T, h *host) {
	for _, tt := range []struct {
		via          string
		major, minor int // the first kernel that has it
		// Whether nstrace sees that an older kernel refuses it.
		seen func(*stream) bool
	}{
		// Before 7.0 these calls have nothing to do with namespaces.
		{"open_tree", 7, 0, func(*stream) bool { return kernelFrom(7, 0) }},
		{"open_tree_attr", 7, 0, func(*stream) bool { return kernelFrom(7, 0) }},
		{"fsmount", 7, 1, func(*stream) bool { return kernelFrom(7, 0) }},
		{"unshare", 7, 1, func(*stream) bool { return true }},
		{"clone3", 7, 1, func(*stream) bool { return true }},
	} {
		t.Run(tt.via, func(t *testing.T) {
			t.Parallel()
			w := h.run(t, helper("nsnew"), []string{tt.via})
			refused, made := w.printed("error"), w.printed("made")
			if there := kernelFrom(tt.major, tt.minor); there != (len(refused) == 0) {
				t.Fatalf("exists from %d.%d on; here: %q", tt.major, tt.minor, w.stdout.String())
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				switch {
				case len(refused) == 0:
					same(t, events, creates(tt.via, "success", "mnt")...)
					w.ends(t, s, events)
				case tt.seen(s):
					same(t, events, creates(tt.via, refused[0], "mnt")...)
				default:
					same(t, events)
				}
				for i, id := range made {
					if got := fmt.Sprint(events[i].Namespace.ID); got != id {
						t.Errorf("made %s, nstrace reports %s", id, got)
					}
				}
			})
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		if !kernelFrom(7, 0) {
			t.Skip("open_tree makes namespaces from 7.0 on")
		}
		w := h.run(t, helper("nsnew"), []string{"open_tree"}, asUser(tester))
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, creates("open_tree", "EPERM", "mnt")...)
		})
	})
}

// entersByExec reports whether a process that made a time namespace for its children enters it with
// its next exec.
func entersByExec() bool { return kernelFrom(6, 3) }

// testExec enters, by an exec, the time namespace that was made for children.
func testExec(t *testing.T, h *host) {
	w := h.run(t, "unshare", []string{"--time", "sh", "-e", "-c", `echo time=$(readlink /proc/$$/ns/time)`})
	in := parseID(t, w.printed("time")[0])
	if got := in != h.ns["time"]; got != entersByExec() {
		t.Fatalf("the program is in another time namespace: %v", got)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		want := creates("unshare", "success", "time")
		if entersByExec() {
			want = append(want, "enter time execve: success")
		}
		same(t, events, want...)
		if t.Failed() {
			return
		}
		made := events[0].Namespace.ID
		if in != h.ns["time"] && in != made {
			t.Errorf("made %d, the program was in %d", made, in)
		}
		if len(events) == 2 {
			if ns := events[1].Namespace; ns.ID != in || ns.From != h.ns["time"] {
				t.Errorf("from %d to %d, want from %d to %d", ns.From, ns.ID, h.ns["time"], in)
			}
		}
	})
}

// testHandle enters a namespace by the id that the kernel gives it.
func testHandle(t *testing.T, h *host) {
	r := h.open(t)
	w := h.try(t, helper("nsset"), []string{"handle", r.path("net"), "net", "readlink", "/proc/self/ns/net"})
	if there := kernelFrom(6, 18); there != (w.status == 0) {
		t.Fatalf("by handle from 6.18 on; here: %d %s", w.status, w.stderr.String())
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if w.status != 0 {
			same(t, events)
			return
		}
		same(t, events, enters("success", "net")...)
		checkEntered(t, events, r.ns, h.ns)
	})
	r.stop(t)
}

// testIntoCgroup has a process of one container make a child in another container. What the child
// does happens in the second one, and the child's namespace does not belong to its maker.
func testIntoCgroup(t *testing.T, h *host) {
	root := cgroup2(t)
	mkdir := func(digit string) (dir, id string) {
		id = strings.Repeat(digit, 64)
		dir = filepath.Join(root, "docker-"+id+".scope")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		return dir, id
	}
	from, parent := mkdir("a")
	into, child := mkdir("b")
	w := h.sh(t, `echo $$ >`+from+`/cgroup.procs
		`+helper("nsclone")+` clone3:`+into+` uts unshare --ipc true`)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, slices.Concat(creates("clone3", "success", "uts"), creates("unshare", "success", "ipc"))...)
		if t.Failed() {
			return
		}
		for i, by := range []string{parent, child} {
			if e := events[i]; e.Container == nil || e.Container.ID != by {
				t.Errorf("want the process %s: %s", by, e.line)
			}
		}
		if o := events[0].Namespace.Owner; o != nil {
			t.Errorf("the event names an owner, which cannot be known yet: %s", events[0].line)
		}
		if o := events[1].Namespace.Owner; o == nil || o.Container == nil || o.Container.ID != child {
			t.Errorf("want the child's container: %s", events[1].line)
		}
	})
}

// cgroup2 returns the mount point of the version 2 hierarchy.
func cgroup2(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	t.Fatal("no cgroup v2 hierarchy is mounted")
	return ""
}

// testUnused makes a PID namespace for children that never come.
func testUnused(t *testing.T, h *host) {
	w := h.run(t, "unshare", []string{"--pid", "readlink", "/proc/self/ns/pid"})
	if got, want := w.stdout.String(), fmt.Sprintf("pid:[%d]\n", h.ns["pid"]); got != want {
		t.Fatalf("the program was in %s, want %s", got, want)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "pid")...)
		w.ends(t, s, events)
	})
}
