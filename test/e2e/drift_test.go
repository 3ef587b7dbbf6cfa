// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/tracer"
)

// snapshot attaches, takes a snapshot, and detaches, as a recorder does at its start and end.
func snapshot(t *testing.T) *drift.Snapshot {
	t.Helper()
	tr, err := tracer.New(tracer.Options{Backend: backends[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	at := time.Now()
	seen, complete, err := tr.Scan(t.Context())
	if err != nil || !complete {
		t.Fatalf("complete: %v, error: %v", complete, err)
	}
	looked := time.Since(at)
	found := make([]drift.Found, len(seen))
	for i := range seen {
		found[i] = drift.Found{Namespace: seen[i].Namespace, Paths: seen[i].Paths, User: seen[i].User}
	}
	s, err := drift.Take(t.Context(), found, at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d parameters, %d namespaces: %v to scan, %v in total, %d bytes", len(s.Parameters), len(s.Namespaces), looked, time.Since(at), len(b))
	if s, err = drift.Decode(drift.Version, b); err != nil {
		t.Fatal(err)
	}
	return s
}

// driftBrief returns "drift vm.swappiness 60 → 1 in 4026532281" or "gone net 4026532281".
func driftBrief(e *event.Event) string {
	_, s, _ := strings.Cut(string(e.Type), ".")
	if v := e.Sysctl; v != nil {
		s += fmt.Sprintf(" %s %q → %q", v.Name, strings.Fields(*v.Old), strings.Fields(*v.After))
		if v.Namespace != nil {
			s += fmt.Sprintf(" in %d", v.Namespace.ID)
		}
	}
	if e.Namespace != nil {
		s += fmt.Sprintf(" %s %d", e.Namespace.Type, e.Namespace.ID)
	}
	return s
}

// own reports whether an event is about a Tracer in this process, or about an nstrace: one that
// mounts something for itself has its own mount namespace, and its thread nstrace-proof tests hooks in
// a UTS namespace.
func own(e *emitted) bool {
	is := func(pid uint32, comm string) bool {
		return int(pid) == os.Getpid() || comm == filepath.Base(nstraceBin) || comm == proofThread
	}
	return e.Process != nil && is(e.Process.PID, e.Process.Comm) ||
		e.Type == event.NamespaceDestroy && e.Namespace.Creator != nil && is(e.Namespace.Creator.PID, e.Namespace.Creator.Comm)
}

// watched returns the differences that drift must find, from the events of a stream that watched.
// That stream is the witness, also for changes that other programs make at the same time.
func watched(events []*emitted) (want []string) {
	type parameter struct {
		name string
		ns   uint32
	}
	old, now := map[parameter]string{}, map[parameter]string{}
	made := map[string]*event.Namespace{}
	for _, e := range events {
		switch ns := e.Namespace; {
		case e.fence() > 0 || own(e):
		case e.Type == event.NamespaceCreate && e.Outcome == event.Success:
			made[ns.UID] = ns
		case e.Type == event.NamespaceDestroy && made[ns.UID] != nil:
			delete(made, ns.UID)
		case e.Type == event.NamespaceDestroy:
			want = append(want, fmt.Sprintf("gone %s %d", ns.Type, ns.ID))
		case e.Type == event.SysctlWrite && e.Outcome != event.Failure:
			v := e.Sysctl
			p := parameter{name: v.Name}
			if strings.HasPrefix(v.Name, "net.") {
				p.ns = v.Namespace.ID
			}
			if _, ok := old[p]; !ok {
				old[p] = *v.Old
			}
			if e.unwritten() {
				now[p] = *v.After
			} else {
				now[p] = *v.New
			}
		}
	}
	for _, ns := range made {
		want = append(want, fmt.Sprintf("appeared %s %d", ns.Type, ns.ID))
	}
	for p, before := range old {
		isNew := slices.ContainsFunc(slices.Collect(maps.Values(made)), func(ns *event.Namespace) bool { return ns.ID == p.ns })
		if isNew || slices.Equal(strings.Fields(before), strings.Fields(now[p])) {
			continue
		}
		s := fmt.Sprintf("drift %s %q → %q", p.name, strings.Fields(before), strings.Fields(now[p]))
		if p.ns != 0 {
			s += fmt.Sprintf(" in %d", p.ns)
		}
		want = append(want, s)
	}
	slices.Sort(want)
	return want
}

// TestDrift has real programs change parameters and namespaces while only the witness watches.
// Drift must find exactly these changes.
func TestDrift(t *testing.T) {
	anyKernel(t)
	name := func(s string) string { return fmt.Sprintf("nstrace-%d-%s", os.Getpid(), s) }
	held := filepath.Join(t.TempDir(), "held")
	if err := os.WriteFile(held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "ip", "netns", "add", name("old"))
	output(t, "ip", "netns", "add", name("kept"))
	t.Cleanup(func() {
		for _, n := range []string{"old", "kept", "new"} {
			if _, err := os.Stat("/run/netns/" + name(n)); err == nil {
				output(t, "ip", "netns", "delete", name(n))
			}
		}
	})
	const param = "/proc/sys/vm/overcommit_ratio"
	ratio := readFile(t, param)
	t.Cleanup(func() {
		if err := os.WriteFile(param, []byte(ratio), 0); err != nil {
			t.Error(err)
		}
	})
	h := watch(t, backends[0])
	s := h.streams[0]

	// Nothing happens.
	before := snapshot(t)
	if events := drift.Compare(before, snapshot(t)); len(events) > 0 && len(watched(s.since(h.from[s]))) == 0 {
		for _, e := range events {
			t.Errorf("nothing happened, but drift reports %s", driftBrief(e))
		}
	}

	h.fence(t)
	from := s.len()
	before = snapshot(t)
	// One namespace that a descriptor of a process outside keeps alive, and one that its child
	// namespace keeps alive.
	holder := h.start(t, "sh", []string{"-ec", `unshare --uts=` + held + ` true; exec 3<` + held + `; umount -l ` + held + `; echo ready=$(stat -Lc %i /proc/self/fd/3); read x || :`})
	descriptor := uint32(atoi(t, holder.value(t, "ready")))
	nested := h.start(t, "unshare", []string{"--user", "--map-root-user", "--fork", "unshare", "--user", "--net", "sh", "-c", "echo inner=$(readlink /proc/self/ns/user); read x || :"})
	inner := parseID(t, nested.value(t, "inner"))
	// The new namespace comes before the end of the old one: otherwise it can get the same inode
	// number, and on 5.10 nothing tells the two apart, see ns_unique_id() in bpf.
	w := h.sh(t, fmt.Sprintf(`
		sysctl -qw vm.overcommit_ratio=%[1]d
		sysctl -qw vm.swappiness=61; sysctl -qw vm.swappiness=%[2]s
		ip netns exec %[3]s sysctl -qw net.ipv4.tcp_keepalive_time=641 net.ipv4.conf.lo.rp_filter=1
		ip netns add %[5]s
		ip netns delete %[4]s
		ip netns exec %[5]s sysctl -qw net.ipv4.tcp_keepalive_time=642
		unshare --net --ipc true`, atoi(t, ratio)+1, readFile(t, "/proc/sys/vm/swappiness"), name("kept"), name("old"), name("new")))
	w.endsOf(t, s, w.all(s))
	old := h.netns(t, before, name("old"))
	// Without ids from the kernel, each Tracer gives it another uid.
	s.awaitFrom(t, from, "the end of "+old.Name, func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.ID == old.ID })
	})

	h.fence(t)
	after := snapshot(t)
	events := drift.Compare(before, after)
	var got []string
	for _, e := range events {
		got = append(got, driftBrief(e))
		if b := e.Between; !b.From.Equal(before.Time) || !b.To.Equal(after.Time) || b.Boot != "same" {
			t.Errorf("%s: between %+v", driftBrief(e), *b)
		}
		if e.Type == event.NamespaceGone && e.Namespace.ID == old.ID && (e.Namespace.Name != name("old") || e.Namespace.UID != old.UID) {
			t.Errorf("the gone namespace is %+v, want %+v", *e.Namespace, *old)
		}
	}
	slices.Sort(got)
	want := watched(s.since(from))
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	// The witness must have seen the changes of this test.
	for _, must := range []string{
		"drift vm.overcommit_ratio", `drift net.ipv4.tcp_keepalive_time ["7200"] → ["641"]`, "drift net.ipv4.conf.lo.rp_filter",
		fmt.Sprintf("gone net %d", old.ID), "appeared net", fmt.Sprintf("appeared uts %d", descriptor), fmt.Sprintf("appeared user %d", inner),
	} {
		if !slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, must) }) {
			t.Errorf("the witness has no %q in\n\t%s", must, strings.Join(want, "\n\t"))
		}
	}
	// Changes that were watched are no drift: with them applied, before equals after.
	for _, e := range s.since(from) {
		if !own(e) {
			before.Apply(&e.Event)
		}
	}
	for _, e := range drift.Compare(before, after) {
		t.Errorf("this change was watched, but drift reports %s", driftBrief(e))
	}
	holder.stop(t)
	nested.stop(t)
}

