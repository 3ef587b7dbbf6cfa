// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// parameter is a parameter that each network namespace has.
const parameter = "net.ipv4.tcp_keepalive_time"

// An engine makes containers. Its command line is Docker's or similar.
type engine struct {
	command  []string // and the arguments of every call
	runtime  string   // its name in events
	spec     string   // for --runtime-socket; empty: nstrace finds it
	made     known
	dir      string
	network  string // --network of a container with a network of its own
	slow     bool   // it can report a container later than the container starts
	late     bool   // its runtime makes and enters the namespaces before it is in the container's cgroup
	rootless bool   // its runtime runs as a user
}

// isRuntime reports whether a process is the engine's runtime. The copy in memory from which a user's crun runs
// has no role: every user can make one.
func (e *engine) isRuntime(p *event.Process) bool {
	if e.rootless {
		return p.Role == attribution.RoleRuntime || p.Role == "" && strings.Contains(p.Exe, "crun")
	}
	return p.Role == attribution.RoleRuntime
}

func (e *engine) args(args ...string) []string {
	return append(e.command[1:len(e.command):len(e.command)], args...)
}

// trace runs nstrace with the engine's socket.
func (e *engine) trace(t *testing.T, args ...string) *stream {
	t.Helper()
	if e.spec != "" {
		args = append(args, "--runtime-socket", e.spec)
	}
	return trace(t, args...)
}

func (e *engine) do(t *testing.T, args ...string) string {
	t.Helper()
	return runtimetest.Output(t, e.command[0], e.args(args...)...)
}

// inspect returns one field about a container.
func (e *engine) inspect(t *testing.T, name, format string) string {
	t.Helper()
	return e.do(t, "inspect", "--format", format, name)
}

// run runs a container to its end and returns its id.
func (e *engine) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	id, err := e.try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	e.made[id] = append(e.made[id], name)
	return id
}

// try is run for any goroutine. It does not add the container to the known ones.
func (e *engine) try(name string, args ...string) (string, error) {
	file := filepath.Join(e.dir, name+".id")
	if _, err := runtimetest.Try(e.command[0], e.args(slices.Concat([]string{"run", "--rm", "--cidfile", file, "--name", name}, args)...)...); err != nil {
		return "", err
	}
	id, err := os.ReadFile(file)
	return string(id), err
}

// keep starts a container that stays and returns its id.
func (e *engine) keep(t *testing.T, name string, args ...string) string {
	t.Helper()
	e.do(t, slices.Concat([]string{"run", "--detach", "--name", name}, args, []string{runtimetest.Image, "sleep", "100000"})...)
	id := e.inspect(t, name, "{{.Id}}")
	e.made[id] = append(e.made[id], name)
	t.Cleanup(func() { _ = exec.Command(e.command[0], e.args("rm", "--force", id)...).Run() })
	return id
}

func (e *engine) pid(t *testing.T, name string) string { return e.inspect(t, name, "{{.State.Pid}}") }

// ns returns the number of a process's namespace from /proc.
func ns(t *testing.T, pid, typ string) uint32 {
	t.Helper()
	link, err := os.Readlink("/proc/" + pid + "/ns/" + typ)
	if err != nil {
		t.Fatal(err)
	}
	var id uint32
	if _, err := fmt.Sscanf(link, typ+":[%d]", &id); err != nil {
		t.Fatalf("%s: %v", link, err)
	}
	return id
}

func TestDocker(t *testing.T) {
	dir := runtimetest.Dir(t)
	var more []string
	if runtimetest.IsGuest() {
		more = []string{"--exec-root", "/run/docker"} // the default, which has the folder of network namespaces
	}
	d := runtimetest.Docker(t, dir, more...)
	e := &engine{command: d.CLI, runtime: "docker", spec: "docker:" + d.Socket, made: known{}, dir: dir, network: "none"}
	e.do(t, "load", "--input", runtimetest.ImageTar(t, dir))
	e.testAll(t)
	if testing.Short() {
		return
	}
	t.Run("Restart", func(t *testing.T) {
		s := e.trace(t)
		e.run(t, "before-restart", "--network", "none", runtimetest.Image, "true")
		d.Stop(t)
		d.Start(t)
		id := e.run(t, "after-restart", "--network", "none", runtimetest.Image, "true")
		events := s.end()
		e.check(t, events)
		if len(pick(events, func(ev *event.Event) bool { return ev.Container != nil && ev.Container.ID == id })) == 0 {
			t.Error("no event has the container after the restart")
		}
	})
}

// testAll runs the tests that all engines have in common.
func (e *engine) testAll(t *testing.T) {
	t.Run("Sysctl", e.testSysctl)
	t.Run("Sides", e.testSides)
	t.Run("Privileged", e.testPrivileged)
	if testing.Short() {
		return
	}
	t.Run("Burst", e.testBurst)
	t.Run("NoRuntime", e.testNoRuntime)
}

