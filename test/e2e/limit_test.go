// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/tracer"
)

// TestLimit has the kernel refuse namespaces for every reason that nstrace knows. Every limit is
// that of a user namespace of the test's own.
func TestLimit(t *testing.T) {
	all := backends
	if testing.Short() { // attaching takes an emulated machine most of the time
		all = all[:1]
	}
	h := watch(t, all...)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *host)
	}{
		{"own limit", testOwnLimit},
		{"limit above", testLimitAbove},
		{"zero", testLimitZero},
		{"nesting", testNesting},
		{"capability", testNoCapability},
		{"chroot", testChroot},
		{"unmapped", testUnmapped},
		{"many extents", testManyExtents},
		{"parameter", testForbidding},
	} {
		if testing.Short() && part.name == "nesting" {
			continue // dozens of processes
		}
		t.Run(part.name, func(t *testing.T) { part.run(t, h) })
	}
	h.close(t)
}

// traced returns strace's arguments for a program, and the file that has the calls afterwards.
// Everybody can write to it.
func traced(t *testing.T, args ...string) (strace []string, log string) {
	t.Helper()
	dir := openDir(t, 0o777)
	log = filepath.Join(dir, "strace")
	return append([]string{"-f", "-q", "-o", log, "-e", "trace=unshare,clone,clone3", "-e", "signal=none"}, args...), log
}

// checkCalls checks what strace saw of calls with namespace flags: how many had each result.
func checkCalls(t *testing.T, log string, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, calls := range straceCalls(t, readFile(t, log)) {
		for _, call := range calls {
			got[call]++
		}
	}
	for call, n := range want {
		if got[call] != n {
			t.Errorf("strace saw %q %d times, want %d: %v", call, got[call], n, got)
		}
	}
}

