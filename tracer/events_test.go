// SPDX-License-Identifier: Apache-2.0

package tracer_test

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// attach returns a Tracer of this host. It skips the test if that cannot be traced, as
// without root.
func attach(t *testing.T) *tracer.Tracer {
	t.Helper()
	tr, err := tracer.New(tracer.Options{})
	if errors.Is(err, tracer.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func checkTotals(t *testing.T, tr *tracer.Tracer) {
	t.Helper()
	sum, err := tr.Totals()
	if err != nil {
		t.Fatal(err)
	}
	if sum.Seen == 0 || sum.Seen != sum.Written+sum.Filtered+sum.Lost {
		t.Errorf("the totals do not balance: %+v", sum)
	}
}

// TestEvents goes through a whole run: from trace.start through what a command does to
// trace.stop, which comes after the context ended.
func TestEvents(t *testing.T) {
	tr := attach(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var first, last event.Type
	var created bool
	for e, err := range tr.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = e.Type
			if out, err := exec.Command("unshare", "--uts", "true").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		if e.Type == event.NamespaceCreate && e.Namespace.Type == event.NSTypeUTS && e.Process.Comm == "unshare" {
			created = true
			cancel()
		}
		last = e.Type
	}
	if first != event.TraceStart || !created || last != event.TraceStop {
		t.Errorf("first %s, created %v, last %s", first, created, last)
	}
	checkTotals(t, tr)

	n := 0
	for e, err := range tr.Events(t.Context()) {
		if n++; e != nil || err == nil {
			t.Errorf("a second run: %v, %v", e, err)
		}
	}
	if n != 1 {
		t.Errorf("a second run: %d pairs", n)
	}
}

// TestEventsBreak leaves a run by break: it ends in order all the same.
func TestEventsBreak(t *testing.T) {
	tr := attach(t)
	for _, err := range tr.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("unshare", "--uts", "true").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		break
	}
	checkTotals(t, tr)
	for range 2 {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	tr.Wake() // has no effect any more
}
