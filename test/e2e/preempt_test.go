// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// kernelPreempts reports whether the kernel preempts tasks in kernel code, by what the kernel calls
// itself and, if that can change, by debugfs, which only a shell in its own mount namespace mounts.
var kernelPreempts = sync.OnceValue(func() bool {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		panic(err)
	}
	version := unix.ByteSliceToString(uts.Version[:])
	if !strings.Contains(version, "PREEMPT_DYNAMIC") {
		return strings.Contains(version, "PREEMPT")
	}
	out, err := exec.Command("unshare", "--mount", "sh", "-e", "-c",
		"mount -t debugfs none /sys/kernel/debug 2>/dev/null || :; cat /sys/kernel/debug/sched/preempt").Output()
	mode := string(out)
	return err != nil || !strings.Contains(mode, "(none)") && !strings.Contains(mode, "(voluntary)")
})

// autoBackend is the backend that nstrace must choose by itself: the first one that loses nothing.
func autoBackend() tracer.Backend {
	if kernelPreempts() && has(string(tracer.Kprobe)) {
		return tracer.Kprobe
	}
	return backends[0]
}

// TestSkipped makes namespaces in several processes at once. On a kernel that preempts tasks in kernel
// code, fentry misses some of them: nstrace must report during the run how many. What nstrace chooses
// by itself must miss none.
func TestSkipped(t *testing.T) {
	const processes, each = 8, 250
	for _, b := range append([]tracer.Backend{tracer.Auto}, backends...) {
		t.Run(string(b), func(t *testing.T) {
			if b == tracer.Tracepoint {
				t.Skip("tracepoints have no programs that tasks are preempted in")
			}
			args := []string{"--ring-size", "16MiB", "--event", "namespace.create", "--comm", "nsstorm"}
			if b != tracer.Auto {
				args = append(args, "--backend", string(b))
			}
			s := startStream(t, args...)
			s.awaitStart(t)
			if b == tracer.Auto {
				for _, o := range s.since(0)[0].Trace.Observations {
					checkObservation(t, o, autoBackend())
				}
			}
			started := s.since(0)[0].Time
			want := uint64(processes * each)
			if out := output(t, helper("nsstorm"), fmt.Sprint(processes), fmt.Sprint(each)); out != fmt.Sprintf("ok=%d", want) {
				t.Fatalf("the storm: %q", out)
			}
			count := func(all []*emitted) (made, lost uint64) {
				for _, e := range all {
					switch e.Type {
					case event.NamespaceCreate:
						made++
					case event.TraceLoss:
						lost += e.Loss.Records[event.NamespaceCreate]
						if e.Loss.Reason != event.LossMissed || e.Loss.From.IsZero() || e.Loss.To.Before(e.Loss.From) || e.Loss.From.Before(started) {
							t.Errorf("%s", e.line)
						}
					}
				}
				return made, lost
			}
			s.await(t, "every namespace, or its loss", func(all []*emitted) bool {
				made, lost := count(all)
				return made+lost >= want
			})
			s.interrupt(t)
			sum := s.checkEnd(t, b != tracer.Fentry)
			made, lost := count(s.since(0))
			t.Logf("%d made, %d reported, %d lost", want, made, lost)
			if sum.Lost != lost {
				t.Errorf("the totals say %d lost, the trace.loss lines say %d", sum.Lost, lost)
			}
			// A program that the kernel skips in a fork counts as well, whatever the fork makes.
			if missing := want - made; lost < missing || lost > missing+missing/10+2 {
				t.Errorf("%d of %d are missing, but %d are reported as lost", missing, want, lost)
			}
			if (b == tracer.Auto || b == tracer.Kprobe || !kernelPreempts()) && sum.Lost > 0 {
				t.Errorf("%d lost", sum.Lost)
			}
		})
	}
}
