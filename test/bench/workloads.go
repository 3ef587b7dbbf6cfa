// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A workload does one thing many times.
type workload struct {
	name  string
	turns int // in a slice, at scale 1
	// needs names a program that not every host has. Bench tries such a workload before it
	// measures, and leaves it out if it fails.
	needs string
	// setup returns the workload ready to run. dir is an empty folder.
	setup func(dir string) (turn func() error, err error)
}

// nstrace reports what the first workloads do. It does not report what the others do.
var workloads = []workload{
	{name: "sysctl pwrite", turns: 10000, setup: sysctlPwrite},
	{name: "sysctl open+write+close", turns: 5000, setup: sysctlOpen},
	{name: "unshare uts", turns: 2000, setup: func(string) (func() error, error) {
		return func() error { return unix.Unshare(unix.CLONE_NEWUTS) }, nil
	}},
	{name: "unshare net", turns: 20, setup: func(string) (func() error, error) {
		return func() error { return unix.Unshare(unix.CLONE_NEWNET) }, nil
	}},
	{name: "setns back and forth", turns: 5000, setup: backAndForth},
	{name: "runc run", turns: 1, needs: "runc", setup: runcRun},

	{name: "fork+exec+wait", turns: 50, setup: func(string) (func() error, error) { return forkExec, nil }},
	{name: "open-for-write+close", turns: 10000, setup: func(string) (func() error, error) { return openClose, nil }},
	{name: "open-with-O_TRUNC+close", turns: 5000, setup: openTruncate},
	{name: "getpid", turns: 100000, setup: func(string) (func() error, error) {
		return func() error { unix.Getpid(); return nil }, nil
	}},
	{name: "pipe ping-pong", turns: 2000, setup: pingPong},
	{name: "go build", turns: 1, needs: "go", setup: goBuildSmall},
}

func workloadNames() []string {
	var all []string
	for _, w := range workloads {
		all = append(all, w.name)
	}
	return all
}

// sysctlFile belongs to the network namespace that each child makes for itself.
const sysctlFile = "/proc/sys/net/ipv4/tcp_keepalive_time"

// values returns the values to write to sysctlFile. Each differs from the last one, because a write
// that changes nothing can be cheaper to report.
type values struct {
	n   int64
	buf []byte
}

func (v *values) next() []byte {
	const maxKeepalive = 32767 // the parameter's maximum
	v.n = v.n%maxKeepalive + 1
	v.buf = append(strconv.AppendInt(v.buf[:0], v.n, 10), '\n')
	return v.buf
}

func sysctlPwrite(string) (func() error, error) {
	fd, err := unix.Open(sysctlFile, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sysctlFile, err)
	}
	var v values
	return func() error { _, err := unix.Pwrite(fd, v.next(), 0); return err }, nil
}

func sysctlOpen(string) (func() error, error) {
	var v values
	return func() error {
		fd, err := unix.Open(sysctlFile, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, v.next())
		return err
	}, nil
}

func backAndForth(string) (func() error, error) {
	const file = "/proc/thread-self/ns/uts"
	var fds [2]int
	for i := range fds {
		var err error
		if fds[i], err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			return nil, fmt.Errorf("unshare uts: %w", err)
		}
	}
	i := 0
	return func() error { i ^= 1; return unix.Setns(fds[i], unix.CLONE_NEWUTS) }, nil
}

// runcRun runs a container that does nothing.
func runcRun(dir string) (func() error, error) {
	runc, err := lookPath("runc")
	if err != nil {
		return nil, err
	}
	busybox, err := lookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(dir, "bundle")
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755); err != nil {
		return nil, err
	}
	if _, err := runCommand(exec.Command(runc, "spec", "--bundle", bundle)); err != nil {
		return nil, fmt.Errorf("runc spec: %w", err)
	}
	file := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s has no process", file)
	}
	process["terminal"] = false
	process["args"] = []string{"/bin/busybox", "true"}
	if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("nstrace-bench-%d", os.Getpid())
	return func() error {
		_, err := runCommand(exec.Command(runc, "--root", filepath.Join(dir, "state"), "run", "--bundle", bundle, name))
		return err
	}, nil
}

func forkExec() error {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		return fmt.Errorf("/bin/true: %w", err)
	}
	_, err = syscall.Wait4(pid, nil, 0, nil)
	return err
}

