// SPDX-License-Identifier: Apache-2.0

// Package e2e runs real programs on a real kernel under a real nstrace and checks its events. The
// tests need root. Each program runs once, while one nstrace for each backend of the kernel
// watches.
//
// NSTRACE_BIN names the nstrace to test, and NSTRACE_E2E_HELPERS the folder with the compiled
// programs of testdata. Without these variables, the tests build them, which needs a compiler.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/schema/schematest"
	"github.com/nstrace/nstrace/test/e2e/helpers"
	"github.com/nstrace/nstrace/tracer"
)

// patience is the maximum time for anything that must happen. Only failing tests wait that long.
// Emulated processors are slow.
const patience = 240 * time.Second

// proofThread is the thread of each nstrace that proves its hooks. Its calls are events for another
// nstrace, and not for its own.
const proofThread = "nstrace-proof"

// Set by TestMain.
var (
	nstraceBin string
	helperDir  string
	scratch    string           // a folder that everybody can read
	report     tracer.Report    // nstrace check
	backends   []tracer.Backend // that this kernel offers
)

// The main thread, which /proc/PID shows, stays in the host's namespaces: no goroutine that changes
// its thread's namespaces runs on it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	status, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func runAll(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("the end-to-end tests trace the kernel: run them as root")
	}
	// Most tests wait most of the time for the kernel, not for a processor.
	if err := flag.Set("test.parallel", "6"); err != nil {
		return 0, err
	}
	if signal.Ignored(syscall.SIGHUP) { // as with nohup: programs of the tests would ignore it too
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	// Other users must be able to read the files of the tests.
	unix.Umask(0o022)
	var err error
	if scratch, err = os.MkdirTemp("", "nstrace-e2e-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		return 0, err
	}
	if err := prepare(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func prepare() error {
	ctx := context.Background()
	if nstraceBin = os.Getenv("NSTRACE_BIN"); nstraceBin == "" {
		nstraceBin = filepath.Join(scratch, "nstrace")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", nstraceBin, "github.com/nstrace/nstrace/cmd/nstrace")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in releases
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build nstrace: %w\n%s", err, text)
		}
	}
	if helperDir = os.Getenv("NSTRACE_E2E_HELPERS"); helperDir == "" {
		if _, err := exec.LookPath("gcc"); err == nil {
			helperDir = scratch
			if err := helpers.Build(ctx, "gcc", "testdata", helperDir); err != nil {
				return err
			}
		}
	}
	for _, p := range []struct{ program, pkg string }{
		{"unshare", "util-linux"}, {"nsenter", "util-linux"}, {"lsns", "util-linux"}, {"setpriv", "util-linux"},
		{"bpftool", "bpftool"}, {"ip", "iproute2"}, {"sysctl", "procps"}, {"busybox", "busybox-static"}, {"bwrap", "bubblewrap"},
		{"runc", "runc"}, {"strace", "strace"}, {"sh", "dash"}, {"mount", "mount"}, {"script", "util-linux"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			return fmt.Errorf("%s is missing: install %s", p.program, p.pkg)
		}
	}
	out, err := exec.CommandContext(ctx, nstraceBin, "check", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("nstrace check: %w\n%s", err, errorText(err))
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("nstrace check: %w\n%s", err, out)
	}
	for _, b := range []tracer.Backend{tracer.Fentry, tracer.Kprobe} {
		if has(string(b)) {
			backends = append(backends, b)
		}
	}
	backends = append(backends, tracer.Tracepoint)
	return nil
}

// openDir returns a folder with a mode that others can reach, which t.TempDir is not.
func openDir(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "open")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// long skips a test that takes long. make test-all runs it.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes long: make test-all")
	}
}

// anyKernel skips a test that does not depend on the kernel in guests, unless it is asked for by name.
// make test runs it on the host.
func anyKernel(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv("NSTRACE_KERNEL_ONLY") == "1" {
		t.Skip("does not depend on the kernel, and runs on the host")
	}
}

