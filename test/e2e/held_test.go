// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// TestHeld has namespaces that no process is in, and user namespaces. Neither a recorder, nor the next one, nor blame
// takes them for ended while something holds them, and blame does once nothing does.
func TestHeld(t *testing.T) {
	// The next backends find the end of a namespace as the first one does, except for the last one.
	for _, b := range slices.Compact([]tracer.Backend{backends[0], backends[len(backends)-1]}) {
		t.Run(string(b), func(t *testing.T) { testHeld(t, string(b)) })
	}
}

func testHeld(t *testing.T, backend string) {
	db := filepath.Join(t.TempDir(), "history.db")
	dir := openDir(t, 0o755)
	args := []string{"record", "--backend", backend, "--db", db, "--runtime-socket", "none"}
	rec := startStream(t, args...)
	rec.awaitStart(t)
	h := &host{}
	const (
		wait   = "echo ready=yes; read x || exit 0"
		param  = "net.ipv4.tcp_keepalive_time"
		inUser = "user.max_inotify_watches"
	)
	start := func(args ...string) *work {
		w := h.start(t, args[0], args[1:])
		w.value(t, "ready")
		return w
	}
	quit := func(w *work) {
		w.stdin.Close()
		w.end(t)
	}
	// keep has a process open a file, and ends the process whose namespace it is.
	keep := func(w *work, file string) (release func()) {
		keeper := start("sh", "-c", "exec 3<"+file+"; "+wait)
		quit(w)
		return func() { quit(keeper) }
	}
	type held struct {
		name, param, value string
		id                 uint32
		release            func()
	}
	var all []held
	add := func(name, file string, release func() func()) {
		value := strconv.Itoa(7000 + len(all))
		output(t, "nsenter", "--net="+file, "sysctl", "-q", "-w", param+"="+value)
		all = append(all, held{name, param, value, mustID(t, file), nil})
		all[len(all)-1].release = release()
	}
	w := start("unshare", "--net", "sh", "-c", wait)
	file := fmt.Sprintf("/proc/%d/ns/net", w.pid)
	add("a descriptor", file, func() func() { return keep(w, file) })

	threads := h.start(t, helper("nsthread"), []string{"1", "net"})
	tid, _, _ := strings.Cut(threads.value(t, "thread"), " ")
	threads.value(t, "made")
	add("a thread", fmt.Sprintf("/proc/%d/task/%s/ns/net", threads.pid, tid), func() func() { return func() { quit(threads) } })

	// Before the next pin, which the kernel would copy there.
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mounts := start("unshare", "--mount", "--propagation", "private", "sh", "-c", "unshare --net="+other+" true; "+wait)
	add("a pin in another mount namespace", fmt.Sprintf("/proc/%d/root%s", mounts.pid, other), func() func() { return func() { quit(mounts) } })

	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pin, unix.MNT_DETACH) })
	output(t, "unshare", "--net="+pin, "true")
	add("a file elsewhere", pin, func() func() { return func() { output(t, "umount", pin) } })

	user := func(value string) (*work, string) {
		w := start("unshare", "--user", "--map-root-user", "sh", "-c", "echo "+value+" > "+event.SysctlPath(inUser)+"; "+wait)
		return w, fmt.Sprintf("/proc/%d/ns/user", w.pid)
	}
	w2, file := user("8001")
	all = append(all, held{"a process in a user namespace", inUser, "8001", mustID(t, file), func() { quit(w2) }})
	w3, file := user("8002")
	id := mustID(t, file)
	all = append(all, held{"a descriptor of a user namespace", inUser, "8002", id, keep(w3, file)})

	find := func(n *held) *blameLine {
		lines := blame(t, db, "--all-netns", n.param)
		i := slices.IndexFunc(lines, func(l blameLine) bool {
			return l.Namespace != nil && l.Namespace.ID == n.id && l.Recorded != nil && *l.Recorded == n.value
		})
		if i < 0 {
			t.Fatalf("%s: blame has no row for %d", n.name, n.id)
		}
		return &lines[i]
	}
	check := func(s *stream, from int, when string, watched bool) {
		t.Helper()
		for i := range all {
			n := &all[i]
			l := find(n)
			if readable := watched || l.Namespace.KernelUID(); readable && n.param == param && (l.State != "recorded" || l.Value == nil || *l.Value != n.value) {
				t.Errorf("%s, %s holds %d: %+v, want its value", when, n.name, n.id, l)
			}
			if l.State == "gone" || l.State == "drifted" {
				t.Errorf("%s, %s holds %d: it is %s", when, n.name, n.id, l.State)
			}
		}
		for _, e := range s.since(from) {
			ends := e.Type == event.NamespaceDestroy || e.Type == event.NamespaceGone
			if ends && slices.ContainsFunc(all, func(n held) bool { return n.id == e.Namespace.ID }) {
				t.Errorf("%s: %s", when, e.line)
			}
		}
	}
	from := rec.len() // others had these numbers before
	check(rec, from, "while it is recorded", true)
	rec.interrupt(t) // a slow machine has no time for a snapshot at the end, and the recorder says so
	check(rec, from, "while nobody records", false)
	rec = startStream(t, args...)
	rec.awaitStart(t)
	check(rec, 0, "with the next recorder", false)
	for i := range all {
		n := &all[i]
		n.release()
		// The recorder learns at its start only of user namespaces that have a process.
		if unseen := n.name == "a descriptor of a user namespace"; unseen {
			for end := time.Now().Add(patience); find(n).State != "gone" && find(n).Namespace.KernelUID() && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if !find(n).Namespace.KernelUID() {
				continue
			}
		} else {
			rec.await(t, "the end of "+n.name, func(events []*emitted) bool {
				return slices.ContainsFunc(events, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.ID == n.id })
			})
		}
		if l := find(n); l.State != "gone" {
			t.Errorf("nothing holds %d any more, and it is %s", n.id, l.State)
		}
	}
	rec.interrupt(t)
}
