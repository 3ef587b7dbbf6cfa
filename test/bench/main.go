// SPDX-License-Identifier: Apache-2.0

// Bench measures what nstrace costs: itself, and what it watches. Workloads run
// in turns with nothing attached and with each backend that the kernel has, so
// that a machine whose speed drifts still gives ratios to trust.
//
//	go run ./test/bench -nstrace ./nstrace
//
// Inside emulation only the ratios mean anything.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A workload does something n times; setup returns it ready to run.
type workload struct {
	name  string
	n     int
	setup func() (func() error, error)
}

var workloads = []workload{
	{"sysctl pwrite", 20000, func() (func() error, error) {
		fd, err := unix.Open(sysctlFile, unix.O_WRONLY, 0)
		value := []byte("600\n")
		return func() error { _, err := unix.Pwrite(fd, value, 0); return err }, err
	}},
	{"sysctl open+write+close", 10000, func() (func() error, error) {
		value := []byte("600\n")
		return func() error {
			fd, err := unix.Open(sysctlFile, unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, value)
			return err
		}, nil
	}},
	{"unshare uts", 5000, func() (func() error, error) {
		return func() error { return unix.Unshare(unix.CLONE_NEWUTS) }, nil
	}},
	{"unshare net", 50, func() (func() error, error) {
		return func() error { return unix.Unshare(unix.CLONE_NEWNET) }, nil
	}},
	{"setns uts", 10000, func() (func() error, error) {
		fd, err := unix.Open("/proc/thread-self/ns/uts", unix.O_RDONLY, 0)
		return func() error { return unix.Setns(fd, unix.CLONE_NEWUTS) }, err
	}},
	{"fork+exec+wait", 200, func() (func() error, error) {
		return func() error {
			pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
			if err != nil {
				return err
			}
			_, err = syscall.Wait4(pid, nil, 0, nil)
			return err
		}, nil
	}},
	{"open-for-write+close", 20000, func() (func() error, error) {
		return func() error {
			fd, err := unix.Open("/dev/null", unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}, nil
	}},
	{"getpid", 200000, func() (func() error, error) {
		return func() error { unix.Getpid(); return nil }, nil
	}},
}

// sysctlFile belongs to the network namespace that each child makes for itself.
const sysctlFile = "/proc/sys/net/ipv4/tcp_keepalive_time"

var (
	bin    = flag.String("nstrace", "", "the nstrace to measure")
	rounds = flag.Int("rounds", 7, "how often each workload runs with each backend")
	scale  = flag.Float64("scale", 1, "how much of each workload to run; emulation wants 0.05")
	child  = flag.String("child", "", "run this workload and print ns a turn")
)

func main() {
	flag.Parse()
	err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	if *child != "" {
		return runChild(*child)
	}
	if *bin == "" {
		return fmt.Errorf("-nstrace takes the program to measure")
	}
	backends, err := offered()
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	fmt.Printf("Linux %s, %d CPUs, %d rounds, medians\n\n", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), *rounds)
	if err := itself(); err != nil {
		return err
	}
	times := map[string]map[string][]float64{}
	for range *rounds {
		for _, b := range append([]string{"nothing"}, backends...) {
			if err := round(b, times); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\n%-26s %14s", "", "nothing, ns")
	for _, b := range backends {
		fmt.Printf("  %22s", b)
	}
	fmt.Println()
	for _, w := range workloads {
		base := times[w.name]["nothing"]
		fmt.Printf("%-26s %14.0f", w.name, median(base))
		for _, b := range backends {
			var ratios []float64
			for i, t := range times[w.name][b] {
				ratios = append(ratios, t/base[i])
			}
			fmt.Printf("  %6.2f (%5.2f to %5.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
		}
		fmt.Println()
	}
	return nil
}

// offered returns the backends that this kernel has.
func offered() ([]string, error) {
	out, err := exec.Command(*bin, "check", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("nstrace check: %w", err)
	}
	var report struct {
		Capabilities []struct {
			Name string
			OK   bool
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, err
	}
	var all []string
	for _, c := range report.Capabilities {
		if c.OK && (c.Name == "fentry" || c.Name == "kprobe") {
			all = append(all, c.Name)
		}
	}
	return append(all, "tracepoint"), nil
}

// tracing is a running nstrace, ready for events.
type tracing struct {
	cmd   *exec.Cmd
	ready time.Duration // from its start
}

func trace(backend string) (*tracing, error) {
	cmd := exec.Command(*bin, "-o", "json", "--backend", backend)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(pipe, 1<<20)
	if _, err := in.ReadString('\n'); err != nil { // trace.start
		return nil, fmt.Errorf("nstrace --backend %s: %w", backend, err)
	}
	t := &tracing{cmd: cmd, ready: time.Since(begin)}
	go func() { _, _ = in.WriteTo(nowhere{}) }()
	return t, nil
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

func (t *tracing) stop() error {
	if err := t.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return t.cmd.Wait()
}

// settled waits until nstrace has nothing left to do, that is until it uses no
// CPU time for a while.
func (t *tracing) settled() error {
	for {
		before, err := cpu(t.cmd.Process.Pid)
		if err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		after, err := cpu(t.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if after-before <= 10*time.Millisecond {
			return nil
		}
	}
}

// itself measures nstrace alone.
func itself() error {
	st, err := os.Stat(*bin)
	if err != nil {
		return err
	}
	fmt.Printf("binary                     %8.1f MiB\n", float64(st.Size())/(1<<20))
	var ready []float64
	for range *rounds {
		t, err := trace("auto")
		if err != nil {
			return err
		}
		ready = append(ready, float64(t.ready.Milliseconds()))
		if err := t.stop(); err != nil {
			return err
		}
	}
	fmt.Printf("start to first event       %8.0f ms\n", median(ready))
	t, err := trace("auto")
	if err != nil {
		return err
	}
	pid := t.cmd.Process.Pid
	before, err := cpu(pid)
	if err != nil {
		return err
	}
	const idle = 10 * time.Second // long enough for a hundredth of a percent in ticks
	time.Sleep(idle)
	after, err := cpu(pid)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(status), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(f[1])
			fmt.Printf("resident memory at idle    %8.1f MiB\n", float64(kib)/1024)
		}
	}
	fmt.Printf("CPU at idle                %8.2f %%\n", 100*(after-before).Seconds()/idle.Seconds())
	return t.stop()
}

// cpu is the time that a process has used.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	sys, _ := strconv.Atoi(f[12])
	return time.Duration(user+sys) * time.Second / 100, nil
}

// round runs each workload once, in a process of its own.
func round(backend string, times map[string]map[string][]float64) error {
	settled := func() error { return nil }
	if backend != "nothing" {
		t, err := trace(backend)
		if err != nil {
			return err
		}
		defer t.stop()
		settled = t.settled
	}
	for _, w := range workloads {
		// What the last workload left in the ring is not this one's cost.
		if err := settled(); err != nil {
			return err
		}
		out, err := exec.Command("/proc/self/exe", "-child", w.name, "-scale", fmt.Sprint(*scale)).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			return err
		}
		if times[w.name] == nil {
			times[w.name] = map[string][]float64{}
		}
		times[w.name][backend] = append(times[w.name][backend], ns)
	}
	return nil
}

func runChild(name string) error {
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
	if i < 0 {
		return fmt.Errorf("no workload %q", name)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	w := workloads[i]
	w.n = max(1, int(float64(w.n)**scale))
	f, err := w.setup()
	if err != nil {
		return err
	}
	for range w.n/10 + 1 { // warm
		if err := f(); err != nil {
			return err
		}
	}
	begin := time.Now()
	for range w.n {
		if err := f(); err != nil {
			return err
		}
	}
	fmt.Println(float64(time.Since(begin).Nanoseconds()) / float64(w.n))
	return nil
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
