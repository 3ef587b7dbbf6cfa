// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// programs are what the tests run.
type programs struct{ bench, nstrace, tmp string }

func build(t *testing.T) programs {
	t.Helper()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("runs the whole benchmark and needs an idle machine: make test-all")
	}
	if os.Geteuid() != 0 {
		t.Fatal("the benchmark traces the kernel: run its test as root")
	}
	dir := t.TempDir()
	p := programs{filepath.Join(dir, "bench"), filepath.Join(dir, "nstrace"), t.TempDir()}
	for out, pkg := range map[string]string{p.bench: ".", p.nstrace: "github.com/nstrace/nstrace/cmd/nstrace"} {
		if err := goBuild(t.Context(), out, pkg); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// command returns the command of the whole benchmark, as small as possible.
func (p programs) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.bench, append([]string{"-nstrace", p.nstrace, "-rounds", "1", "-slices", "1", "-scale", "0.02",
		"-idle", "100ms", "-crowd", "200", "-storm", "200ms", "-soak", "60", "-soak-namespaces", "20", "-history", "20000", "-inventory", "50"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+p.tmp)
	return cmd
}

// checkGone fails the test if a run left something behind.
func (p programs) checkGone(t *testing.T, rules string) {
	t.Helper()
	left, err := os.ReadDir(p.tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", p.tmp, left, err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		// A process that ended in between is fine.
		if exe, err := os.Readlink(link); err == nil && (exe == p.bench || exe == p.nstrace) {
			t.Errorf("%s is still there: %s", link, exe)
		}
	}
	if now := auditRulesNow(); now != rules {
		t.Errorf("the host's audit rules are %q, and were %q", now, rules)
	}
}

func auditRulesNow() string {
	path, err := lookPath("auditctl")
	if err != nil {
		return ""
	}
	out, _ := exec.Command(path, "-l").Output() // without audit there are no rules
	return string(out)
}

// TestSmoke runs the whole benchmark once and checks that the results are plausible.
func TestSmoke(t *testing.T) {
	p := build(t)
	rules := auditRulesNow()
	var stdout, stderr bytes.Buffer
	cmd := p.command("-json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	p.checkGone(t, rules)
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, &stdout)
	}
	if t.Failed() {
		return
	}
	in := func(what string, v, low, high float64) {
		t.Helper()
		if !(v >= low && v <= high) { // nor is it NaN
			t.Errorf("%s: %g, want %g to %g", what, v, low, high)
		}
	}
	ordered := func(what string, s spread, low, high float64) {
		t.Helper()
		in(what, s.Median, low, high)
		if s.Min > s.Median || s.Median > s.Max {
			t.Errorf("%s: %+v", what, s)
		}
	}

	if r.Kernel == "" || r.CPUs != runtime.NumCPU() || r.Rounds != 1 || r.Slices != 1 {
		t.Errorf("%+v", r)
	}
	if i := r.Itself; i == nil {
		t.Error("nothing about nstrace itself")
	} else {
		in("binary, MiB", i.Binary, 1, 100)
		ordered("start, ms", i.Start, 1, 60000)
		ordered("start among 200 processes, ms", i.Crowded, 1, 60000)
		in("idle RSS, MiB", i.RSS, 1, 1000)
		in("idle CPU, %", i.IdleCPU, 0, 50)
	}

	// A subject or workload that is not measured has a reason.
	left := func(what string) bool {
		return slices.ContainsFunc(r.LeftOut, func(l leftOut) bool { return l.What == what && l.Why != "" })
	}
	for _, s := range []string{"nstrace fentry", "nstrace kprobe", "nstrace tracepoint", "auditd"} {
		if slices.Contains(r.Subjects, s) == left(s) {
			t.Errorf("%s is neither measured nor left out: %v, %+v", s, r.Subjects, r.LeftOut)
		}
	}
	bpftraces := slices.DeleteFunc(slices.Clone(r.Subjects), func(s string) bool { return !strings.HasPrefix(s, "bpftrace ") })
	if len(bpftraces) > 1 || len(bpftraces) == 1 == left("bpftrace") {
		t.Errorf("bpftrace is neither measured nor left out: %v, %+v", r.Subjects, r.LeftOut)
	}
	if !slices.Contains(r.Subjects, "nstrace tracepoint") {
		t.Errorf("every kernel has tracepoints: %v", r.Subjects)
	}

	rows := map[string]row{}
	for _, w := range r.Workloads {
		rows[w.Workload] = w
	}
	for _, w := range workloads {
		row, ok := rows[w.name]
		if ok == left(w.name) || (!ok && w.needs == "") {
			t.Errorf("%s is neither measured nor left out: %+v", w.name, r.LeftOut)
		}
		if !ok {
			continue
		}
		ordered(w.name+", ns", row.NS, 5, 60e9)
		for _, s := range append([]string{nothing}, r.Subjects...) {
			ordered(w.name+", "+s, row.Ratios[s], 0.005, 5000)
			if r.Instructions == "" {
				ordered(w.name+", instructions, "+s, row.Instructions[s], 0.2, 5000)
			}
		}
		if r.Instructions == "" {
			in(w.name+", instructions", row.Count.Median, 1, 1e12)
		}
	}
	for _, b := range r.Losses {
		switch {
		case strings.HasPrefix(b.Subject, "nstrace "):
			// The workloads make these events: some to warm up, and one slice.
			in(b.Subject+", seen", float64(b.Of), 0.02*(10000+5000+2000+5000), 1e6)
		case strings.HasPrefix(b.Subject, "bpftrace "):
			in(b.Subject+", printed", float64(b.Of), 100, 1e6)
		}
	}
	if len(r.Losses) != len(r.Subjects) {
		t.Errorf("losses %+v, subjects %v", r.Losses, r.Subjects)
	}

	backends := 0
	for _, s := range r.Subjects {
		if strings.HasPrefix(s, "nstrace ") {
			backends++
		}
	}
	cpus, err := affinity()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Storm); n == 0 || n%backends != 0 || r.Storm[0].Writers != 1 || r.Storm[n-1].Writers != len(cpus) {
		t.Errorf("storms: %+v, with %d backends and %d CPUs", r.Storm, backends, len(cpus))
	}
	for _, s := range r.Storm {
		ordered("alone, writes/s", s.Alone, 1000, 1e9)
		ordered("traced, writes/s", s.Traced, 100, 1e9)
		in("a write, µs", s.PerWrite, -1000, 10000)
		in("seen", float64(s.Totals["seen"]), float64(s.Writes)*0.99, float64(s.Writes)*1.01+1000)
		in("lost, %", s.LostPercent, 0, 100)
		in("CPU of an event, µs", s.CPUPerEvent, 0.001, 100000)
		in("writes that were read", float64(s.Counted.Writes), 100, 1e9)
		in("accounted for, %", s.Counted.percent(), 99, 101)
		if (s.Backlog != nil) != (s.Writers == 1) {
			t.Errorf("backlog with %d writers: %+v", s.Writers, s.Backlog)
		} else if l := s.Backlog; l != nil {
			in("backlog, events", float64(l.Events), 100, 1e9)
			in("backlog, CPU of an event, µs", l.CPUPerEvent, 0.001, 100000)
		}
	}

	if s := r.Soak; s == nil {
		t.Error("no soak")
	} else {
		// With the tracepoint backend, a namespace can end before nstrace finds it.
		in("soak: seen", float64(s.Totals["seen"]), 60+20, 1000)
		in("soak: CPU of an event, µs", s.CPUPerEvent, 0.001, 1e6)
		for what, mib := range map[string]float64{"before": s.Before, "after": s.After} {
			in("soak: RSS "+what, mib, 1, s.Peak)
		}
		in("soak: peak", s.Peak, 1, 1000)
		if s.Processes != 60 || s.Namespaces != 20 {
			t.Errorf("soak: %+v", s)
		}
	}

	if h := r.History; h == nil {
		t.Error("no history")
	} else {
		in("history: events/s", h.PerSecond, 100, 1e7)
		in("history: CPU of an event, µs", h.CPU, 0.1, 1e4)
		in("history: bytes an event", h.Bytes, 20, 1000)
		for what, a := range map[string]timing{"blame": h.Blame, "history sysctl": h.Parameter, "explain": h.Explain, "diff --declared": h.Diff} {
			ordered(what+", ms", a.Cold, 1, 1e5)
			ordered(what+" again, ms", a.Again, 1, 1e5)
			ordered(what+", ms of CPU", a.CPU, 1, 1e5)
		}
	}

	if i := r.Inventory; i == nil || len(i.Commands) != 4 {
		t.Errorf("inventory: %+v", i)
	} else {
		for _, c := range i.Commands {
			ordered(c.Command+", ms", c.MS, 1, 1e5)
			in(c.Command+": MiB", c.Peak, 1, 1000)
		}
	}

	text := r.heading() + r.itselfTable() + r.workloadTable() + r.stormTable() + r.soakTable() + r.historyTable() + r.inventoryTable() + r.footnotes()
	for _, w := range workloads {
		if !strings.Contains(text, "\n"+w.name+" ") && !strings.Contains(text, "\nLeft out: "+w.name+": ") {
			t.Errorf("the report does not contain %s", w.name)
		}
	}
	t.Logf("printed:\n%s", text)
}

