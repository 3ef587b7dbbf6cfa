// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/output"
)

// TestHost checks that tables of several hosts say the host of each row, in lines that fit.
func TestHost(t *testing.T) {
	for _, width := range []int{40, 60, 79, 80, 90, 94, 100, 140, 200} {
		for _, mode := range []string{"lines", "one line", "wide"} {
			if mode == "one line" && width < output.DefaultWidth { // for pipes, which have the default width
				continue
			}
			opts := output.TableOptions{Host: true, Width: width, OneLine: mode == "one line", Wide: mode == "wide"}
			var events, blame bytes.Buffer
			table, rows := output.NewTable(&events, opts), output.NewBlameTable(&blame, opts)
			for _, host := range []string{"web-1", "evil\x1b[2J"} {
				for _, e := range eventtest.Sample() {
					e.Host = host
					if err := table.Write(e); err != nil {
						t.Fatal(err)
					}
					if e.Type != event.SysctlWrite {
						continue
					}
					row := &output.Blame{Parameter: e.Sysctl.Name, Namespace: e.Sysctl.Namespace, Recorded: e.Sysctl.After, State: output.Stored, Writes: 1, Last: e}
					if err := rows.Add(row); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := table.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := rows.Flush(); err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{"events": events.String(), "blame": blame.String()} {
				if strings.Count(text, "web-1") < 3 || strings.Contains(text, "\x1b[2J") || strings.Contains(text, "NOW") {
					t.Errorf("%s, %s, width %d:\n%s", name, mode, width, text)
				}
				for line := range strings.Lines(text) {
					if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); mode == "lines" && n > width {
						t.Errorf("%s, width %d: a line of %d: %s", name, width, n, line)
					}
				}
			}
		}
	}
}

// TestHostsApart checks that a burst has the events of one host, although processes of two hosts have the same pid.
func TestHostsApart(t *testing.T) {
	var out bytes.Buffer
	table := output.NewTable(&out, output.TableOptions{Host: true, OneLine: true})
	group := output.NewGroup(table, output.GroupOptions{})
	for _, host := range []string{"web-1", "web-2"} {
		for range 5 {
			e := eventtest.Sample()[1]
			e.Host = host
			if err := group.Write(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := group.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "web-1") || !strings.Contains(out.String(), "web-2") {
		t.Errorf("got\n%s", out.String())
	}
}
