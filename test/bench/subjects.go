// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/tracer"
)

// A subject is something that can be attached while a workload runs.
type subject interface {
	name() string
	// optional reports whether the run continues if a host cannot start the subject.
	optional() bool
	start(ctx context.Context) (running, error)
	// losses returns what it has lost so far, if it knows.
	losses() (losses, bool)
}

// running is a subject that is attached.
type running interface {
	// idle waits until it has nothing left to do.
	idle(ctx context.Context) error
	stop() error
}

// subjects returns the names of all subjects.
func subjects() []string {
	var all []string
	for _, backend := range []tracer.Backend{tracer.Fentry, tracer.Kprobe, tracer.Tracepoint} {
		all = append(all, "nstrace "+string(backend))
	}
	for _, s := range facts {
		all = append(all, "bpftrace "+s.way)
	}
	return append(all, "auditd")
}

// patience is the maximum time for a subject to start, to become idle and to end. Only one that
// hangs takes that long, even in emulation.
const patience = 3 * time.Minute

// nothing is the subject that all others are compared with.
const nothing = "nothing"

type none struct{}

func (none) name() string                           { return nothing }
func (none) optional() bool                         { return false }
func (none) start(context.Context) (running, error) { return none{}, nil }
func (none) losses() (losses, bool)                 { return losses{}, false }
func (none) idle(context.Context) error             { return nil }
func (none) stop() error                            { return nil }

// backends returns the backends of nstrace that this kernel has.
func (b *bench) backends() ([]string, error) {
	out, err := runCommand(command(b.nstrace, "check", "-o", "json"))
	if err != nil {
		return nil, fmt.Errorf("nstrace check: %w", err)
	}
	var report tracer.Report
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("nstrace check: %w", err)
	}
	var found []string
	add := func(name string) {
		if b.subjects.has("nstrace " + name) {
			found = append(found, name)
		}
	}
	for _, c := range report.Capabilities {
		if c.Name != string(tracer.Fentry) && c.Name != string(tracer.Kprobe) {
			continue
		}
		if c.OK {
			add(c.Name)
		} else if b.subjects.has("nstrace " + c.Name) {
			b.leaveOut("nstrace "+c.Name, c.Detail)
		}
	}
	add(string(tracer.Tracepoint))
	return found, nil
}

// available returns the subjects to measure.
func (b *bench) available(backends []string) []subject {
	all := []subject{none{}}
	for _, name := range backends {
		all = append(all, &nstrace{bin: b.nstrace, backend: name})
	}
	var scripts []script
	for _, s := range facts {
		if b.subjects.has("bpftrace " + s.way) {
			scripts = append(scripts, s)
		}
	}
	if len(scripts) > 0 {
		if path, err := lookPath("bpftrace"); err != nil {
			b.leaveOut("bpftrace", "not installed")
		} else {
			all = append(all, &bpftrace{bin: path, dir: b.scratch, scripts: scripts, leaveOut: b.leaveOut})
		}
	}
	if b.subjects.has("auditd") {
		if b.audit == nil {
			b.leaveOut("auditd", b.noAudit)
		} else {
			all = append(all, b.audit)
		}
	}
	return all
}

// A tool is a subject's process.
type tool struct {
	cmd    *exec.Cmd
	stderr safeBuffer
	end    os.Signal
	done   chan struct{} // closed when it has ended
	err    error         // then: how it ended
}

// startTool starts a command. Its standard output must be set.
func startTool(cmd *exec.Cmd, end os.Signal) (*tool, error) {
	t := &tool{cmd: cmd, end: end, done: make(chan struct{})}
	cmd.Stderr = &t.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		t.err = cmd.Wait()
		close(t.done)
	}()
	return t, nil
}

// ended returns the error of a tool that ended by itself.
func (t *tool) ended() error {
	err := t.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return withStderr(fmt.Errorf("%s ended by itself: %w", filepath.Base(t.cmd.Path), err), t.stderr.String())
}

