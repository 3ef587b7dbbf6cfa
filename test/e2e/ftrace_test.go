// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

const (
	ftraceFile  = "/proc/sys/kernel/ftrace_enabled"
	debugfs     = "/sys/kernel/debug"
	kprobesFile = debugfs + "/kprobes/enabled"

	ftraceOff    = "ftrace is off (kernel.ftrace_enabled=0)"
	turnedOn     = "turned kernel.ftrace_enabled on for "
	nothingTells = "the kernel attaches such programs, but does not run them"
)

// TestFtrace turns ftrace and kprobes off before a run of nstrace and during one. nstrace must
// report that, continue with tracepoints, and leave a kernel in which ftrace still works: a detach
// at the wrong moment makes the next attach disable ftrace until the next boot.
//
// The kernel rewrites thousands of its functions to turn ftrace on or off. An emulated kernel with
// more than one CPU can crash then, so TestFtrace of test/vm runs this in a guest with one. Real
// hosts are not for such tests.
func TestFtrace(t *testing.T) {
	if n := runtime.NumCPU(); n != 1 {
		t.Skipf("needs a guest with one CPU, and there are %d: see test/vm", n)
	}
	if len(backends) == 1 {
		t.Skip("this kernel offers neither fentry nor kprobe")
	}
	warnings := kernelWarnings(t)
	t.Cleanup(func() {
		if n := kernelWarnings(t); n != warnings {
			t.Errorf("the kernel's log has %d new warnings", n-warnings)
		}
	})
	t.Run("before", testFtraceBefore)
	for _, b := range backends {
		if b == tracer.Tracepoint || testing.Short() && b != backends[0] {
			continue
		}
		t.Run("stop "+string(b), func(t *testing.T) { testFtraceStop(t, b) })
		t.Run("during "+string(b), func(t *testing.T) { testFtraceDuring(t, b) })
		t.Run("short "+string(b), func(t *testing.T) { testFtraceShort(t, b) })
	}
	t.Run("kill", testFtraceKill)
	t.Run("run", testFtraceRun)
	t.Run("nothing left", testFtraceNothingLeft)
	if has("kprobe") {
		if !testing.Short() {
			t.Run("kprobes before", testKprobesBefore)
		}
		t.Run("kprobes during", testKprobesDuring)
	}
	// A fault in the kernel's ftrace shows at the next attach.
	for _, b := range backends {
		s := startStream(t, "--backend", string(b))
		s.awaitStart(t)
		actUnder(t, s)
		s.interrupt(t)
		s.checkEnd(t, true)
	}
	if err := os.WriteFile(ftraceFile, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Error(err)
	}
}

// kernelWarnings returns the number of warnings in the kernel's log.
func kernelWarnings(t *testing.T) int {
	t.Helper()
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b[:n], []byte("[ cut here ]"))
}

// turnOff turns a switch of the kernel off until the test ends, or until on is called. It skips the
// test if the kernel refuses.
func turnOff(t *testing.T, file string) (on func()) {
	t.Helper()
	switch err := os.WriteFile(file, []byte("0"), 0); {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, os.ErrNotExist):
		t.Skipf("this kernel refuses: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	on = func() {
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(on)
	return on
}

// stays checks that a switch still has the value that the test gave it.
func stays(t *testing.T, file, value string) {
	t.Helper()
	if got := readFile(t, file); got != value {
		t.Errorf("%s is %s, want %s", file, got, value)
	}
}

var acts int

// actUnder makes a namespace, writes a parameter in it, and waits until s reports both.
func actUnder(t *testing.T, s *stream) {
	t.Helper()
	acts++
	value := fmt.Sprint("ftrace-test-", acts)
	from := s.len()
	output(t, "unshare", "--uts", "sh", "-c", "echo "+value+" >/proc/sys/kernel/domainname")
	s.awaitFrom(t, from, "a namespace and a write in it", func(all []*emitted) bool {
		var pid uint32
		for _, e := range all {
			switch {
			case e.Type == event.NamespaceCreate && e.Namespace.Type == event.NSTypeUTS:
				pid = e.Process.PID
			case e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == value:
				return e.Process.PID == pid
			}
		}
		return false
	})
}

// awaitHooksOff waits until s reports that the kernel no longer runs its programs.
func awaitHooksOff(t *testing.T, s *stream) {
	t.Helper()
	s.await(t, "trace.loss of an unknown number", func(all []*emitted) bool { return len(deafLosses(all)) > 0 })
}

// linkedProgram matches the id of the program in the fdinfo of a link.
var linkedProgram = regexp.MustCompile(`(?ms)^link_id:.*?^prog_id:\s+(\d+)$`)

// checkAttached checks that s has a link to its program of that name, according to the kernel's
// information about its descriptors.
func checkAttached(t *testing.T, s *stream, program string) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // closed in between
		}
		m := linkedProgram.FindSubmatch(text)
		if m == nil {
			continue
		}
		var about struct{ Name string }
		if err := json.Unmarshal([]byte(output(t, "bpftool", "-j", "prog", "show", "id", string(m[1]))), &about); err != nil {
			t.Fatal(err)
		}
		if about.Name == program {
			return
		}
		names = append(names, about.Name)
	}
	t.Errorf("%v has no link to %s, only to %v", s, program, names)
}

