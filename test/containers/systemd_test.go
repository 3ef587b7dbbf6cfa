// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// tester is a user of the guests who may use sudo.
const (
	tester    = "tester"
	testerUID = 1000
)

// onSystemd skips a test that needs a host booted by systemd. Such a test leaves units, sessions
// and containers behind, so it runs only in a guest.
func onSystemd(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil || !runtimetest.IsGuest() {
		t.Skip("needs a guest that systemd booted: go test ./test/vm -run TestSystemd")
	}
}

// facts is a script with which a program under test prints its cgroup from /proc and the number of
// its network namespace.
const facts = `sed -n s/^0:://p /proc/self/cgroup; readlink /proc/self/ns/net; `

type fact struct {
	cgroup string
	net    uint32
}

func parseFacts(t *testing.T, out string) (f fact) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(out, "\r", "")), "\n")
	if len(lines) < 2 {
		t.Fatalf("the program printed %q", out)
	}
	f.cgroup = lines[0]
	if _, err := fmt.Sscanf(lines[1], "net:[%d]", &f.net); err != nil {
		t.Fatalf("%q: %v", lines[1], err)
	}
	return f
}

// unitOf returns the unit that owns an event's namespace.
func unitOf(e *event.Event) string {
	if ns := namespace(e); ns.Owner != nil {
		return ns.Owner.Unit
	}
	return ""
}

// exactlyOne fails the test unless there is exactly one event.
func exactlyOne(t *testing.T, what string, events []*event.Event) *event.Event {
	t.Helper()
	if len(events) != 1 {
		for _, e := range events {
			t.Log(line(e))
		}
		t.Fatalf("%s: %d events, want one", what, len(events))
	}
	return events[0]
}

// TestSystemdUnit runs a service with its own network namespace, which systemd makes, and a second
// service that joins it.
func TestSystemdUnit(t *testing.T) {
	onSystemd(t)
	runtimetest.Need(t, "systemd-run", "systemctl", "sysctl")
	const first, second = "nst-first.service", "nst-second.service"
	s := trace(t)
	runtimetest.Output(t, "systemd-run", "--quiet", "--unit", first, "-p", "PrivateNetwork=yes", "-p", "Type=exec", "sleep", "infinity")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", first).Run() })
	pid := runtimetest.Output(t, "systemctl", "show", "--property=MainPID", "--value", first)
	out := runtimetest.Output(t, "systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit", second,
		"-p", "PrivateNetwork=yes", "-p", "JoinsNamespaceOf="+first, "sh", "-c", facts+"echo 631 >/proc/sys/net/ipv4/tcp_keepalive_time")
	id := ns(t, pid, "net")
	joined := parseFacts(t, out)
	if joined.net != id {
		t.Fatalf("%s is in %d, and %s in %d", second, joined.net, first, id)
	}
	events := s.end()

	e := exactlyOne(t, "create", about(events, event.NamespaceCreate, id))
	if e.Unit != first || unitOf(e) != first || e.Container != nil || e.Process.Role != attribution.RoleSystemd {
		t.Errorf("want %s: %s", first, line(e))
	}
	e = exactlyOne(t, "write", about(events, event.SysctlWrite, id))
	if e.Unit != second || unitOf(e) != first || e.Process.Cgroup != joined.cgroup || e.Sysctl.New == nil || *e.Sysctl.New != "631" {
		t.Errorf("want a write of %s to a namespace of %s: %s", second, first, line(e))
	}
	// systemd enters and leaves namespaces while it checks whether there is one to join.
	entered := pick(about(events, event.NamespaceEnter, id), func(e *event.Event) bool { return e.Unit == second })
	if len(entered) == 0 {
		t.Errorf("%s did not enter it", second)
	}
	for _, e := range entered {
		if unitOf(e) != first {
			t.Errorf("want %s: %s", first, line(e))
		}
	}
}