func openClose() error {
	fd, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openTruncate opens a file as a shell's > does. For that the kernel checks whether the mount is
// writable.
func openTruncate(dir string) (func() error, error) {
	file := filepath.Join(dir, "truncated")
	return func() error {
		fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}, nil
}

// pingPong sends a byte to another process, which sends it back.
func pingPong(string) (func() error, error) {
	var to, from [2]int
	for _, p := range []*[2]int{&to, &from} {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("pipe: %w", err)
		}
	}
	// Both on one CPU. Otherwise the scheduler puts them on one or on two, which makes the largest
	// difference of all, and changes from time to time.
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, firstCPU(&cpus)); err != nil {
		return nil, fmt.Errorf("sched_setaffinity: %w", err)
	}
	cmd, err := (&job{Do: "pong"}).command()
	if err != nil {
		return nil, err
	}
	in, out := os.NewFile(uintptr(to[0]), "to"), os.NewFile(uintptr(from[1]), "from")
	defer in.Close()
	defer out.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("the other process: %w", err)
	}
	buf := []byte{1}
	return func() error {
		if err := transfer(unix.SYS_WRITE, to[1], buf); err != nil {
			return err
		}
		return transfer(unix.SYS_READ, from[0], buf)
	}, nil
}

// pong is the other end. It ends when the first one does.
func (*job) pong() (any, error) {
	buf := []byte{0}
	for transfer(unix.SYS_READ, 0, buf) == nil {
		if err := transfer(unix.SYS_WRITE, 1, buf); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func firstCPU(all *unix.CPUSet) *unix.CPUSet {
	var one unix.CPUSet
	for i := 0; ; i++ {
		if all.IsSet(i) {
			one.Set(i)
			return &one
		}
	}
}

// goBuildSmall builds a small program, each time after a change to it.
func goBuildSmall(dir string) (func() error, error) {
	path, err := lookPath("go")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module small\n"), 0o644); err != nil {
		return nil, err
	}
	n := 0
	return func() error {
		n++
		// The process id makes the program new to the build cache.
		text := fmt.Sprintf("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(%d, %d) }\n", os.Getpid(), n)
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(text), 0o644); err != nil {
			return err
		}
		cmd := exec.Command(path, "build", "-o", "small", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GO111MODULE=on", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0")
		_, err := runCommand(cmd)
		return err
	}, nil
}

// transfer reads or writes one byte. If the Go runtime knew that this thread waits in a system
// call, it would hand the thread's work to another thread, which takes time.
func transfer(call uintptr, fd int, buf []byte) error {
	for {
		n, errno := rawIO(call, fd, buf)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case n != 1:
			return errors.New("the other end is gone")
		default:
			return nil
		}
	}
}

// childResult is what a workload's child measured.
type childResult struct {
	NS             []float64 // of a turn, a value for each slice
	Instructions   []float64 // of a turn, a value for each slice; empty if they can't be counted
	NoInstructions string    // the reason for that
}

