// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

func testWho(t *testing.T, h *host) {
	t.Run("long", func(t *testing.T) { testWhoLong(t, h) })
	t.Run("short", func(t *testing.T) { testWhoShort(t, h) })
	t.Run("terminal", func(t *testing.T) { testWhoTerminal(t, h) })
	t.Run("login", func(t *testing.T) { testWhoLogin(t, h) })
	t.Run("args", func(t *testing.T) { testWhoArgs(t, h) })
	t.Run("bytes", func(t *testing.T) { testWhoBytes(t, h) })
	t.Run("role", func(t *testing.T) { testWhoRole(t, h) })
	t.Run("setuid", func(t *testing.T) { testWhoSetuid(t, h) })
}

// testWhoSetuid has users execute a set-user-ID program in the ways in which people call sudo. Whose child it
// is does not tell who called it.
func testWhoSetuid(t *testing.T, h *host) {
	sudo := setuidProgram(t)
	const change = "unshare --uts true"
	as := func(uid int, command string) string {
		return fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups %s", uid, uid, command)
	}
	someone := func(uid uint32) *uint32 { return &uid }
	for _, tt := range []struct {
		name, script string
		uid          uint32
		sudo         *uint32
	}{
		{"without a fork", "setsid --wait " + as(1000, sudo+" "+change), 0, someone(1000)},
		{"from a shell", as(1000, "sh -c '"+sudo+" "+change+"; :'"), 0, someone(1000)},
		{"in a shell of root", as(1000, sudo+" sh -c '"+change+"; :'"), 0, someone(1000)},
		{"after another user", as(1000, sudo+" "+as(1001, "sh -c '"+sudo+" "+change+"; :'")), 0, someone(1001)},
		{"root", sudo + " " + change + "; :", 0, nil},
		{"root as another user", sudo + " setpriv --reuid 1000 --clear-groups --inh-caps=-all unshare --user true; :", 1000, someone(0)},
		{"only the name", "sh -c 'echo sudo >/proc/self/comm; read x </proc/self/comm; " + change + "; :'", 0, nil},
		{"only the name, of a user", as(1000, "sh -c 'echo sudo >/proc/self/comm; unshare --user true; :'"), 1000, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := h.run(t, "sh", []string{"-e", "-c", tt.script})
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				made := slices.DeleteFunc(slices.Clone(events), func(e *emitted) bool { return e.Type != event.NamespaceCreate })
				if len(made) != 1 {
					t.Fatalf("%d namespaces", len(made))
				}
				e := made[0]
				p := e.Process
				if p.UID != tt.uid || (p.SudoUID == nil) != (tt.sudo == nil) || p.SudoUID != nil && *p.SudoUID != *tt.sudo {
					t.Errorf("want user %d, called by %s: %s", tt.uid, uidText(tt.sudo), e.line)
				}
			})
		})
	}
}

// TestSetuidMany has more set-user-ID programs than nstrace keeps at a time end before the one that counts.
func TestSetuidMany(t *testing.T) {
	anyKernel(t)
	sudo := setuidProgram(t)
	h := watch(t, backends[0])
	w := h.run(t, "setpriv", []string{"--reuid", "1000", "--clear-groups", sudo, "-n", "4500", "unshare", "--uts", "true"})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if len(events) == 0 || events[0].Process.SudoUID == nil || *events[0].Process.SudoUID != 1000 {
			t.Errorf("want a namespace made by root, called by 1000: %v", events)
		}
	})
	h.close(t)
}