// checkRefusals checks that each call which failed has these reasons, and that every event of a
// success has none. The process that set a limit is compared on its own.
func checkRefusals(t *testing.T, events []*emitted, want ...event.Refusal) {
	t.Helper()
	failed := 0
	for _, e := range events {
		if e.Outcome != event.Failure {
			if len(e.Refusal) > 0 {
				t.Errorf("no failure: %s", e.line)
			}
			continue
		}
		failed++
		got := slices.Clone(e.Refusal)
		for i := range got {
			got[i].SetBy = nil
		}
		if a, b := marshal(t, got), marshal(t, want); a != b && len(got)+len(want) > 0 {
			t.Errorf("reasons\n%s, want\n%s", a, b)
		}
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkWriter checks that the process that set a limit is that of the stream's last write to it. A
// stream that only scans for the ends of namespaces can leave it out on a kernel without ids: when an
// inode number is used again, it does not know whose limit was set.
func checkWriter(t *testing.T, s *stream, events []*emitted) {
	t.Helper()
	writes := only(events, event.SysctlWrite)
	if len(writes) == 0 {
		t.Fatal("no write to a limit")
	}
	last := writes[len(writes)-1]
	for _, e := range events {
		for _, r := range e.Refusal {
			w := r.SetBy
			if ns := last.Sysctl.Namespace; w == nil && s.backend == tracer.Tracepoint && ns != nil && !ns.Host && !ns.KernelUID() {
				continue
			}
			if w == nil && s.missedBetween(last, e, event.SysctlWrite) {
				continue // that one can have set the limit
			}
			if w == nil || w.PID != last.Process.PID || w.Comm != last.Process.Comm || w.UID != last.Process.UID || !w.Time.Equal(last.Time) || w.Unit != last.Unit {
				t.Errorf("%ssays who set the limit, and it was\n%s", e.line, last.line)
			}
		}
	}
}

// missedBetween reports whether the stream says between two events that it missed events of a type.
func (s *stream) missedBetween(from, to *emitted, typ event.Type) bool {
	return slices.ContainsFunc(only(s.since(0), event.TraceLoss), func(e *emitted) bool {
		return e.Seq > from.Seq && e.Seq < to.Seq && (e.Loss.Records == nil || e.Loss.Records[typ] > 0)
	})
}

// countsKnown reports whether the kernel keeps the counts of a user with the credentials
// (cred.ucounts, 5.14). Before that, nstrace does not know the count in the process's own user
// namespace.
func countsKnown(t *testing.T) bool {
	t.Helper()
	types, err := typesOfKernel()
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^struct cred \{[^}]*?struct ucounts \*ucounts;`).MatchString(types)
}

// typesOfKernel returns the kernel's types in C.
var typesOfKernel = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c").Output()
	return string(out), err
})

func ptrTo[T any](v T) *T { return &v }

// nameOf returns the name of a user, "" if there is none.
func nameOf(uid uint32) string {
	u, err := user.LookupId(fmt.Sprint(uid))
	if err != nil {
		return ""
	}
	return u.Username
}

// limitReached is the reason for a limit of a user namespace.
func limitReached(typ event.NSType, value, count int64, ns, level, uid uint32) event.Refusal {
	return event.Refusal{
		Reason: event.RefusedByLimit, Type: typ, Sysctl: "user.max_" + string(typ) + "_namespaces",
		Value: &value, Count: &count, UserNS: ns, Level: &level, UID: &uid, User: nameOf(uid),
	}
}

// insideLimit reads a parameter as a process in the user namespace of pid has it.
func insideLimit(t *testing.T, pid, name string) int64 {
	t.Helper()
	text := output(t, "nsenter", "--target", pid, "--user", "--preserve-credentials", "cat", "/proc/sys/user/"+name)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// descendants counts the namespaces of a type that lsns(8) says that a user namespace owns, or one
// below it.
func descendants(t *testing.T, typ event.NSType, id uint32) (n int64) {
	t.Helper()
	owners := map[string]string{}
	var found []string
	for _, of := range []event.NSType{event.NSTypeUser, typ} {
		found = nil
		for line := range strings.Lines(output(t, "lsns", "--type", string(of), "--noheadings", "--raw", "--output", "NS,ONS")) {
			if f := strings.Fields(line); len(f) == 2 {
				owners[f[0]] = f[1]
				found = append(found, f[0])
			}
		}
	}
	for _, ns := range found {
		for at := owners[ns]; at != ""; at = owners[at] {
			if at == fmt.Sprint(id) {
				n++
				break
			}
			if at == owners[at] {
				break
			}
		}
	}
	return n
}

// testOwnLimit lets a user namespace have two network namespaces, and asks for a third one.
func testOwnLimit(t *testing.T, h *host) {
	args, log := traced(t, "unshare", "--user", "--map-root-user", "sh", "-e", "-c",
		`echo 2 >/proc/sys/user/max_net_namespaces
		unshare --net sh -c 'unshare --net sh -e -c "$0"; :' "$0"; :`,
		`echo pid=$$; ! unshare --net --ipc true 2>/dev/null; echo done=1; read line || :`)
	w := h.start(t, "strace", args, asUser(tester))
	pid := w.value(t, "pid")
	w.value(t, "done")
	id, err := nsID("/proc/" + pid + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	value, count := insideLimit(t, pid, "max_net_namespaces"), descendants(t, event.NSTypeNet, id)
	if value != 2 || count != 2 {
		t.Fatalf("the limit is %d, and lsns counts %d", value, count)
	}
	w.stop(t)
	checkCalls(t, log, map[string]int{"unshare ipc,net: ENOSPC": 1})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if !countsKnown(t) {
			checkRefusals(t, events)
			return
		}
		checkRefusals(t, events, limitReached(event.NSTypeNet, value, count, id, 0, tester))
		checkWriter(t, s, events)
		w.ends(t, s, events)
	})
}

// testLimitAbove has a limit two user namespaces above the one that asks.
func testLimitAbove(t *testing.T, h *host) {
	args, log := traced(t, "unshare", "--user", "--map-root-user", "sh", "-e", "-c",
		`echo top=$$; echo 2 >/proc/sys/user/max_user_namespaces
		unshare --user --map-root-user sh -c 'unshare --user --map-root-user sh -e -c "$0"; :' "$0"; :`,
		`! unshare --user true 2>/dev/null; echo done=1; read line || :`)
	w := h.start(t, "strace", args, asUser(tester))
	top := w.value(t, "top")
	w.value(t, "done")
	id, err := nsID("/proc/" + top + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	value, count := insideLimit(t, top, "max_user_namespaces"), descendants(t, event.NSTypeUser, id)
	if value != 2 || count != 2 {
		t.Fatalf("the limit is %d, and lsns counts %d", value, count)
	}
	w.stop(t)
	checkCalls(t, log, map[string]int{"unshare user: ENOSPC": 1, "unshare user: success": 3})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		checkRefusals(t, events, limitReached(event.NSTypeUser, value, count, id, 2, tester))
		checkWriter(t, s, events)
		w.ends(t, s, events)
	})
}

// testLimitZero has limits of 0 for each type, by each call. They need no count.
func testLimitZero(t *testing.T, h *host) {
	for _, typ := range event.NSTypes() {
		for _, via := range []string{"unshare", "clone", "clone3"} {
			if via == "clone" && typ == event.NSTypeTime {
				continue // its flag is part of clone's signal
			}
			if testing.Short() && (typ != event.NSTypeNet || via == "clone") && (typ != event.NSTypeTime || via != "clone3") {
				continue // the host tests the others
			}
			t.Run(string(typ)+" "+via, func(t *testing.T) {
				t.Parallel()
				call := helper("nsclone") + " " + via + " " + string(typ)
				if via == "unshare" {
					call = "! unshare " + flagOf[typ] + " true 2>/dev/null"
				}
				w := h.run(t, "unshare", []string{"--user", "--map-root-user", "sh", "-e", "-c",
					"readlink /proc/self/ns/user; echo 0 >/proc/sys/user/max_" + string(typ) + "_namespaces; " + call})
				id := parseID(t, strings.SplitN(w.stdout.String(), "\n", 2)[0])
				w.each(t, func(t *testing.T, s *stream, events []*emitted) {
					want := limitReached(typ, 0, 0, id, 0, 0)
					if !countsKnown(t) {
						want.Count = nil
					}
					checkRefusals(t, events, want)
					checkWriter(t, s, events)
					if failed := events[len(events)-1]; failed.Via != via || failed.Error != "ENOSPC" {
						t.Errorf("%s: %s", via, failed.line)
					}
					w.ends(t, s, events)
				})
			})
		}
	}
}

// nested returns a command line that makes namespaces inside each other until the kernel refuses.
func nested(flags ...string) []string {
	var args []string
	for range 40 {
		args = append(args, "unshare")
		args = append(args, flags...)
	}
	return append(args, "true")
}

// checkNesting checks that strace saw one refusal, and returns how many levels it saw made.
func checkNesting(t *testing.T, typ event.NSType, log string) (levels int64) {
	t.Helper()
	checkCalls(t, log, map[string]int{"unshare " + string(typ) + ": ENOSPC": 1})
	for _, calls := range straceCalls(t, readFile(t, log)) {
		for _, call := range calls {
			if call == "unshare "+string(typ)+": success" {
				levels++
			}
		}
	}
	if levels < 30 {
		t.Fatalf("strace saw %d levels", levels)
	}
	return levels
}

// testNesting makes user and PID namespaces inside each other until the kernel refuses.
func testNesting(t *testing.T, h *host) {
	t.Run("user", func(t *testing.T) {
		args, log := traced(t, nested("--user", "--map-root-user")...)
		w := h.try(t, "strace", args)
		levels := checkNesting(t, event.NSTypeUser, log)
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			checkRefusals(t, events, event.Refusal{Reason: event.RefusedByNesting, Type: event.NSTypeUser, Value: &levels, Count: &levels})
			w.ends(t, s, events)
		})
	})
	// Each level has a process. The last ones are further from w than events have ancestors.
	t.Run("pid", func(t *testing.T) {
		args, log := traced(t, nested("--pid", "--fork")...)
		w := h.try(t, "strace", args)
		levels := checkNesting(t, event.NSTypePID, log)
		for _, s := range h.streams {
			t.Run(string(s.backend), func(t *testing.T) {
				var failed []*emitted
				for _, e := range s.since(w.from[s])[:w.to[s]-w.from[s]] {
					if e.Type == event.NamespaceCreate && e.Outcome == event.Failure && e.Namespace.Type == event.NSTypePID {
						failed = append(failed, e)
					}
				}
				if len(failed) != 1 {
					t.Errorf("%d refusals:\n%s", len(failed), dump(failed))
				}
				checkRefusals(t, failed, event.Refusal{Reason: event.RefusedByNesting, Type: event.NSTypePID, Value: &levels, Count: &levels})
			})
		}
	})
}

// testNoCapability asks for namespaces without a user namespace, as a user without privileges.
func testNoCapability(t *testing.T, h *host) {
	for _, tt := range []struct {
		call    string
		program []string
	}{
		{"unshare net,uts: EPERM", []string{"unshare", "--net", "--uts", "true"}},
		{"clone mnt,pid: EPERM", []string{helper("nsclone"), "clone", "mnt,pid"}},
		{"clone3 cgroup,time: EPERM", []string{helper("nsclone"), "clone3", "cgroup,time"}},
	} {
		t.Run(tt.call, func(t *testing.T) {
			args, log := traced(t, tt.program...)
			w := h.try(t, "strace", args, asUser(tester))
			checkCalls(t, log, map[string]int{tt.call: 1})
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				checkRefusals(t, events, event.Refusal{Reason: event.RefusedByCapability, Capability: "CAP_SYS_ADMIN", UserNS: h.ns[event.NSTypeUser]})
			})
		})
	}
}

// testChroot asks for a user namespace below another root directory: one that is a mount, one that
// is not, and one that is the host's own.
func testChroot(t *testing.T, h *host) {
	args, log := traced(t, "sh", "-e", "-c", `
		dir=$(mktemp -d -p "$0"); mkdir $dir/mount $dir/base
		mount --make-rprivate /
		mount --rbind / $dir/mount
		! chroot $dir/mount unshare --user true 2>/dev/null
		mount --rbind / $dir/base
		! chroot $dir/base/$dir/mount unshare --user true 2>/dev/null
		mkdir $dir/tmp; mount -t tmpfs tmpfs $dir/tmp; mkdir $dir/tmp/inside
		mount --rbind / $dir/tmp/inside
		! chroot $dir/tmp/inside unshare --user true 2>/dev/null
		mkdir $dir/plain; cp "$(command -v busybox)" $dir/plain
		! chroot $dir/plain /busybox unshare -U /busybox true 2>/dev/null
		chroot / unshare --user true`, scratch)
	w := h.run(t, "unshare", append([]string{"--mount", "strace"}, args...))
	checkCalls(t, log, map[string]int{"unshare user: EPERM": 4, "unshare user: success": 1})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		checkRefusals(t, events, event.Refusal{Reason: event.RefusedByChroot})
		w.ends(t, s, events)
	})
}

// testUnmapped asks for a user namespace as a user that has no id in the present one.
func testUnmapped(t *testing.T, h *host) {
	args, log := traced(t, "unshare", "--user", "sh", "-e", "-c",
		`readlink /proc/self/ns/user; wc -l </proc/self/uid_map; ! unshare --user --net true 2>/dev/null`)
	w := h.run(t, "strace", args, asUser(tester))
	link, lines, _ := strings.Cut(strings.TrimSpace(w.stdout.String()), "\n")
	if lines != "0" {
		t.Fatalf("uid_map has lines: %q", lines)
	}
	id := parseID(t, link)
	checkCalls(t, log, map[string]int{"unshare net,user: EPERM": 1})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		checkRefusals(t, events,
			event.Refusal{Reason: event.RefusedByUID, UserNS: id, UID: ptrTo[uint32](tester), User: nameOf(tester)},
			event.Refusal{Reason: event.RefusedByGID, UserNS: id, UID: ptrTo[uint32](tester)})
		w.ends(t, s, events)
	})
}

// testManyExtents has more ids mapped than the kernel keeps in the namespace itself. nstrace does
// not look further: it says nothing of the user.
func testManyExtents(t *testing.T, h *host) {
	w := h.start(t, "unshare", []string{"--user", "sh", "-e", "-c",
		`echo pid=$$; read line; ! unshare --user true 2>/dev/null; echo done=1; read line || :`}, asUser(tester))
	pid := w.value(t, "pid")
	id, err := nsID("/proc/" + pid + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	var uids strings.Builder
	for i := range 6 {
		fmt.Fprintf(&uids, "%d %d 1\n", 2*i, 100000+2*i)
	}
	for file, text := range map[string]string{"uid_map": uids.String(), "gid_map": "0 100000 5\n"} {
		if err := os.WriteFile("/proc/"+pid+"/"+file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(w.stdin)
	w.value(t, "done")
	w.stop(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		checkRefusals(t, events, event.Refusal{Reason: event.RefusedByGID, UserNS: id, UID: ptrTo[uint32](tester)})
		w.ends(t, s, events)
	})
}

// testForbidding turns off user namespaces of users without privileges, where the kernel has
// Debian's parameter for that.
func testForbidding(t *testing.T, h *host) {
	const file = "/proc/sys/kernel/unprivileged_userns_clone"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, old, 0); err != nil {
			t.Error(err)
		}
	})
	w := h.sh(t, `echo 0 >`+file+`
		! setpriv --reuid `+fmt.Sprint(tester)+` --clear-groups unshare --user true 2>/dev/null`)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		checkRefusals(t, events, event.Refusal{Reason: event.RefusedBySysctl, Sysctl: "kernel.unprivileged_userns_clone", Value: ptrTo(int64(0)), Later: true})
		checkWriter(t, s, events)
	})
}

// TestLimitFiltered asks for events of one type only. The reason is another one.
func TestLimitFiltered(t *testing.T) {
	anyKernel(t)
	file := filepath.Join(t.TempDir(), "events")
	status, stdout, stderr := nstrace(t, []string{"run", "-o", "json", "-O", file, "-e", "namespace.create", "-t", "ipc", "--failed", "--",
		"unshare", "--user", "--map-root-user", "sh", "-c", "echo 0 >/proc/sys/user/max_net_namespaces; ! unshare --net --ipc true 2>/dev/null"})
	if status != 0 || stdout != "" || stderr != "" {
		t.Fatalf("status %d, %q, %q", status, stdout, stderr)
	}
	created := only(readEvents(t, file), event.NamespaceCreate)
	if len(created) != 1 || created[0].Namespace.Type != event.NSTypeIPC {
		t.Fatalf("%s", dump(created))
	}
	r := created[0].Refusal
	if len(r) != 1 || r[0].Type != event.NSTypeNet || r[0].Sysctl != "user.max_net_namespaces" || r[0].SetBy != nil {
		t.Errorf("%s", created[0].line)
	}
}

// TestLimitHistory starts nstrace record again after a limit was set. The history knows who set it.
func TestLimitHistory(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	first := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	first.awaitStart(t)
	cmd := exec.Command("unshare", "--user", "--map-root-user", "sh", "-e", "-c",
		`echo 0 >/proc/sys/user/max_net_namespaces; echo written; while read line; do ! unshare --net true 2>/dev/null; done`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	mine := func(e *emitted) bool { return e.of(cmd.Process.Pid) }
	var write *emitted
	first.await(t, "the write", func(all []*emitted) bool {
		i := slices.IndexFunc(all, func(e *emitted) bool { return e.Type == event.SysctlWrite && mine(e) })
		if i >= 0 {
			write = all[i]
		}
		return i >= 0
	})
	stored := func(what string, holds func(*history.DB) bool) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			h, err := history.Open(db)
			if err != nil {
				t.Fatal(err)
			}
			ok := holds(h)
			h.Close()
			if ok {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the history has no %s", what)
			}
		}
	}
	stored("write", func(h *history.DB) bool {
		for w, err := range h.LastWrites(t.Context(), func(name string) bool { return name == "user.max_net_namespaces" }) {
			if err != nil {
				t.Fatal(err)
			}
			if w.Event.Time.Equal(write.Time) {
				return true
			}
		}
		return false
	})
	// It would take a last snapshot of the host otherwise.
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.awaitEnd(t)
	second := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	second.awaitStart(t)
	var refused *emitted
	var w *event.Writer
	// The second run reads in the background who wrote last.
	for end := time.Now().Add(patience); w == nil && time.Now().Before(end); {
		from := second.len()
		fmt.Fprintln(in)
		second.awaitFrom(t, from, "the refusal", func(all []*emitted) bool {
			i := slices.IndexFunc(all, func(e *emitted) bool { return len(e.Refusal) > 0 && mine(e) })
			if i >= 0 {
				refused = all[i]
			}
			return i >= 0
		})
		w = refused.Refusal[0].SetBy
		if !write.Sysctl.Namespace.KernelUID() {
			break
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if kernelUID := write.Sysctl.Namespace.KernelUID(); !kernelUID {
		if w != nil { // it could be another namespace by now
			t.Errorf("%s", refused.line)
		}
	} else if w == nil || !w.Time.Equal(write.Time) || w.PID != write.Process.PID {
		t.Errorf("%sand the write was\n%s", refused.line, write.line)
	}
	stored("reasons", func(h *history.DB) bool {
		for e, err := range h.Events(t.Context(), history.Query{Types: map[event.Type]bool{event.NamespaceCreate: true}}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Event.Time.Equal(refused.Time) {
				if a, b := marshal(t, e.Event.Refusal), marshal(t, refused.Refusal); a != b {
					t.Errorf("the history has %s, the stream %s", a, b)
				}
				return true
			}
		}
		return false
	})
}