// await calls ready until it returns true.
func (t *tool) await(ctx context.Context, what string, ready func() (bool, error)) error {
	deadline := time.After(patience)
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.done:
			return t.ended()
		case <-deadline:
			return withStderr(fmt.Errorf("%s is not %s after %v", filepath.Base(t.cmd.Path), what, patience), t.stderr.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// idle waits until the process uses hardly any CPU time.
func (t *tool) idle(ctx context.Context) error {
	const window = 100 * time.Millisecond
	var last time.Duration
	var at time.Time
	return t.await(ctx, "idle", func() (bool, error) {
		if time.Since(at) < window {
			return false, nil
		}
		now, err := cpuTime(t.cmd.Process.Pid)
		if errors.Is(err, unix.EINVAL) {
			return false, nil // it has ended, which await finds out
		}
		if err != nil {
			return false, err
		}
		rest := !at.IsZero() && now-last <= time.Since(at)/20
		last, at = now, time.Now()
		return rest, nil
	})
}

// handles reports whether the process has a handler for a signal.
func (t *tool) handles(signal syscall.Signal) (bool, error) {
	mask, err := statusField(t.cmd.Process.Pid, "SigCgt")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // it has ended, which await finds out
	}
	if err != nil {
		return false, err
	}
	n, err := strconv.ParseUint(mask, 16, 64)
	return n&(1<<(signal-1)) != 0, err
}

// stop ends it.
func (t *tool) stop() error {
	select {
	case <-t.done:
		return t.ended()
	default:
	}
	if err := t.cmd.Process.Signal(t.end); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-t.done:
	case <-time.After(patience):
		_ = t.cmd.Process.Kill()
		<-t.done
		return withStderr(fmt.Errorf("%s did not end within %v of the signal", filepath.Base(t.cmd.Path), patience), t.stderr.String())
	}
	if t.err != nil {
		return withStderr(fmt.Errorf("%s: %w", filepath.Base(t.cmd.Path), t.err), t.stderr.String())
	}
	return nil
}

// safeBuffer keeps the end of what a process writes. Other goroutines can read it at the same time.
type safeBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	const most = 64 << 10
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	if len(s.b) > 2*most {
		s.b = append(s.b[:0], s.b[len(s.b)-most:]...)
	}
	return len(p), nil
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}

// lineWriter calls line for each line that is written to it.
type lineWriter struct {
	line func([]byte)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.rest = append(w.rest, p...)
			return n, nil
		}
		if len(w.rest) > 0 {
			w.rest = append(w.rest, p[:i]...)
			w.line(w.rest)
			w.rest = w.rest[:0]
		} else {
			w.line(p[:i])
		}
		p = p[i+1:]
	}
}

// nstrace is the subject that this benchmark is about.
type nstrace struct {
	bin, backend string
	sum          map[string]uint64 // the totals of all runs
}

func (n *nstrace) name() string   { return "nstrace " + n.backend }
func (n *nstrace) optional() bool { return false }

func (n *nstrace) losses() (losses, bool) {
	return losses{Subject: n.name(), Lost: n.sum["lost"], Of: n.sum["seen"], Unit: "events"}, n.sum != nil
}

func (n *nstrace) start(ctx context.Context) (running, error) {
	t, _, err := n.piped(ctx, func([]byte) {})
	return t, err
}

// tracing is a running nstrace.
type tracing struct {
	*tool
	of *nstrace
}

// piped starts nstrace with JSON on a pipe and calls line for each line. It returns when the first
// line has come: nstrace sees events from then on. The returned time is how long that took.
func (n *nstrace) piped(ctx context.Context, line func([]byte)) (*tracing, time.Duration, error) {
	begin := time.Now()
	var mu sync.Mutex
	var first time.Duration
	cmd := command(n.bin, "-o", "json", "--backend", n.backend)
	cmd.Stdout = &lineWriter{line: func(l []byte) {
		mu.Lock()
		if first == 0 {
			first = time.Since(begin)
		}
		mu.Unlock()
		line(l)
	}}
	t, err := startTool(cmd, os.Interrupt)
	if err != nil {
		return nil, 0, err
	}
	if err := t.await(ctx, "tracing", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return first != 0, nil
	}); err != nil {
		return nil, 0, errors.Join(err, abandon(t))
	}
	return &tracing{t, n}, first, nil
}

// discarding starts nstrace with JSON to /dev/null, and with more flags.
func (n *nstrace) discarding(ctx context.Context, more ...string) (*tracing, error) {
	// With -v nstrace prints how everything is attached, as soon as it is.
	cmd := command(n.bin, append([]string{"-o", "json", "-v", "--backend", n.backend}, more...)...)
	t, err := startTool(cmd, os.Interrupt)
	if err != nil {
		return nil, err
	}
	if err := t.await(ctx, "tracing", func() (bool, error) {
		return strings.Contains(t.stderr.String(), "nstrace: sysctl"), nil
	}); err != nil {
		return nil, errors.Join(err, abandon(t))
	}
	return &tracing{t, n}, nil
}

// abandon ends a tool whose start failed, unless it has ended by itself.
func abandon(t *tool) error {
	select {
	case <-t.done:
		return nil
	default:
		return t.stop()
	}
}

// stop ends it and adds up its totals.
func (t *tracing) stop() error {
	_, err := t.close()
	return err
}

// close ends it and returns its totals.
func (t *tracing) close() (map[string]uint64, error) {
	if err := t.tool.stop(); err != nil {
		return nil, err
	}
	text := t.stderr.String()
	totals := map[string]uint64{}
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " seen") {
			continue
		}
		for _, m := range totalEntry.FindAllStringSubmatch(line, -1) {
			n, err := strconv.ParseUint(m[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			totals[m[2]] = n
		}
	}
	if _, ok := totals["lost"]; !ok {
		return nil, fmt.Errorf("nstrace did not print its totals: %q", text)
	}
	if t.of.sum == nil {
		t.of.sum = map[string]uint64{}
	}
	for k, v := range totals {
		t.of.sum[k] += v
	}
	return totals, nil
}

