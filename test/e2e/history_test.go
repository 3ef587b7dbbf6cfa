// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// pastEvents returns the events that nstrace history -o json shows with more flags. It checks them
// against the schema.
func pastEvents(t *testing.T, db string, args ...string) []*emitted {
	t.Helper()
	status, stdout, stderr := nstrace(t, append([]string{"history", "--db", db, "-o", "json"}, args...))
	if status != 0 {
		t.Fatalf("history %q: status %d: %s", args, status, stderr)
	}
	var all []*emitted
	for l := range strings.Lines(stdout) {
		e, err := parseEvent([]byte(l))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// A blameLine is one line of nstrace blame -o json.
type blameLine struct {
	Parameter string
	Namespace *event.Namespace
	Value     *string
	State     string
	Recorded  *string
	Writes    uint64
	Event     *event.Event
}

func blame(t *testing.T, db string, args ...string) []blameLine {
	t.Helper()
	status, stdout, stderr := nstrace(t, append([]string{"blame", "--db", db, "-o", "json"}, args...))
	if status != 0 {
		t.Fatalf("blame %q: status %d: %s", args, status, stderr)
	}
	var all []blameLine
	for d := json.NewDecoder(strings.NewReader(stdout)); d.More(); {
		var l blameLine
		if err := d.Decode(&l); err != nil {
			t.Fatalf("%v in %s", err, stdout)
		}
		all = append(all, l)
	}
	return all
}

// what returns the part of an event that two tracers agree on. It excludes its number, and what
// each tracer determines by itself, such as the uid if the kernel has none.
func what(e *emitted) string {
	var b strings.Builder
	fmt.Fprint(&b, e.Type, " ", e.Outcome, " ", e.Error, " ", e.Via)
	if s := e.Sysctl; s != nil {
		after := s.After
		if s.AfterRead { // the other one can have had no time for that
			after = nil
		}
		for _, v := range []*string{s.Old, s.New, after} {
			if v == nil {
				fmt.Fprint(&b, " -")
			} else {
				fmt.Fprintf(&b, " %q", *v)
			}
		}
		fmt.Fprint(&b, " ", s.Name)
	}
	if p := e.Process; p != nil {
		fmt.Fprint(&b, " by ", p.PID, " ", p.Comm, " ", p.Exe, " ", p.Args, " ", p.UID)
	}
	if ns := e.Namespace; ns != nil {
		fmt.Fprint(&b, " ", ns.Type, " ", ns.ID, " from ", ns.From)
	}
	return b.String()
}

// compareWhat compares the events of two nstraces, except for those that each finds by a scan. Each nstrace
// reports that the other one enters a namespace to read a value.
func compareWhat(t *testing.T, name string, got, want []*emitted) {
	t.Helper()
	of := func(events []*emitted) (all []string) {
		for _, e := range events {
			if !own(e) && (e.Namespace == nil || e.Namespace.Detected == "") {
				all = append(all, what(e))
			}
		}
		return all
	}
	g, w := of(got), of(want)
	if len(w) == 0 || !slices.Equal(g, w) {
		t.Errorf("%s:\ngot  %s\nwant %s", name, strings.Join(g, "\n     "), strings.Join(w, "\n     "))
	}
}

// TestHistory records what ip, sysctl and runc do while another nstrace streams it. Then it queries
// who did it.
func TestHistory(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	db := filepath.Join(dir, "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	live := startStream(t, "--runtime-socket", "none")
	live.awaitStart(t)

	name := fmt.Sprintf("history%d", os.Getpid())
	const param = "net.ipv4.tcp_keepalive_time"
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	id, err := nsID("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"601", "602"} {
		output(t, "ip", "netns", "exec", name, "sysctl", "-q", "-w", param+"="+value)
	}
	output(t, "ip", "netns", "exec", name, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")

	written := func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Sysctl != nil && e.Sysctl.Name == "net.ipv4.ip_forward" && e.Sysctl.Namespace != nil && e.Sysctl.Namespace.ID == id
		})
	}
	live.await(t, "the last write", written)
	rec.await(t, "the last write", written)

	rec.interrupt(t)
	rec.checkEnd(t, true)
	var lines bytes.Buffer
	for _, e := range rec.since(0) {
		lines.Write(e.line)
	}
	if _, stdout, _ := nstrace(t, []string{"history", "--db", db, "-o", "json"}); stdout != lines.String() {
		t.Errorf("the history differs from the stream:\n%s\nwant\n%s", stdout, lines.String())
	}

	// The history of one parameter.
	var wrote, about []*emitted
	for _, e := range live.since(0) {
		ns := e.Namespace
		if e.Sysctl != nil {
			ns = e.Sysctl.Namespace
		}
		left := e.Type == event.NamespaceEnter && ns != nil && ns.From == id
		if ns == nil || ns.ID != id && !left || ns.Type != event.NSTypeNet || own(e) { // record itself enters it for its snapshot
			continue
		}
		about = append(about, e)
		if e.Sysctl != nil && e.Sysctl.Name == param {
			wrote = append(wrote, e)
		}
	}
	if len(wrote) != 2 {
		t.Fatalf("%d writes: %s", len(wrote), dump(wrote))
	}
	compareWhat(t, "history sysctl", pastEvents(t, db, "sysctl", param, "--netns", fmt.Sprint(id)), wrote)
	// The history of the namespace so far.
	compareWhat(t, "history ns", pastEvents(t, db, "ns", fmt.Sprint(id), "-t", "net"), about) // another namespace can have had the number
	compareWhat(t, "history ns by name", pastEvents(t, db, "ns", name), about)
	// The filters are those of the stream.
	compareWhat(t, "history -n", pastEvents(t, db, "--netns", fmt.Sprint(id), "-e", "sysctl", "-c", "sysctl", "-n", "1", "--since", "-1h"), wrote[1:])
	compareWhat(t, "history --grep --reverse", pastEvents(t, db, "--sysctl", param, "--grep", `"NEW":"60[12]"`+"|"+fmt.Sprint(id), "--netns", fmt.Sprint(id), "--reverse"), []*emitted{wrote[1], wrote[0]})
	if past := pastEvents(t, db, "--until", "yesterday"); len(past) > 0 {
		t.Errorf("before yesterday: %s", dump(past))
	}

	// Who set it, first as recorded, and then after a change that nstrace did not see.
	ofNet := []string{param, "--netns", fmt.Sprint(id)}
	check := func(state, value string) {
		t.Helper()
		got := blame(t, db, ofNet...)
		if len(got) != 1 || got[0].State != state || got[0].Value == nil || *got[0].Value != value || got[0].Recorded == nil || *got[0].Recorded != "602" ||
			got[0].Writes != 2 || got[0].Event == nil || got[0].Event.Process.PID != wrote[1].Process.PID {
			t.Errorf("blame %q: %+v, want %s %s by %s", ofNet, got, state, value, wrote[1].line)
		}
	}
	check("recorded", "602")
	output(t, "ip", "netns", "exec", name, "sysctl", "-q", "-w", param+"=603")
	check("drifted", "603")
	if _, stdout, _ := nstrace(t, append([]string{"blame", "--db", db}, ofNet...)); !strings.Contains(stdout, "drifted:") || !strings.Contains(stdout, "603") {
		t.Errorf("the table lacks it:\n%s", stdout)
	}
	if got := blame(t, db, param); slices.ContainsFunc(got, func(l blameLine) bool { return l.Namespace != nil && l.Namespace.ID == id }) {
		t.Errorf("the host's parameters: %+v", got)
	}

	// The next run reports the gap, and is killed in the middle of a storm.
	again := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	again.await(t, "trace.gap", func(all []*emitted) bool { return len(all) > 1 })
	checkGap(t, again, rec, event.GapStopped)
	storm := exec.Command("ip", "netns", "exec", name, "sh", "-c", "while :; do echo 604 > /proc/sys/net/ipv4/tcp_keepalive_time; echo 605 > /proc/sys/net/ipv4/tcp_keepalive_time; done")
	if err := storm.Start(); err != nil {
		t.Fatal(err)
	}
	// Wait until a part of it is on the disk, even on a fast machine.
	const enough = 300
	for deadline := time.Now().Add(patience); ; {
		n := len(pastEvents(t, db, "sysctl", param, "--netns", fmt.Sprint(id), "-n", fmt.Sprint(enough)))
		if n == enough {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d writes are in the history after %v", n, patience)
		}
	}
	if err := again.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again.awaitEnd(t)
	storm.Process.Kill()
	storm.Wait()
	// The history has the events of the stream in order, at least those that were committed a
	// second before.
	kept := pastEvents(t, db)[rec.len():]
	streamed := again.since(0)
	if len(kept) < enough || len(kept) > len(streamed)+100_000 {
		t.Errorf("the history has %d of %d events", len(kept), len(streamed))
	}
	for i := range min(len(kept), len(streamed)) {
		if !bytes.Equal(kept[i].line, streamed[i].line) {
			t.Fatalf("event %d:\n%swas streamed as\n%s", i, kept[i].line, streamed[i].line)
		}
	}

	third := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	third.await(t, "trace.gap", func(all []*emitted) bool { return len(all) > 1 })
	checkGap(t, third, again, event.GapCrashed)
	output(t, "ip", "netns", "del", name)
	gone := func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.ID == id })
	}
	third.await(t, "its end", gone)
	third.interrupt(t)
	third.checkEnd(t, true)
	life := pastEvents(t, db, "ns", fmt.Sprint(id), "-t", "net", "-e", "namespace.create,namespace.destroy")
	if len(life) != 2 || life[0].Type != event.NamespaceCreate || life[1].Type != event.NamespaceDestroy {
		t.Errorf("the history of the namespace: %s", dump(life))
	}

	// The chain is intact, also after an export and an import.
	status, stdout, stderr := nstrace(t, []string{"history", "verify", "--db", db})
	if status != 0 || !strings.Contains(stdout, "nothing was removed or changed") {
		t.Errorf("verify: %d %s%s", status, stdout, stderr)
	}
	copied := filepath.Join(dir, "copy.db")
	output(t, "sh", "-c", `"$0" history export --db "$1" | "$0" history import - --db "$2"`, nstraceBin, db, copied)
	if _, again, _ := nstrace(t, []string{"history", "verify", "--db", copied}); again != stdout {
		t.Errorf("verify: %s\nof the copy: %s", stdout, again)
	}
	// It also shows a change.
	file := filepath.Join(dir, "export.json")
	output(t, "sh", "-c", `"$0" history export --db "$1" | sed 's/"new":"602"/"new":"666"/' > "$2"`, nstraceBin, db, file)
	status, _, stderr = nstrace(t, []string{"history", "import", file, "--db", filepath.Join(dir, "forged.db")})
	if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "does not follow from the previous event") {
		t.Errorf("a forged export: %d %s", status, stderr)
	}
}

