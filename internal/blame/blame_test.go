// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// historyOf creates a history with one write to a parameter. line changes the stored event.
func historyOf(t *testing.T, name string, line func(e *event.Event)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	value := "1"
	e := &event.Event{
		V: 1, Time: time.Now(), Seq: 1, BootID: procfs.BootID(), Type: event.SysctlWrite, Outcome: event.Success, Via: "write",
		Sysctl:  &event.Sysctl{Name: name, Path: "/proc/sys/" + strings.ReplaceAll(name, ".", "/"), New: &value, After: &value},
		Process: &event.Process{PID: 1, Comm: "x"},
	}
	if err := errors.Join(r.Append(e), r.Close()); err != nil {
		t.Fatal(err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line(e)
	text := string(new(event.Encoder).Append(nil, e))
	if err := sqlitex.Execute(conn, "UPDATE last_write SET line = ?", &sqlitex.ExecOptions{Args: []any{text}}); err != nil {
		t.Fatal(err)
	}
	return path
}

// row returns the row of the one parameter of a history.
func row(t *testing.T, path string) *output.Blame {
	t.Helper()
	done := make(chan *output.Blame, 1)
	go func() {
		defer close(done)
		db, err := history.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer db.Close()
		rows, err := Find(context.Background(), db, Options{AllNets: true})
		if err != nil || len(rows) != 1 {
			t.Errorf("%d rows: %v", len(rows), err)
			return
		}
		done <- rows[0]
	}()
	select {
	case b := <-done:
		return b
	case <-time.After(time.Minute):
		t.Fatal("Find does not return")
		return nil
	}
}

// TestPaths checks that Find opens only the path of the parameter, whatever path the history
// has.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const name = "kernel.ostype"
	for _, path := range []string{
		fifo, secret, "/dev/zero", "", "/", "/proc/sys/kernel/../../.." + fifo, "/proc/sys/../../dev/zero", "/proc/self/root/dev/zero",
		"/proc/sys/kernel/ostype/", "/proc/sys/kernel/./ostype", "/proc/sys/kernel/ostype\x00", "/proc/sys/kernel/osrelease",
		"/proc/sys/" + strings.Repeat("a/", 1<<16) + "a",
	} {
		b := row(t, historyOf(t, name, func(e *event.Event) { e.Sysctl.Path = path }))
		if b == nil || b.Value != nil || b.State != output.Unreadable {
			t.Errorf("%.80q: %+v", path, b)
		}
	}
	b := row(t, historyOf(t, name, func(*event.Event) {}))
	if b == nil || b.Value == nil || *b.Value != "Linux" || b.State != output.Drifted {
		t.Errorf("the path of the parameter: %+v", b)
	}
	b = row(t, historyOf(t, "kernel.no_such_parameter", func(*event.Event) {}))
	if b == nil || b.Value != nil || b.State != output.Gone {
		t.Errorf("a parameter that does not exist: %+v", b)
	}
	// The type of a namespace is not used as a path either.
	id, err := procfs.NamespaceOf("self", event.NSTypeNet)
	if err != nil {
		t.Fatal("no network namespace")
	}
	for _, typ := range []event.NSType{event.NSType("../../.." + fifo), "./net", "mnt", "", "x"} {
		r := newReader(t.Context(), nil, procfs.NamespacesOf("1"))
		r.own = map[event.NSType]uint32{}
		v, err := r.read(name, "/proc/sys/kernel/ostype", r.living(&event.Namespace{Type: typ, ID: id}))
		if v != nil || !errors.Is(err, errNotEntered) {
			t.Errorf("a namespace of type %q: %+v %v", typ, v, err)
		}
	}
}

// kernelUID returns the kernel's id of the network namespace of a process, as events have it.
func kernelUID(t *testing.T, pid int) (uid string) {
	t.Helper()
	r := newReader(t.Context(), nil, procfs.HostNamespaces())
	defer r.close()
	id, err := procfs.NamespaceOf(strconv.Itoa(pid), event.NSTypeNet)
	if err != nil {
		t.Fatal(err)
	}
	p := r.living(&event.Namespace{Type: event.NSTypeNet, ID: id})
	defer p.close()
	return r.uid(p)
}

// TestOtherNamespace reads the parameters of a child's network namespace, and those of one that
// does not exist.
func TestOtherNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to create a namespace")
	}
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo 611 >/proc/sys/net/ipv4/tcp_keepalive_time && echo ready && read line")
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
	t.Cleanup(func() { _ = cmd.Wait() }) // read fails at the end of its input
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q %v", line, err)
	}
	id, err := procfs.NamespaceOf(strconv.Itoa(cmd.Process.Pid), event.NSTypeNet)
	if err != nil {
		t.Fatal(err)
	}
	const name = "net.ipv4.tcp_keepalive_time"
	uid := kernelUID(t, cmd.Process.Pid)
	if uid == "" {
		t.Skip("the kernel does not say which namespace it is")
	}
	var path string
	check := func(id uint32, uid string, want output.State) {
		t.Helper()
		path = historyOf(t, name, func(e *event.Event) {
			value := "611"
			e.Sysctl.New, e.Sysctl.After, e.Sysctl.Namespace = &value, &value, &event.Namespace{Type: "net", ID: id, UID: uid}
		})
		if b := row(t, path); b == nil || b.State != want || want != output.AsRecorded && b.Value != nil {
			t.Errorf("%d %s: %+v, want %s", id, uid, b, want)
		}
	}
	check(1<<32-1, uid, output.Gone)
	// The number is that of a later namespace.
	check(id, strings.TrimSuffix(uid, uid[len(uid)-1:])+"0000", output.Gone)
	// It is not known to be the same one.
	check(id, fmt.Sprint(id, ".1"), output.Unreadable)
	check(id, uid, output.AsRecorded)
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// A namespace without a process and a name, that only an open file holds.
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in.Close()
	_ = cmd.Wait()
	check(id, uid, output.AsRecorded)
	rows, err := Find(t.Context(), db, Options{All: true, Net: &Net{ID: id}})
	if err != nil || len(rows) < 100 {
		t.Errorf("%d parameters of the namespace: %v", len(rows), err)
	}
	for _, b := range rows {
		if b.Parameter == name != (b.State == output.AsRecorded) || b.Namespace == nil || b.Namespace.ID != id {
			t.Errorf("%+v", b)
		}
	}
}