// has reports whether nstrace check found the capability.
func has(name string) bool {
	return slices.ContainsFunc(report.Capabilities, func(c tracer.Capability) bool { return c.Name == name && c.OK })
}

func errorText(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// helper returns the path of a program of testdata.
func helper(name string) string {
	if helperDir != "" {
		return filepath.Join(helperDir, name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		// Every test that uses it fails with this error.
		return "/nonexistent/" + name + ": install gcc and libc6-dev, or set NSTRACE_E2E_HELPERS"
	}
	return path
}

// An emitted event is one line of nstrace's output.
type emitted struct {
	event.Event
	line []byte
}

// A stream is a running nstrace and everything that it has written.
type stream struct {
	backend tracer.Backend // of --backend, "" without it
	args    []string
	cmd     *exec.Cmd
	stderr  buffer

	mu     sync.Mutex
	events []*emitted
	faults []string      // what is wrong with the lines themselves
	more   chan struct{} // closed when there is more, or when the process has ended
	ended  bool

	calls   uint64             // that programs of nstrace ran for, though they are no events
	others  bool               // others attach programs meanwhile, see checkMissed
	inner   bool               // it runs in other namespaces than the host's, and some fields can differ
	missing map[event.Type]int // see missed_test.go
	excused map[string]bool
	ends    map[string]bool // the checked ends of namespaces, and whether a scan found them
	err     error           // how it ended

	// replaced says that nstrace has to report, once, that it replaced its resolver.
	replaced bool
}

// buffer collects what a process writes. Other goroutines can read it at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startStream starts nstrace -o json with more arguments. Its events come on standard output, or,
// for nstrace run, in the file of -O.
func startStream(t *testing.T, args ...string) *stream {
	t.Helper()
	args = append([]string{"-o", "json"}, args...)
	return startCommand(t, exec.Command(nstraceBin, args...), args)
}

// startCommand is startStream for a command that executes nstrace with args.
func startCommand(t *testing.T, cmd *exec.Cmd, args []string) *stream {
	t.Helper()
	s := &stream{cmd: cmd, args: args, more: make(chan struct{}), missing: map[event.Type]int{}, excused: map[string]bool{}, ends: map[string]bool{}}
	if i := slices.Index(args, "--backend"); i >= 0 {
		s.backend = tracer.Backend(args[i+1])
	}
	s.cmd.Stderr = &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !s.over() {
			s.cmd.Process.Signal(syscall.SIGCONT) // if it was stopped
			s.cmd.Process.Kill()
			s.await(t, "its end", func([]*emitted) bool { return s.ended })
		}
	})
	go s.read(stdout)
	return s
}

func (s *stream) String() string {
	return fmt.Sprintf("nstrace %s [%d]", strings.Join(s.args, " "), s.cmd.Process.Pid)
}

func (s *stream) read(r io.Reader) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			s.add(line)
		}
		if err != nil {
			break
		}
	}
	err := s.cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.err = true, err
	close(s.more)
}

// add parses one line and checks it against the schema.
func (s *stream) add(line []byte) {
	e, err := parseEvent(line)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.faults = append(s.faults, err.Error())
	}
	if e == nil {
		return
	}
	if len(s.events) > 0 && e.RunID != s.events[0].RunID || len(e.RunID) != 32 {
		s.faults = append(s.faults, fmt.Sprintf("run_id %q on line %d", e.RunID, len(s.events)+1))
	}
	if e.Seq != uint64(len(s.events))+1 {
		s.faults = append(s.faults, fmt.Sprintf("seq %d on line %d", e.Seq, len(s.events)+1))
	}
	s.events = append(s.events, e)
	close(s.more)
	s.more = make(chan struct{})
}

func parseEvent(line []byte) (*emitted, error) {
	var errs []error
	if !bytes.HasSuffix(line, []byte("\n")) {
		errs = append(errs, fmt.Errorf("an incomplete line: %q", line))
	}
	if err := schematest.Validate(line); err != nil {
		errs = append(errs, fmt.Errorf("a line violates the schema: %w\n%s", err, line))
	}
	e := &emitted{line: line}
	if err := json.Unmarshal(line, &e.Event); err != nil {
		return nil, errors.Join(append(errs, fmt.Errorf("%w\n%s", err, line))...)
	}
	return e, errors.Join(errs...)
}