// TestSystemdExisting runs a service whose namespace existed before nstrace.
func TestSystemdExisting(t *testing.T) {
	onSystemd(t)
	const unit = "nst-there.service"
	runtimetest.Output(t, "systemd-run", "--quiet", "--unit", unit, "-p", "PrivateNetwork=yes", "-p", "Type=exec", "sleep", "infinity")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
	pid := runtimetest.Output(t, "systemctl", "show", "--property=MainPID", "--value", unit)
	id := ns(t, pid, "net")
	s := trace(t)
	runtimetest.Output(t, "nsenter", "--target", pid, "--net", "sysctl", "-w", parameter+"=632")
	events := s.end()
	for _, typ := range []event.Type{event.NamespaceEnter, event.SysctlWrite} {
		if e := exactlyOne(t, string(typ), about(events, typ, id)); unitOf(e) != unit || e.Unit == unit {
			t.Errorf("want an event of another process about %s: %s", unit, line(e))
		}
	}
}

// TestSystemdShow shows units that have the namespaces they declare, and one whose main process has
// left its network namespace. The namespaces come from /proc.
func TestSystemdShow(t *testing.T) {
	onSystemd(t)
	runtimetest.Need(t, "systemd-run", "systemctl", "nsenter")
	start := func(unit string, args ...string) (pid string) {
		args = append([]string{"--quiet", "--unit", unit, "-p", "Type=exec", "-p", "PrivateNetwork=yes"}, args...)
		runtimetest.Output(t, "systemd-run", args...)
		t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
		return runtimetest.Output(t, "systemctl", "show", "--property=MainPID", "--value", unit)
	}
	const first, second, left = "nst-show.service", "nst-joined.service", "nst-left.service"
	start(first, "-p", "ProtectHostname=yes", "-p", "PrivateUsers=yes", "sleep", "infinity")
	start(second, "-p", "JoinsNamespaceOf="+first, "sleep", "infinity")
	pid := start(left, "nsenter", "--target", "1", "--net", "sleep", "infinity")
	for end := time.Now().Add(time.Minute); ns(t, pid, "net") != ns(t, "1", "net"); {
		if time.Now().After(end) {
			t.Fatal("nsenter does not enter the namespace")
		}
	}
	for unit, want := range map[string]map[string]bool{
		first:  {"PrivateNetwork": true, "ProtectHostname": true, "PrivateUsers": true},
		second: {"PrivateNetwork": true, "JoinsNamespaceOf": true},
		left:   {"PrivateNetwork": false},
	} {
		pid := runtimetest.Output(t, "systemctl", "show", "--property=MainPID", "--value", unit)
		var page struct {
			Namespaces []struct {
				Namespace event.Namespace `json:"namespace"`
			} `json:"namespaces"`
			Isolation []struct {
				Setting string       `json:"setting"`
				Type    event.NSType `json:"type"`
				Actual  uint32       `json:"actual"`
				Holds   bool         `json:"holds"`
			} `json:"isolation"`
		}
		text := runtimetest.Output(t, nstraceBin, "show", unit, "-o", "json", "--runtime-socket", "none")
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		for _, n := range page.Namespaces {
			if id := ns(t, pid, string(n.Namespace.Type)); n.Namespace.ID != id {
				t.Errorf("%s: %s namespace %d, want %d", unit, n.Namespace.Type, n.Namespace.ID, id)
			}
		}
		got := map[string]bool{}
		for _, i := range page.Isolation {
			got[i.Setting] = i.Holds
			if id := ns(t, pid, string(i.Type)); i.Actual != id {
				t.Errorf("%s: %s has %d, want %d", unit, i.Setting, i.Actual, id)
			}
		}
		if len(page.Namespaces) != len(event.NSTypes()) || !maps.Equal(got, want) {
			t.Errorf("%s: %d namespaces, %v, want %v: %s", unit, len(page.Namespaces), got, want, text)
		}
	}
}

