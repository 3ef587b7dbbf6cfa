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
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
)

// A diffLine is a line of nstrace diff -o json.
type diffLine struct {
	Type       event.NSType
	Parameter  string
	Device     string
	Parameters int
	State      string
	A, B       struct {
		Namespace *event.Namespace
		Fresh     bool
		Value     *string
		Absent    bool
		Error     string
	}
	New *struct {
		Value      string
		From       string
		GovernedBy string `json:"governed_by"`
		Setting    string
	}
}

// runDiff runs nstrace diff and returns its exit status and what it printed.
func runDiff(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(nstraceBin, append([]string{"diff", "--runtime-socket", "none"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = patience
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exitStatus(cmd.ProcessState), out.String(), errs.String()
}

// diffJSON is runDiff with -o json. Nothing may be on stderr.
func diffJSON(t *testing.T, want int, args ...string) (lines []*diffLine) {
	t.Helper()
	status, out, errs := runDiff(t, append(args, "-o", "json")...)
	if status != want || errs != "" {
		t.Fatalf("diff %q: exit status %d, want %d\n%s%s", args, status, want, out, errs)
	}
	for line := range strings.Lines(out) {
		var l diffLine
		dec := json.NewDecoder(strings.NewReader(line))
		if err := dec.Decode(&l); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		lines = append(lines, &l)
	}
	return lines
}

// allSettings is what sysctl -a prints, by name.
func allSettings(t *testing.T, command ...string) map[string]string {
	t.Helper()
	cmd := exec.Command(command[0], append(command[1:], "sysctl", "-a")...)
	out, _ := cmd.Output() // the status says that some cannot be read
	all := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = "); ok {
			all[name] = value
		}
	}
	if len(all) < 200 {
		t.Fatalf("%q: only %d parameters", command, len(all))
	}
	return all
}

// checkDiff compares lines with what the witness saw in the two namespaces. Only names with one of the
// prefixes are those of the namespaces' type.
func checkDiff(t *testing.T, lines []*diffLine, a, b map[string]string, prefixes ...string) {
	t.Helper()
	about := func(name string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	devices := map[string]int{} // parameters of devices of one side
	want := map[string]string{}
	for _, side := range []struct{ has, other map[string]string }{{a, b}, {b, a}} {
		for name, value := range side.has {
			other, both := side.other[name]
			if !about(name) || both && other == value {
				continue
			}
			if dev := deviceOf(name); dev != "" && !both {
				devices[dev]++
				continue
			}
			want[name] = "different"
			if !both {
				want[name] = "only"
			}
		}
	}
	for _, l := range lines {
		switch {
		case l.Device != "":
			// sysctl does not print what can only be written or has no value.
			if n := devices[l.Device]; n == 0 || n > l.Parameters || l.State != "only" || l.A.Absent == l.B.Absent {
				t.Errorf("device %q: %+v, want %d parameters", l.Device, l, n)
			}
			delete(devices, l.Device)
		case l.State == "unreadable":
		case want[l.Parameter] != l.State:
			t.Errorf("%s is %s, want %q", l.Parameter, l.State, want[l.Parameter])
		case l.A.Absent != (a[l.Parameter] == "") && l.State == "only":
			t.Errorf("%s is on the wrong side: %+v", l.Parameter, l)
		case l.State == "different" && (l.A.Value == nil || *l.A.Value != a[l.Parameter] || l.B.Value == nil || *l.B.Value != b[l.Parameter]):
			t.Errorf("%s: %+v, want %q and %q", l.Parameter, l, a[l.Parameter], b[l.Parameter])
		}
		delete(want, l.Parameter)
	}
	for name, state := range want {
		if _, err := os.ReadFile(event.SysctlPath(name)); err == nil || state == "different" {
			t.Errorf("%s is missing: %s: %q, %q", name, state, a[name], b[name])
		}
	}
	for dev := range devices {
		t.Errorf("device %q is missing", dev)
	}
}

// deviceOf is the device that a parameter belongs to.
func deviceOf(name string) string {
	f := strings.Split(name, ".")
	if len(f) == 5 && f[0] == "net" && (f[2] == "conf" || f[2] == "neigh") && f[3] != "all" && f[3] != "default" {
		return strings.ReplaceAll(f[3], "/", ".")
	}
	return ""
}

// newNetns makes a network namespace with ip netns.
func newNetns(t *testing.T, name string) string {
	t.Helper()
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
	return name
}

func setIn(t *testing.T, netns string, settings ...string) {
	t.Helper()
	output(t, "ip", append([]string{"netns", "exec", netns, "sysctl", "-qw"}, settings...)...)
}

// hasModules reports whether the kernel has the devices that are in modules.
var hasModules = os.Getenv("NSTRACE_GUEST_NO_MODULES") == ""

func TestDiffNet(t *testing.T) {
	a, b := newNetns(t, "nstrace-diff-a"), newNetns(t, "nstrace-diff-b")
	witness := func(name string) map[string]string { return allSettings(t, "ip", "netns", "exec", name) }

	if status, out, errs := runDiff(t, a, b); status != 0 || out != "" || errs != "" {
		t.Errorf("they do not differ: %d\n%s%s", status, out, errs)
	}
	diffJSON(t, 0, a, b)

	setIn(t, b, "net.ipv4.tcp_keepalive_time=617", "net.ipv4.conf.all.rp_filter=2", "net.ipv4.conf.lo.arp_ignore=3", "net.ipv4.ip_local_reserved_ports=7,9-12", "net.ipv4.ping_group_range=1 5")
	if hasModules {
		output(t, "ip", "-n", b, "link", "add", "nsd-br.7", "type", "bridge")
	}
	lines := diffJSON(t, 1, a, b)
	checkDiff(t, lines, witness(a), witness(b), "net.")
	if len(lines) < 5 {
		t.Errorf("%d lines", len(lines))
	}
	ids := [2]uint32{mustID(t, "/run/netns/"+a), mustID(t, "/run/netns/"+b)}
	for _, l := range lines {
		if l.Type != event.NSTypeNet || l.A.Namespace == nil || l.A.Namespace.ID != ids[0] || l.A.Namespace.Name != a || l.B.Namespace.ID != ids[1] {
			t.Errorf("%+v", l)
		}
		if l.Device != "" && (l.Device != "nsd-br.7" || !l.A.Absent || l.B.Absent) {
			t.Errorf("%+v", l)
		}
	}

	status, out, errs := runDiff(t, a, b)
	if status != 1 || errs != "" {
		t.Errorf("%d\n%s", status, errs)
	}
	if hasModules && !strings.Contains(out, "device nsd-br.7 ") {
		t.Errorf("the table lacks the device:\n%s", out)
	}
	for _, want := range []string{"net.ipv4.tcp_keepalive_time", "7200", "617", a, b, fmt.Sprint(ids[0]), fmt.Sprint(ids[1])} {
		if !strings.Contains(out, want) {
			t.Errorf("the table lacks %q:\n%s", want, out)
		}
	}
	// The same by each of their other names.
	for _, text := range []string{fmt.Sprint(ids[1]), fmt.Sprintf("net:[%d]", ids[1]), fmt.Sprintf("net:%d", ids[1]), "/run/netns/" + b} {
		if again := diffJSON(t, 1, a, text); len(again) != len(lines) {
			t.Errorf("%s: %d lines, want %d", text, len(again), len(lines))
		}
	}

	// With a fresh one, and with the host's.
	fresh := allSettings(t, "unshare", "--net")
	diffJSON(t, 0, a, "--fresh")
	lines = diffJSON(t, 1, b, "--fresh")
	checkDiff(t, lines, witness(b), fresh, "net.")
	for _, l := range lines {
		if !l.B.Fresh || l.B.Namespace != nil {
			t.Errorf("it is not fresh: %+v", l)
		}
		if l.New != nil && l.B.Value != nil && l.New.Value != *l.B.Value {
			t.Errorf("a new one has %q, a fresh one %q: %+v", l.New.Value, *l.B.Value, l)
		}
		// What differs from the value of the host's was not copied from there.
		if l.New != nil && l.New.From == "host" {
			t.Errorf("nothing shows that: %+v", l)
		}
	}
	host := diffJSON(t, 1, b)
	if len(host) == 0 || !host[0].B.Namespace.Host {
		t.Errorf("it was not compared with the host's: %+v", host)
	}
}

// The values that the host has, read in the host's namespaces, show what of a new namespace is a default.
func TestDiffNew(t *testing.T) {
	h := startInside(t, "--ipc", "--uts", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
	types := map[event.NSType]bool{}
	for _, l := range diffJSON(t, 1, fmt.Sprint(h), "-t", "user,pid,uts") {
		types[l.Type] = true
		if l.State != "different" || l.New == nil {
			t.Errorf("%+v", l)
			continue
		}
		switch {
		case l.Type == event.NSTypeUTS && l.Parameter == "kernel.hostname":
			if l.New.From != "creator" {
				t.Errorf("a new name is that of the creator: %+v", l.New)
			}
		case l.Type == event.NSTypeUser && *l.B.Value != l.New.Value:
			if l.New.From != "default" {
				t.Errorf("%s: a new namespace has %s, the host's %s: %+v", l.Parameter, l.New.Value, *l.B.Value, l.New)
			}
		}
	}
	if !types[event.NSTypeUser] || !types[event.NSTypeUTS] {
		t.Errorf("%v", types)
	}
}

// startInside starts a process in new namespaces, which sets some of their parameters, and returns its pid.
func startInside(t *testing.T, flags ...string) int {
	t.Helper()
	h := &host{}
	script := "set -e; echo nsd-inside >/proc/sys/kernel/hostname; echo 4321 >/proc/sys/kernel/msgmax || :; echo 77 >/proc/sys/fs/mqueue/msg_max || :; " +
		"if [ $(id -u) = 0 ] && [ -w /proc/sys/user/max_ipc_namespaces ]; then echo 12 >/proc/sys/user/max_ipc_namespaces || :; fi; " +
		"echo ready=yes; read x || exit 0"
	w := h.start(t, "unshare", append(flags, "sh", "-c", script))
	w.value(t, "ready")
	// With --fork the shell is the child of unshare.
	children := strings.Fields(readFile(t, fmt.Sprintf("/proc/%d/task/%d/children", w.pid, w.pid)))
	if len(children) == 1 {
		return parseInt(t, children[0])
	}
	return w.pid
}

func TestDiffProcess(t *testing.T) {
	pid := startInside(t, "--ipc", "--uts")
	inside := allSettings(t, "nsenter", "-t", fmt.Sprint(pid), "--ipc", "--uts")
	outside := allSettings(t, "env")
	lines := diffJSON(t, 1, fmt.Sprint(pid))
	checkDiff(t, lines, inside, outside, "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm", "kernel.hostname", "kernel.domainname")
	if len(lines) != 3 {
		t.Errorf("%d lines, want 3: %+v", len(lines), lines)
	}
	lines = diffJSON(t, 1, fmt.Sprint(pid), "-t", "uts")
	if len(lines) != 1 || lines[0].Parameter != "kernel.hostname" {
		t.Errorf("%+v", lines)
	}
	lines = diffJSON(t, 1, fmt.Sprint(pid), "-t", "ipc", "--fresh")
	checkDiff(t, lines, inside, allSettings(t, "unshare", "--ipc"), "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")
	if len(lines) != 2 {
		t.Errorf("%+v", lines)
	}
	diffJSON(t, 0, fmt.Sprint(pid), fmt.Sprint(pid))
	// The host's are as they were: trying changed nothing there.
	after := allSettings(t, "env")
	for name, value := range outside {
		if strings.HasPrefix(name, "kernel.msg") || strings.HasPrefix(name, "fs.mqueue.") || strings.HasPrefix(name, "user.") || name == "kernel.hostname" {
			if after[name] != value {
				t.Errorf("%s of the host was %q, is %q", name, value, after[name])
			}
		}
	}
}

// A container and a unit are found by the cgroup of their processes.
func TestDiffWorkload(t *testing.T) {
	root := unifiedCgroup(t)
	id := "5eed" + strings.Repeat("d1ff", 15)
	for _, c := range []struct{ cgroup, name string }{
		{"docker-" + id + ".scope", id}, {"docker-" + id + ".scope", id[:12]}, {"docker-" + id + ".scope", "docker-" + id + ".scope"},
		{"nstrace-diff.service", "nstrace-diff.service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(root, c.cgroup)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			// The kernel removes a cgroup once its last process is gone.
			t.Cleanup(func() {
				for end := time.Now().Add(patience); os.Remove(dir) != nil; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%s cannot be removed", dir)
					}
				}
			})
			h := &host{}
			w := h.start(t, "sh", []string{"-c", "echo $$ >" + dir + "/cgroup.procs && exec unshare --uts --net sh -c 'echo nsd-workload >/proc/sys/kernel/hostname; echo ready=yes; read x || exit 0'"})
			w.value(t, "ready")
			lines := diffJSON(t, 1, c.name, "-t", "uts")
			if len(lines) != 1 || lines[0].Parameter != "kernel.hostname" || lines[0].A.Value == nil || *lines[0].A.Value != "nsd-workload" {
				t.Errorf("%+v", lines)
			}
			diffJSON(t, 0, c.name, fmt.Sprint(w.pid))
			// With another process in another namespace, it is unknown which one is meant.
			other := h.start(t, "sh", []string{"-c", "echo $$ >" + dir + "/cgroup.procs && exec unshare --uts sh -c 'echo ready=yes; read x || exit 0'"})
			other.value(t, "ready")
			status, _, errs := runDiff(t, c.name, "-t", "uts")
			for _, pid := range []int{w.pid, other.pid} {
				if status != 2 || !strings.Contains(errs, fmt.Sprintf("pid %d", pid)) {
					t.Errorf("exit status %d: %s", status, errs)
				}
			}
		})
	}
}