// setuidProgram returns the path of a set-user-ID program that executes its arguments as root.
func setuidProgram(t *testing.T) string {
	t.Helper()
	dir := openDir(t, 0o755)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_NOSUID != 0 { // as /tmp of a guest
		var err error
		if dir, err = os.MkdirTemp("/", "nstrace-e2e"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "sudo")
	output(t, "cp", helper("nssuid"), path)
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return path
}

func uidText(uid *uint32) string {
	if uid == nil {
		return "nobody"
	}
	return fmt.Sprint(*uid)
}

// inCgroup starts a program in its own cgroup, and returns the cgroup's path in the v2 hierarchy.
func inCgroup(t *testing.T, name string) (string, option) {
	t.Helper()
	root := ""
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && fields[3] == "/" {
			root = fields[4]
		}
	}
	if root == "" {
		t.Fatal("no cgroup2 is mounted")
	}
	dir := filepath.Join(root, "nstrace-e2e", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		// A cgroup is busy until its last process is reaped, perhaps by init.
		for range 100 {
			if err = unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
		unix.Rmdir(filepath.Dir(dir)) // succeeds for the last one
	})
	return "/nstrace-e2e/" + name, func(cmd *exec.Cmd) {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
}

// chain reads a process's ancestors from /proc, nearest first.
func chain(t *testing.T, pid int) []event.Actor {
	t.Helper()
	var all []event.Actor
	for {
		pid = parentOf(t, pid)
		if pid == 0 {
			return all
		}
		all = append(all, event.Actor{PID: uint32(pid), Comm: readFile(t, fmt.Sprintf("/proc/%d/comm", pid))})
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	ppid, err := strconv.Atoi(statusField(t, pid, "PPid"))
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// statusField returns the first value of a line of /proc/PID/status.
func statusField(t *testing.T, pid int, key string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("no %s in the status of %d", key, pid)
	return ""
}

// startTime returns when a process started, from its age in clock ticks.
func startTime(t *testing.T, pid int) time.Time {
	t.Helper()
	stat := readFile(t, fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var boot, real unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		t.Fatal(err)
	}
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &real); err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, real.Nano()-boot.Nano()+ticks*int64(time.Second/100))
}

// testWhoLong compares everything about a process with /proc while it lives.
func testWhoLong(t *testing.T, h *host) {
	path, cgroup := inCgroup(t, "long")
	script := `echo ready=yes; read line; echo written-by-the-long-one >/proc/sys/kernel/domainname; echo done=yes; read line || :`
	w := h.start(t, "unshare", []string{"--uts", "sh", "-c", script}, cgroup, asUser(0))
	w.value(t, "ready")
	proc := fmt.Sprintf("/proc/%d/", w.pid)
	if got := readFile(t, proc+"cgroup"); !slices.Contains(strings.Split(got, "\n"), "0::"+path) {
		t.Fatalf("the process is in %q, want %s", got, path)
	}
	began := startTime(t, w.pid)
	ancestors := chain(t, w.pid)
	ns, err := namespacesOf(w.pid)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink(proc + "exe")
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimSuffix(readFile(t, proc+"cmdline"), "\x00"), "\x00")
	comm := readFile(t, proc+"comm")
	login := readFile(t, proc+"loginuid")
	if _, err := fmt.Fprintln(w.stdin, "go"); err != nil {
		t.Fatal(err)
	}
	w.value(t, "done")
	w.stop(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		wrote := only(events, event.SysctlWrite)
		if len(wrote) != 1 {
			t.Fatalf("%d writes", len(wrote))
		}
		p := wrote[0].Process
		check := func(what string, got, want any) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s is %v, /proc has %v", what, got, want)
			}
		}
		check("pid", p.PID, w.pid)
		check("tid", p.TID, w.pid)
		check("ppid", p.PPID, os.Getpid())
		check("comm", p.Comm, comm)
		check("exe", p.Exe, exe)
		check("args", fmt.Sprintf("%q", p.Args), fmt.Sprintf("%q", args))
		check("uid", p.UID, 0)
		check("user", p.User, "root")
		check("gid", p.GID, 0)
		check("cgroup", p.Cgroup, path)
		check("ns", p.NS, ns)
		check("ancestors", p.Ancestors, ancestors)
		check("tty", p.TTY, "")
		if login == "4294967295" {
			if p.LoginUID != nil || p.SessionID != nil || p.LoginUser != "" {
				t.Errorf("got login uid %v without a login", p.LoginUID)
			}
		} else {
			check("login uid", *p.LoginUID, login)
		}
		// /proc has it in ticks, and the clock can be set in between.
		if d := p.StartTime.Sub(began).Abs(); d > 100*time.Millisecond {
			t.Errorf("start time %v, /proc has %v", p.StartTime, began)
		}
		made := only(events, event.NamespaceCreate)
		if len(made) != 1 || made[0].Process.PID != p.PID || made[0].Process.Comm != "unshare" || comm != "sh" {
			t.Errorf("want one create by this process, as unshare before its exec of sh")
		}
	})
}

// testWhoShort has a process that ends before nstrace can read /proc.
func testWhoShort(t *testing.T, h *host) {
	t.Parallel()
	path, cgroup := inCgroup(t, "short")
	ancestors := append([]event.Actor{{PID: uint32(os.Getpid()), Comm: readFile(t, "/proc/self/comm")}}, chain(t, os.Getpid())...)
	w := h.run(t, "unshare", []string{"--net", "true"}, cgroup)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "net")...)
		if t.Failed() {
			return
		}
		p := events[0].Process
		if int(p.PID) != w.pid || p.Exe != "/usr/bin/unshare" || !slices.Equal(p.Args, []string{"unshare", "--net", "true"}) ||
			p.Cgroup != path || p.User != "root" || int(p.PPID) != os.Getpid() {
			t.Errorf("%s", events[0].line)
		}
		if !slices.Equal(p.Ancestors, ancestors) {
			t.Errorf("ancestors %v, want %v", p.Ancestors, ancestors)
		}
		for _, typ := range event.NSTypes() {
			if p.NS[typ] != h.ns[typ] {
				t.Errorf("%s %d, want %d", typ, p.NS[typ], h.ns[typ])
			}
		}
		w.ends(t, s, events)
	})
}

func testWhoTerminal(t *testing.T, h *host) {
	t.Parallel()
	w := h.run(t, "script", []string{"-q", "-c", `tty >tty-of-the-test; unshare --uts true`, "/dev/null"})
	tty := strings.TrimPrefix(readFile(t, filepath.Join(scratch, "tty-of-the-test")), "/dev/")
	if !strings.HasPrefix(tty, "pts/") {
		t.Fatalf("tty prints %q", tty)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "uts")...)
		// The kernel's own name for it has no slash.
		if got := events[0].Process.TTY; got != strings.ReplaceAll(tty, "/", "") && got != tty {
			t.Errorf("tty %q, want %s", got, tty)
		}
	})
}

