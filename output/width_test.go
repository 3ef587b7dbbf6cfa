// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/nstrace/nstrace/output"
)

func checkWidth(t *testing.T, out string, width int) {
	t.Helper()
	for line := range strings.Lines(out) {
		if w := twwidth.Width(strings.TrimSuffix(line, "\n")); w > width {
			t.Errorf("width %d: %d columns: %s", width, w, line)
		}
	}
}

// TestNarrow checks that a table for a narrow terminal fits, and breaks no words that have room on a line.
func TestNarrow(t *testing.T) {
	for _, width := range []int{40, 60, 79} {
		out := write(t, tableSink(output.TableOptions{Width: width, Location: time.UTC, HostNS: hostNS}), append(sample(), hostile()...)...)
		checkSafe(t, out)
		checkWidth(t, out, width)
	}
	out := write(t, tableSink(output.TableOptions{Width: 40, Location: time.UTC, HostNS: hostNS}), sample()[1])
	const want = `TIME          EVENT    TARGET
12:04:31.123  sysctl   net.ipv4.
                       tcp_keepalive_
                       time
  7200 → 600
  sshd > bash > sudo > sysctl[4712]
    alice as root
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestOneLine checks that each event is a line of its own that leaves nothing out, also its alerts and the reasons
// of a refusal.
func TestOneLine(t *testing.T) {
	for _, ev := range append(append(sample(), hostile()...), bare()...) {
		out := write(t, tableSink(output.TableOptions{OneLine: true, Location: time.UTC, HostNS: hostNS}), ev)
		checkSafe(t, out)
		hidden := write(t, tableSink(output.TableOptions{Location: time.UTC}), ev) == write(t, tableSink(output.TableOptions{Location: time.UTC}))
		if n := strings.Count(out, "\n"); n != 2 && !hidden {
			t.Errorf("%d lines: %s", n, out)
		}
	}
	for _, ev := range sample() {
		out := write(t, tableSink(output.TableOptions{OneLine: true, Location: time.UTC, HostNS: hostNS}), ev)
		folded := write(t, tableSink(output.TableOptions{Width: 400, Location: time.UTC, HostNS: hostNS}), ev)
		for _, word := range strings.Fields(folded) {
			if !strings.Contains(word, "…") && !strings.Contains(out, word) {
				t.Errorf("%q is missing: %s", word, out)
			}
		}
	}
}

// TestResize changes the width of the terminal between two rows.
func TestResize(t *testing.T) {
	var out bytes.Buffer
	width := 100
	table := output.NewTable(&out, output.TableOptions{Width: width, WidthNow: func() int { return width }, Location: time.UTC})
	add := func() string {
		out.Reset()
		if err := table.Write(sample()[1]); err != nil {
			t.Fatal(err)
		}
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if text := add(); strings.Count(text, "TIME") != 1 {
		t.Errorf("the header is missing: %s", text)
	}
	if text := add(); strings.Contains(text, "TIME") {
		t.Errorf("a header again: %s", text)
	}
	for _, width = range []int{60, 130, 0} {
		text := add()
		if again := strings.Contains(text, "TIME"); again != (width > 0) {
			t.Errorf("width %d, header %v: %s", width, again, text)
		}
		if width > 0 {
			checkWidth(t, text, width)
		}
	}
}

// TestTerminalWidth checks that COLUMNS has priority.
func TestTerminalWidth(t *testing.T) {
	for value, want := range map[string]int{"72": 72, "": 0, "0": 0, "-5": 0, "wide": 0} {
		t.Setenv("COLUMNS", value)
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got := output.TerminalWidth(f); got != want {
			t.Errorf("COLUMNS=%q: %d, want %d", value, got, want)
		}
	}
}