func deafLosses(all []*emitted) (losses []*emitted) {
	for _, e := range only(all, event.TraceLoss) {
		if e.Loss.Records == nil {
			losses = append(losses, e)
		}
	}
	return losses
}

// checkHooksOff checks that s reported that the kernel did not run the programs of its backend,
// with the reason and the backend that it used instead.
func checkHooksOff(t *testing.T, s *stream, reason string, instead tracer.Backend) {
	t.Helper()
	all := s.since(0)
	losses := deafLosses(all)
	if len(losses) == 0 {
		t.Fatalf("%d losses of an unknown number\n%s", len(losses), dump(all))
	}
	e := losses[0]
	if e.Loss.Reason != reason || e.Loss.To.Before(e.Loss.From) || e.Loss.From.Before(all[0].Time) {
		t.Errorf("%s", e.line)
	}
	if attached := len(e.Trace.Observations) > 0; attached != (instead != tracer.None) {
		t.Errorf("%s", e.line)
	}
	for _, o := range e.Trace.Observations {
		checkObservation(t, o, instead)
	}
}

// checkNotes checks that a run ended normally with correct totals, and that it printed the notes of
// its events. It returns the notes.
func checkNotes(t *testing.T, s *stream) (notes []string) {
	t.Helper()
	if s.err != nil {
		t.Errorf("%v: %v\n%s", s, s.err, s.stderr.String())
	}
	for _, fault := range s.faults {
		t.Errorf("%v: %s", s, fault)
	}
	all := s.since(0)
	last := all[len(all)-1]
	if last.Type != event.TraceStop || last.Trace.Totals.Seen != last.Trace.Totals.Written+last.Trace.Totals.Filtered+last.Trace.Totals.Lost {
		t.Errorf("%v ends with %s", s, last.line)
	}
	for _, e := range all {
		if e.Trace != nil {
			notes = append(notes, e.Trace.Notes...)
		}
	}
	var printed []string
	for line := range strings.Lines(s.stderr.String()) {
		printed = append(printed, strings.TrimSuffix(strings.TrimPrefix(line, "nstrace: "), "\n"))
	}
	if s.err == nil {
		summary := printed[len(printed)-1]
		printed = printed[:len(printed)-1]
		if uncounted := len(deafLosses(all)) > 0; strings.Contains(summary, "an unknown number of other events lost") != uncounted {
			t.Errorf("%v prints the summary %q", s, summary)
		}
	}
	for _, n := range notes {
		if !slices.Contains(printed, n) {
			t.Errorf("%v: the note %q is not in %q", s, n, printed)
		}
	}
	if s.err == nil && len(printed) != len(notes) {
		t.Errorf("%v printed %q, but the notes are %q", s, printed, notes)
	}
	return notes
}

// one returns the only note that contains text.
func one(t *testing.T, notes []string, text string) {
	t.Helper()
	n := 0
	for _, note := range notes {
		if strings.Contains(note, text) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d of %q contain %q", n, notes, text)
	}
}

