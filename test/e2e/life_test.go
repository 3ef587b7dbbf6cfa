// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// reuse makes network namespaces until one has a number again, and gives it a name of ip netns.
func reuse(t *testing.T, id uint32, name string) {
	t.Helper()
	// The kernel gives out the lowest number that is free, as soon as it has freed the namespace.
	for deadline := time.Now().Add(patience); ; {
		output(t, "ip", "netns", "add", name)
		got, err := nsID("/run/netns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got == id {
			break
		}
		output(t, "ip", "netns", "del", name)
		if time.Now().After(deadline) {
			t.Skipf("no namespace gets the number %d again", id)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
}

// ended reports whether the end of the network namespace with a number is among events.
func ended(id uint32) func([]*emitted) bool {
	return func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Type == event.NamespaceDestroy && e.Namespace.Type == event.NSTypeNet && e.Namespace.ID == id
		})
	}
}

// TestReusedNumber writes in a network namespace that ends, and gives its number to another one, to which
// nobody writes. blame and history tell them apart.
func TestReusedNumber(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	const param = "net.ipv4.tcp_keepalive_time"
	id := parseID(t, strings.TrimSpace(output(t, "unshare", "-n", "sh", "-c", "readlink /proc/self/ns/net; echo 611 > "+event.SysctlPath(param))))
	rec.await(t, "the end of the first namespace", ended(id))
	web := fmt.Sprintf("web%d", os.Getpid())
	reuse(t, id, web)

	for _, netns := range []string{web, fmt.Sprint(id), "/run/netns/" + web} {
		if got := blame(t, db, "--netns", netns); len(got) != 0 {
			t.Errorf("blame --netns %s: %+v, but nobody wrote there", netns, got)
		}
	}
	of := func(id uint32) (lines []blameLine) {
		for _, l := range blame(t, db, "--all-netns", param) {
			if l.Namespace != nil && l.Namespace.ID == id && !l.Namespace.Host {
				lines = append(lines, l)
			}
		}
		return lines
	}
	if got := of(id); len(got) != 1 || got[0].State != "gone" || got[0].Value != nil {
		t.Errorf("blame --all-netns: %+v, want one write in a namespace that is gone", got)
	}

	output(t, "ip", "netns", "exec", web, "sysctl", "-q", "-w", param+"=622")
	if got := blame(t, db, "--netns", web, param); len(got) != 1 || got[0].State != "recorded" || *got[0].Value != "622" || got[0].Writes != 1 {
		t.Errorf("blame --netns %s: %+v, want its one write", web, got)
	}
	if got := of(id); len(got) != 2 {
		t.Errorf("blame --all-netns: %+v, want a write in each namespace", got)
	}

	// The history of the number, of the name, and of --netns is that of the second namespace.
	for _, args := range [][]string{{"ns", fmt.Sprint(id)}, {"ns", web}, {"--netns", fmt.Sprint(id)}} {
		args = append(args, "-t", "net")
		uids := map[string]bool{}
		for _, e := range pastEvents(t, db, args...) {
			for _, ns := range e.Namespaces() {
				if ns != nil && ns.ID == id {
					uids[ns.UID] = true
				}
			}
			if e.Sysctl != nil && *e.Sysctl.New != "622" {
				t.Errorf("history %q shows a write in the first namespace: %s", args, e.line)
			}
		}
		if len(uids) != 1 {
			t.Errorf("history %q is about the namespaces %v, want one", args, uids)
		}
	}
	_, _, stderr := nstrace(t, []string{"history", "ns", fmt.Sprint(id), "-t", "net", "--db", db, "-o", "json"})
	if !strings.Contains(stderr, "also recorded: ") {
		t.Errorf("nothing says that another namespace had the number: %q", stderr)
	}

	// A name of ip netns that is given again.
	first, err := nsID("/run/netns/" + web)
	if err != nil {
		t.Fatal(err)
	}
	from := rec.len()
	output(t, "ip", "netns", "del", web)
	rec.awaitFrom(t, from, "the end of the second namespace", ended(first))
	output(t, "ip", "netns", "add", web)
	if got := blame(t, db, "--netns", web); len(got) != 0 {
		t.Errorf("blame --netns %s after it was made again: %+v, but nobody wrote there", web, got)
	}
	if got := pastEvents(t, db, "ns", web, "-e", "sysctl"); len(got) != 1 {
		t.Errorf("history ns %s -e sysctl: %s, want the write in the namespace that had the name then", web, dump(got))
	}
	if got := pastEvents(t, db, "ns", web, "-t", "net"); slices.ContainsFunc(got, func(e *emitted) bool { return e.Sysctl != nil }) {
		t.Errorf("history ns %s: %s, want only the namespace that has the name now", web, dump(got))
	}
	rec.interrupt(t)
	rec.checkEnd(t, true)
}

