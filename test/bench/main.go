// SPDX-License-Identifier: Apache-2.0

// Bench measures the cost of nstrace: its own, that of the operations that it watches, and that of
// operations that it does not watch. It compares the cost with two other ways to get the same facts.
//
//	go run ./test/bench                            # everything except the soak
//	go run ./test/bench -parts storm -storm 10s    # how it copes with a storm of writes
//	go run ./test/bench -parts soak -soak 100000   # its memory after many processes
//	go run ./test/bench -parts history -history 10000000   # the cost of a history, and the time of queries
//	go run ./test/bench -vm 6.1                    # the same on another kernel, emulated
//	go run ./test/bench -vm 6.1 -counted           # in instructions, exact
//
// It needs root. It builds nstrace unless -nstrace names one.
//
// # Itself
//
// The size of the binary, and the time from the start of the process to its first line of JSON
// (trace.start): nstrace sees what happens from then on. Also memory (VmRSS) and CPU time once it
// has nothing to do.
//
// # Workloads
//
// Each workload runs in turns: with nothing attached, then with each subject, then again from the
// start, -rounds times. So if the speed of the machine drifts, that affects all of them alike. In
// each turn, a workload is a process of its own that warms up and then runs -slices slices. Each
// slice gives one value, which bench compares with the median slice of the same round with nothing
// attached. It prints the median of these ratios with the smallest and the largest. The first
// column has the time of one turn with nothing attached, and the spread of that. A subject whose
// ratio is within this spread costs less than this machine can show.
//
// The subjects are nstrace with each backend that the kernel has; bpftrace, with the best of three
// scripts that attaches (facts.*.bt), which print who made which call with which result; and
// auditd, with rules for the same calls (audit.rules). They do not report the same: auditd sees
// that a process opened a parameter for writing, and not the write, and bpftrace has no values.
// Bench lists what could not run, with the reason. Below the ratios it prints how many events each
// subject lost, because a subject that drops events is cheap. nstrace and bpftrace print to a pipe,
// which bench reads and discards, and auditd prints to a file. What they do in user space takes CPU
// time from the workload if there are few CPUs.
//
// If the machine counts instructions, a second table has those of the workload, in kernel and user
// space. They do not depend on what else the machine does. No emulated machine counts them, but
// -counted gives one a clock that counts instructions, and one CPU. There, the time of a turn
// includes what the subject does in user space. The second table does not include that.
//
// auditd has an effect that stays: once auditing was on, new processes pass the kernel's audit code
// at each system call, until the next boot. So outside of auditd's turns, a rule excludes new
// processes, as if auditing had never been on. At the end, bench restores the host's settings. If
// the host has audit rules or a daemon of its own, bench keeps them and leaves auditd out.
//
// # Storm
//
// A number of processes, each on its own CPU, write their own parameters as fast as they can: first
// with nothing attached, and then with nstrace, which writes JSON to /dev/null. All columns except
// alone are with nstrace:
//
//	alone      writes a second with nothing attached: the median of ten parts
//	traced     the same with nstrace; the ratio, with the smallest and largest of the
//	           parts, is what a write costs
//	per write  how much longer one write takes, in the writer
//	seen …     nstrace's totals: seen = written + filtered + lost, and any others that it
//	           prints
//	CPU        of nstrace's process, for each event that was not lost
//
// In a second storm, a fifth as long, nstrace writes to a pipe, and bench reads every line.
// "accounted for" compares the number of writes with the number that nstrace reports: in lines,
// some of which stand for many writes (their "count"), and in trace.loss. With -storm-values same,
// each write repeats the last one, as a program in a tight loop does.
//
// Last, with one writer, bench stops nstrace (SIGSTOP) for up to a second of writes that all
// differ. Then nstrace reads them while nothing else runs. This shows how many events per second
// one CPU handles, from the ring to JSON.
//
// # Soak
//
// A number of processes run one after the other on each CPU. Each writes a parameter, and some or
// all are in a new UTS namespace of their own. nstrace must limit what it remembers of processes
// that have ended: compare its memory before and after.
//
// # History
//
// Bench records events in a history as nstrace record does. Nine in ten are writes to 3,000
// parameters. One in ten is a namespace that a new process makes. The results are the number of
// events per second until they are on the disk, the CPU time of each (including the time to make
// it), and their size on disk. Then nstrace blame and nstrace history sysctl run from start to end,
// twice: with nothing of the database in memory, and again. One event in a thousand is about the
// parameter of nstrace history sysctl. Last, it runs nstrace explain of that parameter, and nstrace diff
// --declared, with 40 files in place of the host's that declare 1,500 parameters as they are. The value that
// they declare for the first one was never written, so explain looks through all of its writes.
//
// # Inventory
//
// Many processes exist, and two fifths of them are in a network namespace of their own. lsns(8) and
// nstrace list run in turns, from start to end, and print to a pipe.
//
// # Emulation
//
// In a virtual machine without hardware support (-vm), absolute times mean nothing. The guest's
// CPUs take turns on one CPU of the host. So with more writers, each writer gets slower, and
// nstrace gets a smaller share of the time to read their events. A loss there says nothing about a
// real machine. Compare the ratios, but even they are too large: on a real machine, a subject's
// work in user space runs on another CPU, and here it takes time from the workload. It is best to
// count instructions (-counted).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// parts are the parts of a run.
var parts = []string{"itself", "workloads", "storm", "soak", "history", "inventory"}

