// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// pins returns the briefs of bind mounts of namespaces, and of their ends, for s. The tracepoint
// backend sees them, but not who made them.
func pins(s *stream, what, via, result string, types ...event.NSType) []string {
	if s.backend == tracer.Tracepoint {
		return nil
	}
	var all []string
	for _, typ := range types {
		all = append(all, fmt.Sprintf("%s %s %s: %s", what, typ, via, result))
	}
	return all
}

// isPin reports whether an event is about a mount of a namespace.
func (e *emitted) isPin() bool {
	return e.Type == event.NamespacePin || e.Type == event.NamespaceUnpin
}

// checkPin checks an event about the mount of the namespace id at path.
func checkPin(t *testing.T, e *emitted, id uint32, path string) {
	t.Helper()
	if e.Namespace.ID != id || e.Namespace.Path != path {
		t.Errorf("want namespace %d at %s: %s", id, path, e.line)
	}
}

// awaitPin waits for an event about the mount at path that has no process: one that a scan found,
// or an end without a process.
func (s *stream) awaitPin(t *testing.T, from int, typ event.Type, path string) *emitted {
	t.Helper()
	var found *emitted
	s.awaitFrom(t, from, fmt.Sprintf("%s of %s", typ, path), func(events []*emitted) bool {
		i := slices.IndexFunc(events, func(e *emitted) bool {
			return e.Type == typ && e.Process == nil && e.Namespace.Path == path
		})
		if i >= 0 {
			found = events[i]
		}
		return i >= 0
	})
	want := ""
	if s.backend == tracer.Tracepoint {
		want = "scan"
	}
	if found.Namespace.Detected != want || found.Via != "" || found.Outcome != "" {
		t.Errorf("%v: %s", s, found.line)
	}
	return found
}

func testPin(t *testing.T, h *host) {
	t.Run("ip netns", func(t *testing.T) { testPinNetns(t, h) })
	t.Run("unshare", func(t *testing.T) { testPinUnshare(t, h) })
	t.Run("system calls", func(t *testing.T) { testPinCalls(t, h) })
	t.Run("refused", func(t *testing.T) { testPinRefused(t, h) })
	t.Run("with its mounts", func(t *testing.T) { testPinEnd(t, h) })
	t.Run("mount namespace", func(t *testing.T) { testPinPlace(t, h) })
}

// testPinPlace has mounts on the same path in the host's mount namespace and in another one: the copy that the
// kernel makes there, and one of its own.
func testPinPlace(t *testing.T, h *host) {
	t.Parallel()
	path := filepath.Join(scratch, "placed")
	w := h.sh(t, fmt.Sprintf(`
		touch %[1]s; unshare --uts=%[1]s true
		unshare --mount --propagation private sh -e -c '
			stat -L -c other=%%i /proc/self/ns/mnt; umount %[1]s
			mount --bind /proc/self/ns/uts %[1]s; umount %[1]s'
		stat -L -c own=%%i /proc/self/ns/mnt; umount %[1]s`, path))
	own, other := w.printed("own")[0], w.printed("other")[0]
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		var got, want []string
		for _, e := range events {
			if e.isPin() && e.Process != nil && e.Namespace.Path == path {
				got = append(got, fmt.Sprintf("%s %d copy=%v", e.Type, e.Namespace.MntNS, e.Namespace.Copy))
			}
		}
		if s.backend != tracer.Tracepoint {
			want = []string{
				"namespace.pin " + own + " copy=false",
				"namespace.unpin " + other + " copy=true",
				"namespace.pin " + other + " copy=false",
				"namespace.unpin " + other + " copy=false",
				"namespace.unpin " + own + " copy=false",
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q: %s", got, want, dump(events))
		}
	})
}

// mountCall matches one line of strace's log.
var mountCall = regexp.MustCompile(`(?m)^\d+ +(mount|umount2|move_mount)\((.*)\) += 0$`)

// straceMounts returns the number of successful calls in strace's log that contain all words.
func straceMounts(log string, call string, words ...string) (n int) {
	for _, m := range mountCall.FindAllStringSubmatch(log, -1) {
		if m[1] == call && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(m[2], w) }) {
			n++
		}
	}
	return n
}

// strace runs a program under strace, and returns the log of its mounts.
func (h *host) strace(t *testing.T, args ...string) (*work, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	w := h.run(t, "strace", append([]string{"-f", "-q", "-o", log, "-e", "trace=mount,umount2,open_tree,move_mount", "-e", "signal=none"}, args...))
	return w, readFile(t, log)
}