func testFtraceBefore(t *testing.T) {
	turnOff(t, ftraceFile)
	status, stdout, stderr := nstrace(t, []string{"check", "-v"})
	if status != 0 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, ftraceOff) {
		t.Errorf("status %d, %q", status, stderr)
	}
	rows := 0
	for line := range strings.Lines(stdout) {
		f := strings.Fields(line)
		if len(f) > 2 && (f[0] == "fentry" || f[0] == "kprobe") && f[1] == "no" && strings.Contains(line, ftraceOff) {
			rows++
		}
	}
	if rows != 2 {
		t.Errorf("fentry and kprobe should be off:\n%s", stdout)
	}
	for _, b := range []tracer.Backend{tracer.Fentry, tracer.Kprobe} {
		status, stdout, stderr := nstrace(t, []string{"--backend", string(b)})
		if status != 3 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, ftraceOff) {
			t.Errorf("%s: status %d, %q, %q", b, status, stdout, stderr)
		}
	}
	s := startStream(t)
	s.awaitStart(t)
	start := s.since(0)[0]
	checkStart(t, tracer.Tracepoint, start)
	one(t, start.Trace.Notes, ftraceOff)
	actUnder(t, s)
	s.interrupt(t)
	checkNotes(t, s)
	stays(t, ftraceFile, "0")
}

func testFtraceStop(t *testing.T, b tracer.Backend) {
	s := startStream(t, "--backend", string(b))
	s.awaitStart(t)
	turnOff(t, ftraceFile)
	s.interrupt(t)
	notes := checkNotes(t, s)
	one(t, notes, turnedOn)
	one(t, notes, "are lost")
	if losses := deafLosses(s.since(0)); len(losses) != 1 || losses[0].Loss.Reason != event.LossFtraceOff {
		t.Errorf("the losses:\n%s", dump(losses))
	}
	stays(t, ftraceFile, "0")
}

func testFtraceDuring(t *testing.T, b tracer.Backend) {
	s := startStream(t, "--backend", string(b))
	s.awaitStart(t)
	actUnder(t, s)
	on := turnOff(t, ftraceFile)
	awaitHooksOff(t, s)
	checkAttached(t, s, "task_exit") // it frees the entries of tasks, which the maps still have
	actUnder(t, s)
	stays(t, ftraceFile, "0")
	on()
	// s returns to b.
	s.await(t, "the return", func(all []*emitted) bool { return len(deafLosses(all)) == 2 })
	actUnder(t, s)
	acted := only(s.since(0), event.NamespaceCreate)
	if len(acted) != 3 {
		t.Errorf("three namespaces were made:\n%s", dump(acted))
	}
	s.interrupt(t)
	checkHooksOff(t, s, event.LossFtraceOff, tracer.Tracepoint)
	if back := deafLosses(s.since(0))[1]; back.Loss.Reason != event.LossReattach {
		t.Errorf("the return: %s", back.line)
	} else {
		for _, o := range back.Trace.Observations {
			checkObservation(t, o, b)
		}
	}
	notes := checkNotes(t, s)
	one(t, notes, turnedOn)
	one(t, notes, "ftrace was turned off")
	one(t, notes, "ftrace is on again")
}

// testFtraceShort turns ftrace off and on while nstrace is stopped, so that it cannot notice that by a
// proof. It must report that events can be missing, and goes on with what is attached.
func testFtraceShort(t *testing.T, b tracer.Backend) {
	s := startStream(t, "--backend", string(b))
	s.awaitStart(t)
	actUnder(t, s)
	if err := s.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Until all its threads have stopped, one can be in a proof.
	if err := unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	turnOff(t, ftraceFile)()
	after := time.Now()
	if err := s.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.await(t, "trace.loss of an unknown number", func(all []*emitted) bool { return len(deafLosses(all)) > 0 })
	actUnder(t, s)
	s.interrupt(t)
	losses := deafLosses(s.since(0))
	if l := losses[0]; len(losses) != 1 || l.Loss.Reason != event.LossFtraceOff || l.Loss.From.After(before) || l.Loss.To.Before(after) || len(l.Trace.Observations) > 0 {
		t.Errorf("want one loss from before %v to after %v:\n%s", before, after, dump(losses))
	}
	one(t, checkNotes(t, s), "ftrace was off for a short time")
}

