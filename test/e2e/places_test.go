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
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// A place is where nstrace runs: a script that goes there and executes its arguments.
type place struct {
	name   string
	script string
	says   string // what nstrace says there on standard error
	core   bool   // run every backend there, and run it with -short too
}

// backends are those to run in the place. Starting each of them in each place takes a quarter of an
// hour on an emulated processor.
func (p *place) backends() []tracer.Backend {
	if p.core {
		return placeBackends()
	}
	return fewBackends()
}

// placeBackends are those of all places.
func placeBackends() []tracer.Backend {
	if testing.Short() {
		return fewBackends()
	}
	return backends
}

// fewBackends are the best one of this kernel, and the one that all kernels have.
func fewBackends() []tracer.Backend {
	return slices.Compact([]tracer.Backend{backends[0], tracer.Tracepoint})
}

// ownCgroup puts the shell into a cgroup of its own, $cgroup.
const ownCgroup = `echo $$ >"$cgroup/cgroup.procs"; `

// inChroot needs $dir, a directory in which makeChroot was called.
const inChroot = `cd "$dir"; mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /usr usr; `

const inPIDNamespace = "nstrace: nstrace runs in a PID namespace: it takes the PIDs of that one, and events have those of the host\n"

// places are one for each type of namespace, all of them, and a chroot whose root is no mount point.
var places = []place{
	{"pid", `exec unshare --pid --fork --mount-proc "$@"`, inPIDNamespace, false},
	{"pid with the proc of the host", `exec unshare --pid --fork "$@"`, inPIDNamespace, false},
	{"mnt", `exec unshare --mount "$@"`, "", false},
	{"uts", `exec unshare --uts sh -c 'hostname elsewhere; exec "$@"' sh "$@"`, "", false},
	{"ipc", `exec unshare --ipc "$@"`, "", false},
	{"net", `exec unshare --net "$@"`, "", false},
	{"cgroup", ownCgroup + `exec unshare --cgroup "$@"`, "", false},
	{"cgroup with its own mounts", ownCgroup + `exec unshare --cgroup --mount sh -e -c '
		mount -t tmpfs tmpfs /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"' sh "$@"`, "", true},
	{"time", `exec unshare --time --boottime 86400 --monotonic 3600 --fork "$@"`, "", false},
	{"all", ownCgroup + `exec unshare --pid --mount-proc --uts --ipc --net --cgroup --time --boottime 86400 --fork "$@"`, inPIDNamespace, true},
	{"chroot", `exec unshare --mount sh -e -c '` + inChroot + `shift; exec chroot . /nstrace "$@"' sh "$@"`, "", true},
}