// unifiedCgroup returns where the second version of cgroups is mounted.
func unifiedCgroup(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mounts")) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("there is no cgroup2")
	return ""
}

func TestDiffTrouble(t *testing.T) {
	anyKernel(t)
	name := newNetns(t, "nstrace-diff-t")
	uts := fmt.Sprintf("uts:[%d]", mustID(t, "/proc/self/ns/uts"))
	mnt := fmt.Sprintf("mnt:[%d]", mustID(t, "/proc/self/ns/mnt"))
	for _, args := range [][]string{
		{}, {"a", "b", "c"}, {name, name, "--fresh"}, {"nstrace-diff-none"}, {name, uts}, {mnt}, {name, "-t", "uts"}, {name, "-o", "xml"}, {name, "-t", "x"},
		{"/etc/passwd"}, {"/nonexistent"}, {"net:[1]"}, {""}, {"a/b/c"}, {"default/nstrace-none"}, {"nstrace-none.service"}, {name, "--none"},
	} {
		status, out, errs := runDiff(t, args...)
		if status != 2 || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "nstrace: ") {
			t.Errorf("%q: exit status %d\n%s%s", args, status, out, errs)
		}
	}
	// Who may not enter a namespace learns why.
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", nstraceBin, "diff", name, "--fresh")
	out, err := cmd.CombinedOutput()
	if exitStatus(cmd.ProcessState) != 2 || !strings.Contains(string(out), "not permitted") {
		t.Errorf("%v: %s", err, out)
	}
}