// TestBlameAtOnce asks for a parameter right after each write. blame never compares the value with an older
// history.
func TestBlameAtOnce(t *testing.T) {
	long(t)
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	const param = "vm.stat_interval"
	before := strings.TrimSpace(readFile(t, event.SysctlPath(param)))
	t.Cleanup(func() { _ = os.WriteFile(event.SysctlPath(param), []byte(before), 0) })
	for i := range 5 {
		value := fmt.Sprint(20 + i)
		output(t, "sysctl", "-q", "-w", param+"="+value)
		got := blame(t, db, param)
		if len(got) != 1 || got[0].State != "recorded" || *got[0].Value != value || *got[0].Recorded != value || int(got[0].Writes) != i+1 {
			t.Fatalf("after write %d of %s: %+v", i+1, value, got)
		}
	}
	// While others write, it is the value of a write that happened, or nothing is said of it.
	storm := exec.Command("sh", "-c", "while :; do echo 31 > "+event.SysctlPath(param)+"; echo 32 > "+event.SysctlPath(param)+"; done")
	if err := storm.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := blame(t, db, param); len(got) != 1 || got[0].State == "drifted" {
			t.Errorf("during writes: %+v", got)
		}
	}
	_ = storm.Process.Kill()
	_ = storm.Wait()
	// Afterwards there is time to read a value again, if the record does not show it.
	for known := false; !known; {
		from := rec.len()
		if err := os.WriteFile(event.SysctlPath(param), []byte("33"), 0); err != nil {
			t.Fatal(err)
		}
		rec.awaitFrom(t, from, "the last write", func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool {
				last := e.Sysctl != nil && e.Sysctl.Name == param && *e.Sysctl.New == "33"
				known = known || last && e.Sysctl.After != nil
				return last
			})
		})
	}
	rec.interrupt(t) // a slow machine has no time for a snapshot right after so many writes, and the recorder says so
	if err := os.WriteFile(event.SysctlPath(param), []byte("41"), 0); err != nil {
		t.Fatal(err)
	}
	if got := blame(t, db, param); len(got) != 1 || got[0].State != "drifted" {
		t.Errorf("after a write that nobody recorded: %+v, want drifted", got)
	}
}