func (s *stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// since returns the events from index from on.
func (s *stream) since(from int) []*emitted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.events[min(from, len(s.events)):])
}

func (s *stream) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// awaitFrom waits until done returns true for the events from index from on.
func (s *stream) awaitFrom(t testing.TB, from int, what string, done func([]*emitted) bool) {
	t.Helper()
	if s.comes(from, patience, done) {
		return
	}
	if s.over() {
		t.Fatalf("%v ended (%v) before %s\n%s", s, s.err, what, s.stderr.String())
	}
	t.Fatalf("%v: no %s after %v; since then:\n%s", s, what, patience, dump(s.since(from)))
}

func (s *stream) await(t testing.TB, what string, done func([]*emitted) bool) {
	t.Helper()
	s.awaitFrom(t, 0, what, done)
}

// awaitStart waits until s is attached.
func (s *stream) awaitStart(t testing.TB) {
	t.Helper()
	s.await(t, "trace.start", func(all []*emitted) bool { return len(all) > 0 })
	if first := s.since(0)[0]; first.Type != event.TraceStart {
		t.Fatalf("%v: the first line is %s", s, first.line)
	} else if s.backend != "" {
		checkStart(t, s.backend, first)
	}
}

// checkStart checks that a run reports how each observation is attached, and what it does not see
// that way.
func checkStart(t testing.TB, b tracer.Backend, start *emitted) {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	tr := start.Trace
	if tr.Version == "" || tr.Arch != runtime.GOARCH || tr.Kernel != unix.ByteSliceToString(uts.Release[:]) || len(tr.Observations) == 0 {
		t.Errorf("%s", start.line)
	}
	for _, o := range tr.Observations {
		checkObservation(t, o, b)
	}
}

// checkObservation checks that an observation is attached by b, and checks its report.
func checkObservation(t testing.TB, o event.Observation, b tracer.Backend) {
	t.Helper()
	if (o.Name == "open" || o.Name == "netdev" || o.Name == "netconf") && !seesDevices(b) { // tracepoints do not see it
		b = tracer.None
	}
	blind := b != tracer.Fentry && b != tracer.Kprobe && o.Name != "exec"
	if o.Name == "open" {
		blind = true // no way sees what only a security module refuses
	}
	scanned := (o.Name == "appear" || o.Name == "vanish") && !seesDevices(b) // record does that
	if attached := b != tracer.None && !scanned; o.Backend != string(b) || (len(o.Hooks) > 0) != attached || (len(o.Missing) > 0) != blind {
		t.Errorf("%s is attached by %s with %v and does not see %v; want %s", o.Name, o.Backend, o.Hooks, o.Missing, b)
	}
}

// awaitEnd waits until s has ended by itself.
func (s *stream) awaitEnd(t testing.TB) {
	t.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		ended, more := s.ended, s.more
		s.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("%v did not end within %v", s, patience)
		}
	}
}

// interrupt ends s as ^C does.
func (s *stream) interrupt(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatalf("%v: %v; its end: %v\n%s", s, err, s.err, s.stderr.String())
	}
	s.awaitEnd(t)
}

