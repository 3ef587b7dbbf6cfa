// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestDetachedHook detaches the one hook of nstrace that the kernel lets another program detach. nstrace
// must notice that, say since when events can be missing, and attach again.
func TestDetachedHook(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			s := startStream(t, "--backend", string(b))
			s.awaitStart(t)
			_, links := s.kernelObjects(t)
			output(t, "bpftool", "link", "detach", "id", links["cgroup"])
			var loss *emitted
			s.await(t, "the loss", func(all []*emitted) bool {
				for _, e := range all {
					if e.Type == event.TraceLoss && e.Loss.Reason == event.LossHookSilent {
						loss = e
					}
				}
				return loss != nil
			})
			if notes := strings.Join(loss.Trace.Notes, " "); !strings.Contains(notes, "hooks of sysctl ("+string(b)+")") {
				t.Errorf("the loss says %q", notes)
			}
			if start := s.since(0)[0]; loss.Loss.From.Before(start.Time) || !loss.Loss.To.After(loss.Loss.From) {
				t.Errorf("the loss is from %v to %v, and the run began at %v", loss.Loss.From, loss.Loss.To, start.Time)
			}
			for _, o := range loss.Trace.Observations {
				if o.Name == "sysctl" && o.Backend != string(b) {
					t.Errorf("%s is attached by %s now", o.Name, o.Backend)
				}
			}
			from := s.len()
			output(t, "unshare", "--uts", "sh", "-c", "hostname before; echo after >/proc/sys/kernel/hostname")
			s.awaitFrom(t, from, "a write with the value before it", func(all []*emitted) bool {
				for _, e := range all {
					if e.Type == event.SysctlWrite && e.Via == event.ViaWrite && e.Sysctl.Old != nil && *e.Sysctl.Old == "before" {
						return true
					}
				}
				return false
			})
			s.interrupt(t)
			checkNotes(t, s)
		})
	}
}

// TestProofsUnseen has one nstrace test its hooks all the time. It must not report the calls of its own
// tests, nor count them.
func TestProofsUnseen(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			s := startStream(t, "--backend", string(b), "--self-test", "10ms")
			s.awaitStart(t)
			// A second nstrace sees what the first one does.
			witness := startStream(t, "--backend", string(b), "--comm", proofThread)
			witness.awaitStart(t)
			const tests = 5
			witness.awaitFrom(t, 0, "tests of the hooks", func(all []*emitted) bool {
				n := 0
				for _, e := range all {
					if e.Type == event.NamespaceCreate && e.Via == event.ViaUnshare {
						n++
					}
				}
				return n >= tests
			})
			witness.interrupt(t)
			witness.awaitEnd(t)
			s.interrupt(t)
			s.awaitEnd(t)
			for _, e := range s.since(0) {
				switch {
				case e.Type == event.TraceLoss:
					t.Errorf("a loss: %+v", e.Loss)
				case e.Process != nil && e.Process.Comm == proofThread && int(e.Process.PID) == s.cmd.Process.Pid:
					t.Errorf("an event of the test: %s by %s", e.Type, e.Via)
				}
			}
		})
	}
}