// totalEntry matches an entry of the line with the totals, such as "9 seen".
var totalEntry = regexp.MustCompile(`\b(\d+) ([a-z]+)`)

// A script makes bpftrace print much the same facts as nstrace.
type script struct {
	way  string
	text []byte
}

var (
	//go:embed facts.kfunc.bt
	factsKfunc []byte
	//go:embed facts.kprobe.bt
	factsKprobe []byte
	//go:embed facts.tracepoint.bt
	factsTracepoint []byte

	// The best one first.
	facts = []script{{"kfunc", factsKfunc}, {"kprobe", factsKprobe}, {"tracepoint", factsTracepoint}}
)

// bpftrace is a subject that somebody could write in an hour.
type bpftrace struct {
	bin, dir string
	scripts  []script // the first one that attaches is used
	leaveOut func(what, why string)
	chosen   bool

	mu            sync.Mutex
	printed, lost uint64
}

func (b *bpftrace) optional() bool { return true }

func (b *bpftrace) name() string {
	if b.chosen {
		return "bpftrace " + b.scripts[0].way
	}
	return "bpftrace"
}

func (b *bpftrace) losses() (losses, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return losses{Subject: b.name(), Lost: b.lost, Of: b.printed + b.lost, Unit: "lines"}, true
}

func (b *bpftrace) start(ctx context.Context) (running, error) {
	for {
		r, err := b.try(ctx, b.scripts[0])
		if err == nil {
			b.chosen = true
			return r, nil
		}
		if b.chosen || ctx.Err() != nil {
			return nil, err
		}
		b.leaveOut("bpftrace "+b.scripts[0].way, strings.ReplaceAll(reason(err), b.dir+"/", ""))
		if b.scripts = b.scripts[1:]; len(b.scripts) == 0 {
			return nil, errors.New("none of its scripts attaches here")
		}
	}
}

// lostEvents is the message of bpftrace when its buffers were full.
var lostEvents = regexp.MustCompile(`^Lost (\d+) events`)

func (b *bpftrace) try(ctx context.Context, s script) (running, error) {
	file := filepath.Join(b.dir, "facts."+s.way+".bt")
	if err := os.WriteFile(file, s.text, 0o644); err != nil {
		return nil, err
	}
	cmd, err := (&job{Do: "tracefs", Args: []string{b.bin, file}}).command()
	if err != nil {
		return nil, err
	}
	calls := []string{" unshare ", " setns ", " write "} // it works once it has printed all of these
	seen := map[string]bool{}
	cmd.Stdout = &lineWriter{line: func(l []byte) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.printed++
		if m := lostEvents.FindSubmatch(l); m != nil {
			n, _ := strconv.ParseUint(string(m[1]), 10, 64)
			b.lost += n
		}
		for _, c := range calls {
			if len(seen) < len(calls) && bytes.Contains(l, []byte(c)) {
				seen[c] = true
			}
		}
	}}
	t, err := startTool(cmd, os.Interrupt)
	if err != nil {
		return nil, err
	}
	// bpftrace does not report when it has attached. So make the events that it should see until it
	// prints them.
	if err := t.await(ctx, "tracing", func() (bool, error) {
		b.mu.Lock()
		ready := len(seen) == len(calls)
		b.mu.Unlock()
		if ready {
			return true, nil
		}
		return false, (&job{Do: "poke"}).run(nil)
	}); err != nil {
		return nil, errors.Join(err, abandon(t))
	}
	return t, nil
}

// poke makes each of the calls that the subjects report once.
func (*job) poke() (any, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare net: %w", err)
	}
	turn, err := backAndForth("")
	if err != nil {
		return nil, err
	}
	if err := turn(); err != nil {
		return nil, fmt.Errorf("setns: %w", err)
	}
	if turn, err = sysctlOpen(""); err != nil {
		return nil, err
	}
	if err := turn(); err != nil {
		return nil, fmt.Errorf("write %s: %w", sysctlFile, err)
	}
	return nil, nil
}

// tracefs runs a program that needs tracefs in the usual place. Not every host has it mounted
// there. The mount is visible only to this process and its children.
func (j *job) tracefs() (any, error) {
	const dir = "/sys/kernel/tracing"
	if _, err := os.Stat(dir + "/events"); err != nil {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return nil, fmt.Errorf("unshare mnt: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return nil, fmt.Errorf("make the mounts private: %w", err)
		}
		if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
			return nil, fmt.Errorf("mount tracefs on %s: %w", dir, err)
		}
	}
	return nil, fmt.Errorf("exec %s: %w", j.Args[0], syscall.Exec(j.Args[0], j.Args, os.Environ()))
}