// checkEnd checks the accounting of a run that ended normally: the last line, the sum of its
// totals, and that standard error has the same numbers.
func (s *stream) checkEnd(t testing.TB, lossless bool) *event.Totals {
	t.Helper()
	if s.err != nil {
		t.Errorf("%v: %v\n%s", s, s.err, s.stderr.String())
	}
	for _, fault := range s.faults {
		t.Errorf("%v: %s", s, fault)
	}
	all := s.since(0)
	if len(all) == 0 {
		t.Fatalf("%v wrote nothing", s)
	}
	var written, raised uint64
	missed := map[event.Type]uint64{}
	for i, e := range all {
		switch e.Type {
		case event.TraceStart:
			if i != 0 {
				t.Errorf("%v: trace.start is line %d", s, i+1)
			}
		case event.TraceStop:
			if i != len(all)-1 {
				t.Errorf("%v: trace.stop is line %d of %d", s, i+1, len(all))
			}
		case event.TraceGap: // the recorder's own
		case event.TraceLoss:
			if lossless && e.Loss.Reason != "missed" {
				t.Errorf("%v lost: %s", s, e.line)
			}
			for typ, n := range e.Loss.Records {
				missed[typ] += n
			}
		default:
			written += max(1, e.Count)
		}
		raised += uint64(len(e.Alert))
	}
	last := all[len(all)-1]
	if last.Type != event.TraceStop || last.Trace == nil || last.Trace.Totals == nil {
		t.Fatalf("%v: the last line is no trace.stop with totals: %s", s, last.line)
	}
	sum := last.Trace.Totals
	if sum.Seen != sum.Written+sum.Filtered+sum.Lost {
		t.Errorf("%v: %d seen, but %d written + %d filtered + %d lost", s, sum.Seen, sum.Written, sum.Filtered, sum.Lost)
	}
	if sum.Written != written {
		t.Errorf("%v: the totals say %d written, but the stream has %d", s, sum.Written, written)
	}
	if sum.Alerts != raised {
		t.Errorf("%v: the totals say %d alerts, but the stream has %d", s, sum.Alerts, raised)
	}
	if lossless {
		s.checkMissed(t, missed, sum)
	}
	want := fmt.Sprintf("%d seen = %d written + %d filtered + %d lost", sum.Seen, sum.Written, sum.Filtered, sum.Lost)
	if len(sum.Uncounted) > 0 {
		want += "; this kernel does not count what it skips of " + strings.ReplaceAll(strings.Trim(fmt.Sprint(sum.Uncounted), "[]"), " ", ", ")
	}
	want += "\n"
	if (s.backend == tracer.Fentry || s.backend == tracer.Kprobe) && s.countsMissed() != (len(sum.Uncounted) == 0) {
		t.Errorf("%v: the totals say that the kernel does not count %v", s, sum.Uncounted)
	}
	events := fmt.Sprintf("nstrace: %d event", written)
	lines := 1
	if slices.Contains(s.args, "--alert") {
		lines = 2
		want += fmt.Sprintf("nstrace: %d alert", raised)
	}
	got := s.stderr.String()
	if s.replaced {
		first, rest, _ := strings.Cut(got, "\n")
		if !strings.Contains(first, "looks up names of users and containers is replaced") {
			t.Errorf("%v: standard error is %q, want it to say that the resolver was replaced", s, got)
		}
		got = rest
	}
	if s.backend == tracer.Tracepoint && slices.Contains(s.args, "--failed") {
		var noted bool
		if got, noted = strings.CutPrefix(got, failedNote); !noted {
			t.Errorf("%v: standard error is %q, want %q first", s, got, failedNote)
		}
	}
	if !strings.Contains(got, want) || !strings.HasPrefix(got, events) || strings.Count(got, "\n") != lines {
		t.Errorf("%v: standard error is %q, want %q ... %q", s, got, events, want)
	}
	return sum
}

// failedNote says that --failed lacks something with tracepoints.
const failedNote = "nstrace: failed writes to parameters are missing: tracepoints do not show whether a write fails\n"

// A host is this machine, with one nstrace for each backend that watches all of it.
type host struct {
	streams []*stream
	fences  chan<- string // values to write
	fenced  <-chan error
	ns      map[event.NSType]uint32 // of pid 1
	before  map[uint32]bool         // namespaces that existed at the start
	bootID  string
	name    string
	started time.Time
	from    map[*stream]int // index of the first event after all were attached
	mu      sync.Mutex      // for the fields below; also allows one fence at a time
	seen    map[*stream]int // number of reported faults
	nfences int
}