// visit prepares what the places need, and returns the environment of their scripts.
func visit(t *testing.T) []string {
	t.Helper()
	cgroup := filepath.Join(cgroup2(t), fmt.Sprint("nstrace-places-", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(cgroup); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	for _, name := range []string{"etc", "proc", "sys", "usr", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	output(t, "cp", nstraceBin, filepath.Join(dir, "nstrace"))
	// Users of the host do not have these names.
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("toor:x:0:0:toor:/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "cgroup="+cgroup, "dir="+dir)
}

// command returns a command that runs nstrace in the place.
func (p *place) command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-e", "-c", p.script, "sh", nstraceBin}, args...)...)
	cmd.Env = env
	return cmd
}

// endTracer ends nstrace, at the end of a chain of children, as ^C does. unshare --fork ignores the signal.
func endTracer(t *testing.T, pid int) {
	t.Helper()
	for readFile(t, fmt.Sprintf("/proc/%d/comm", pid)) != "nstrace" {
		out := output(t, "pgrep", "-P", fmt.Sprint(pid))
		if _, err := fmt.Sscan(out, &pid); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// TestPlaces checks that nstrace in other namespaces than the host's, or in a chroot, reports the
// same as one that runs on the host.
func TestPlaces(t *testing.T) {
	env := visit(t)
	h := watch(t, placeBackends()...)
	outer := h.streams
	for i := range places {
		p := &places[i]
		if testing.Short() && !p.core {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			h.streams = slices.Clone(outer)
			defer func() { h.streams = outer }()
			inner := map[*stream]*stream{} // and the one on the host
			for _, s := range outer {
				if !slices.Contains(p.backends(), s.backend) {
					continue
				}
				args := []string{"-o", "json", "--backend", string(s.backend)}
				in := startCommand(t, p.command(env, args...), args)
				in.inner = true
				inner[in] = s
				h.streams = append(h.streams, in)
			}
			for in := range inner {
				in.awaitStart(t)
			}
			h.fence(t)
			h.visited(t, inner, strings.Contains(p.script, "mount"))
			for in := range inner {
				endTracer(t, in.cmd.Process.Pid)
				in.awaitEnd(t)
				if says := withoutEnds(in.stderr.String()); in.err != nil || !strings.HasPrefix(says, p.says+"nstrace: ") || strings.Count(says, "\n") != strings.Count(p.says, "\n")+1 {
					t.Errorf("%v: %v, standard error %q, want first %q and then a summary", in, in.err, says, p.says)
				}
			}
		})
	}
	for _, s := range outer {
		s.others = true
		s.interrupt(t)
		s.checkEnd(t, true)
	}
}

// noEnds is what nstrace also says in a PID namespace if it uses tracepoints, and the kernel does not
// tell it which namespaces ended.
const noEnds = "the end of namespaces, as nstrace is in a PID namespace and does not see all processes"

// withoutEnds removes noEnds from standard error.
func withoutEnds(stderr string) string {
	return strings.ReplaceAll(stderr, "nstrace: not seen: "+noEnds+"\n", "")
}

// seesEnds reports whether a stream reports the end of namespaces.
func (s *stream) seesEnds() bool { return !bytes.Contains(s.since(0)[0].line, []byte(noEnds)) }

// visited makes events, and compares what each inner stream reports with what the one on the host
// does.
func (h *host) visited(t *testing.T, inner map[*stream]*stream, elsewhere bool) {
	t.Helper()
	// A process outside the places keeps a namespace, while scans look for what ended.
	keeper := h.start(t, "unshare", []string{"--net", "sh", "-c", `stat -Lc %i /proc/self/ns/net; read x || :`})
	var kept uint32
	if _, err := fmt.Sscan(keeper.line(t), &kept); err != nil {
		t.Fatal(err)
	}
	w := h.sh(t, `unshare --uts true
		nsenter --ipc=/proc/self/ns/ipc true
		unshare --net sysctl -qw net.ipv4.ip_default_ttl=63
		sysctl -qw net.ipv4.ip_default_ttl="$(cat /proc/sys/net/ipv4/ip_default_ttl)"`)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		var got []string
		for _, e := range events {
			if s := fmt.Sprintf("%s %s", e.Type, e.Via); e.Type != event.NamespaceDestroy {
				got = append(got, s)
			}
		}
		want := []string{"namespace.create unshare", "namespace.enter setns", "namespace.create unshare", "sysctl.write write", "sysctl.write write"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	for in, out := range inner {
		sameEvents(t, w, in, out, elsewhere)
	}
	ended := func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Type == event.NamespaceDestroy && e.Namespace.Type == event.NSTypeNet && e.Namespace.ID == kept
		})
	}
	for _, s := range h.streams {
		if ended(s.since(keeper.from[s])) {
			t.Errorf("%v reports the end of net %d while a process is in it", s, kept)
		}
	}
	keeper.stop(t)
	for _, s := range h.streams {
		if !s.seesEnds() {
			continue
		}
		s.awaitFrom(t, keeper.from[s], fmt.Sprint("end of net ", kept), ended)
	}
}

// sameEvents checks that two streams report the same about w, at the same times. elsewhere says that
// in is in another mount namespace.
func sameEvents(t *testing.T, w *work, in, out *stream, elsewhere bool) {
	t.Helper()
	a, b := w.all(in), w.all(out)
	if len(in.lacking(a, b))+len(out.lacking(b, a)) > 0 {
		return // each has reported that
	}
	if len(a) != len(b) {
		t.Errorf("%v has %d events, and %v has %d:\n%s--\n%s", in, len(a), out, len(b), dump(a), dump(b))
		return
	}
	for i := range a {
		x, y := comparable(t, a[i]), comparable(t, b[i])
		if a[i].Process.User == "" && elsewhere { // which file has the users of the host is not known there
			delete(y["process"].(map[string]any), "user")
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("%v and %v differ:\n%s%s", in, out, a[i].line, b[i].line)
		}
		for _, d := range []time.Duration{a[i].Time.Sub(b[i].Time), a[i].Process.StartTime.Sub(b[i].Process.StartTime)} {
			if d.Abs() > time.Second {
				t.Errorf("%v and %v differ by %v:\n%s%s", in, out, d, a[i].line, b[i].line)
			}
		}
	}
}

// TestPlacesRun checks that nstrace run follows its command in another PID namespace, and that -p
// takes the PIDs there. The witness is nstrace on the host.
func TestPlacesRun(t *testing.T) {
	env := visit(t)
	h := watch(t, placeBackends()...)
	for i := range places {
		p := &places[i]
		if testing.Short() && p.name != "all" {
			continue
		}
		if p.name != "pid" && p.name != "pid with the proc of the host" && p.name != "all" {
			continue
		}
		for _, out := range h.streams {
			t.Run(p.name+"/"+string(out.backend), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "events")
				args := []string{"run", "--backend", string(out.backend), "-o", "json", "-O", file, "--",
					"sh", "-e", "-c", "unshare --uts true; sh -c 'unshare --net sysctl -qw net.ipv4.ip_default_ttl=62'"}
				from := 0
				text := completely(t, args, func() string {
					from = out.len()
					text, err := p.command(env, args...).CombinedOutput()
					if err != nil {
						t.Fatalf("%v, %q", err, text)
					}
					return string(text)
				})
				if withoutEnds(text) != p.says {
					t.Fatalf("%q; want %q", text, p.says)
				}
				h.fence(t)
				events := slices.DeleteFunc(readEvents(t, file), func(e *emitted) bool { return e.Process == nil })
				same(t, events, "create uts unshare: success", "create net unshare: success",
					write{name: "net.ipv4.ip_default_ttl", old: "64", new: "62"}.on(out))
				for _, e := range events {
					if !slices.ContainsFunc(out.since(from), func(o *emitted) bool {
						return o.Type == e.Type && o.Process != nil && o.Process.PID == e.Process.PID && reflect.DeepEqual(o.Process.Args, e.Process.Args)
					}) {
						t.Errorf("nstrace on the host does not report %s", e.line)
					}
				}
			})
		}
	}
	t.Run("-p", func(t *testing.T) {
		p := place{script: `exec unshare --pid --fork --mount-proc sh -e -c 'sh -c "read x <$fifo; exec unshare --ipc true" & exec "$@" -p $!' sh "$@"`}
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"-o", "json", "-n", "1"}
		in := startCommand(t, p.command(append(env, "fifo="+fifo), args...), args)
		in.awaitStart(t)
		output(t, "unshare", "--ipc", "true") // of another process
		if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		in.awaitEnd(t)
		if all := in.since(0); len(all) != 3 || all[1].Type != event.NamespaceCreate || !slices.Equal(all[1].Process.Args, []string{"unshare", "--ipc", "true"}) {
			t.Errorf("%s", dump(all))
		}
	})
	t.Run("-p without a process", func(t *testing.T) {
		text, err := places[0].command(env, "-p", "4000000").CombinedOutput()
		if status := exitOf(err); status != 2 || !strings.Contains(string(text), "no process 4000000 in nstrace's PID namespace") {
			t.Errorf("status %d: %s", status, text)
		}
	})
}

func exitOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// TestPlacesRefused checks that nstrace says in one line that it cannot trace, with status 3.
func TestPlacesRefused(t *testing.T) {
	anyKernel(t)
	env := visit(t)
	user := place{"user", `exec unshare --user --map-root-user "$@"`, "nstrace: this host can't: the kernel refuses bpf(2) in a user namespace: run nstrace outside it\n", false}
	// In a chroot that it cannot leave, nstrace can mount neither tracefs nor cgroup2.
	jail := place{"jail", `exec unshare --mount sh -e -c '` + inChroot + `shift; exec chroot . setpriv --inh-caps=-sys_chroot --bounding-set=-sys_chroot /nstrace "$@"' sh "$@"`,
		"nstrace: there is no way to see creates, enters and sysctl writes here: ", false}
	bare := place{"bare", `exec unshare --mount sh -e -c 'cd "$dir"; mount --rbind /usr usr; shift; exec chroot . /nstrace "$@"' sh "$@"`,
		"nstrace: this host can't: procfs is not mounted on /proc where nstrace runs\n", false}
	for _, p := range []place{user, jail, bare} {
		for _, args := range [][]string{{"-o", "table"}, {"-o", "wide"}, {"-o", "json"}, {"run", "--", "true"}, {"record", "--db", filepath.Join(t.TempDir(), "db")}} {
			if p.name != "user" {
				if args[0] == "record" {
					args = []string{"record", "--db", "/tmp/db"}
				}
				i := slices.Index(args, "--")
				if i < 0 {
					i = len(args)
				}
				args = slices.Insert(slices.Clone(args), i, "--backend", string(tracer.Tracepoint))
			}
			t.Run(p.name+"/"+strings.Join(args, " "), func(t *testing.T) {
				cmd := p.command(env, args...)
				var stdout, stderr strings.Builder
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				err := cmd.Run()
				if exitOf(err) != 3 || stdout.String() != "" || !strings.HasPrefix(stderr.String(), p.says) || strings.Count(stderr.String(), "\n") != 1 {
					t.Errorf("%v, %q, %q; want status 3 and one line %q", err, stdout.String(), stderr.String(), p.says)
				}
			})
		}
	}
	t.Run("partial", func(t *testing.T) {
		cmd := jail.command(env, "-o", "json", "--backend", string(tracer.Tracepoint), "--partial", "--duration", "1s")
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil || !strings.HasPrefix(stderr.String(), jail.says) {
			t.Fatalf("%v, %q; want success and %q", err, stderr.String(), jail.says)
		}
		first := parseEvents(t, stdout.String())[0].Trace
		if !slices.ContainsFunc(first.Notes, func(n string) bool { return strings.HasPrefix("nstrace: "+n, jail.says) }) {
			t.Errorf("the notes %q do not say what is missing", first.Notes)
		}
	})
	t.Run("no root of cgroup v2", func(t *testing.T) {
		p := place{script: ownCgroup + `exec unshare --cgroup --mount sh -e -c 'mount -t tmpfs tmpfs /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
			exec setpriv --inh-caps=-dac_read_search --bounding-set=-dac_read_search "$@"' sh "$@"`}
		const missing = "sysctl writes from outside nstrace's own cgroup, as nstrace is in a cgroup namespace and the kernel refuses to open the root of cgroup v2"
		args := []string{"-o", "json", "--backend", string(tracer.Tracepoint), "-e", "sysctl"}
		in := startCommand(t, p.command(env, args...), args)
		in.awaitStart(t)
		// What it says must be true. The process of the test is outside its cgroup.
		output(t, "sh", "-c", `read x </proc/sys/net/ipv4/ip_default_ttl; echo $x >/proc/sys/net/ipv4/ip_default_ttl`)
		endTracer(t, in.cmd.Process.Pid)
		in.awaitEnd(t)
		all := in.since(0)
		i := slices.IndexFunc(all[0].Trace.Observations, func(o event.Observation) bool { return o.Name == "sysctl" })
		if i < 0 || !slices.ContainsFunc(all[0].Trace.Observations[i].Missing, func(s string) bool { return strings.HasPrefix(s, missing) }) ||
			!strings.HasPrefix(in.stderr.String(), "nstrace: not seen: "+missing) || len(all) != 2 {
			t.Errorf("%q\n%s", in.stderr.String(), dump(all))
		}
	})
	t.Run("check", func(t *testing.T) {
		cmd := jail.command(env, "check", "--backend", string(tracer.Tracepoint))
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		first, _, _ := strings.Cut(stdout.String(), "\n\n")
		head, missing, _ := strings.Cut(first, "\n")
		if exitOf(err) != 3 || !strings.HasPrefix(stderr.String(), jail.says) || head != "Here, nstrace cannot run: stderr says why." {
			t.Errorf("%v, %q\n%s", err, stderr.String(), stdout.String())
		}
		for _, name := range []string{"clone(2)", "unshare(2)", "setns(2)", "writes to parameters"} {
			if !slices.ContainsFunc(strings.Split(missing, "\n"), func(line string) bool {
				return strings.HasPrefix(line, "- nstrace sees no ") && strings.Contains(line, "no "+name)
			}) {
				t.Errorf("it does not say that all of %s is missing:\n%s", name, missing)
			}
		}
	})
	t.Run("list in a PID namespace", func(t *testing.T) {
		cmd := places[0].command(env, "list", "-t", "uts,pid", "-o", "json")
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil || stderr.String() != "nstrace: not listed: what only processes outside nstrace's PID namespace use\n" {
			t.Errorf("%v, %q", err, stderr.String())
		}
		// Its own PID namespace is not the host's, although its process has PID 1 there.
		for line := range strings.Lines(stdout.String()) {
			var n struct {
				Namespace struct {
					Type string
					Host bool
				}
			}
			if err := json.Unmarshal([]byte(line), &n); err != nil {
				t.Fatal(err)
			}
			if n.Namespace.Host != (n.Namespace.Type == "uts") {
				t.Errorf("%s", line)
			}
		}
	})
	t.Run("list", func(t *testing.T) {
		if text, err := user.command(env, "list", "-t", "user").CombinedOutput(); err != nil || !strings.Contains(string(text), "user") {
			t.Errorf("%v: %s", err, text)
		}
	})
}

