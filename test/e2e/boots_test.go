// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	lines "github.com/nstrace/nstrace/output"
)

// TestBoots records this boot after another one, lists both, and selects each.
func TestBoots(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	const earlier = "e0000000-0000-4000-8000-00000000000e"
	at := time.Now().Add(-48 * time.Hour).Truncate(time.Second).UTC()
	r, err := history.Create(history.Options{Path: db, Host: "before", BootID: earlier})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		text := fmt.Sprint(i)
		if err := r.Append(&event.Event{
			V: event.SchemaVersion, Type: event.SysctlWrite, Outcome: event.Success, Time: at.Add(time.Duration(i) * time.Second), Host: "before", BootID: earlier, Seq: uint64(i + 1), Via: "write",
			Sysctl:  &event.Sysctl{Name: "vm.swappiness", Path: "/proc/sys/vm/swappiness", Old: &text, New: &text, After: &text},
			Process: &event.Process{PID: 1, TID: 1, Comm: "init"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s := startStream(t, "record", "--db", db, "--runtime-socket", "none", "-e", "sysctl")
	s.awaitStart(t)
	s.interrupt(t)
	s.checkEnd(t, true)

	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	now := strings.TrimSpace(string(text))
	_, stdout, _ := nstrace(t, []string{"history", "boots", "--db", db, "-o", "json"})
	var boots []lines.Boot
	for decode := json.NewDecoder(strings.NewReader(stdout)); decode.More(); {
		var b lines.Boot
		if err := decode.Decode(&b); err != nil {
			t.Fatal(err)
		}
		boots = append(boots, b)
	}
	if len(boots) != 2 || boots[0].Index != -1 || boots[0].ID != earlier || boots[0].Host != "before" || boots[0].Events != 3 ||
		!boots[0].First.Equal(at) || !boots[0].Last.Equal(at.Add(2*time.Second)) || boots[1].Index != 0 || boots[1].ID != now {
		t.Fatalf("boots: %s", stdout)
	}
	_, stdout, _ = nstrace(t, []string{"history", "boots", "--db", db, "--utc"})
	if rows := strings.Split(stdout, "\n"); len(rows) != 4 || !strings.HasPrefix(rows[0], "IDX BOOT ID ") ||
		!strings.HasPrefix(rows[1], " -1 "+earlier+at.Format(" "+time.DateTime)+at.Add(2*time.Second).Format(" "+time.DateTime)+"      3 before") || !strings.HasPrefix(rows[2], "  0 "+now) {
		t.Errorf("the table is\n%s", stdout)
	}
	// The events of this boot include those of the run, and its start and end.
	for _, b := range boots {
		for _, args := range [][]string{
			{fmt.Sprintf("--boot=%d", b.Index)}, {"--boot", fmt.Sprint(b.Index)}, {"-b", fmt.Sprint(b.Index)}, {"-b", fmt.Sprint(b.Index + 2)}, {"--boot=" + b.ID}, {"-b", strings.ReplaceAll(b.ID, "-", "")},
		} {
			if b.Index == 0 && args[0] == "-b" && args[1] == "0" {
				args = args[:1]
			}
			got := pastEvents(t, db, args...)
			for _, e := range got {
				if e.BootID != b.ID {
					t.Errorf("%q: %s", args, e.line)
				}
			}
			if uint64(len(got)) != b.Events {
				t.Errorf("%q: %d events, want %d", args, len(got), b.Events)
			}
		}
	}
	if got := pastEvents(t, db, "sysctl", "vm.swappiness", "-b", "-1"); len(got) != 3 {
		t.Errorf("history sysctl: %s", dump(got))
	}
	if got := pastEvents(t, db, "sysctl", "vm.swappiness", "-b"); len(got) != 0 {
		t.Errorf("history sysctl: %s", dump(got))
	}
	const absent = "00000000-0000-4000-8000-000000000000"
	for _, test := range []struct {
		boot   string
		status int
		want   string
	}{
		{"-2", 1, "nstrace: --boot: no event of boot -2 is recorded: nstrace history boots lists the boots\n"},
		{"3", 1, "nstrace: --boot: no event of boot 3 is recorded: nstrace history boots lists the boots\n"},
		{absent, 1, "nstrace: --boot: no event of boot " + absent + " is recorded: nstrace history boots lists the boots\n"},
		{"last", 2, "nstrace: --boot: invalid boot \"last\": want for example 0, -1, or an id from nstrace history boots\n"},
	} {
		status, stdout, stderr := nstrace(t, []string{"history", "--db", db, "--boot=" + test.boot})
		if status != test.status || stdout != "" || stderr != test.want {
			t.Errorf("boot %s: status %d, %q, %q, want %q", test.boot, status, stdout, stderr, test.want)
		}
	}
}

// TestWaitForDB records before the folder of the database is there. nstrace says that it is ready once it traces, and
// stores the events once it can.
func TestWaitForDB(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	folder := filepath.Join(dir, "missing")
	db := filepath.Join(folder, "history.db")
	status, _, stderr := nstrace(t, []string{"record", "--db", db})
	if want := fmt.Sprintf("nstrace: --db: there is no folder %q\n", folder); status != 2 || stderr != want {
		t.Errorf("without the flag: status %d, %q, want %q", status, stderr, want)
	}
	const param = "kernel.domainname"
	write := func(value string) {
		t.Helper()
		output(t, "unshare", "--uts", "sysctl", "-q", "-w", param+"="+value)
	}
	wrote := func(value string) func(all []*emitted) bool {
		return func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool {
				return e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == value
			})
		}
	}
	notes := listenNotify(t)
	start := func() *stream {
		t.Helper()
		s := startStream(t, "record", "--db", db, "--wait-for-db", "--runtime-socket", "none", "-e", "sysctl", "--sysctl", param)
		s.awaitStart(t)
		return s
	}
	notWritten := fmt.Sprintf("there is no folder %q", folder)

	// A signal ends it while it waits: it says what is not stored.
	s := start()
	notes.await(t, "READY=1")
	notes.await(t, "STATUS=history: "+notWritten+": keeping up to 1000000 events in memory until the database can be there")
	write("early")
	s.await(t, "the write", wrote("early"))
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.awaitEnd(t)
	if text := s.stderr.String(); s.cmd.ProcessState.ExitCode() != 1 || strings.Count(text, "events were not written: "+notWritten) != 1 {
		t.Errorf("SIGTERM: %v, %q", s.cmd.ProcessState, text)
	}

	// If it is killed, the next one begins anew.
	s = start()
	write("lost")
	s.await(t, "the write", wrote("lost"))
	s.cmd.Process.Kill()
	s.awaitEnd(t)

	s = start()
	write("first")
	s.await(t, "the write", wrote("first"))
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	notes.await(t, "STATUS=history: "+db+": recording, including the buffered events")
	write("second")
	s.await(t, "the write", wrote("second"))
	s.interrupt(t)
	s.awaitEnd(t)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("status %d: %s", code, s.stderr.String())
	}
	var want, got []string
	for _, e := range s.since(0) {
		want = append(want, string(e.line))
	}
	for _, e := range pastEvents(t, db) {
		got = append(got, string(e.line))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the history has\n%s\nwant\n%s", strings.Join(got, ""), strings.Join(want, ""))
	}
}