// watch starts a stream for each of the backends.
func watch(t *testing.T, backends ...tracer.Backend) *host {
	t.Helper()
	return watchWith(t, nil, backends...)
}

// watchWith gives the streams more arguments.
func watchWith(t *testing.T, args []string, backends ...tracer.Backend) *host {
	t.Helper()
	h := &host{started: time.Now(), seen: map[*stream]int{}, from: map[*stream]int{}, before: aliveNow()}
	var err error
	h.ns, err = namespacesOf(1)
	if errors.Is(err, os.ErrPermission) { // root without some capability
		h.ns, err = namespacesOf(os.Getpid())
	}
	if err != nil {
		t.Fatal(err)
	}
	h.bootID = readFile(t, "/proc/sys/kernel/random/boot_id")
	if h.name, err = os.Hostname(); err != nil {
		t.Fatal(err)
	}
	for _, b := range backends {
		h.streams = append(h.streams, startStream(t, append([]string{"--backend", string(b)}, args...)...))
	}
	for _, s := range h.streams {
		s.awaitStart(t)
	}
	h.startFences(t)
	h.fence(t)
	for _, s := range h.streams {
		h.from[s] = slices.IndexFunc(s.since(0), func(e *emitted) bool { return e.fence() > 0 })
	}
	return h
}

// startFences starts a thread in its own UTS namespace. It writes the values that it receives to a
// parameter that nothing else reads.
func (h *host) startFences(t *testing.T) {
	values, done := make(chan string), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWUTS)
		var f *os.File
		if err == nil {
			f, err = os.OpenFile("/proc/sys/kernel/domainname", os.O_WRONLY, 0)
		}
		done <- err
		for value := range values {
			_, err := f.WriteAt([]byte(value), 0)
			done <- err
		}
		f.Close()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h.fences, h.fenced = values, done
	t.Cleanup(func() { close(values) })
}

// fence waits until every stream has all events of the kernel up to now. It causes an event that
// every stream reports, and waits for it. The ring is in order. The ends of namespaces can come
// later.
func (h *host) fence(t testing.TB) {
	t.Helper()
	from := make([]int, len(h.streams))
	for i, s := range h.streams {
		from[i] = s.len()
	}
	first := h.writeFence(t)
	for i, s := range h.streams {
		there := func(new []*emitted) bool {
			return slices.ContainsFunc(new, func(e *emitted) bool { return e.fence() >= first })
		}
		// If the kernel can skip the event of a fence, try again.
		for canMiss(event.SysctlWrite) && !s.comes(from[i], patience/10, there) && !s.over() {
			h.writeFence(t)
		}
		s.awaitFrom(t, from[i], fmt.Sprint(fenceMark, first), there)
	}
}

func (h *host) writeFence(t testing.TB) int {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nfences++
	h.fences <- fmt.Sprint(fenceMark, h.nfences)
	if err := <-h.fenced; err != nil {
		t.Fatal(err)
	}
	return h.nfences
}

// comes waits for a while until done returns true for the events from index from on.
func (s *stream) comes(from int, while time.Duration, done func([]*emitted) bool) bool {
	limit := time.After(while)
	for {
		s.mu.Lock()
		ok, ended, more := done(s.events[min(from, len(s.events)):]), s.ended, s.more
		s.mu.Unlock()
		if ok || ended {
			return ok
		}
		select {
		case <-more:
		case <-limit:
			return false
		}
	}
}

// fenceMark is the prefix of the values of fences.
var fenceMark = fmt.Sprintf("fence-of-%d-", os.Getpid())

// fence returns the number of this process's fence that the event is, 0 if it is none.
func (e *emitted) fence() int {
	if e.Sysctl == nil || e.Sysctl.New == nil {
		return 0
	}
	number, ok := strings.CutPrefix(*e.Sysctl.New, fenceMark)
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return 0
	}
	return n
}

