// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// The kernel does not run a BPF program while another task, or the task that an interrupt
// interrupted, is inside the same program on the same processor. nstrace reports how often, in
// trace.loss with the reason "missed". This happens on a busy emulated processor. The tests
// therefore count the events that one stream lacks and another has. At the end the stream must have
// reported at least that number of the type as missed. A test still fails if an event was lost
// without a report.

// canMiss reports whether that can happen to events of a type on this kernel: some kernels preempt
// tasks inside programs. On others it can only happen to the end of namespaces, which the kernel also
// frees in softirqs.
func canMiss(typ event.Type) bool {
	return typ == event.NamespaceDestroy || kernelPreempts()
}

// countsMissed reports whether the kernel counts what a stream misses: up to 6.6 it does not count
// the kprobes and tracepoints that come while another program runs.
func (s *stream) countsMissed() bool {
	return kernelFrom(6, 7) || s.backend == tracer.Fentry && !s.usesKprobes()
}

// usesKprobes reports whether a hook of the stream is a kprobe: fentry uses one where a function has no
// type.
func (s *stream) usesKprobes() bool {
	all := s.since(0)
	if len(all) == 0 || all[0].Trace == nil {
		return false
	}
	return slices.ContainsFunc(all[0].Trace.Observations, func(o event.Observation) bool {
		return slices.ContainsFunc(o.Hooks, func(hook string) bool {
			return strings.HasPrefix(hook, "kprobe/") || strings.HasPrefix(hook, "kretprobe/")
		})
	})
}

// kernelFrom reports whether the running kernel is of that series or a later one.
func kernelFrom(major, minor int) bool {
	var uts unix.Utsname
	var x, y int
	if err := unix.Uname(&uts); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &x, &y); err != nil {
		return false
	}
	return x > major || (x == major && y >= minor)
}

// key returns what identifies an event in another stream.
func (e *emitted) key() string {
	var what []string
	if s := e.Sysctl; s != nil {
		what = append(what, s.Name)
		// The value of a refused sethostname(2) is not always known, see testHostname.
		if s.New != nil && (e.Via == "write" || e.Outcome == event.Success) {
			what = append(what, *s.New)
		}
	}
	if ns := e.Namespace; ns != nil {
		what = append(what, string(ns.Type))
	}
	if d := e.Netdev; d != nil {
		what = append(what, d.Name, d.NewName)
	}
	if e.Process == nil && e.Namespace != nil {
		uid, _, _ := strings.Cut(e.Namespace.UID, ".")
		return fmt.Sprintf("%s %s %d %s", e.Type, uid, e.Namespace.ID, strings.Join(what, " "))
	}
	var tid uint32
	if e.Process != nil { // the kernel returns a device by itself
		tid = e.Process.TID
	}
	return fmt.Sprintf("%d %s %s %s", tid, e.Type, e.Via, strings.Join(what, " "))
}

// lacking returns the events of the same processes that another stream has and this one lacks. It
// returns none on a kernel where that would be nstrace's fault.
func (s *stream) lacking(mine []*emitted, others ...[]*emitted) []*emitted {
	var most []*emitted
	for _, other := range others {
		have := map[string]int{}
		for _, e := range mine {
			have[e.key()]++
		}
		var lack []*emitted
		for _, e := range other {
			switch {
			case have[e.key()] > 0:
				have[e.key()]--
			case s.backend == tracer.Tracepoint && e.Sysctl != nil && e.Outcome == event.Failure:
				// The tracepoint backend does not see all of those, and sees some of them as one.
			case e.notByTracepoint() && s.backend == tracer.Tracepoint:
			case e.onlyByTracepoint() && s.backend != tracer.Tracepoint:
			case e.unwritten() && !seesDevices(s.backend):
			case e.Type == event.NetdevMove && !seesDevices(s.backend):
			case (e.Type == event.SysctlAppear || e.Type == event.SysctlVanish) && !seesDevices(s.backend):
			case e.isPin() && s.backend == tracer.Tracepoint:
				// The tracepoint backend does not know who did it.
			case !canMiss(e.Type):
				return nil
			default:
				lack = append(lack, e)
			}
		}
		if len(lack) > len(most) {
			most = lack
		}
	}
	return most
}

// onlyByTracepoint reports whether e can be a clone3(2) that the kernel refuses only because of its
// arguments (clone3_args_valid()). Such a call never reaches copy_process(), where the other
// backends hook.
func (e *emitted) onlyByTracepoint() bool {
	return e.Type == event.NamespaceCreate && e.Via == "clone3" && e.Error == "EINVAL"
}

// excuse counts events that s lacks, so that checkMissed can check that they were reported.
func (s *stream) excuse(t testing.TB, lack ...*emitted) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range lack {
		id := string(e.line)
		if s.excused[id] {
			continue // it was counted before, as part of something else
		}
		s.excused[id] = true
		// One skipped program stands for a write and everything that changed with it.
		if e.Via != "cascade" || !slices.ContainsFunc(lack, func(w *emitted) bool { return w.Seq == e.Sysctl.Cause.Seq }) {
			s.missing[e.Type]++
		}
		t.Logf("%v lacks an event, and trace.loss must report it: %s", s, e.line)
	}
}