// TestRecordDrift stops nstrace record in order, and later kills it, and changes things in between.
// The next start must report these changes and nothing else.
func TestRecordDrift(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	name := fmt.Sprintf("nstrace-%d-record", os.Getpid())
	const param = "/proc/sys/vm/overcommit_ratio"
	ratio := readFile(t, param)
	t.Cleanup(func() {
		if err := os.WriteFile(param, []byte(ratio), 0); err != nil {
			t.Error(err)
		}
		for _, n := range []string{name, name + "-later"} {
			if _, err := os.Stat("/run/netns/" + n); err == nil {
				output(t, "ip", "netns", "delete", n)
			}
		}
	})
	record := func() *stream {
		t.Helper()
		s := startStream(t, "record", "--db", db, "--alert", "default", "--backend", string(backends[0]))
		s.awaitStart(t)
		return s
	}
	// ready waits until s has reported the differences that it found, and returns them. It stores its first
	// snapshot after that.
	h := watch(t, backends[0])
	ready := func(s *stream) (found []string) {
		t.Helper()
		s.awaitSnapshot(t, db)
		h.fence(t)
		s.await(t, "the fence", func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool { return e.fence() == h.nfences })
		})
		for _, e := range s.since(0) {
			if e.Between != nil {
				found = append(found, driftBrief(&e.Event))
			}
		}
		slices.Sort(found)
		return found
	}
	witness := h.streams[0]
	from := witness.len()
	check := func(s *stream, must ...string) {
		t.Helper()
		got := ready(s)
		for _, e := range only(witness.since(from), event.NamespaceCreate) {
			if e.Process.Comm == "ip" && e.Namespace.Type == event.NSTypeMnt { // of ip netns exec
				witness.awaitDestroy(t, from, e.Namespace)
			}
		}
		want := watched(witness.since(from))
		// This test keeps no mount namespace alive. Other programs on this machine do, for example
		// another nstrace, which the witness leaves out and a recorder does not.
		got, want = slices.DeleteFunc(got, aboutMounts), slices.DeleteFunc(want, aboutMounts)
		if !slices.Equal(got, want) {
			t.Errorf("reported\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		for _, m := range must {
			if !slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, m) }) {
				t.Errorf("the witness has no %q in\n\t%s", m, strings.Join(want, "\n\t"))
			}
		}
	}

	s := record()
	if found := ready(s); len(found) > 0 {
		t.Errorf("the first run reports %q", found)
	}
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=61")
	ready(s)
	s.interrupt(t)
	s.checkEnd(t, true)

	// nstrace was stopped in order.
	h.fence(t)
	from = witness.len()
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=62")
	output(t, "ip", "netns", "add", name)
	s = record()
	check(s, `drift vm.overcommit_ratio ["61"] → ["62"]`, "appeared net")
	for _, e := range s.since(0) {
		if e.Between != nil && (e.Between.Boot != "same" || e.Between.From.Before(h.started) || !e.Between.From.Before(e.Between.To)) {
			t.Errorf("between %+v", *e.Between)
		}
	}

	// nstrace is killed after it has recorded something.
	output(t, "ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=651")
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=63")
	ready(s)
	s.awaitHistory(t, db, "63")
	s.awaitSnapshot(t, db)
	// nstrace knows a newer namespace than the snapshot from the recorded writes to it.
	output(t, "ip", "netns", "add", name+"-later")
	output(t, "ip", "netns", "exec", name+"-later", "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=661")
	s.awaitHistory(t, db, "661")
	s.cmd.Process.Kill()
	s.awaitEnd(t)
	h.fence(t)
	from = witness.len()
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=64")
	output(t, "ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=652")
	output(t, "ip", "netns", "exec", name+"-later", "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=662")
	s = record()
	check(s, `drift vm.overcommit_ratio ["63"] → ["64"]`, `drift net.ipv4.tcp_keepalive_time ["651"] → ["652"]`,
		`drift net.ipv4.tcp_keepalive_time ["661"] → ["662"]`)
	s.interrupt(t)
	s.checkEnd(t, true)

	h.fence(t)
	from = witness.len()
	gone, err := nsID("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	output(t, "ip", "netns", "delete", name)
	witness.awaitFrom(t, from, "its end", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.ID == gone })
	})
	s = record()
	check(s, fmt.Sprintf("gone net %d", gone))
	s.interrupt(t)
	s.checkEnd(t, true)

	// The history has them, too.
	past := output(t, nstraceBin, "history", "--db", db, "-e", "sysctl.drift,namespace.gone", "-o", "json")
	for _, want := range []string{`"old":"61","after":"62"`, `"old":"63","after":"64"`, fmt.Sprintf(`"type":"net","id":%d,`, gone), `"boot":"same"`} {
		if !strings.Contains(past, want) {
			t.Errorf("the history has no %s:\n%s", want, past)
		}
	}
}