// A work is a program that runs, or ran, under a host's streams.
type work struct {
	host   *host
	cmd    *exec.Cmd
	pid    int
	stdin  io.WriteCloser
	out    *bufio.Reader // start
	stdout buffer        // run
	stderr buffer
	from   map[*stream]int
	to     map[*stream]int // set by sync
	status int             // exit status, 128 + n for a signal
}

// An option changes how a program is started.
type option func(*exec.Cmd)

// asUser runs it as an ordinary user, without privileges.
func asUser(uid uint32) option {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
}

// start runs a program that continues until stop. The caller reads its output line by line.
func (h *host) start(t *testing.T, program string, args []string, opts ...option) *work {
	t.Helper()
	w := h.prepare(program, args, opts)
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(stdout)
	w.begin(t)
	t.Cleanup(func() {
		w.stdin.Close()
		if w.cmd.ProcessState == nil {
			w.kill()
			w.cmd.Wait()
		}
	})
	return w
}

// run runs a program to its end and waits for the streams. The program must succeed.
func (h *host) run(t *testing.T, program string, args []string, opts ...option) *work {
	t.Helper()
	w := h.try(t, program, args, opts...)
	if w.status != 0 {
		t.Fatalf("%s %q: exit status %d\n%s%s", program, args, w.status, w.stdout.String(), w.stderr.String())
	}
	return w
}

// try is run for a program that may fail.
func (h *host) try(t *testing.T, program string, args []string, opts ...option) *work {
	t.Helper()
	w := h.prepare(program, args, opts)
	w.cmd.Stdout = &w.stdout
	w.begin(t)
	w.end(t)
	w.sync(t)
	return w
}

// sh runs a shell script, which ends at the first command that fails.
func (h *host) sh(t *testing.T, script string, opts ...option) *work {
	t.Helper()
	return h.run(t, "sh", []string{"-e", "-u", "-c", script}, opts...)
}

func (h *host) prepare(program string, args []string, opts []option) *work {
	w := &work{host: h, cmd: exec.Command(program, args...), from: map[*stream]int{}, to: map[*stream]int{}}
	w.cmd.Stderr = &w.stderr
	w.cmd.Dir = scratch
	w.cmd.SysProcAttr = sysProcAttr()
	w.cmd.WaitDelay = patience
	for _, o := range opts {
		o(w.cmd)
	}
	for _, s := range h.streams {
		w.from[s] = s.len()
	}
	return w
}

func (w *work) begin(t *testing.T) {
	t.Helper()
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.pid = w.cmd.Process.Pid
}

func (w *work) end(t *testing.T) {
	t.Helper()
	kill := time.AfterFunc(patience, w.kill)
	defer kill.Stop()
	err := w.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	w.status = exitStatus(w.cmd.ProcessState)
}

// sysProcAttr puts a program into its own process group, so that kill can end it with all its
// children.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// kill ends the program and all its children that are still in its group.
func (w *work) kill() { syscall.Kill(-w.pid, syscall.SIGKILL) }

func exitStatus(st *os.ProcessState) int {
	if ws := st.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

// stop closes the input of a started program, and waits for its end.
func (w *work) stop(t *testing.T) {
	t.Helper()
	w.stdin.Close()
	io.Copy(io.Discard, w.out) // Wait wants everything to be read
	w.end(t)
	if w.status != 0 {
		t.Fatalf("%q: exit status %d\n%s", w.cmd.Args, w.status, w.stderr.String())
	}
	w.sync(t)
}

// line reads the next line that a started program prints.
func (w *work) line(t *testing.T) string {
	t.Helper()
	type result struct {
		line string
		err  error
	}
	c := make(chan result, 1)
	go func() {
		line, err := w.out.ReadString('\n')
		c <- result{strings.TrimSuffix(line, "\n"), err}
	}()
	select {
	case r := <-c:
		if r.err != nil {
			t.Fatalf("%q printed %q: %v\n%s", w.cmd.Args, r.line, r.err, w.stderr.String())
		}
		return r.line
	case <-time.After(patience):
		t.Fatalf("%q printed nothing for %v\n%s", w.cmd.Args, patience, w.stderr.String())
		return ""
	}
}

// value reads the next line, which is key=value.
func (w *work) value(t *testing.T, key string) string {
	t.Helper()
	line := w.line(t)
	value, ok := strings.CutPrefix(line, key+"=")
	if !ok {
		t.Fatalf("%q printed %q, want %s=", w.cmd.Args, line, key)
	}
	return value
}

// printed returns the values of the key=value lines that a program has printed.
func (w *work) printed(key string) []string {
	var values []string
	for line := range strings.Lines(w.stdout.String()) {
		if value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), key+"="); ok {
			values = append(values, value)
		}
	}
	return values
}