// TestStandby has two recorders on one database. One of them is killed or ended in the middle of
// writes. The history must have each write once.
func TestStandby(t *testing.T) {
	anyKernel(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			db := filepath.Join(t.TempDir(), "history.db")
			name := fmt.Sprintf("standby%d", os.Getpid())
			output(t, "ip", "netns", "add", name)
			t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
			id, err := nsID("/run/netns/" + name)
			if err != nil {
				t.Fatal(err)
			}
			first := startStream(t, "record", "--db", db, "--runtime-socket", "none")
			first.awaitStart(t)
			second := startStream(t, "record", "--db", db, "--runtime-socket", "none")
			second.awaitStart(t)

			const writes, endAfter = 200, 100
			sh := exec.Command("ip", "netns", "exec", name, "sh")
			in, err := sh.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := sh.Start(); err != nil {
				t.Fatal(err)
			}
			nth := func(n int) func([]*emitted) bool {
				value := fmt.Sprint(7000 + n)
				return func(all []*emitted) bool {
					return slices.ContainsFunc(all, func(e *emitted) bool { return e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == value })
				}
			}
			life := func(args ...string) []*emitted {
				return pastEvents(t, db, append([]string{"sysctl", "net.ipv4.tcp_keepalive_time", "--netns", fmt.Sprint(id)}, args...)...)
			}
			awaitKept := func(what string, done func([]*emitted) bool) {
				t.Helper()
				for deadline := time.Now().Add(patience); !done(life()); {
					if time.Now().After(deadline) {
						t.Fatalf("%s is not in the history after %v: %s", what, patience, dump(life("-n", "5")))
					}
				}
			}
			for n := range writes {
				if _, err := fmt.Fprintf(in, "echo %d > /proc/sys/net/ipv4/tcp_keepalive_time\n", 7000+n); err != nil {
					t.Fatal(err)
				}
				if n == endAfter {
					awaitKept("a write", nth(endAfter/2))
					if err := first.cmd.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := errors.Join(in.Close(), sh.Wait()); err != nil {
				t.Fatal(err)
			}
			first.awaitEnd(t)
			second.await(t, "the last write", nth(writes-1))
			awaitKept("the last write", nth(writes-1))
			second.interrupt(t)
			if second.err != nil {
				t.Errorf("%v: %v", second, second.err)
			}
			for _, say := range []string{"another nstrace records to it: streaming, and standing by", "recording continues where the other nstrace ended"} {
				if n := strings.Count(second.stderr.String(), say); n != 1 {
					t.Errorf("%d times %q in %s", n, say, second.stderr.String())
				}
			}
			var got []string
			for _, e := range life() {
				got = append(got, *e.Sysctl.New)
			}
			for n := range max(writes, len(got)) {
				if n >= len(got) || got[n] != fmt.Sprint(7000+n) {
					t.Fatalf("write %d is not in its place in %s", 7000+n, got)
				}
			}
			for _, e := range pastEvents(t, db) {
				switch e.Type {
				case event.TraceGap, event.SysctlDrift, event.NamespaceAppeared, event.NamespaceGone:
					t.Errorf("one recorder was running all the time, but the history has %s", e.line)
				}
			}
			if status, stdout, stderr := nstrace(t, []string{"history", "verify", "--db", db}); status != 0 {
				t.Errorf("verify: %d %s%s", status, stdout, stderr)
			}
		})
	}
}