// TestInterrupted checks that a run that is interrupted leaves nothing behind.
func TestInterrupted(t *testing.T) {
	p := build(t)
	rules := auditRulesNow()
	for _, tt := range []struct{ name, part, when string }{
		{"workloads", "workloads", "round 1 of 1: nstrace"},
		{"auditd", "workloads", "round 1 of 1: auditd"},
		{"storm", "storm", ": nstrace tracepoint"},
		{"soak", "soak", "soak of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := p
			p.tmp = t.TempDir()
			args := []string{"-parts", tt.part, "-scale", "1", "-storm", "2s", "-soak", "100000000"}
			if tt.name == "auditd" {
				args = append(args, "-subjects", "auditd")
			}
			stderr := &safeBuffer{}
			cmd := p.command(args...)
			cmd.Stderr = stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			interrupted := false
			deadline := time.After(time.Minute)
			for poll := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case err := <-done:
					poll.Stop()
					if !interrupted {
						// Not every host has auditd.
						if tt.name != "auditd" || err != nil {
							t.Errorf("the run ended before it reached this step: %v\n%s", err, stderr)
						}
					} else if cmd.ProcessState.ExitCode() != 1 || !strings.HasSuffix(stderr.String(), "bench: interrupted\n") {
						t.Errorf("%v\n%s", err, stderr)
					}
					p.checkGone(t, rules)
					return
				case <-deadline:
					t.Errorf("the run hangs\n%s", stderr)
					_ = cmd.Process.Kill()
				case <-poll.C:
					if !interrupted && strings.Contains(stderr.String(), tt.when) {
						interrupted = true
						if err := cmd.Process.Signal(unix.SIGINT); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
}

func TestCountedRead(t *testing.T) {
	var c counted
	for _, line := range []string{
		`{"v":1,"type":"trace.start","trace":{}}`,
		`{"v":1,"type":"sysctl.write","sysctl":{"name":"a"}}`,
		`{"v":1,"type":"sysctl.write","sysctl":{"name":"a"},"count":40}`,
		`{"v":1,"type":"sysctl.write","process":{"args":["\"count\":"]}}`,
		`{"v":1,"type":"namespace.create","namespace":{}}`,
		`{"v":1,"type":"trace.loss","loss":{"records":{"sysctl.write":7,"namespace.create":2}}}`,
	} {
		if err := c.read([]byte(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if c.Lines != 3 || c.Reported != 42 || c.Lost != 7 {
		t.Errorf("%+v", c)
	}
}

func TestCompare(t *testing.T) {
	of := func(v ...float64) *childResult { return &childResult{NS: v} }
	alone, ratios := compare(map[string][]*childResult{
		nothing: {of(1, 2, 3), of(10, 20, 30)},
		"other": {of(4, 4, 8), of(20, 60, 60)},
	}, func(s *childResult) []float64 { return s.NS })
	if want := (spread{6.5, 1, 30}); alone != want {
		t.Errorf("alone %+v, want %+v", alone, want)
	}
	if want := (spread{2.5, 1, 4}); ratios["other"] != want {
		t.Errorf("ratios %+v, want %+v", ratios["other"], want)
	}
	if want := (spread{1, 0.5, 1.5}); ratios[nothing] != want {
		t.Errorf("ratios of itself %+v, want %+v", ratios[nothing], want)
	}
}