// config is the command line.
type config struct {
	nstrace  string
	rounds   int
	slices   int
	scale    float64
	subjects names
	work     names
	idle     time.Duration
	crowd    int
	json     bool
	parts    names

	storm        time.Duration
	stormValues  string
	stormWriters counts

	soak           int
	soakNamespaces int

	history   int
	inventory int

	vm      string
	cpus    int
	counted bool
}

// names is a flag with a list of names or beginnings of names.
type names []string

func (n *names) String() string     { return strings.Join(*n, ",") }
func (n *names) Set(s string) error { *n = strings.Split(s, ","); return nil }

// has reports whether name is selected. An empty list selects everything.
func (n names) has(name string) bool {
	return len(n) == 0 || slices.ContainsFunc(n, func(p string) bool { return strings.HasPrefix(name, p) })
}

// counts is a flag with a list of numbers.
type counts []int

func (c *counts) String() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(*c), "[]"), " ", ",")
}

func (c *counts) Set(s string) error {
	*c = nil
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return fmt.Errorf("invalid number of writers %q", f)
		}
		*c = append(*c, n)
	}
	return nil
}

func parseFlags() (*config, error) {
	c := &config{}
	flag.StringVar(&c.nstrace, "nstrace", "", "path of the nstrace to measure (default: build it)")
	flag.IntVar(&c.rounds, "rounds", 5, "how many times each workload runs with each subject")
	flag.IntVar(&c.slices, "slices", 5, "how many values each run of a workload gives")
	flag.Float64Var(&c.scale, "scale", 1, "how much of each workload to run (in emulation 0.05)")
	flag.Var(&c.subjects, "subjects", "only `subjects` whose names begin so: nstrace, 'bpftrace kprobe', auditd")
	flag.Var(&c.work, "workloads", "only `workloads` whose names begin so")
	flag.DurationVar(&c.idle, "idle", 10*time.Second, "how long to measure an idle nstrace")
	flag.IntVar(&c.crowd, "crowd", 10_000, "also start nstrace among this number of `processes` (0: do not)")
	flag.BoolVar(&c.json, "json", false, "print the results as JSON")
	flag.Var(&c.parts, "parts", "only these `parts`: "+strings.Join(parts, ", "))
	flag.DurationVar(&c.storm, "storm", 5*time.Second, "how long each storm takes")
	flag.StringVar(&c.stormValues, "storm-values", "distinct", "whether each write of a storm has a value of its own: distinct or same")
	flag.Var(&c.stormWriters, "storm-writers", "how `many` processes write at once, a list (default 1, 2, 4 and so on, to the number of CPUs)")
	flag.IntVar(&c.soak, "soak", 0, "measure nstrace's memory after `N` processes that each write a parameter (default 0: do not)")
	flag.IntVar(&c.soakNamespaces, "soak-namespaces", 0, "how many of these processes make a namespace (default all)")
	flag.IntVar(&c.history, "history", 1_000_000, "how many `events` to record in a history (0: none)")
	flag.IntVar(&c.inventory, "inventory", 5000, "list what exists among this number of `processes`, two fifths of them in a network namespace of their own (0: do not)")
	flag.StringVar(&c.vm, "vm", "", "run all of this in a virtual machine with this Debian `kernel`, such as 6.1")
	flag.IntVar(&c.cpus, "cpus", 2, "how many CPUs the virtual machine has")
	flag.BoolVar(&c.counted, "counted", false, "with -vm: have the guest's clock count instructions")
	flag.Parse()

	for _, f := range []struct {
		name   string
		asked  names
		exists []string
	}{
		{"parts", c.parts, parts}, {"subjects", c.subjects, subjects()}, {"workloads", c.work, workloadNames()},
	} {
		for _, name := range f.asked {
			if !slices.ContainsFunc(f.exists, func(s string) bool { return strings.HasPrefix(s, name) }) {
				return nil, fmt.Errorf("-%s: unknown %q: want one of %s", f.name, name, strings.Join(f.exists, ", "))
			}
		}
	}
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case flag.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: want only flags", flag.Arg(0))
	case c.rounds < 1 || c.slices < 1 || c.scale <= 0 || c.cpus < 1 || c.idle <= 0:
		return nil, errors.New("-rounds, -slices, -scale, -idle and -cpus must be positive")
	case c.stormValues != "same" && c.stormValues != "distinct":
		return nil, fmt.Errorf("-storm-values: invalid value %q: want same or distinct", c.stormValues)
	case c.soakNamespaces > c.soak:
		return nil, errors.New("-soak-namespaces must not be greater than -soak")
	case set["cpus"] && c.vm == "":
		return nil, errors.New("-cpus needs -vm")
	case c.counted && c.vm == "":
		return nil, errors.New("-counted needs -vm")
	case c.counted && c.cpus != 1 && set["cpus"]:
		return nil, errors.New("-counted needs -cpus 1: QEMU does not count on more")
	}
	if c.counted {
		c.cpus = 1
	}
	if c.soakNamespaces == 0 {
		c.soakNamespaces = c.soak
	}
	if c.vm != "" {
		// An emulated processor takes ten to a hundred times as long.
		for name, value := range map[string]string{"scale": "0.05", "rounds": "3", "slices": "3"} {
			if !set[name] {
				if err := flag.Set(name, value); err != nil {
					return nil, err
				}
			}
		}
	}
	return c, nil
}