// TestBehind has a recorder that does not answer, because others can write to the folder. blame and history say that the
// newest events can be missing.
func TestBehind(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(openDir(t, 0o777|os.ModeSticky), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	warning := db + " can lack the newest events: a recorder writes to it, and does not answer"
	for _, running := range []bool{true, false} {
		for _, command := range []string{"blame", "history", "history deviations", "history boots"} {
			_, _, stderr := nstrace(t, append(strings.Fields(command), "--db", db, "-q"))
			if n := strings.Count(stderr, warning); n != 1 == running {
				t.Errorf("a recorder runs: %v; %s warns %d times: %s", running, command, n, stderr)
			}
		}
		if running {
			rec.interrupt(t)
		}
	}
}

// TestRecordedHost reads a history of two boots of another host. Whose namespaces are the host's own is what the
// history says, not what the reader's host has.
func TestRecordedHost(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: db, BootID: "b1", Host: "other"})
	if err != nil {
		t.Fatal(err)
	}
	own, err := nsID("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	const theirs = 4026531900
	for i, e := range []event.Event{
		{BootID: "b1", Namespace: &event.Namespace{ID: theirs, UID: "1", Host: true, From: 4026532200}},
		{BootID: "b1", Namespace: &event.Namespace{ID: 4026532200, UID: "2", From: theirs}},
		{BootID: "b1", Namespace: &event.Namespace{ID: own, UID: "3", From: own + 1}},
		{BootID: "b2", Namespace: &event.Namespace{ID: 4026532300, UID: "4", From: theirs}},
		{BootID: "b2", Namespace: &event.Namespace{ID: 4026532400, UID: "5", From: own}},
	} {
		e.V, e.Time, e.Seq, e.Host, e.Type, e.Outcome, e.Via = event.SchemaVersion, time.Now(), uint64(i+1), "other", event.NamespaceEnter, event.Success, event.ViaSetns
		e.Namespace.Type, e.Process = event.NSTypeNet, &event.Process{PID: 1, Comm: "x"}
		if err := r.Append(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, stdout, stderr := nstrace(t, []string{"history", "--db", db, "--group=off", "-o", "wide"})
	var rows []string
	for line := range strings.Lines(stdout) {
		if strings.Contains(line, "enter") {
			rows = append(rows, line)
		}
	}
	if len(rows) != 5 {
		t.Fatalf("%s%s", stdout, stderr)
	}
	for i, want := range []string{"(host)", "from host", fmt.Sprint("from ", own+1), fmt.Sprint("from ", theirs), fmt.Sprint("from ", own)} {
		if !strings.Contains(rows[i], want) || strings.Contains(rows[i], "host)") != (i == 0) {
			t.Errorf("row %d is %q, want %q", i, rows[i], want)
		}
	}
}

// TestBlameDevice writes to a parameter of a device, and then gives the device's name to another one, renames the
// device and takes it away.
func TestBlameDevice(t *testing.T) {
	if !hasModules {
		t.Skip("needs the module of a device")
	}
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	name := fmt.Sprintf("dev%d", os.Getpid()%100000)
	ip := func(args ...string) { t.Helper(); output(t, "ip", args...) }
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	ip("link", "add", name, "type", "veth")
	param := "net.ipv4.conf." + name + ".arp_ignore"
	check := func(when, param, state string) {
		t.Helper()
		got := blame(t, db, param)
		if len(got) != 1 || got[0].State != state || (got[0].Value == nil) != (state == "gone") {
			t.Errorf("%s: %+v, want %s", when, got, state)
		}
	}
	output(t, "sysctl", "-q", "-w", param+"=2")
	check("after the write", param, "recorded")
	index := blame(t, db, param)[0].Event.Sysctl.Ifindex
	link, err := net.InterfaceByName(name)
	if err != nil || uint32(link.Index) != index {
		t.Errorf("the index is %d: %+v %v", index, link, err)
	}
	ip("link", "del", name)
	check("without the device", param, "gone")
	ip("link", "add", name, "type", "veth")
	check("another device has the name", param, "gone")
	output(t, "sysctl", "-q", "-w", param+"=1")
	check("after a write to that one", param, "recorded")
	renamed := name + "x"
	ip("link", "set", name, "name", renamed)
	check("it was renamed", param, "gone")
	ip("link", "set", renamed, "name", name)
	check("it has its name again", param, "recorded")
	ip("link", "del", name)
	rec.interrupt(t)
	rec.checkEnd(t, true)
}

// TestHistoryLeft has a process that leaves a network namespace for another one. The history of both has it.
func TestHistoryLeft(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	web, other := fmt.Sprintf("from%d", os.Getpid()), fmt.Sprintf("to%d", os.Getpid())
	for _, name := range []string{web, other} {
		output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	}
	id, err := nsID("/run/netns/" + web)
	if err != nil {
		t.Fatal(err)
	}
	output(t, "ip", "netns", "exec", web, "nsenter", "--net=/run/netns/"+other, "true")
	output(t, "ip", "netns", "exec", other, "true") // from the host's
	to, err := nsID("/run/netns/" + other)
	if err != nil {
		t.Fatal(err)
	}
	left := func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Type == event.NamespaceEnter && e.Namespace.From == id && e.Namespace.ID == to
		})
	}
	rec.await(t, "the enter", left)
	got := pastEvents(t, db, "ns", web)
	if !left(got) {
		t.Errorf("history ns %s lacks the process that left: %s", web, dump(got))
	}
	for _, e := range got {
		if ns := e.Namespace; ns == nil || ns.ID != id && ns.From != id {
			t.Errorf("history ns %s has %s", web, e.line)
		}
	}
	rec.interrupt(t)
	rec.checkEnd(t, true)
}