// TestSystemdSysctl makes systemd set parameters as at boot.
func TestSystemdSysctl(t *testing.T) {
	onSystemd(t)
	const file = "/run/sysctl.d/99-nstrace.conf"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("kernel.domainname = booted\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) })
	before := runtimetest.Output(t, "cat", "/proc/sys/kernel/domainname")
	t.Cleanup(func() { _ = exec.Command("sysctl", "-q", "-w", "kernel.domainname="+before).Run() })
	s := trace(t, "--sysctl", "kernel.domainname")
	runtimetest.Output(t, "systemctl", "restart", "systemd-sysctl.service")
	e := exactlyOne(t, "write", pick(s.end(), func(e *event.Event) bool { return e.Type == event.SysctlWrite }))
	if e.Unit != "systemd-sysctl.service" || e.Process.Role != attribution.RoleSystemd || e.Process.Comm != "systemd-sysctl" || *e.Sysctl.New != "booted" {
		t.Errorf("want a write of systemd-sysctl: %s", line(e))
	}
}

// TestSystemdNspawn runs a container of systemd-nspawn.
func TestSystemdNspawn(t *testing.T) {
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes long: make test-all")
	}
	onSystemd(t)
	runtimetest.Need(t, "systemd-nspawn", "machinectl", "tar")
	const machine = "nst-web"
	s := trace(t)
	m := startMachine(t, machine, "--private-network", "echo 633 >/proc/sys/net/ipv4/tcp_keepalive_time; echo >/ready; exec sleep 100000")
	unit, leader := m.unit, m.leader
	id := ns(t, leader, "net")
	runtimetest.Output(t, "nsenter", "--target", leader, "--net", "sysctl", "-w", parameter+"=634")
	runtimetest.Output(t, "machinectl", "terminate", machine)
	m.daemon.Stop(t)
	events := s.end()

	writes := about(events, event.SysctlWrite, id)
	if len(writes) != 2 {
		t.Fatalf("%d writes, want two: one of the container and one of the host", len(writes))
	}
	own, host := writes[0], writes[1]
	if c := own.Container; c == nil || c.ID != machine || c.Runtime != "systemd-nspawn" || own.Unit != unit {
		t.Errorf("want a write of %s in %s: %s", machine, unit, line(own))
	}
	if host.Container != nil || host.Unit == unit {
		t.Errorf("want a write of the host: %s", line(host))
	}
	for _, e := range writes {
		if c := owner(e); c == nil || c.ID != machine {
			t.Errorf("want a write to a namespace of %s: %s", machine, line(e))
		}
	}
	created := exactlyOne(t, "create", about(events, event.NamespaceCreate, id))
	if created.Process.Role != attribution.RoleEngine || owner(created) != nil {
		t.Errorf("want an event of systemd-nspawn: %s", line(created))
	}
	for _, e := range events {
		for _, c := range []*event.Container{e.Container, owner(e)} {
			if c != nil && c.ID != machine {
				t.Errorf("an unknown container: %s", line(e))
			}
		}
	}
}

// A machine is a container of systemd-nspawn.
type machine struct {
	daemon       *runtimetest.Daemon
	unit, leader string
}

// startMachine starts a container with a network option. It returns once the script has made /ready.
func startMachine(t *testing.T, name, network, script string) machine {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"", "usr", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := runtimetest.Dir(t)
	runtimetest.Output(t, "tar", "-C", dir, "-xf", runtimetest.ImageTar(t, dir), "layer.tar")
	runtimetest.Output(t, "tar", "-C", root, "-xf", filepath.Join(dir, "layer.tar"))
	if err := os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("ID=test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(root, "ready")
	d := runtimetest.Start(t, dir, "", "systemd-nspawn", "--quiet", "--directory", root, "--machine", name, network, "--console=pipe", "/bin/sh", "-c", script)
	t.Cleanup(func() { _ = exec.Command("machinectl", "terminate", name).Run() })
	runtimetest.Eventually(t, "the container runs", func() bool { _, err := os.Stat(ready); return err == nil })
	show := func(property string) string {
		return runtimetest.Output(t, "machinectl", "show", "--property="+property, "--value", name)
	}
	return machine{d, show("Unit"), show("Leader")}
}

// TestSystemdPodman runs Podman as a user other than root. The containers are in the cgroup of the
// user's manager, and the socket belongs to the user.
func TestSystemdPodman(t *testing.T) {
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes long: make test-all")
	}
	onSystemd(t)
	runtimetest.Need(t, "podman", "conmon", "crun", "newuidmap", "loginctl", "systemd-run", "nsenter", "sysctl")
	e := userPodman(t)
	t.Run("Sysctl", e.testSysctl)
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		t.Run("Sides", e.testSides)
	}
}