// A process that is started here must end with this one (see command). The kernel watches the
// thread that started the process, so that thread must not end.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		if err := runChild(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		status = 1
	}
	os.Exit(status)
}

func run() (int, error) {
	c, err := parseFlags()
	if err != nil {
		return 0, err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	context.AfterFunc(ctx, cancel) // a second signal ends this at once
	scratch, err := os.MkdirTemp("", "nstrace-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if c.nstrace == "" {
		c.nstrace = filepath.Join(scratch, "nstrace")
		if err := goBuild(ctx, c.nstrace, "github.com/nstrace/nstrace/cmd/nstrace"); err != nil {
			return 0, err
		}
	}
	var status int
	switch {
	case c.vm != "":
		status, err = inGuest(ctx, c, scratch)
	case os.Geteuid() != 0:
		err = errors.New("the benchmark traces the kernel: run it as root")
	default:
		err = (&bench{config: c, scratch: scratch}).run(ctx)
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return status, err
}

// goBuild builds a program of this module as make build does.
func goBuild(ctx context.Context, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// bench is one run.
type bench struct {
	*config
	scratch string // folder for temporary files
	audit   *audit // nil if bench does not touch the kernel's audit
	noAudit string // the reason for that
	report  report
}

func (b *bench) run(ctx context.Context) (err error) {
	// Always, because an earlier run may have left auditing on.
	if b.audit, b.noAudit, err = openAudit(b.scratch); err != nil {
		return err
	}
	if b.audit != nil {
		defer func() { err = errors.Join(err, b.audit.restore()) }()
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	b.report = report{
		Kernel: unix.ByteSliceToString(u.Release[:]), CPUs: runtime.NumCPU(),
		Rounds: b.rounds, Slices: b.slices, Scale: b.scale,
	}
	show := func(section func(*report) string) {
		if !b.json {
			fmt.Print(section(&b.report))
		}
	}
	show((*report).heading)
	backends, err := b.backends()
	if err != nil {
		return err
	}
	if b.parts.has("itself") {
		if err := b.runItself(ctx); err != nil {
			return err
		}
		show((*report).itselfTable)
	}
	if b.parts.has("workloads") {
		if err := b.runWorkloads(ctx, backends); err != nil {
			return err
		}
		show((*report).workloadTable)
	}
	if b.parts.has("storm") && b.storm > 0 {
		if err := b.runStorm(ctx, backends); err != nil {
			return err
		}
		show((*report).stormTable)
	}
	if b.parts.has("soak") && b.soak > 0 {
		if err := b.runSoak(ctx); err != nil {
			return err
		}
		show((*report).soakTable)
	}
	if b.parts.has("history") && b.history > 0 {
		if err := b.runHistory(ctx); err != nil {
			return err
		}
		show((*report).historyTable)
	}
	if b.parts.has("inventory") && b.inventory > 0 {
		if err := b.runInventory(ctx); err != nil {
			return err
		}
		show((*report).inventoryTable)
	}
	show((*report).footnotes)
	if b.json {
		return json.NewEncoder(os.Stdout).Encode(&b.report)
	}
	return nil
}

// progress reports the current step.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// noteOthers checks whether other programs trace this host. Call it while nothing of this run is
// attached.
func (b *bench) noteOthers() error {
	others := []string{"nstrace", "bpftrace", "auditd"}
	pids, err := processes(func(comm string) bool { return slices.Contains(others, comm) })
	if err == nil && len(pids) > 0 && !b.report.NotAlone {
		b.report.NotAlone = true
		progress("other programs trace this host: processes %v", pids)
	}
	return err
}

// leaveOut notes that something is not measured, and why.
func (b *bench) leaveOut(what, why string) {
	b.report.LeftOut = append(b.report.LeftOut, leftOut{what, why})
}