func testPinNetns(t *testing.T, h *host) {
	const name, path = "nstrace-e2e-p", "/run/netns/nstrace-e2e-p"
	t.Cleanup(func() { // if it still exists
		if _, err := os.Stat(path); err == nil {
			output(t, "ip", "netns", "del", name)
		}
	})
	add, log := h.strace(t, "ip", "netns", "add", name)
	id, err := nsID(path)
	if err != nil {
		t.Fatal(err)
	}
	if mounts := readFile(t, "/proc/self/mountinfo"); !strings.Contains(mounts, fmt.Sprintf(" net:[%d] %s ", id, path)) {
		t.Fatalf("the namespace is not mounted:\n%s", mounts)
	}
	if n := straceMounts(log, "mount", `"`+path+`"`, "MS_BIND"); n != 1 {
		t.Fatalf("strace saw %d bind mounts:\n%s", n, log)
	}
	add.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, slices.Concat(creates("unshare", "success", "net"), pins(s, "pin", "mount", "success", "net"),
			enters("success", "net"))...) // ip returns
		if t.Failed() {
			return
		}
		pin := s.awaitPinOf(t, add, events, event.NamespacePin, path)
		checkPin(t, pin, id, path)
		if made := only(events, event.NamespaceCreate)[0]; pin.Seq < made.Seq || pin.Namespace.UID != made.Namespace.UID || pin.Namespace.Name != name {
			t.Errorf("%sis about another namespace than\n%s", pin.line, made.line)
		}
	})
	del, log := h.strace(t, "ip", "netns", "del", name)
	if n := straceMounts(log, "umount2", `"`+path+`"`); n != 1 {
		t.Fatalf("strace saw %d unmounts:\n%s", n, log)
	}
	del.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, pins(s, "unpin", "umount", "success", "net")...)
		if t.Failed() {
			return
		}
		unpin := s.awaitPinOf(t, del, events, event.NamespaceUnpin, path)
		checkPin(t, unpin, id, path)
		for _, e := range only(add.all(s), event.NamespaceCreate) {
			if d := s.awaitDestroy(t, add.from[s], e.Namespace); d != nil && (d.Seq < unpin.Seq || d.Time.Before(unpin.Time)) {
				t.Errorf("the namespace ended before its pin:\n%s%s", d.line, unpin.line)
			}
		}
	})
}

// awaitPinOf returns the one event of w about the mount at path, whatever process it names.
func (s *stream) awaitPinOf(t *testing.T, w *work, events []*emitted, typ event.Type, path string) *emitted {
	t.Helper()
	if s.backend == tracer.Tracepoint {
		return s.awaitPin(t, w.from[s], typ, path)
	}
	some := only(events, typ)
	if len(some) != 1 {
		t.Fatalf("%d events: %s", len(some), dump(some))
	}
	return some[0]
}

func testPinUnshare(t *testing.T, h *host) {
	t.Parallel()
	path := filepath.Join(scratch, "unshared")
	w := h.sh(t, fmt.Sprintf(`touch %[1]s; unshare --uts=%[1]s true; stat -c id=%%i %[1]s; umount %[1]s`, path))
	var id uint32
	if _, err := fmt.Sscan(w.printed("id")[0], &id); err != nil {
		t.Fatal(err)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, slices.Concat(creates("unshare", "success", "uts"),
			pins(s, "pin", "mount", "success", "uts"), pins(s, "unpin", "umount", "success", "uts"))...)
		if t.Failed() {
			return
		}
		for _, e := range events {
			if e.isPin() {
				checkPin(t, e, id, path)
			}
		}
		w.ends(t, s, events)
	})
}