func testWhoLogin(t *testing.T, h *host) {
	t.Parallel()
	w := h.run(t, "sh", []string{"-e", "-c", `echo 1000 >/proc/self/loginuid
		echo login=$(cat /proc/self/loginuid); echo session=$(cat /proc/self/sessionid)
		setpriv --reuid 1001 --regid 1002 --clear-groups unshare --user true`})
	if got := w.printed("login"); !slices.Equal(got, []string{"1000"}) {
		t.Fatalf("%q", w.stdout.String())
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "user")...)
		p := events[0].Process
		if p.UID != 1001 || p.GID != 1002 || p.LoginUID == nil || *p.LoginUID != 1000 {
			t.Errorf("uid %d, gid %d, login uid %v", p.UID, p.GID, p.LoginUID)
		}
		if p.SessionID == nil || fmt.Sprint(*p.SessionID) != w.printed("session")[0] {
			t.Errorf("session %v, /proc has %s", p.SessionID, w.printed("session"))
		}
	})
}

func testWhoArgs(t *testing.T, h *host) {
	t.Parallel()
	long := []string{"unshare", "--uts", "true", strings.Repeat("a", 500), strings.Repeat("b", 500), strings.Repeat("c", 3000), "d"}
	w := h.run(t, long[0], long[1:])
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "uts")...)
		kept := strings.Join(events[0].Process.Args, "\x00")
		whole := strings.Join(long, "\x00")
		if !strings.HasPrefix(whole, kept) || len(kept) < 1023 || len(kept) > 1024 {
			t.Errorf("%d bytes of the arguments: %q", len(kept), events[0].Process.Args)
		}
	})
}

// testWhoRole has programs that pose as parts of the infrastructure. nstrace believes root only.
func testWhoRole(t *testing.T, h *host) {
	t.Parallel()
	const (
		plugin = `mount -t tmpfs none /opt; mkdir -p /opt/cni/bin; cp $(command -v unshare) /opt/cni/bin/x; exec /opt/cni/bin/x --uts true`
		child  = `printf dpkg >/proc/self/comm; unshare --user true; :`
	)
	if err := os.MkdirAll("/opt", 0o755); err != nil { // for a mount; guests have none
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, program string
		args          []string
		user          uint32
		typ           event.NSType
		want          string
	}{
		{"root's plugin", "unshare", []string{"--mount", "sh", "-ec", plugin}, 0, event.NSTypeUTS, "cni"},
		{"a user's plugin", "unshare", []string{"--user", "--map-root-user", "--mount", "sh", "-ec", plugin}, somebody, event.NSTypeUTS, ""},
		{"root's child", "sh", []string{"-c", child}, 0, event.NSTypeUser, "package-manager"},
		{"a user's child", "sh", []string{"-c", child}, somebody, event.NSTypeUser, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := h.run(t, row.program, row.args, asUser(row.user))
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				made := slices.DeleteFunc(only(events, event.NamespaceCreate), func(e *emitted) bool {
					return e.Namespace.Type != row.typ || e.Process.Args != nil && slices.Contains(e.Process.Args, "--mount")
				})
				if len(made) != 1 || made[0].Process.Role != row.want {
					t.Errorf("want one by a process with the role %q:\n%s", row.want, dump(made))
				}
			})
		})
	}
}

// testWhoBytes has a program whose name and arguments must be escaped.
func testWhoBytes(t *testing.T, h *host) {
	t.Parallel()
	const name = "a\x1b[31m\n\xff\"\\b"
	shown := strings.ToValidUTF8(name, "\ufffd")
	dir := filepath.Join(scratch, "bytes")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another process makes the copy: a program cannot start while any process has it open for
	// writing, and children that are forked here at the same time would inherit the open file.
	output(t, "cp", helper("nsclone"), filepath.Join(dir, name))
	args := []string{"clone", "uts", "true", "", "\x1b]0;title\a", "two\nlines\r", "\xc3\x28", "\u00fc\u2028"}
	w := h.run(t, filepath.Join(dir, name), args)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("clone", "success", "uts")...)
		p := events[0].Process
		want := []string{filepath.Join(dir, shown)}
		for _, a := range args {
			want = append(want, strings.ToValidUTF8(a, "\ufffd"))
		}
		if p.Comm != shown || p.Exe != filepath.Join(dir, shown) || !slices.Equal(p.Args, want) {
			t.Errorf("comm %q, exe %q, args %q\nwant %q", p.Comm, p.Exe, p.Args, want)
		}
		for _, b := range events[0].line[:len(events[0].line)-1] {
			if b < ' ' || b == 0x7f {
				t.Errorf("byte %#x in the line: %q", b, events[0].line)
			}
		}
		w.ends(t, s, events)
	})
}