// TestLivingUserNamespace has a parameter of a user namespace that exists. blame cannot read it there, and does not
// say that it is gone.
func TestLivingUserNamespace(t *testing.T) {
	cmd := exec.Command("unshare", "--user", "sh", "-c", "echo ready && read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Skipf("no user namespace: %q %v", line, err)
	}
	link := fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)
	id, err := procfs.NamespaceInode(link)
	if err != nil {
		t.Skip(err)
	}
	uid := fmt.Sprint(id, ".1")
	if kernel := procfs.HandleID(link); kernel != 0 {
		uid = strconv.FormatUint(kernel, 10)
	}
	b := row(t, historyOf(t, "user.max_inotify_watches", func(e *event.Event) {
		e.Sysctl.Namespace = &event.Namespace{Type: event.NSTypeUser, ID: id, UID: uid}
	}))
	if b == nil || b.State != output.Unreadable || b.Value != nil {
		t.Errorf("%+v, want it to be unreadable", b)
	}
}

// TestResultUnknown has writes of which only the text is known, or also what the kernel made of it.
func TestResultUnknown(t *testing.T) {
	const name = "vm.swappiness"
	b, err := os.ReadFile(event.SysctlPath(name))
	if err != nil {
		t.Skip(err)
	}
	now := strings.TrimSpace(string(b))
	text := func(s string) *string { return &s }
	for _, tt := range []struct {
		name            string
		outcome         event.Outcome
		old, new, after *string
		truncated       bool
		want            output.State
		recorded        string
	}{
		{"as written", event.Success, text("1"), &now, nil, false, output.AsRecorded, now},
		{"in octal", event.Success, text("1"), text("0764"), nil, false, output.Unknown, ""},
		{"in octal, and what the kernel made of it", event.Success, text("1"), text("0764"), &now, false, output.AsRecorded, now},
		{"changed since", event.Success, text("1"), text("199"), text("199"), false, output.Drifted, "199"},
		{"no result, and the old value", "", &now, text("199"), nil, false, output.Unknown, ""},
		{"no result, and the written value", "", text("1"), &now, nil, false, output.AsRecorded, now},
		{"no result, and another value", "", text("1"), text("199"), nil, false, output.Unknown, ""},
		{"a long text", event.Success, text("1"), text(strings.Repeat("1,", 512)), nil, true, output.Unknown, ""},
		{"a short value of a long text", event.Success, text("1"), text(strings.Repeat("1", 1024)), &now, true, output.AsRecorded, now},
	} {
		b := row(t, historyOf(t, name, func(e *event.Event) {
			e.Outcome, e.Sysctl.Old, e.Sysctl.New, e.Sysctl.After, e.Sysctl.Truncated = tt.outcome, tt.old, tt.new, tt.after, tt.truncated
		}))
		if b == nil || b.State != tt.want || (b.Recorded != nil) != (tt.recorded != "") || b.Recorded != nil && *b.Recorded != tt.recorded {
			t.Errorf("%s: %+v, want %s", tt.name, b, tt.want)
		}
	}
}

// TestWithoutEffect has a write that set a parameter, and one without a known result that did not. Only the first
// one is to blame.
func TestWithoutEffect(t *testing.T) {
	const name = "vm.swappiness"
	path := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	text := func(s string) *string { return &s }
	for i, s := range []event.Sysctl{
		{Old: text("60"), New: text("61"), After: text("61")},
		{Old: text("61"), New: text("1000"), After: text("61"), AfterRead: true},
	} {
		s.Name, s.Path = name, event.SysctlPath(name)
		e := &event.Event{V: 1, Time: time.Now(), Seq: uint64(i + 1), BootID: procfs.BootID(), Type: event.SysctlWrite, Via: "write", Sysctl: &s,
			Process: &event.Process{PID: uint32(i + 1), Comm: "x"}}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if b := row(t, path); b == nil || b.Last.Process.PID != 1 || b.Writes != 1 {
		t.Errorf("%+v, want the first write", b)
	}
}