// TestRecordDriftRunning changes parameters while nstrace records, by other ways than a write to their file.
// Each is a difference within a minute or so. A difference that a traced write explains is none.
func TestRecordDriftRunning(t *testing.T) {
	anyKernel(t)
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes more than a minute: make test-all")
	}
	t.Parallel()
	restore := map[string]string{}
	for _, path := range []string{"/proc/sys/vm/dirty_ratio", "/proc/sys/kernel/printk", "/proc/sys/vm/swappiness"} {
		restore[path] = readFile(t, path)
	}
	t.Cleanup(func() {
		for path, value := range restore {
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				t.Error(err)
			}
		}
	})
	db := filepath.Join(t.TempDir(), "history.db")
	s := startStream(t, "record", "--db", db, "--backend", string(backends[0]))
	s.awaitStart(t)
	s.awaitSnapshot(t, db)
	output(t, "sysctl", "-qw", "vm.dirty_ratio=33", "vm.swappiness=33", "kernel.printk=4 4 1 7")
	output(t, "sysctl", "-qw", "vm.dirty_bytes=104857600")
	output(t, "dmesg", "-n", "6")
	want := map[string]string{"vm.dirty_ratio": "33 -> 0", "kernel.printk": "4 4 1 7 -> 6 4 1 7"}
	got := map[string]string{}
	s.await(t, "both differences", func(all []*emitted) bool {
		for _, e := range only(all, event.SysctlDrift) {
			if b := e.Between; !b.Recording || b.Boot != "same" || e.Process != nil {
				t.Errorf("%s", e.line)
			}
			got[e.Sysctl.Name] = strings.Join(strings.Fields(*e.Sysctl.Old+" -> "+*e.Sysctl.After), " ")
		}
		return got["vm.dirty_ratio"] != "" && got["kernel.printk"] != ""
	})
	for name, change := range want {
		if got[name] != change {
			t.Errorf("%s: %q, want %q", name, got[name], change)
		}
	}
	if change, ok := got["vm.swappiness"]; ok {
		t.Errorf("vm.swappiness: %q", change)
	}
	for _, args := range [][]string{{"-o", "json"}, {"-o", "wide"}} {
		_, out, _ := nstrace(t, append([]string{"blame", "--db", db, "vm.dirty_ratio"}, args...))
		if want := map[string]string{"json": `"recording":true`, "wide": "no traced write"}[args[1]]; !strings.Contains(out, want) {
			t.Errorf("blame %q: no %q in %s", args, want, out)
		}
	}
	s.interrupt(t)
}

