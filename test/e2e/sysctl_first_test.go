// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// TestSysctlFirst checks that record --sysctl-first says from when on it observes what.
func TestSysctlFirst(t *testing.T) {
	s := startStream(t, "record", "--sysctl-first", "--db", filepath.Join(t.TempDir(), "history.db"), "--runtime-socket", "none")
	s.awaitStart(t)
	backend := func(e *emitted, name string) string {
		i := slices.IndexFunc(e.Trace.Observations, func(o event.Observation) bool { return o.Name == name })
		if i < 0 {
			t.Fatalf("no observation %s in %s", name, e.line)
		}
		return e.Trace.Observations[i].Backend
	}
	none := string(tracer.None)
	start := s.since(0)[0]
	if backend(start, "sysctl") == none || backend(start, "unshare") != none {
		t.Errorf("at the start: %s", start.line)
	}
	var attach *emitted
	s.await(t, "trace.attach", func(all []*emitted) bool {
		i := slices.IndexFunc(all, func(e *emitted) bool { return e.Type == event.TraceAttach })
		if i >= 0 {
			attach = all[i]
		}
		return i >= 0
	})
	if backend(attach, "sysctl") != backend(start, "sysctl") || backend(attach, "unshare") == none {
		t.Errorf("later: %s", attach.line)
	}
	output(t, "unshare", "--uts", "sysctl", "-q", "-w", "kernel.domainname=first")
	s.await(t, "the namespace and the write", func(all []*emitted) bool {
		made, wrote := false, false
		for _, e := range all {
			made = made || e.Type == event.NamespaceCreate && e.Via == "unshare"
			wrote = wrote || e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == "first"
		}
		return made && wrote
	})
	s.interrupt(t)
	s.awaitEnd(t)
}