// checkMissed checks, at the end of s, that trace.loss reported the missing events.
func (s *stream) checkMissed(t testing.TB, missed map[event.Type]uint64, sum *event.Totals) {
	t.Helper()
	var all uint64
	for typ, n := range missed {
		all += n
		// When another program attaches to a function by fentry, or detaches from it, the kernel skips the
		// programs at the ends of the calls of that function in progress (bpf_tramp_image_put(), 5.12).
		if !canMiss(typ) && !(s.others && s.backend == tracer.Fentry) {
			t.Errorf("%v: %d %s missed:\n%s", s, n, typ, dump(only(s.since(0), event.TraceLoss)))
		}
	}
	if sum.Lost != all {
		t.Errorf("%v: the totals say %d lost, trace.loss says %d missed", s, sum.Lost, all)
	}
	// A kernel that preempts skips up to a third of the fentry programs under load. There, nstrace uses
	// fentry only with --backend fentry.
	limit, scans := 20+(sum.Seen+s.calls)/50, 2+len(s.ends)/10
	if kernelPreempts() && s.backend == tracer.Fentry {
		limit, scans = 20+sum.Seen/2, 2+len(s.ends)/2
	}
	// Each call of bpf(2) can be an event of trace.tamper, and an nstrace that starts makes thousands.
	if all-missed[event.TraceTamper] > limit {
		t.Errorf("%v: %v of %d missed, which is too many", s, missed, sum.Seen)
	}
	scanned := 0
	for _, scan := range s.ends {
		if scan {
			scanned++
		}
	}
	if s.backend != tracer.Tracepoint && scanned > scans {
		t.Errorf("%v: a scan found %d of %d ends of namespaces, which is too many", s, scanned, len(s.ends))
	}
	for typ, n := range s.missing {
		// One skipped run of a program counts for each type that the call was about. The number of
		// these events is unknown.
		reported := missed[typ]
		if typ == event.NamespaceCreate || typ == event.NamespaceEnter {
			reported *= uint64(len(event.NSTypes()))
		}
		if uint64(n) > reported && s.countsMissed() {
			t.Errorf("%v: %d %s are missing, but trace.loss reports %d", s, n, typ, missed[typ])
		}
	}
}

// reportedLost matches totals, as text or JSON, that have lost events.
var reportedLost = regexp.MustCompile(`\+ [1-9][0-9]* lost|"lost":[1-9]`)

// complete runs nstrace with args again while its totals report lost events: a test cannot distinguish
// events that the kernel skipped from a fault. After some tries it returns the last run.
func complete(t *testing.T, args []string) (status int, stdout, stderr string) {
	t.Helper()
	completely(t, args, func() string {
		status, stdout, stderr = nstrace(t, args)
		return stderr
	})
	return status, stdout, stderr
}

// completely does that for a function that runs nstrace with args and returns its standard error.
func completely(t *testing.T, args []string, run func() (stderr string)) string {
	t.Helper()
	const tries = 5
	for try := 1; ; try++ {
		stderr := run()
		if try == tries || !canMiss(event.NamespaceCreate) || !reportedLost.MatchString(stderr) {
			return stderr
		}
		t.Logf("not complete: %s", stderr)
		if i := slices.Index(args, "-O"); i >= 0 {
			if err := os.Remove(args[i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSkippedEnds ends many PID namespaces while kprobes run. The kernel frees them in softirqs, and skips
// the kprobe for some. The stream must report the end of each of them nevertheless, by a scan: one can be
// the last one with its number, so that no later namespace tells.
func TestSkippedEnds(t *testing.T) {
	if !has("kprobe") {
		t.Skip("no kprobes")
	}
	s := startStream(t, "--backend", "kprobe", "--event", "namespace.create,namespace.destroy", "--comm", "nsclone")
	s.awaitStart(t)
	for burst := range 20 {
		from := len(s.since(0))
		output(t, "sh", "-c", `for i in 1 2 3 4 5 6 7 8 9 10; do `+helper("nsclone")+` clone3 pid || exit; done`)
		made := map[string]bool{}
		s.awaitFrom(t, from, fmt.Sprintf("the creations of burst %d", burst), func(events []*emitted) bool {
			for _, e := range events {
				if e.Type == event.NamespaceCreate {
					made[e.Namespace.UID] = true
				}
			}
			return len(made) >= 10
		})
		s.awaitFrom(t, from, fmt.Sprintf("all ends of burst %d", burst), func(events []*emitted) bool {
			ended := map[string]bool{}
			for _, e := range events {
				if e.Type == event.NamespaceDestroy {
					ended[e.Namespace.UID] = true
				}
			}
			for uid := range made {
				if !ended[uid] {
					return false
				}
			}
			return true
		})
	}
	s.interrupt(t)
}
