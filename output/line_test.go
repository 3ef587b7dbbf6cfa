// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/nstrace/nstrace/output"
)

// TestLines checks that every event has one line that fits, whose columns are where the header
// has them, and which controls no terminal.
func TestLines(t *testing.T) {
	lines := output.NewLines(output.TableOptions{HostNS: hostNS, Location: time.UTC})
	colored := output.NewLines(output.TableOptions{HostNS: hostNS, Location: time.UTC, Color: true})
	events := append(append(sample(), hostile()...), bare()...)
	for _, width := range []int{20, 80, 100, 133, 200} {
		header := lines.Header(width)
		who := twwidth.Width(header[:strings.Index(header, "WHO")])
		for _, ev := range events {
			got := lines.Format(ev, width)
			text := lines.Text(ev)
			if (got == "") != (text == "") {
				t.Errorf("width %d: line %q, but text %q", width, got, text)
			}
			if w := twwidth.Width(got); w > max(width, 80) {
				t.Errorf("width %d: %d columns: %q", width, w, got)
			}
			ascii := strings.ToValidUTF8(strings.Map(func(r rune) rune {
				if r > 0x7e && r != '…' && r != '→' {
					return -1
				}
				return r
			}, got), "")
			if ascii == got {
				if tail := ansi.Cut(got, who-2, who); strings.TrimSpace(tail) != "" {
					t.Errorf("width %d: no gap before WHO: %q", width, got)
				}
			}
			for _, s := range []string{got, text} {
				if strings.ContainsAny(s, "\x1b\n\r\t\a\x7f") || strings.ToValidUTF8(s, "") != s {
					t.Errorf("width %d: control characters in %q", width, s)
				}
			}
			if plain := ansi.Strip(colored.Format(ev, width)); plain != got {
				t.Errorf("width %d: in colours %q, without %q", width, plain, got)
			}
		}
	}
	for i, want := range []string{
		"",
		"12:04:31.123  sysctl   net.ipv4.tcp_keepalive_time  7200 → 600        … sysctl[4712] alice as root",
	} {
		if got := lines.Format(sample()[i], 100); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}