// sync waits until every stream has all events of the program so far.
func (w *work) sync(t *testing.T) {
	t.Helper()
	w.host.fence(t)
	for _, s := range w.host.streams {
		w.to[s] = s.len()
	}
	w.host.checkLines(t)
}

// checkLines reports what is wrong with the lines since the last call.
func (h *host) checkLines(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.streams {
		s.mu.Lock()
		new := s.faults[h.seen[s]:]
		h.seen[s] = len(s.faults)
		s.mu.Unlock()
		for _, fault := range new {
			t.Errorf("%v: %s", s, fault)
		}
	}
}

// all returns the events in s of w's process and its descendants.
func (w *work) all(s *stream) []*emitted {
	var mine []*emitted
	for _, e := range s.since(w.from[s])[:w.to[s]-w.from[s]] {
		if e.of(w.pid) {
			mine = append(mine, e)
		}
	}
	return mine
}

// of reports whether the process of the event is pid or a descendant of it.
func (e *emitted) of(pid int) bool {
	return e.Process != nil && (int(e.Process.PID) == pid ||
		slices.ContainsFunc(e.Process.Ancestors, func(a event.Actor) bool { return int(a.PID) == pid }))
}

// each runs a check for each backend, as a subtest.
func (w *work) each(t *testing.T, check func(t *testing.T, s *stream, events []*emitted)) {
	t.Helper()
	for _, s := range w.host.streams {
		t.Run(string(s.backend), func(t *testing.T) {
			events := w.all(s)
			for _, e := range events {
				w.host.checkEvent(t, e)
			}
			var others [][]*emitted
			for _, other := range w.host.streams {
				others = append(others, w.all(other))
			}
			if lack := s.lacking(events, others...); len(lack) > 0 {
				s.excuse(t, lack...)
				return
			}
			check(t, s, events)
			if t.Failed() {
				t.Logf("the events:\n%s", dump(events))
			}
		})
	}
	w.compare(t)
}

// dump formats events for people.
func dump(events []*emitted) string {
	var sb strings.Builder
	const most = 12
	for i, e := range events {
		if i == most {
			fmt.Fprintf(&sb, "(%d more)\n", len(events)-most)
			break
		}
		sb.Write(e.line)
	}
	if sb.Len() == 0 {
		return "(none)\n"
	}
	return sb.String()
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// output runs a program that the test does not check, and returns its output.
func output(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", program, args, err, out, errorText(err))
	}
	return strings.TrimSuffix(string(out), "\n")
}

// namespacesOf reads the ids of a process's namespaces from /proc.
func namespacesOf(pid int) (map[event.NSType]uint32, error) {
	ids := map[event.NSType]uint32{}
	for _, typ := range event.NSTypes() {
		id, err := nsID(fmt.Sprintf("/proc/%d/ns/%s", pid, typ))
		if err != nil {
			return nil, err
		}
		ids[typ] = id
	}
	return ids, nil
}

// nsID returns the inode number of a namespace file.
func nsID(path string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint32(st.Ino), nil
}

// parseID parses "net:[4026531840]".
func parseID(t testing.TB, link string) uint32 {
	t.Helper()
	_, rest, ok := strings.Cut(link, ":[")
	id, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 32)
	if !ok || err != nil {
		t.Fatalf("%q is not a namespace", link)
	}
	return uint32(id)
}