// checkGap checks what the second run reports about the time since the first.
func checkGap(t *testing.T, s, before *stream, ended string) {
	t.Helper()
	all, past := s.since(0), before.since(0)
	g := all[1]
	if g.Type != event.TraceGap || g.Trace.Ended != ended || g.Trace.SameBoot == nil || !*g.Trace.SameBoot ||
		!g.Trace.To.Equal(all[0].Time) || !g.Trace.From.Before(g.Trace.To) || g.Trace.From.Before(past[0].Time) {
		t.Errorf("%s", g.line)
	}
}

// TestHistoryOfContainer queries who set what runc sets before the container's program starts.
func TestHistoryOfContainer(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	db := filepath.Join(dir, "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	bundle := filepath.Join(dir, "bundle")
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "cp", "/usr/bin/busybox", bin)
	output(t, "runc", "spec", "--bundle", bundle)
	file := filepath.Join(bundle, "config.json")
	var config map[string]any
	if err := json.Unmarshal([]byte(readFile(t, file)), &config); err != nil {
		t.Fatal(err)
	}
	process, linux := config["process"].(map[string]any), config["linux"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/bin/busybox", "readlink", "/proc/self/ns/net"}
	linux["sysctl"] = map[string]string{"net.ipv4.tcp_keepalive_time": "608"}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	id := parseID(t, output(t, "runc", "--root", filepath.Join(dir, "root"), "run", "--bundle", bundle, fmt.Sprintf("history-%d", os.Getpid())))
	rec.await(t, "the end of its network", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.NamespaceDestroy && e.Namespace.ID == id })
	})
	rec.interrupt(t)

	var want []*emitted
	for _, e := range rec.since(0) {
		if e.Sysctl != nil && e.Sysctl.Name == "net.ipv4.tcp_keepalive_time" && e.Sysctl.Namespace != nil && e.Sysctl.Namespace.ID == id {
			want = append(want, e)
		}
	}
	compareWhat(t, "history sysctl", pastEvents(t, db, "sysctl", "/proc/sys/net/ipv4/tcp_keepalive_time", "--netns", fmt.Sprint(id)), want)
	got := blame(t, db, "net.ipv4.tcp_keep*", "--netns", fmt.Sprint(id))
	if len(got) != 1 || got[0].State != "gone" || got[0].Writes != uint64(len(want)) || *got[0].Recorded != "608" ||
		!strings.Contains(got[0].Event.Process.Comm, "runc") {
		t.Errorf("%+v", got)
	}
}