// TestRecordDriftLate starts a run while the database is locked, as by a previous run that was killed
// and has not exited yet. No event comes after the database is unlocked. The run must still report
// what changed before it.
func TestRecordDriftLate(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	const param = "/proc/sys/vm/overcommit_ratio"
	ratio := readFile(t, param)
	t.Cleanup(func() {
		if err := os.WriteFile(param, []byte(ratio), 0); err != nil {
			t.Error(err)
		}
	})
	record := func() *stream {
		t.Helper()
		s := startStream(t, "record", "--db", db, "--event", "sysctl", "--backend", string(backends[0]))
		s.awaitStart(t)
		return s
	}
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=70")
	s := record()
	s.awaitSnapshot(t, db)
	s.interrupt(t)
	s.checkEnd(t, true)
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=71")

	lock, err := os.OpenFile(db+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	s = record()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	s.await(t, "the drift", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Type == event.SysctlDrift && driftBrief(&e.Event) == `drift vm.overcommit_ratio ["70"] → ["71"]`
		})
	})
	s.interrupt(t)
	if s.err != nil || !strings.Contains(s.stderr.String(), "another nstrace records to it") {
		t.Errorf("%v: %v\n%s", s, s.err, s.stderr.String())
	}
}

// TestBlameDrifted sets a parameter twice while nstrace does not run, the second time to its first
// value. Without the result of the recorded write, the write looks refused. The drift events show that
// it was not.
func TestBlameDrifted(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	const param = "vm.overcommit_ratio"
	before := strings.TrimSpace(output(t, "sysctl", "-n", param))
	set := func(value string) { output(t, "sysctl", "-qw", param+"="+value) }
	t.Cleanup(func() { set(before) })
	watched := func(during func(*stream)) {
		t.Helper()
		s := startStream(t, "record", "--db", db, "--backend", string(backends[len(backends)-1]))
		s.awaitStart(t)
		s.awaitSnapshot(t, db)
		during(s)
		s.interrupt(t)
		s.checkEnd(t, true)
	}
	check := func(state, recorded string) {
		t.Helper()
		got := blame(t, db, param)
		if len(got) != 1 || got[0].State != state || got[0].Recorded == nil || *got[0].Recorded != recorded {
			t.Errorf("%+v, want %s, recorded %q", got, state, recorded)
		}
	}
	watched(func(s *stream) {
		set("81")
		s.awaitHistory(t, db, "81")
	})
	check("recorded", "81")
	set("82")
	check("drifted", "81")
	watched(func(*stream) {})
	set(before)
	check("drifted", "81")
}