// userPodman starts the Podman service of a user other than root.
func userPodman(t *testing.T) *engine {
	t.Helper()
	dir := filepath.Join("/home", tester, "nstrace-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, testerUID, testerUID); err != nil {
		t.Fatal(err)
	}
	runtimeDir := fmt.Sprintf("/run/user/%d", testerUID)
	asTester := []string{
		"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid", tester, "-p", "PAMName=login", "-E", "HOME=/home/" + tester,
		"-E", "XDG_RUNTIME_DIR=" + runtimeDir, "-E", "DBUS_SESSION_BUS_ADDRESS=unix:path=" + runtimeDir + "/bus", "--",
	}
	e := &engine{
		command: append(asTester, "podman", "--storage-driver", "vfs", "--events-backend", "file"),
		runtime: "podman", made: known{}, dir: dir, network: "none",
		slow:     true, // as in TestPodman
		late:     true, // crun
		rootless: true,
	}
	// The user's manager stays after the last session.
	runtimetest.Output(t, "loginctl", "enable-linger", tester)
	t.Cleanup(func() { _ = exec.Command("loginctl", "disable-linger", tester).Run() })
	e.do(t, "load", "--input", runtimetest.ImageTar(t, dir))
	runtimetest.Output(t, asTester[0], append(asTester[1:], "systemctl", "--user", "start", "podman.socket")...)
	// The service behind the socket takes seconds to start.
	runtimetest.Output(t, asTester[0], append(asTester[1:], "podman", "--remote", "--url", "unix://"+runtimeDir+"/podman/podman.sock", "version")...)
	return e
}

// TestSystemdSudo has a user log in and change a parameter as root.
func TestSystemdSudo(t *testing.T) {
	onSystemd(t)
	runtimetest.Need(t, "systemd-run", "sudo", "unshare", "sysctl")
	s := trace(t, "--sysctl", "kernel.domainname")
	out := runtimetest.Output(t, "systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid", tester, "-p", "PAMName=login",
		"sh", "-c", `cat /proc/self/loginuid; echo; sudo -n sh -c 'echo $SUDO_UID; sed -n s/^0:://p /proc/self/cgroup; unshare --uts sysctl -q -w kernel.domainname=people'; :`)
	lines := strings.Fields(out)
	if len(lines) != 3 || lines[0] != "1000" || lines[1] != "1000" {
		t.Fatalf("the program printed %q", out)
	}
	e := exactlyOne(t, "write", pick(s.end(), func(e *event.Event) bool { return e.Type == event.SysctlWrite }))
	p := e.Process
	if p.UID != 0 || p.User != "root" || p.SudoUID == nil || *p.SudoUID != testerUID || p.SudoUser != tester {
		t.Errorf("want root for %s by sudo: %s", tester, line(e))
	}
	if p.LoginUID == nil || *p.LoginUID != testerUID || p.LoginUser != tester || p.SessionID == nil {
		t.Errorf("want the login of %s: %s", tester, line(e))
	}
	if p.Cgroup != lines[2] || e.Container != nil {
		t.Errorf("want the cgroup %s: %s", lines[2], line(e))
	}
	if scope := filepath.Base(lines[2]); !strings.HasPrefix(scope, "session-") || e.Unit != scope {
		t.Errorf("want %s: %s", scope, line(e))
	}
}

// TestSystemdSudoAlone has sudo run where its parent is root, but a user called it.
func TestSystemdSudoAlone(t *testing.T) {
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes long: make test-all")
	}
	onSystemd(t)
	runtimetest.Need(t, "systemd-run", "sudo", "setpriv", "setsid", "unshare", "sysctl")
	const write = `sudo -n sh -c 'unshare --uts sysctl -q -w kernel.domainname=$SUDO_USER'`
	for name, command := range map[string][]string{
		"systemd-run": {"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid", tester, "sh", "-c", "exec " + write},
		"setpriv":     {"setsid", "--wait", "setpriv", "--reuid", tester, "--regid", tester, "--init-groups", "sh", "-c", "exec " + write},
	} {
		t.Run(name, func(t *testing.T) {
			s := trace(t, "--sysctl", "kernel.domainname")
			runtimetest.Output(t, command[0], command[1:]...)
			e := exactlyOne(t, "write", pick(s.end(), func(e *event.Event) bool { return e.Type == event.SysctlWrite }))
			if p := e.Process; e.Sysctl.New == nil || *e.Sysctl.New != tester || p.UID != 0 || p.SudoUser != tester {
				t.Errorf("want root for %s by sudo: %s", tester, line(e))
			}
		})
	}
}