// testSysctl runs a container for which the runtime sets a parameter. The program of the container
// then tries to change it, but /proc/sys is read-only there.
func (e *engine) testSysctl(t *testing.T) {
	s := e.trace(t)
	id := e.run(t, "web-1", "--network", e.network, "--sysctl", parameter+"=607", runtimetest.Image,
		"sh", "-c", "! echo 5 > /proc/sys/net/ipv4/tcp_keepalive_time")
	events := s.end()
	e.check(t, events)
	wrote := pick(events, func(ev *event.Event) bool { return ev.Sysctl != nil && ev.Sysctl.Name == parameter })
	if len(wrote) == 0 || len(wrote) != 1+len(pick(events, seesOpens)) {
		t.Fatalf("%d writes", len(wrote))
	}
	w := wrote[0]
	if len(wrote) == 2 {
		if o := wrote[1]; o.Via != "open" || o.Error != "EROFS" || o.Container == nil || o.Container.ID != id || o.Process.Role != "" ||
			owner(o) == nil || owner(o).ID != id {
			t.Errorf("want the refused write of the container's program: %s", line(o))
		}
	}
	if w.Container == nil || w.Container.ID != id || !e.isRuntime(w.Process) || *w.Sysctl.New != "607" {
		t.Errorf("want a write by the runtime in the container: %s", line(w))
	}
	if c := owner(w); c == nil || c.ID != id || (c.Name != "web-1" && !e.slow) {
		t.Errorf("want a write to the container's network: %s", line(w))
	}
	for _, typ := range []event.NSType{"net", "mnt", "uts", "ipc", "pid"} {
		made := pick(events, func(ev *event.Event) bool {
			return ev.Type == event.NamespaceCreate && ev.Namespace.Type == typ && owner(ev) != nil && owner(ev).ID == id
		})
		gone := pick(events, func(ev *event.Event) bool {
			return ev.Type == event.NamespaceDestroy && ev.Namespace.Type == typ && owner(ev) != nil && owner(ev).ID == id
		})
		// The engine creates the network namespace before it is known for which container.
		if (len(made) == 0 && typ != event.NSTypeNet && !e.late) || len(gone) == 0 {
			t.Errorf("%s: the container's was made %d times and ended %d times", typ, len(made), len(gone))
		}
	}
}

// seesOpens reports whether an event is a trace.start of a run that sees writes which the kernel
// refuses at the open.
func seesOpens(ev *event.Event) bool {
	return ev.Type == event.TraceStart && slices.ContainsFunc(ev.Trace.Observations, func(o event.Observation) bool {
		return o.Name == "open" && len(o.Hooks) > 0
	})
}