// TestCheckFirst checks that the first lines of check say the same as the rows below them.
func TestCheckFirst(t *testing.T) {
	for _, b := range append([]tracer.Backend{tracer.Auto}, backends...) {
		t.Run(string(b), func(t *testing.T) {
			var r tracer.Report
			if err := json.Unmarshal([]byte(output(t, nstraceBin, "check", "-o", "json", "--backend", string(b))), &r); err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, o := range r.Observations {
				for _, missing := range o.Missing {
					want = append(want, o.Name+": "+missing)
				}
			}
			for _, line := range r.Missing {
				names, what, _ := strings.Cut(line, ": ")
				for _, name := range strings.Split(names, ", ") {
					got = append(got, name+": "+what)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) || r.Complete != (len(want) == 0) {
				t.Errorf("complete %v, missing %q; want %q", r.Complete, got, want)
			}
			text := output(t, nstraceBin, "check", "--backend", string(b))
			first := "Here, nstrace works, and sees everything.\n"
			if len(r.Missing) > 0 {
				first = "Here, nstrace works, but does not see everything:\n- "
			}
			if n := strings.Count(text, "\n- "); n != len(r.Missing) {
				t.Errorf("%d gaps, want %d:\n%s", n, len(r.Missing), text)
			}
			if !strings.HasPrefix(text, first) {
				t.Errorf("it begins with other lines than %q:\n%s", first, text)
			}
		})
	}
}