// testPinCalls mounts a namespace's file in each way, in its own mount namespace, where it may move
// everything.
func testPinCalls(t *testing.T, h *host) {
	t.Parallel()
	dir := filepath.Join(scratch, "calls")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w, log := h.strace(t, "unshare", "--mount", "--propagation", "private", "sh", "-e", "-u", "-c", strings.NewReplacer("NSMOUNT", helper("nsmount"), "DIR", dir).Replace(`
		mount -t tmpfs none DIR; cd DIR; touch a b c d e; mkdir deep
		NSMOUNT bind /proc/self/ns/uts a
		NSMOUNT bind a b
		NSMOUNT move b c
		NSMOUNT tree /proc/self/ns/ipc d
		NSMOUNT move-tree d e
		NSMOUNT umount a
		ln -s ../e deep/link
		NSMOUNT detach deep/link`))
	if results := w.printed("result"); len(results) != 7 {
		t.Fatalf("%s\n%s", w.stdout.String(), log)
	}
	if n := straceMounts(log, "move_mount"); n != 2 {
		t.Fatalf("strace saw %d move_mount:\n%s", n, log)
	}
	want := []struct {
		what, via string
		typ       event.NSType
		at        string
	}{
		{"pin", "mount", "uts", "a"},
		{"pin", "mount", "uts", "b"},
		{"unpin", "mount", "uts", "b"}, {"pin", "mount", "uts", "c"},
		{"pin", "move_mount", "ipc", "d"},
		{"unpin", "move_mount", "ipc", "d"}, {"pin", "move_mount", "ipc", "e"},
		{"unpin", "umount", "uts", "a"},
		{"unpin", "umount", "ipc", "e"},
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if s.backend == tracer.Tracepoint {
			same(t, events, creates("unshare", "success", "mnt")...)
			return
		}
		var got, wanted []string
		for _, e := range events {
			if e.isPin() {
				got = append(got, fmt.Sprintf("%s at %s of %d", e.brief(), e.Namespace.Path, e.Namespace.ID))
			}
		}
		for _, p := range want {
			wanted = append(wanted, fmt.Sprintf("%s %s %s: success at %s of %d", p.what, p.typ, p.via, filepath.Join(dir, p.at), h.ns[p.typ]))
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(wanted, "\n\t"))
		}
		// The mount namespace has ended, and everything mounted in it too.
		s.awaitPin(t, w.from[s], event.NamespaceUnpin, filepath.Join(dir, "c"))
		w.ends(t, s, events)
	})
}

func testPinRefused(t *testing.T, h *host) {
	file := filepath.Join(scratch, "refused")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(scratch, "kept")
	bindNS(t, "/proc/self/ns/uts", pin)
	for _, tt := range []struct {
		name  string
		args  []string
		brief string
		typ   event.NSType
		path  string
		opts  []option
	}{
		{name: "loop", args: []string{"bind", "/proc/self/ns/mnt", file}, brief: "pin mnt mount: EINVAL", typ: "mnt", path: file},
		{name: "target", args: []string{"tree", "/proc/self/ns/uts", scratch + "/nowhere"}, brief: "pin uts move_mount: ENOENT", typ: "uts", path: scratch + "/nowhere"},
		{name: "relative target", args: []string{"tree", "/proc/self/ns/uts", "nowhere"}, brief: "pin uts move_mount: ENOENT", typ: "uts"},
		{name: "folder", args: []string{"bind", "/proc/self/ns/uts", scratch}, brief: "pin uts mount: ENOTDIR", typ: "uts", path: scratch},
		{name: "by a user", args: []string{"umount", pin}, brief: "unpin uts umount: EPERM", typ: "uts", path: pin, opts: []option{asUser(tester)}},
		// nstrace ignores mounts of files that are not namespaces, and those without an event.
		{name: "a file", args: []string{"bind", file, "/proc/self/ns/uts"}},
		{name: "not mounted", args: []string{"umount", "/proc/self/ns/uts"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := h.run(t, helper("nsmount"), tt.args, tt.opts...)
			if len(w.printed("error")) != 1 {
				t.Fatalf("nsmount: %q", w.stdout.String())
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				if s.backend == tracer.Tracepoint || tt.brief == "" {
					same(t, events)
					return
				}
				same(t, events, tt.brief)
				if !t.Failed() {
					checkPin(t, events[0], h.ns[tt.typ], tt.path)
				}
			})
		})
	}
}

// testPinEnd has a pin that ends when the mount below it is unmounted lazily.
func testPinEnd(t *testing.T, h *host) {
	t.Parallel()
	dir := filepath.Join(scratch, "lazy")
	path := filepath.Join(dir, "pin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := h.sh(t, fmt.Sprintf(`mount -t tmpfs none %[1]s; touch %[2]s; unshare --uts=%[2]s true`, dir, path))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	id, err := nsID(path)
	if err != nil {
		t.Fatal(err)
	}
	from := map[*stream]int{}
	for _, s := range h.streams {
		if s.backend == tracer.Tracepoint {
			s.awaitPin(t, w.from[s], event.NamespacePin, path)
		}
		from[s] = s.len()
	}
	output(t, "umount", "--lazy", dir)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		unpin := s.awaitPin(t, from[s], event.NamespaceUnpin, path)
		checkPin(t, unpin, id, path)
		for _, e := range only(events, event.NamespaceCreate) {
			if d := s.awaitDestroy(t, from[s], e.Namespace); d != nil && d.Seq < unpin.Seq {
				t.Errorf("the namespace ended before its pin:\n%s%s", d.line, unpin.line)
			}
		}
	})
}