// testFtraceKill kills nstrace while ftrace is off, after it has reported that. By then it has detached
// everything that a kill must not detach. TestFtrace shows later whether ftrace still works.
func testFtraceKill(t *testing.T) {
	s := startStream(t, "--backend", string(backends[0]))
	s.awaitStart(t)
	turnOff(t, ftraceFile)
	awaitHooksOff(t, s)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.awaitEnd(t)
	stays(t, ftraceFile, "0")
}

// testFtraceRun has the traced command turn ftrace off. nstrace must still follow what the command
// does later, and what its children do that started in between.
func testFtraceRun(t *testing.T) {
	turnOff(t, ftraceFile)() // or skip
	file := filepath.Join(t.TempDir(), "events")
	t.Cleanup(func() { os.WriteFile(ftraceFile, []byte("1"), 0) })
	status, stdout, stderr := nstrace(t, []string{"run", "--backend", string(backends[len(backends)-2]), "-o", "json", "-O", file, "--", "sh", "-e", "-c", `
		echo 0 >` + ftraceFile + `
		sh -c 'until grep -q "\"type\":\"trace[.]loss\"" "$1"; do sleep 0.05; done; unshare --uts true' sh "$1" &
		wait $!`, "sh", file})
	if status != 0 || stdout != "" {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	var events []*emitted
	for line := range strings.Lines(readFile(t, file) + "\n") {
		e, err := parseEvent([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if len(deafLosses(events)) != 1 || len(only(events, event.NamespaceCreate)) != 1 || len(only(events, event.NamespaceDestroy)) != 1 {
		t.Errorf("%q\n%s", stderr, dump(events))
	}
	stays(t, ftraceFile, "0")
}

// testFtraceNothingLeft watches only what tracepoints cannot see.
func testFtraceNothingLeft(t *testing.T) {
	s := startStream(t, "--backend", string(backends[len(backends)-2]), "-e", "netdev")
	s.awaitStart(t)
	turnOff(t, ftraceFile)
	s.awaitEnd(t)
	if s.err == nil || exitStatus(s.cmd.ProcessState) != 3 || !strings.Contains(s.stderr.String(), "this host can't") {
		t.Errorf("%v\n%s", s.err, s.stderr.String())
	}
	checkHooksOff(t, s, event.LossFtraceOff, tracer.None)
	s.err = nil
	if all := s.since(0); all[len(all)-1].Type != event.TraceStop {
		t.Errorf("the end:\n%s", dump(all))
	}
	stays(t, ftraceFile, "0")
}

// kprobesOff turns kprobes off. The switch is in debugfs.
func kprobesOff(t *testing.T) (on func()) {
	t.Helper()
	if _, err := os.Stat(kprobesFile); err != nil {
		if err := unix.Mount("debugfs", debugfs, "debugfs", 0, ""); err != nil {
			t.Skipf("no debugfs: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(debugfs, unix.MNT_DETACH) })
	}
	return turnOff(t, kprobesFile)
}

func testKprobesBefore(t *testing.T) {
	kprobesOff(t)
	status, stdout, stderr := nstrace(t, []string{"check", "-v"})
	if status != 0 || !strings.Contains(stdout, nothingTells) {
		t.Errorf("status %d, %q\n%s", status, stderr, stdout)
	}
	status, stdout, stderr = nstrace(t, []string{"--backend", "kprobe"})
	if status != 3 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, nothingTells) {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
}

func testKprobesDuring(t *testing.T) {
	s := startStream(t, "--backend", "kprobe")
	s.awaitStart(t)
	on := kprobesOff(t)
	awaitHooksOff(t, s)
	checkAttached(t, s, "task_exit")
	actUnder(t, s)
	stays(t, kprobesFile, "0")
	on()
	s.interrupt(t)
	checkHooksOff(t, s, event.LossProbesOff, tracer.Tracepoint)
	if n := len(deafLosses(s.since(0))); n != 1 {
		t.Errorf("%d losses", n)
	}
	one(t, checkNotes(t, s), "are lost")
}