// A notified collects what a program tells systemd.
type notified struct{ buffer }

// listenNotify makes the programs of a test tell it what they tell systemd.
func listenNotify(t *testing.T) *notified {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	n := new(notified)
	go func() {
		message := make([]byte, 4096)
		for {
			size, err := c.Read(message)
			if err != nil {
				return
			}
			_, _ = n.Write(append(message[:size:size], '\n'))
		}
	}()
	return n
}

func (n *notified) await(t *testing.T, message string) {
	t.Helper()
	for end := time.Now().Add(patience); !slices.Contains(strings.Split(n.String(), "\n"), message); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("systemd was not told %q, but\n%s", message, n.String())
		}
	}
}

// TestBootOfLastWrites asks for the last writes of an earlier boot, of parameters that this boot wrote, too.
func TestBootOfLastWrites(t *testing.T) {
	anyKernel(t)
	db := filepath.Join(t.TempDir(), "history.db")
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	const earlier = "e0000000-0000-4000-8000-00000000000e"
	now := strings.TrimSpace(string(text))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := 0
	write := func(r *history.Recorder, boot, name, value, comm string, ns *event.Namespace) {
		t.Helper()
		n++
		at = at.Add(time.Second)
		if err := r.Append(&event.Event{
			V: event.SchemaVersion, Type: event.SysctlWrite, Outcome: event.Success, Time: at, Host: "h", BootID: boot, Seq: uint64(n), Via: "write",
			Sysctl:  &event.Sysctl{Name: name, Path: event.SysctlPath(name), New: &value, After: &value, Namespace: ns},
			Process: &event.Process{PID: 100 + uint32(n), Comm: comm},
		}); err != nil {
			t.Fatal(err)
		}
	}
	net := &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, UID: "1", Host: true}
	for _, boot := range []string{earlier, now} {
		r, err := history.Create(history.Options{Path: db, Host: "h", BootID: boot})
		if err != nil {
			t.Fatal(err)
		}
		write(r, boot, "vm.swappiness", "1", "first", nil)
		write(r, boot, "vm.swappiness", "2", "second", nil)
		write(r, boot, "net.ipv4.ip_forward", "1", "forwarder", net)
		if boot == earlier {
			write(r, boot, "kernel.panic", "7", "only", nil)
		} else {
			write(r, boot, "vm.swappiness", "3", "third", nil)
			write(r, boot, "net.ipv4.conf.nsnone.forwarding", "1", "gone", net)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	blamed := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := nstrace(t, append([]string{"blame", "--db", db, "-o", "json"}, args...))
		if status != 0 {
			t.Fatalf("blame %q: status %d, %s", args, status, stderr)
		}
		var rows []string
		for line := range strings.Lines(stdout) {
			var row struct {
				Parameter string
				Writes    int
				Event     struct{ Process struct{ Comm string } }
			}
			if err := json.Unmarshal([]byte(line), &row); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, fmt.Sprint(row.Parameter, " ", row.Writes, " ", row.Event.Process.Comm))
		}
		slices.Sort(rows)
		return strings.Join(rows, "\n")
	}
	old := "kernel.panic 1 only\nnet.ipv4.ip_forward 1 forwarder\nvm.swappiness 2 second"
	newest := "net.ipv4.conf.nsnone.forwarding 1 gone\nnet.ipv4.ip_forward 1 forwarder\nvm.swappiness 3 third"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--boot=-1"}, old}, {[]string{"-b", "1"}, old}, {[]string{"-b", earlier}, old}, {[]string{"-b"}, newest}, {[]string{"--boot=" + now}, newest},
		{[]string{"-b", "-1", "vm.*"}, "vm.swappiness 2 second"}, {[]string{"-b", "vm.*"}, "vm.swappiness 3 third"}, {[]string{"-b", "kernel.panic"}, ""},
	} {
		if got := blamed(c.args...); got != c.want {
			t.Errorf("blame %q:\n%s\nwant:\n%s", c.args, got, c.want)
		}
	}
	explained := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := nstrace(t, append([]string{"explain", "--db", db, "--utc"}, args...))
		if status != 0 {
			t.Fatalf("explain %q: status %d, %s", args, status, stderr)
		}
		return stdout
	}
	got := explained("vm.swappiness", "--boot=-1")
	for _, want := range []string{
		"\nSet in boot " + earlier + ":\n  2026-01-02 03:04:06  ? → 1  first[101]\n  2026-01-02 03:04:07  ? → 2  second[102]\n\n",
		" now; in boot " + earlier + "; set to 2 by second[102] at 2026-01-02 03:04:07; is now ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("explain of the earlier boot:\n%s\nlacks %q", got, want)
		}
	}
	if got := explained("vm.swappiness", "-b"); !strings.Contains(got, "third[") || !strings.Contains(got, "\nSet since the boot:\n") || strings.Contains(got, "second[102]") {
		t.Errorf("explain of this boot:\n%s", got)
	}
	if got := explained("kernel.pid_max", "-b", "-1"); !strings.Contains(got, "; no write is recorded in boot "+earlier+"; is now ") {
		t.Errorf("explain of a parameter without a write in the earlier boot:\n%s", got)
	}
	if got := explained("net.ipv4.conf.nsnone.forwarding"); !strings.Contains(got, "gone[") || !strings.Contains(got, "the parameter does not exist now") {
		t.Errorf("explain of a parameter that is gone:\n%s", got)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"blame", "--db", db, "--boot=x"}, 2, "invalid boot"},
		{[]string{"blame", "--db", db, "--boot=-2"}, 1, "no event of boot -2 is recorded"},
		{[]string{"explain", "vm.swappiness", "--db", db, "--boot=x"}, 2, "invalid boot"},
		{[]string{"explain", "vm.swappiness", "--db", db, "--boot=3"}, 1, "no event of boot 3 is recorded"},
		{[]string{"explain", "net.ipv4.ip_forward", "--netns", fmt.Sprint(os.Getpid()), "--db", db, "--boot=-1"}, 2, "network namespaces end with their boot"},
	} {
		if status, stdout, stderr := nstrace(t, c.args); status != c.status || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: status %d, %q, %q", c.args, status, stdout, stderr)
		}
	}
}