// TestHistoryOfNothing checks the messages that explain why there are no events.
func TestHistoryOfNothing(t *testing.T) {
	anyKernel(t)
	dir, err := os.MkdirTemp("", "nstrace-e2e-") // which everybody can read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "history.db")
	s := startStream(t, "record", "--db", db, "--backend", string(backends[0]))
	s.awaitStart(t)
	s.interrupt(t)
	s.checkEnd(t, true)
	for args, want := range map[string]string{
		"blame nope.* net.nope":    "no recorded write to nope.* or net.nope",
		"blame --netns nope":       "no recorded write to any parameter in network namespace nope",
		"blame --all nope.*":       "no such parameter: nope.*",
		"history sysctl nope.nope": "no matching events: writes to nope.nope",
		"history ns nope":          "no matching events: events about namespace nope",
	} {
		status, _, stderr := nstrace(t, append(strings.Fields(args), "--db", db))
		if status != 0 || stderr != "nstrace: "+want+"\n" {
			t.Errorf("%s: status %d, %q, want %q", args, status, stderr, want)
		}
	}
	for _, args := range []string{"history", "blame", "history verify", "history export"} {
		status, stdout, stderr := nstrace(t, append(strings.Fields(args), "--db", db), asUser(65534))
		if want := fmt.Sprintf("nstrace: --db: %s: permission denied\n", db); status != 1 || stdout != "" || stderr != want {
			t.Errorf("%s: status %d, %q %q, want %q", args, status, stdout, stderr, want)
		}
	}
}