// Names of namespaces and devices reach neither the terminal nor JSON raw.
func TestDiffHostile(t *testing.T) {
	anyKernel(t)
	a, b := newNetns(t, "nstrace-diff-\x1b[31m\xff\"x"), newNetns(t, "nstrace-diff-h")
	const dev = "nsd\x1b[2J\xff\""
	if hasModules {
		output(t, "ip", "-n", b, "link", "add", dev, "type", "bridge")
	}
	setIn(t, b, "net.ipv4.tcp_keepalive_time=618")
	for _, args := range [][]string{{a, b}, {b, a}, {a, b, "-o", "json"}, {a + "none"}, {b, "x\x1b[31m/y"}} {
		_, out, errs := runDiff(t, args...)
		for _, text := range []string{out, errs} {
			if strings.Contains(text, "\x1b") || !utf8.ValidString(text) {
				t.Errorf("%q: raw bytes: %q", args, text)
			}
		}
	}
	lines := diffJSON(t, 1, a, b)
	if hasModules && (len(lines) != 2 || lines[1].Device != strings.ToValidUTF8(dev, "\ufffd")) {
		t.Errorf("%+v", lines)
	}
}

// No namespace outlives nstrace. The kernel counts those of a user namespace: with a low limit, there would
// soon be too many.
func TestDiffLeavesNothing(t *testing.T) {
	anyKernel(t)
	if err := os.Chmod(nstraceBin, 0o755); err != nil {
		t.Fatal(err)
	}
	const limit, runs = 20, 12 // a run makes three of each type
	script := fmt.Sprintf(`set -e
for t in net uts ipc; do echo %d >/proc/sys/user/max_${t}_namespaces; done
echo nsd-leaves >/proc/sys/kernel/hostname; sysctl -qw net.ipv4.tcp_keepalive_time=619
for i in $(seq %d); do
	status=0; %s diff $$ --fresh -t net,uts,ipc --runtime-socket none || status=$?
	[ $status = 1 ] || { echo "run $i: exit status $status"; exit 1; }
done`, limit, runs, nstraceBin)
	out, err := exec.Command("unshare", "--user", "--map-root-user", "--net", "--uts", "--ipc", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Nor does a child.
	comm := filepath.Base(nstraceBin)
	for end := time.Now().Add(patience); ; {
		left := 0
		all, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range all {
			if exe, err := os.Readlink(link); err == nil && exe == nstraceBin {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d processes of %s are left", left, comm)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
