// SPDX-License-Identifier: Apache-2.0

// Bench measures what nstrace costs: itself, what it watches and what it does not,
// next to two other ways to learn the same.
//
//	go run ./test/bench                            # all but the soak
//	go run ./test/bench -parts storm -storm 10s    # how much of a storm of writes it takes
//	go run ./test/bench -parts soak -soak 100000   # what it keeps after many processes
//	go run ./test/bench -parts history -history 10000000   # what a history costs, and how fast it answers
//	go run ./test/bench -vm 6.1                    # the same on another kernel, emulated
//	go run ./test/bench -vm 6.1 -counted           # in instructions, exact
//
// It takes root. It builds nstrace unless -nstrace names one.
//
// # Itself
//
// The size of the binary, and the time from the start of the process to its first line
// of JSON (trace.start): what happens from then on is seen. Memory (VmRSS) and CPU
// time once it has nothing to do.
//
// # Workloads
//
// Each workload runs in turns: with nothing attached, then with each subject, then
// again from the start, -rounds times. A machine whose speed drifts drifts for
// all of them. In each turn it is a process of its own that warms up and then
// runs -slices slices, each of which is one value. A slice is compared with the
// median slice of the same round with nothing attached; printed is the median of
// these ratios with the smallest and the largest. The first column has the time of
// one turn with nothing attached, and the spread of that: a subject whose ratio is
// within it costs less than this machine can show.
//
// The subjects are nstrace with each backend that the kernel has; bpftrace, with the
// best of three scripts that attaches (facts.*.bt), which print who called what
// and what came of it; and auditd, with rules for the same calls (audit.rules). They
// are not the same in what they tell: auditd sees that a parameter was opened to be
// written, not the write, and bpftrace has no values. What could not run is listed
// with its reason. Below the ratios is what each subject says that it has lost: one
// that drops what it should report is cheap. nstrace and bpftrace print to a pipe that
// is read and thrown away, auditd to a file; that and all else which they do in
// user space takes CPU time from the workload where there are few CPUs.
//
// Where the machine counts instructions there is a second table with those of the
// workload, in kernel and user space. They do not depend on what else goes on. No
// emulated machine counts them, but one can be given a clock that does (-counted),
// and one CPU, where a turn's time has in it what the subject does in user space, and
// the second table has not.
//
// auditd leaves a trace behind: once auditing was on, until the next boot, new
// processes pass the kernel's audit code at each system call. So but for auditd's
// turns a rule takes new processes out of that, as if it had never been on.
// The host's own settings are put back at the end; a host that has audit rules or a
// daemon of its own keeps them, and auditd is left out.
//
// # Storm
//
// A number of processes, each on a CPU of its own, write a parameter of their own
// as fast as they can, first with nothing attached and then with nstrace, which
// writes JSON to /dev/null. All columns after the backend are with nstrace, but
// for the first:
//
//	alone      writes a second with nothing attached: the median of ten parts
//	traced     the same with nstrace; the ratio, with the smallest and largest of the
//	           parts, is what a write costs
//	per write  what one write takes longer, in the writer
//	seen …     the books of nstrace: seen = written + filtered + lost, and whatever
//	           else it lists there
//	CPU        of nstrace's process, for each event that was not lost
//
// In a second storm, of a fifth the time, nstrace writes to a pipe, and all that comes is
// read: "accounted for" compares the writes that were made with those that lines, some
// of which stand for many (their "count"), and trace.loss tell of. With -storm-values
// same each write is a repeat of the last, as in a program that has gone wild.
//
// Last, with one writer, nstrace is stopped (SIGSTOP) for up to a second of writes that all
// differ, and has to read them when nothing else runs: how many a second, from the ring to
// JSON, one CPU is good for.
//
// # Soak
//
// A number of processes live one after the other on each CPU. Each writes a parameter,
// and some or all are in a UTS namespace that was made for them. What nstrace
// remembers of the dead has to be bounded: compare its memory before and after.
//
// # History
//
// Events, nine in ten of them writes to 3,000 parameters and one a namespace of a process
// of its own, go into a history as nstrace record keeps it: how many a second until they
// are on the disk, the CPU time of each (with the making of it), and what they take there. Then
// nstrace blame and nstrace history sysctl, for a parameter that one event in thousand
// is about, run from start to end, with nothing of the database in memory and again.
//
// # Emulation
//
// Inside a virtual machine without hardware support (-vm) absolute times mean nothing,
// and the guest's CPUs take turns on one of the host: with more writers each gets
// slower by itself, and nstrace gets a smaller share of the time to read what they
// cause, so that a loss there says nothing of a real machine. Compare the ratios, and
// keep in mind that even these are too large: what a subject does in user space,
// on a real machine on another CPU, takes its time from the workload there. Best is
// to count (-counted).
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