// TestSystemdUsers runs processes of a user that only systemd knows, and of one that is created
// during the test.
func TestSystemdUsers(t *testing.T) {
	onSystemd(t)
	runtimetest.Need(t, "systemd-run", "setpriv", "unshare", "getent")
	const unit, uid, passwd = "nst-dynamic.service", "1234", "/etc/passwd"
	s := trace(t, "--ns-type", "user")
	runtimetest.Output(t, "systemd-run", "--quiet", "--collect", "--unit", unit, "-p", "DynamicUser=yes", "-p", "Type=exec",
		"sh", "-c", "while :; do unshare --user true; done")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
	dynamic := strings.Split(runtimetest.Output(t, "getent", "passwd", runtimetest.Output(t, "systemctl", "show", "--property=UID", "--value", unit)), ":")
	// The answer can be slow, and then a later event has the name.
	runtimetest.Eventually(t, "the user's name", func() bool {
		text, err := os.ReadFile(s.file)
		return err == nil && strings.Contains(string(text), `"user":"`+dynamic[0]+`"`)
	})
	runtimetest.Output(t, "systemctl", "stop", unit)

	unshare := func() {
		runtimetest.Output(t, "setpriv", "--reuid", uid, "--clear-groups", "unshare", "--user", "true")
	}
	unshare()
	before, err := os.ReadFile(passwd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(passwd, before, 0o644) })
	if err := os.WriteFile(passwd, append(before, "late:x:"+uid+":"+uid+"::/:/bin/sh\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	unshare()
	late := 0
	for _, e := range s.end() {
		if e.Type != event.NamespaceCreate {
			continue
		}
		switch p := e.Process; fmt.Sprint(p.UID) {
		case dynamic[2]:
			if p.User != "" && p.User != dynamic[0] {
				t.Errorf("want %s: %s", dynamic[0], line(e))
			}
		case uid:
			if late++; late == 2 && p.User != "late" || p.User != "" && p.User != "late" {
				t.Errorf("want the user late: %s", line(e))
			}
		default:
			t.Errorf("want the user %s or %s: %s", dynamic[2], uid, line(e))
		}
	}
	if late != 2 {
		t.Errorf("%d of %s, want 2", late, uid)
	}
}

// TestSystemdRecord runs nstrace record as its unit. The unit is ready once nstrace traces. The
// history has what changed while it was stopped, and that it was killed.
func TestSystemdRecord(t *testing.T) {
	onSystemd(t)
	runtimetest.Need(t, "systemctl", "sysctl")
	const unit, param = "nstrace.service", "vm.swappiness"
	before := runtimetest.Output(t, "sysctl", "-n", param)
	set := func(value string) {
		t.Helper()
		runtimetest.Output(t, "sysctl", "-qw", param+"="+value)
	}
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", unit).Run()
		set(before)
	})
	show := func(property string) string {
		t.Helper()
		return runtimetest.Output(t, "systemctl", "show", "--property="+property, "--value", unit)
	}
	// lines returns the parameter's events in the history, and the gaps.
	lines := func() (all []string) {
		t.Helper()
		for l := range strings.Lines(runtimetest.Output(t, nstraceBin, "history", "-o", "json", "-e", "sysctl")) {
			var e event.Event
			if err := json.Unmarshal([]byte(l), &e); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			switch {
			case e.Sysctl != nil && e.Sysctl.Name != param:
			case e.Type == event.SysctlWrite:
				all = append(all, fmt.Sprintf("%s to %s", *e.Sysctl.Old, *e.Sysctl.New))
			case e.Type == event.SysctlDrift:
				all = append(all, fmt.Sprintf("drift %s to %s", *e.Sysctl.Old, *e.Sysctl.After))
			case e.Type == event.TraceGap:
				all = append(all, "gap, "+e.Trace.Ended)
			}
		}
		return all
	}
	want := func(what ...string) {
		t.Helper()
		var got []string
		for end := time.Now().Add(runtimetest.Patience); ; time.Sleep(50 * time.Millisecond) {
			if got = lines(); slices.Equal(got, what) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the history has %q, want %q; the journal:\n%s", got, what, runtimetest.Output(t, "journalctl", "--unit", unit))
			}
		}
	}
	runtimetest.Output(t, "systemctl", "start", unit)
	if got := show("WatchdogUSec"); got != "30s" {
		t.Errorf("the unit's watchdog waits %s, want 30s", got)
	}
	runtimetest.Eventually(t, "the database is there", func() bool { // its folder is made meanwhile
		_, err := os.Stat("/var/lib/nstrace/history.db")
		return err == nil
	})
	// What limits the unit must not give it namespaces of its own.
	for _, typ := range event.NSTypes() {
		own, err := os.Readlink(fmt.Sprintf("/proc/%s/ns/%s", show("MainPID"), typ))
		host, hostErr := os.Readlink(fmt.Sprintf("/proc/1/ns/%s", typ))
		if own != host || err != nil && hostErr == nil {
			t.Errorf("the unit is in %s (%v), and the host in %s", own, err, host)
		}
	}
	set("31")
	want(before + " to 31")
	runtimetest.Output(t, "systemctl", "stop", unit)
	set("32")
	runtimetest.Output(t, "systemctl", "start", unit)
	want(before+" to 31", "gap, stopped", "drift 31 to 32")
	set("33") // before the drift event, 32 would be only the old value of this write
	want(before+" to 31", "gap, stopped", "drift 31 to 32", "32 to 33")

	runtimetest.Output(t, "systemctl", "kill", "--signal=KILL", unit)
	for end := time.Now().Add(runtimetest.Patience); show("NRestarts") != "1" || show("ActiveState") != "active"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("systemd did not restart it:\n%s", runtimetest.Output(t, "systemctl", "status", unit))
		}
	}
	set("34")
	want(before+" to 31", "gap, stopped", "drift 31 to 32", "32 to 33", "gap, crashed", "33 to 34")
}