func (j *job) workload() (any, error) {
	var w *workload
	for i := range workloads {
		if workloads[i].name == j.Workload {
			w = &workloads[i]
		}
	}
	if w == nil {
		return nil, fmt.Errorf("no workload %q", j.Workload)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("a network namespace for sysctls: %w", err)
	}
	counter, noCounter := openInstructions()
	turn, err := w.setup(j.Dir)
	if err != nil {
		return nil, err
	}
	slice := func(turns int) error {
		for range turns {
			if err := turn(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := slice((j.Turns + 4) / 5); err != nil { // to warm up
		return nil, err
	}
	s := &childResult{}
	if noCounter != nil {
		s.NoInstructions = noCounter.Error()
	}
	for range j.Slices {
		var before, after uint64
		if noCounter == nil {
			if before, err = counter.read(); err != nil {
				return nil, err
			}
		}
		begin := time.Now()
		if err := slice(j.Turns); err != nil {
			return nil, err
		}
		s.NS = append(s.NS, float64(time.Since(begin).Nanoseconds())/float64(j.Turns))
		if noCounter == nil {
			if after, err = counter.read(); err != nil {
				return nil, err
			}
			s.Instructions = append(s.Instructions, float64(after-before)/float64(j.Turns))
		}
	}
	return s, nil
}

// measured holds all values of a run, by workload, subject and round.
type measured map[string]map[string][]*childResult

// runWorkloads runs each workload with each subject in each round.
func (b *bench) runWorkloads(ctx context.Context, backends []string) error {
	var run []*workload
	for i := range workloads {
		w := &workloads[i]
		if !b.work.has(w.name) {
			continue
		}
		if w.needs != "" {
			if _, err := lookPath(w.needs); err != nil {
				b.leaveOut(w.name, fmt.Sprintf("this host has no %s", w.needs))
				continue
			}
			if _, err := b.child(w, 0); err != nil {
				b.leaveOut(w.name, "fails on this host: "+reason(err))
				continue
			}
		}
		run = append(run, w)
	}
	all := b.available(backends)
	values := measured{}
	for round := range b.rounds {
		if err := b.noteOthers(); err != nil {
			return err
		}
		var left []subject
		for _, s := range all {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			progress("round %d of %d: %s", round+1, b.rounds, s.name())
			running, err := s.start(ctx)
			if err != nil {
				// This host can attach it, so the failure is an error.
				if round > 0 || !s.optional() || ctx.Err() != nil {
					return fmt.Errorf("%s: %w", s.name(), err)
				}
				b.leaveOut(s.name(), reason(err))
				continue
			}
			left = append(left, s)
			err = b.turn(ctx, s.name(), running, run, values)
			if stopErr := running.stop(); stopErr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", s.name(), stopErr))
			}
			if err != nil {
				return err
			}
		}
		all = left
	}
	b.tabulate(all, run, values)
	return nil
}

// turn runs each workload once, with the current subject attached.
func (b *bench) turn(ctx context.Context, subject string, r running, run []*workload, values measured) error {
	for _, w := range run {
		// Work that the last workload left behind is not this one's cost.
		if err := r.idle(ctx); err != nil {
			return fmt.Errorf("%s: %w", subject, err)
		}
		if err := workersRest(ctx); err != nil {
			return err
		}
		s, err := b.child(w, b.slices)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s, with %s attached: %w", w.name, subject, err)
		}
		if values[w.name] == nil {
			values[w.name] = map[string][]*childResult{}
		}
		values[w.name][subject] = append(values[w.name][subject], s)
	}
	return r.idle(ctx)
}

// child runs a workload in a child process.
func (b *bench) child(w *workload, slices int) (*childResult, error) {
	dir, err := os.MkdirTemp(b.scratch, strings.ReplaceAll(w.name, " ", "-")+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var s childResult
	j := &job{Do: "workload", Workload: w.name, Turns: max(1, int(float64(w.turns)*b.scale)), Slices: slices, Dir: dir}
	return &s, j.run(&s)
}

// tabulate fills the table with the measured values.
func (b *bench) tabulate(all []subject, run []*workload, values measured) {
	r := &b.report
	for _, s := range all {
		if s.name() != nothing {
			r.Subjects = append(r.Subjects, s.name())
		}
		if k, ok := s.losses(); ok {
			r.Losses = append(r.Losses, k)
		}
	}
	for _, w := range run {
		got := values[w.name]
		row := row{Workload: w.name}
		row.NS, row.Ratios = compare(got, func(s *childResult) []float64 { return s.NS })
		if why := got[nothing][0].NoInstructions; why != "" {
			r.Instructions = why
		} else {
			row.Count, row.Instructions = compare(got, func(s *childResult) []float64 { return s.Instructions })
		}
		r.Workloads = append(r.Workloads, row)
	}
}

// compare summarizes the values with nothing attached. It returns each subject's values as ratios
// to their median in the same round.
func compare(by map[string][]*childResult, of func(*childResult) []float64) (alone spread, ratios map[string]spread) {
	var base []float64
	for _, s := range by[nothing] {
		base = append(base, of(s)...)
	}
	ratios = map[string]spread{}
	for subject, rounds := range by {
		var all []float64
		for i, s := range rounds {
			reference := median(of(by[nothing][i]))
			for _, v := range of(s) {
				all = append(all, v/reference)
			}
		}
		ratios[subject] = summarize(all)
	}
	return summarize(base), ratios
}