// TestReuse reuses numbers of namespaces at once, for other types and for mounted namespaces, while
// others end. Each namespace must end once, and none must be mounted after its end.
func TestReuse(t *testing.T) {
	h := watch(t, backends...)
	rounds := 40
	if testing.Short() {
		rounds = 15
	}
	h.sh(t, fmt.Sprintf(`
		touch reuse-a reuse-b
		many() { n=0; while [ $n -lt %d ]; do "$@"; n=$((n+1)); done; }
		mounted() { unshare $1=$2 true; umount $2; }
		many unshare --uts --ipc true & a=$!
		many mounted --uts reuse-a & b=$!
		many mounted --net reuse-b & c=$!
		wait $a; wait $b; wait $c`, rounds))
	h.close(t)
}

// TestPinOlder ends a pin from before the start. ip netns has made two mounts of it, but it has one end.
func TestPinOlder(t *testing.T) {
	const name = "nstrace-older"
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			output(t, "ip", "netns", "add", name)
			path := "/run/netns/" + name
			s := startStream(t, "--backend", string(b), "--event", "namespace")
			s.awaitStart(t)
			output(t, "ip", "netns", "del", name)
			// The end of the namespace comes after those of its mounts.
			s.await(t, "the end of the namespace", func(all []*emitted) bool {
				return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.Name == name })
			})
			s.interrupt(t)
			s.checkEnd(t, false)
			var ends []*emitted
			for _, e := range s.since(0) {
				if e.Type == event.NamespaceUnpin && e.Namespace.Path == path {
					ends = append(ends, e)
				}
			}
			if len(ends) != 1 || (ends[0].Process == nil) != (b == tracer.Tracepoint) {
				t.Errorf("%d ends of the pin, want one, by a process if the backend sees that", len(ends))
				for _, e := range ends {
					t.Logf("%s", e.line)
				}
			}
		})
	}
}

// TestNameElsewhere gives a name of ip netns in another mount namespace, and then the same name in the host's. history ns
// finds both, and says which is which.
func TestNameElsewhere(t *testing.T) {
	const name = "nstrace-elsewhere"
	const path = "/run/netns/" + name
	for _, b := range backends {
		if b == tracer.Tracepoint {
			continue // it sees no pins in other mount namespaces
		}
		t.Run(string(b), func(t *testing.T) {
			db := filepath.Join(t.TempDir(), "history.db")
			rec := startStream(t, "record", "--backend", string(b), "--db", db, "--runtime-socket", "none")
			rec.awaitStart(t)
			h := &host{}
			t.Cleanup(func() {
				_ = unix.Unmount(path, unix.MNT_DETACH)
				_ = os.Remove(path)
			})
			w := h.start(t, "unshare", []string{"--mount", "--propagation", "private", "sh", "-c",
				"ip netns add " + name + "; stat -L -c ns=%i " + path + "; stat -L -c mnt=%i /proc/self/ns/mnt; read x || exit 0"})
			id, mnt := uint32(parseInt(t, w.value(t, "ns"))), parseInt(t, w.value(t, "mnt"))
			ask := func() ([]*emitted, string) {
				t.Helper()
				_, _, stderr := nstrace(t, []string{"history", "ns", name, "--db", db})
				return pastEvents(t, db, "ns", name), stderr
			}
			where := fmt.Sprintf("in mount namespace %d", mnt)
			got, stderr := ask()
			if len(got) == 0 || !strings.Contains(stderr, "no namespace is recorded with the name "+name) || !strings.Contains(stderr, where) {
				t.Errorf("%d events, and it says %q", len(got), stderr)
			}
			for _, e := range got {
				ns := e.Namespace
				if ns == nil || ns.ID != id && ns.From != id || ns.ID == id && ns.Name != "" {
					t.Errorf("it is not about the namespace %d, which has no name in the host's mount namespace: %s", id, e.line)
				}
			}
			output(t, "unshare", "--net="+path, "true") // the file exists already
			own := mustID(t, path)
			got, stderr = ask()
			if !slices.ContainsFunc(got, func(e *emitted) bool { return e.Namespace != nil && e.Namespace.ID == own }) || !strings.Contains(stderr, where) {
				t.Errorf("%s, and it says %q: want the one in the host's mount namespace", dump(got), stderr)
			}
			for _, e := range got {
				if e.Namespace != nil && e.Namespace.ID == id {
					t.Errorf("it is about the other one: %s", e.line)
				}
			}
			rec.interrupt(t)
		})
	}
}