// TestSystemdWatchdog sets the unit's watchdog to seconds. nstrace feeds it while nothing happens,
// and while more happens than it can read at once. It does not feed it while it is stopped.
func TestSystemdWatchdog(t *testing.T) {
	if testing.Short() {
		t.Skip("waits long for systemd: make test-all")
	}
	onSystemd(t)
	runtimetest.Need(t, "systemctl", "unshare")
	const (
		unit     = "nstrace.service"
		file     = "/run/systemd/system/" + unit + ".d/watchdog.conf"
		interval = 6 * time.Second
	)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	// Use another database: TestSystemdRecord counts the events in the unit's own.
	dropIn := fmt.Sprintf("[Service]\nWatchdogSec=%v\nExecStart=\nExecStart=/usr/local/bin/nstrace record --db %s\n", interval, filepath.Join(t.TempDir(), "history.db"))
	if err := os.WriteFile(file, []byte(dropIn), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", unit).Run()
		os.Remove(file)
		_ = exec.Command("systemctl", "daemon-reload").Run()
		_ = exec.Command("systemctl", "reset-failed", unit).Run()
	})
	show := func(property string) string {
		t.Helper()
		return runtimetest.Output(t, "systemctl", "show", "--property="+property, "--value", unit)
	}
	journal := func() string { return runtimetest.Output(t, "journalctl", "--unit", unit) }
	runtimetest.Output(t, "systemctl", "daemon-reload")
	runtimetest.Output(t, "systemctl", "restart", unit)

	// systemd records when it was last fed, in microseconds since boot.
	fed := func() (at time.Duration) {
		t.Helper()
		usec, err := strconv.ParseInt(show("WatchdogTimestampMonotonic"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(usec) * time.Microsecond
	}
	// lives checks that nstrace feeds the watchdog for longer than the interval while f runs
	// repeatedly.
	lives := func(when string, f func()) {
		t.Helper()
		from := fed()
		for end := time.Now().Add(runtimetest.Patience); fed() < from+2*interval; f() {
			if show("ActiveState") != "active" || show("NRestarts") != "0" || time.Now().After(end) {
				t.Fatalf("%s: nstrace did not feed its watchdog:\n%s", when, journal())
			}
		}
	}
	lives("while nothing happens", func() { time.Sleep(100 * time.Millisecond) })
	lives("in a storm", func() {
		runtimetest.Output(t, "unshare", "--uts", "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i >/proc/sys/kernel/domainname; i=$((i+1)); done")
	})

	pid := show("MainPID")
	runtimetest.Output(t, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit)
	for end := time.Now().Add(runtimetest.Patience); show("NRestarts") != "1" || show("ActiveState") != "active"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("systemd did not restart it:\n%s", journal())
		}
	}
	if now := show("MainPID"); now == pid || !strings.Contains(journal(), "Watchdog timeout") {
		t.Errorf("process %s, then %s, and the journal does not mention the watchdog:\n%s", pid, now, journal())
	}
}