// parts are what a run consists of.
var parts = []string{"itself", "workloads", "storm", "soak", "history"}

// What the command line asks for.
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

	history int

	vm      string
	cpus    int
	counted bool
}

// names is a flag with a list of names, of which the beginnings count.
type names []string

func (n *names) String() string     { return strings.Join(*n, ",") }
func (n *names) Set(s string) error { *n = strings.Split(s, ","); return nil }

// has says whether name is asked for; an empty list asks for everything.
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
			return fmt.Errorf("%q is no number of writers", f)
		}
		*c = append(*c, n)
	}
	return nil
}

func parseFlags() (*config, error) {
	c := &config{}
	flag.StringVar(&c.nstrace, "nstrace", "", "the nstrace to measure; built if empty")
	flag.IntVar(&c.rounds, "rounds", 5, "how often each workload runs with each subject")
	flag.IntVar(&c.slices, "slices", 5, "how many values a workload gives each time")
	flag.Float64Var(&c.scale, "scale", 1, "how much of each workload to run; 0.05 in emulation")
	flag.Var(&c.subjects, "subjects", "only these `subjects`, by the beginnings of their names: nstrace, 'bpftrace kprobe', auditd")
	flag.Var(&c.work, "workloads", "only these `workloads`, by the beginnings of their names")
	flag.DurationVar(&c.idle, "idle", 10*time.Second, "how long to look at an idle nstrace")
	flag.IntVar(&c.crowd, "crowd", 10_000, "among how many `processes` to start nstrace, besides; 0: none")
	flag.BoolVar(&c.json, "json", false, "print the results as JSON")
	flag.Var(&c.parts, "parts", "only these `parts`: "+strings.Join(parts, ", "))
	flag.DurationVar(&c.storm, "storm", 5*time.Second, "how long each storm blows")
	flag.StringVar(&c.stormValues, "storm-values", "distinct", "whether each write of a storm has a value of its own: distinct or same")
	flag.Var(&c.stormWriters, "storm-writers", "how `many` processes write at once, a list (default 1, 2, 4 and so on, to the number of CPUs)")
	flag.IntVar(&c.soak, "soak", 0, "look at nstrace's memory after `N` processes that each write a parameter (default 0: do not)")
	flag.IntVar(&c.soakNamespaces, "soak-namespaces", 0, "how many of these make a namespace (default all)")
	flag.IntVar(&c.history, "history", 1_000_000, "how many `events` go into a history; 0: none")
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
				return nil, fmt.Errorf("-%s: there is no %q, but %s", f.name, name, strings.Join(f.exists, ", "))
			}
		}
	}
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case flag.NArg() > 0:
		return nil, fmt.Errorf("what is %q? All there is are flags", flag.Arg(0))
	case c.rounds < 1 || c.slices < 1 || c.scale <= 0 || c.cpus < 1 || c.idle <= 0:
		return nil, errors.New("-rounds, -slices, -scale, -idle and -cpus have to be positive")
	case c.stormValues != "same" && c.stormValues != "distinct":
		return nil, fmt.Errorf("-storm-values is same or distinct, not %q", c.stormValues)
	case c.soakNamespaces > c.soak:
		return nil, errors.New("-soak-namespaces is about the processes of -soak: there can't be more")
	case set["cpus"] && c.vm == "":
		return nil, errors.New("-cpus is about the machine of -vm")
	case c.counted && c.vm == "":
		return nil, errors.New("-counted is about the machine of -vm")
	case c.counted && c.cpus != 1 && set["cpus"]:
		return nil, errors.New("-counted takes one CPU: QEMU does not count on more")
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

// A process that is started here is to end with this one (see command), and the kernel
// takes the thread that started it for this one: it has to be one that stays.
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
	scratch string // for everything that has to be a file
	audit   *audit // nil where it is left alone
	noAudit string // and why
	report  report
}

func (b *bench) run(ctx context.Context) (err error) {
	// Whatever is measured: some earlier run may have had auditing on.
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
	show((*report).footnotes)
	if b.json {
		return json.NewEncoder(os.Stdout).Encode(&b.report)
	}
	return nil
}

// progress says what takes so long.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// noteOthers looks for what others have attached, where nothing of this run is.
func (b *bench) noteOthers() error {
	others := []string{"nstrace", "bpftrace", "auditd"}
	pids, err := processes(func(comm string) bool { return slices.Contains(others, comm) })
	if err == nil && len(pids) > 0 && !b.report.NotAlone {
		b.report.NotAlone = true
		progress("others trace this host: processes %v", pids)
	}
	return err
}

// leave notes that something is not measured, and why.
func (b *bench) leave(what, why string) {
	b.report.LeftOut = append(b.report.LeftOut, leftOut{what, why})
}