// testSides acts on containers from outside, and from one container to another.
func (e *engine) testSides(t *testing.T) {
	old := e.keep(t, "old", "--network", e.network)
	oldPID := e.pid(t, "old")
	s := e.trace(t)
	only := map[string]*stream{
		"--container old":   e.trace(t, "--container", "old"),
		"--container ID":    e.trace(t, "--container", old[:12]),
		"--netns old":       e.trace(t, "--netns", "old"),
		"--netns PID":       e.trace(t, "--netns", oldPID),
		"--netns /proc/...": e.trace(t, "--netns", "/proc/"+oldPID+"/ns/net"),
	}

	named := func(name string) {
		t.Helper()
		runtimetest.Eventually(t, "the name "+name+" is known", func() bool {
			runtimetest.Output(t, "nsenter", "--target", oldPID, "--net", "true")
			text, err := os.ReadFile(s.file)
			return err == nil && strings.Contains(string(text), `"name":"`+name+`"`)
		})
	}
	named("old")
	runtimetest.Output(t, "nsenter", "--target", oldPID, "--net", "sysctl", "-w", parameter+"=701")
	peer := e.run(t, "peer", "--network", "container:old", runtimetest.Image, "true")
	e.do(t, "exec", "old", "true")
	host := e.run(t, "host", "--network", "host", runtimetest.Image, "true")
	privileged := ""
	if allCapabilities(t) {
		privileged = e.run(t, "privileged", "--network", e.network, "--privileged", runtimetest.Image,
			"sh", "-c", "echo 702 > /proc/sys/net/ipv4/tcp_keepalive_time")
	}
	e.do(t, "rename", "old", "older")
	e.made[old] = append(e.made[old], "older")
	// The engine reports the new name a moment later. Until then, the old name is shown, which is
	// fine.
	named("older")
	net := ns(t, oldPID, "net")
	kept := e.inspect(t, old, "{{.NetworkSettings.SandboxKey}}")
	events := s.end()
	for flag, s := range only {
		here := pick(s.end(), func(ev *event.Event) bool { return !strings.HasPrefix(string(ev.Type), "trace.") })
		others := pick(here, func(ev *event.Event) bool {
			if strings.HasPrefix(flag, "--netns") {
				return namespace(ev) == nil || namespace(ev).ID != net
			}
			return (ev.Container == nil || ev.Container.ID != old) && (owner(ev) == nil || owner(ev).ID != old)
		})
		wrote := pick(here, func(ev *event.Event) bool { return ev.Sysctl != nil && ev.Sysctl.Name == parameter })
		if len(wrote) != 1 || len(others) > 0 {
			t.Errorf("%s: %d writes, want 1, and %d events of others", flag, len(wrote), len(others))
		}
	}
	e.check(t, events)

	by := func(value string) *event.Event {
		t.Helper()
		wrote := pick(events, func(ev *event.Event) bool {
			return ev.Sysctl != nil && ev.Sysctl.Name == parameter && ev.Sysctl.New != nil && *ev.Sysctl.New == value
		})
		if len(wrote) != 1 {
			t.Fatalf("%d writes of %s, want 1", len(wrote), value)
		}
		return wrote[0]
	}
	if w := by("701"); w.Container != nil || owner(w) == nil || owner(w).ID != old || owner(w).Name != "old" || w.Sysctl.Namespace.ID != net {
		t.Errorf("want a write of the host to the container: %s", line(w))
	} else if dir := strings.TrimPrefix(filepath.Dir(kept), "/var"); (dir == "/run/netns" || dir == "/run/docker/netns") && w.Sysctl.Namespace.Name != filepath.Base(kept) {
		t.Errorf("want the name %s: %s", kept, line(w))
	} else if runtimetest.IsGuest() && w.Sysctl.Namespace.Name == "" {
		t.Errorf("%s keeps it as %q, which is not a known path", e.runtime, kept)
	}
	if privileged == "" {
		t.Log("no privileged container: this host does not have all capabilities")
	} else if w := by("702"); w.Container == nil || w.Container.ID != privileged || owner(w) == nil || owner(w).ID != privileged || w.Process.Role != "" {
		t.Errorf("want a write of the container's program to its own namespace: %s", line(w))
	}
	entered := pick(events, func(ev *event.Event) bool { return ev.Type == event.NamespaceEnter && ev.Namespace.ID == net })
	peers := pick(entered, func(ev *event.Event) bool {
		if e.late { // that of the exec is the other one
			return e.isRuntime(ev.Process)
		}
		return ev.Container != nil && ev.Container.ID == peer
	})
	if len(peers) == 0 || e.late && len(peers) < 2 {
		t.Errorf("container %s did not enter the network:", peer)
		for _, ev := range entered {
			t.Log(line(ev))
		}
	}
	for _, ev := range events {
		n := namespace(ev)
		switch {
		case n == nil:
		case n.ID == net && (owner(ev) == nil || owner(ev).ID != old):
			t.Errorf("want the network of the old container: %s", line(ev))
		case n.Host && n.Owner != nil:
			t.Errorf("the host's own namespace has an owner: %s", line(ev))
		case n.Type == event.NSTypeNet && owner(ev) != nil && owner(ev).ID == host:
			t.Errorf("a container in the host's network owns one: %s", line(ev))
		}
	}
}

// allCapabilities reports whether a process of this host can have every capability.
func allCapabilities(t *testing.T) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var set uint64
	_, text, _ := strings.Cut(string(status), "CapBnd:")
	if _, err := fmt.Sscanf(text, "%x", &set); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(last), &n); err != nil {
		t.Fatal(err)
	}
	return set == 1<<(n+1)-1
}

// testBurst starts many containers at once. Each ends at once.
func (e *engine) testBurst(t *testing.T) {
	n := 12
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		n = 100
	}
	s := e.trace(t)
	ids, errs := make([]string, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ids[i], errs[i] = e.try(fmt.Sprintf("burst-%d", i), "--network", "none", runtimetest.Image, "true")
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
		e.made[ids[i]] = []string{fmt.Sprintf("burst-%d", i)}
	}
	events := s.end()
	e.check(t, events)
	for i, id := range ids {
		made := pick(events, func(ev *event.Event) bool {
			return ev.Type == event.NamespaceCreate && ev.Namespace.Type == event.NSTypeMnt && owner(ev) != nil && owner(ev).ID == id && ev.Outcome == event.Success
		})
		if len(made) == 0 {
			t.Errorf("burst-%d, %s: no event about its mount namespace", i, id)
		}
	}
}

// testNoRuntime runs nstrace without a runtime to ask: containers have ids and no names.
func (e *engine) testNoRuntime(t *testing.T) {
	s := trace(t, "--runtime-socket", "none")
	id := e.run(t, "nameless", "--network", "none", runtimetest.Image, "true")
	events := pick(s.end(), func(ev *event.Event) bool { return ev.Container != nil })
	if len(events) == 0 {
		t.Error("no event of the container")
	}
	for _, ev := range events {
		if c := ev.Container; c.ID != id || c.Name != "" || c.Source != "cgroup" {
			t.Errorf("%s", line(ev))
		}
	}
}