func aboutMounts(brief string) bool {
	return strings.HasPrefix(brief, "appeared mnt ") || strings.HasPrefix(brief, "gone mnt ")
}

// awaitHistory waits until a write of a value is in the database. That happens a moment after it is
// streamed.
func (s *stream) awaitHistory(t *testing.T, db, value string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if strings.Contains(output(t, nstraceBin, "history", "--db", db, "-o", "json", "--filter", `sysctl.new == "`+value+`"`), `"new":"`+value+`"`) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v: no write of %s in the history", s, value)
		}
	}
}

// awaitSnapshot waits until this run has stored a snapshot. The run takes it in the background after it
// has reported the differences. Only then it knows the parameters of a new namespace.
func (s *stream) awaitSnapshot(t *testing.T, db string) {
	t.Helper()
	started := s.since(0)[0].Time
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		h, err := history.Open(db)
		if err != nil {
			t.Fatal(err)
		}
		left, ok, err := h.Snapshot("drift")
		h.Close()
		if err != nil {
			t.Fatal(err)
		}
		if ok && left.Taken.After(started) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v: no snapshot since %v", s, started)
		}
	}
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// netns returns the network namespace of a name in a snapshot.
func (h *host) netns(t *testing.T, s *drift.Snapshot, name string) *event.Namespace {
	t.Helper()
	for _, ns := range s.Namespaces {
		if ns.Name == name {
			return &ns.Namespace
		}
	}
	t.Fatalf("no network namespace %s", name)
	return nil
}

// endsOf waits for the ends of the namespaces that a script made and did not keep: its mount
// namespaces, and those that only its processes were in.
func (w *work) endsOf(t *testing.T, s *stream, events []*emitted) {
	t.Helper()
	for _, e := range only(events, event.NamespaceCreate) {
		if e.Outcome == event.Success && !slices.ContainsFunc(pinnedNets(t), func(id uint32) bool { return id == e.Namespace.ID }) {
			s.awaitDestroy(t, w.from[s], e.Namespace)
		}
	}
}

// pinnedNets are the numbers of the namespaces in /run/netns.
func pinnedNets(t *testing.T) (all []uint32) {
	t.Helper()
	files, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if id, err := nsID(file); err == nil {
			all = append(all, id)
		}
	}
	return all
}
