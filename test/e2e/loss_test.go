// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/tracer"
)

// TestLoss stops nstrace from reading while more happens than its ring holds: what
// did not fit is told, to the last event.
func TestLoss(t *testing.T) {
	const writes = 3000
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			// A name that only the storm has.
			s := startStream(t, "--backend", string(b), "--ring-size", "64KiB", "--event", "sysctl", "--comm", "nswrite")
			s.awaitStart(t)
			pid := s.cmd.Process.Pid
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); statusField(t, pid, "State") != "T"; {
				if time.Now().After(deadline) {
					t.Fatal("it does not stop")
				}
				time.Sleep(time.Millisecond)
			}
			storm := func(n int) {
				out := output(t, "unshare", "--uts", helper("nswrite"), "-n", strconv.Itoa(n), "/proc/sys/kernel/domainname", "storm-a", "storm-b")
				if want := fmt.Sprintf("ok=%d\nfailed=0", n); out != want {
					t.Fatalf("the storm: %q, want %q", out, want)
				}
			}
			storm(writes)
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			// It says so by itself, and goes on.
			s.await(t, "trace.loss", func(all []*event) bool { return all[len(all)-1].Type == tracer.TraceLoss })
			storm(1)
			from := s.len()
			s.interrupt(t)
			sum := s.checkEnd(t, false)

			var written, lost uint64
			var last time.Time
			for i, e := range s.since(0) {
				switch e.Type {
				case tracer.SysctlWrite:
					written++
				case tracer.TraceLoss:
					l := e.Loss
					if l.Reason == "missed" && canMiss(tracer.SysctlWrite) {
						lost += l.Records[tracer.SysctlWrite]
						continue
					}
					if l.Reason != "ring_full" || len(l.Records) != 1 || l.From.IsZero() || l.To.Before(l.From) || l.From.Before(last) || i >= from {
						t.Errorf("%s", e.line)
					}
					lost += l.Records[tracer.SysctlWrite]
					last = l.To
				}
			}
			if lost == 0 || written == 0 {
				t.Errorf("%d written and %d lost: the ring should be too small, but not for all", written, lost)
			}
			if written+lost != writes+1 {
				t.Errorf("%d written + %d lost, and there were %d writes", written, lost, writes+1)
			}
			if sum.Lost != lost {
				t.Errorf("the totals say %d lost, the trace.loss lines %d", sum.Lost, lost)
			}
			if want := fmt.Sprintf(" %d lost", lost); !strings.Contains(s.stderr.String(), want) {
				t.Errorf("standard error has no %q: %s", want, s.stderr.String())
			}
		})
	}
}
