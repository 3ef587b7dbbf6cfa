// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManPages checks that the pages have the words of the help, and that man(1) has nothing to complain about.
func TestManPages(t *testing.T) {
	root := newRoot(commandsFor(nil)...)
	for _, cmd := range append(root.Commands(), root) {
		page := string(manPage(cmd))
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(page, roffText("--"+f.Name)) {
				t.Errorf("%s: no --%s", cmd.Name(), f.Name)
			}
		})
		long, _, _ := strings.Cut(cmd.Long, "\n\n"+tableTitle) // a section of its own
		for _, text := range []string{cmd.Short, long, strings.TrimSpace(cmd.Example)} {
			if !strings.Contains(page, roffText(text)) {
				t.Errorf("%s: no %s", cmd.Name(), text)
			}
		}
		if _, err := exec.LookPath("groff"); err != nil {
			continue
		}
		groff := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z")
		groff.Stdin = strings.NewReader(page)
		if out, err := groff.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s: %v: %s", cmd.Name(), err, out)
		}
	}
}

// TestManText checks what has a meaning in a manual page.
func TestManText(t *testing.T) {
	page := string(manPage(&cobra.Command{Use: "x", Short: "a\\b", Long: "one\n.two\n'three --four\n  five", Run: func(*cobra.Command, []string) {}}))
	for _, want := range []string{"x \\- a\\eb\n", ".nf\none\n\\&.two\n\\&'three \\-\\-four\n  five\n.fi\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in %s", want, page)
		}
	}
}