// TestHistoryMoved moves the history away while it is recorded and followed. Both continue in a new
// one, and no event is missing.
func TestHistoryMoved(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	name := fmt.Sprintf("moved%d", os.Getpid())
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	write := func(value int) {
		t.Helper()
		output(t, "ip", "netns", "exec", name, "sysctl", "-qw", fmt.Sprintf("net.ipv4.tcp_keepalive_time=%d", value))
	}
	s := startStream(t, "record", "--db", db, "--netns", name, "--backend", string(backends[0]))
	s.awaitStart(t)
	follow := startStream(t, "history", "sysctl", "net.ipv4.tcp_keepalive_time", "--db", db, "--follow")
	had := func(value int) func([]*emitted) bool {
		return func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool { return e.Sysctl != nil && *e.Sysctl.New == fmt.Sprint(value) })
		}
	}
	write(701)
	follow.await(t, "the first write", had(701))
	kept := db + ".kept"
	if err := os.Rename(db, kept); err != nil {
		t.Fatal(err)
	}
	write(702)
	follow.await(t, "the second write", had(702))
	follow.interrupt(t)
	s.interrupt(t)
	if said := "somebody moved, removed or replaced the database"; s.err != nil || strings.Count(s.stderr.String(), said) != 1 {
		t.Errorf("%v: %v\n%s", s, s.err, s.stderr.String())
	}
	var values []string
	for _, e := range follow.since(0) {
		values = append(values, *e.Sysctl.New)
	}
	if !slices.Equal(values, []string{"701", "702"}) {
		t.Errorf("--follow printed %q", values)
	}
	for path, value := range map[string]int{kept: 701, db: 702} {
		if status, stdout, stderr := nstrace(t, []string{"history", "verify", "--db", path}); status != 0 {
			t.Errorf("verify: %s%s", stdout, stderr)
		}
		past := pastEvents(t, path, "sysctl", "net.ipv4.tcp_keepalive_time")
		if len(past) != 1 || !had(value)(past) {
			t.Errorf("%s has\n%s", path, dump(past))
		}
	}
}
