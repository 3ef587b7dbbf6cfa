// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// TestWriteReport has the reports of hosts that see everything, something and nothing.
func TestWriteReport(t *testing.T) {
	seen := []event.Observation{{Name: "clone", Backend: "fentry", Hooks: []string{"fentry/copy_process"}}}
	for _, row := range []struct {
		report tracer.Report
		err    error
		width  int
		want   []string
	}{
		{tracer.Report{Kernel: "6.12", Arch: "amd64", Observations: seen, Complete: true}, nil, 0,
			[]string{"Here, nstrace works, and sees everything.", "Linux 6.12 amd64. See nstrace check --verbose for all hooks."}},
		{tracer.Report{Kernel: "6.12", Arch: "amd64", Observations: seen, Missing: []string{
			"clone, tamper: calls of 32-bit programs", "open: all of it: no kprobes: really", "not seen without CAP_X: names of users"}}, nil, 0,
			[]string{"Here, nstrace works, but does not see everything:", "- Of clone(2), tampering with nstrace, nstrace does not see calls of 32-bit programs.",
				"- nstrace sees no refused opens of parameters: no kprobes.", "- Without CAP_X, nstrace does not see names of users.",
				"Linux 6.12 amd64. See nstrace check --verbose for all hooks."}},
		{tracer.Report{Observations: seen, Missing: []string{"clone: calls of 32-bit programs"}}, errors.New("x"), 40,
			[]string{"Here, nstrace cannot run: stderr says", "why.", "- Of clone(2), nstrace does not see", "  calls of 32-bit programs.", "Linux  . See nstrace check --verbose for", "all hooks."}},
	} {
		var out bytes.Buffer
		if err := writeReport(&out, &row.report, row.err, row.width, false); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), strings.Join(row.want, "\n")+"\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		out.Reset()
		if err := writeReport(&out, &row.report, row.err, row.width, true); err != nil || !strings.Contains(out.String(), "fentry/copy_process") {
			t.Errorf("verbose: %v, %s", err, out.String())
		}
	}
}
