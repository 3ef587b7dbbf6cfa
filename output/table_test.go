// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/output"
)

// screen returns the columns of a line on a terminal. The second column of a wide character
// is a NUL.
func screen(line string) []rune {
	var cells []rune
	for _, r := range line {
		if n := twwidth.WidthNoCache(string(r)); n > 0 {
			cells = append(cells, append([]rune{r}, make([]rune, n-1)...)...)
		}
	}
	return cells
}

func checkSafe(t testing.TB, out string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Errorf("not UTF-8: %q", out)
	}
	for _, r := range out {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
			t.Errorf("%U reaches the terminal: %q", r, out)
		}
	}
}

func TestTableLayout(t *testing.T) {
	titles := []string{"TIME", "EVENT", "TARGET", "CHANGE", "WHO"}
	clock := regexp.MustCompile(`^(\d\d:\d\d:\d\d\.\d{3}|\d{4}-\d\d-\d\d)$`)
	events := append(append(sample(), hostile()...), bare()...)
	for _, ev := range events {
		// These lines have no columns; see TestTableAlertLayout, TestTableRefusals and TestTableUnmet.
		ev.Alert, ev.Refusal = nil, nil
		if ev.Sysctl != nil && ev.Sysctl.Parameters != nil {
			ev.Sysctl.Parameters.Unmet = nil
		}
	}
	for _, eastAsian := range []bool{false, true} {
		twwidth.SetEastAsian(eastAsian)
		defer twwidth.SetEastAsian(false)
		for _, tt := range []struct{ option, width int }{{0, 100}, {80, 80}, {81, 81}, {99, 99}, {100, 100}, {119, 119}, {200, 200}, {1000, 1000}} {
			out := write(t, tableSink(output.TableOptions{Width: tt.option, Location: time.UTC}), events...)
			checkSafe(t, out)
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			var starts []int
			for _, title := range titles {
				starts = append(starts, strings.Index(lines[0], title))
			}
			for _, line := range lines[1:] {
				cells := screen(line)
				if len(cells) > tt.width {
					t.Errorf("width %d: a line of %d columns: %s", tt.width, len(cells), line)
				}
				if strings.HasSuffix(line, " ") {
					t.Errorf("width %d: blanks at the end of a line: %q", tt.width, line)
				}
				for _, start := range starts[1:] {
					for i := start - 2; i < start && i < len(cells); i++ {
						if cells[i] != ' ' {
							t.Errorf("width %d: column %d does not start there: %s", tt.width, start, line)
						}
					}
				}
				// Only the first line of a row has the time.
				if first := strings.TrimSpace(string(cells[:min(12, len(cells))])); first != "" && !clock.MatchString(first) {
					t.Errorf("width %d: no time: %s", tt.width, line)
				}
			}
		}
	}
}

// TestTableUnmet writes parameters that appeared without the expected values, with hostile names.
func TestTableUnmet(t *testing.T) {
	x := event.Expected{State: event.ExpectedUnmet, Comparison: "at least", Values: []string{"\x1b[2J1"}, File: "/etc/\u202ea.conf", Line: 3}
	ev := &event.Event{Type: event.SysctlAppear, Time: at(0), Sysctl: &event.Sysctl{Name: "net.ipv4.conf.eth0.*", Parameters: &event.Parameters{Count: 2, Unmet: []event.Unmet{
		{Name: "net.ipv4.conf.\x1b[2J.tag", Value: "a\n b", Expected: x}, {Name: "net.ipv4.conf.eth0.rp_filter", Value: "", Expected: event.Expected{Comparison: "equal", Values: []string{"1"}, File: "default"}},
	}}}}
	for _, width := range []int{80, 100, 250} {
		out := write(t, tableSink(output.TableOptions{Width: width}), ev)
		checkSafe(t, out)
		lines := strings.Split(out, "\n")
		if got, want := strings.TrimSpace(lines[len(lines)-2]), `unmet: net.ipv4.conf.eth0.rp_filter = "" (expected 1 in default)`; got != want {
			t.Errorf("width %d: got %q, want %q", width, got, want)
		}
		if all := strings.Join(strings.Fields(out), ""); !strings.Contains(all, `unmet:net.ipv4.conf.\x1b[2J.tag=a\nb(expectedatleast\x1b[2J1in/etc/\u202ea.conf:3)`) {
			t.Errorf("width %d: %s", width, out)
		}
	}
}

// TestTableKeepsWhatMatters checks that tables of all widths have the whole target, change
// and process.
func TestTableKeepsWhatMatters(t *testing.T) {
	squeeze := strings.NewReplacer(" ", "", "\n", "")
	column := func(out, title string, width int) string {
		lines := strings.Split(out, "\n")
		start, end := strings.Index(lines[0], title), width
		if rest := strings.TrimLeft(lines[0][start+len(title):], " "); rest != "" {
			end = len(lines[0]) - len(rest) - 2
		}
		var b strings.Builder
		for _, l := range lines[1:] {
			cells := screen(l)
			b.WriteString(string(cells[min(start, len(cells)):min(end, len(cells))]))
		}
		return squeeze.Replace(b.String())
	}
	p := viaSSH(4194304, "runc:[1:CHILD]x")
	p.UID, p.User = 65534, "a-user-with-a-name"
	ev := &event.Event{Type: event.SysctlWrite, Time: at(0), Outcome: event.Failure, Error: "ENOTSUPP", Process: p, Sysctl: &event.Sysctl{
		Name: "net.ipv6.conf.veth0123456789a.accept_ra_rt_info_max_plen", Old: ptr("10000000001"), New: ptr("20000000002"), After: ptr("30000000003"),
		Namespace: &event.Namespace{Type: "net", ID: 4294967295, Name: "cni-2b3f6c1e-8a77-4c3e-9d3c-0f1f8a2b9c11"},
	}}
	for _, width := range []int{80, 90, 100, 130, 250} {
		out := write(t, tableSink(output.TableOptions{Width: width}), ev)
		for title, want := range map[string]string{
			"TARGET": "net.ipv6.conf.veth0123456789a.accept_ra_rt_info_max_plen in net 4294967295 cni-2b3f6c1e-8a77-4c3e-9d3c-0f1f8a2b9c11",
			"CHANGE": "FAILED ENOTSUPP 10000000001 → 20000000002 (now 30000000003)",
			"WHO":    "runc:[1:CHILD]x[4194304] alice as a-user-with-a-name",
		} {
			if got := column(out, title, width); !strings.HasSuffix(got, squeeze.Replace(want)) {
				t.Errorf("width %d, %s: want %s in\n%s", width, title, want, out)
			}
		}
	}
}

func TestTableChange(t *testing.T) {
	s := func(old, written, after *string) *event.Sysctl {
		return &event.Sysctl{Name: "vm.x", Old: old, New: written, After: after}
	}
	v := func(s string) *string { return &s }
	host, web := &event.Namespace{Type: "net", ID: 4026531840, Host: true}, &event.Namespace{Type: "net", ID: 5, Name: "web"}
	for _, tt := range []struct {
		name string
		ev   event.Event
		want string
	}{
		{"done", event.Event{Outcome: event.Success, Sysctl: s(v("7200"), v("600"), v("600"))}, "7200 → 600"},
		{"after not known", event.Event{Outcome: event.Success, Sysctl: s(v("7200"), v("600"), nil)}, "7200 → 600"},
		{"clamped", event.Event{Outcome: event.Success, Sysctl: s(v("600"), v("100000"), v("32767"))}, "600 → 100000 (now 32767)"},
		{"ignored", event.Event{Outcome: event.Success, Sysctl: s(v("600"), v("100000"), v("600"))}, "600 → 100000 (still 600)"},
		{"refused", event.Event{Outcome: event.Failure, Error: "EINVAL", Sysctl: s(v("600"), v("-5"), v("600"))}, "FAILED EINVAL 600 → -5"},
		{"refused in part", event.Event{Outcome: event.Failure, Error: "EINVAL", Sysctl: s(v("1 2"), v("3 x"), v("3 2"))}, "FAILED EINVAL 1 2 → 3 x (now 3 2)"},
		{"refused at open", event.Event{Outcome: event.Failure, Error: "EROFS", Sysctl: s(nil, nil, nil)}, "FAILED EROFS"},
		{"refused, old not known", event.Event{Outcome: event.Failure, Error: "EPERM", Sysctl: s(nil, v("1"), nil)}, "FAILED EPERM → 1"},
		{"failed somehow", event.Event{Outcome: event.Failure, Sysctl: s(v("0"), v("1"), nil)}, "FAILED 0 → 1"},
		{"outcome not known", event.Event{Sysctl: s(v("7200"), v("600"), nil)}, "7200 → 600 ?"},
		{"old not known", event.Event{Outcome: event.Success, Sysctl: s(nil, v("600"), nil)}, "? → 600"},
		{"new not known", event.Event{Outcome: event.Success, Sysctl: s(v("7200"), nil, nil)}, "7200 → ?"},
		{"only after known", event.Event{Outcome: event.Success, Sysctl: s(v("7200"), nil, v("600"))}, "7200 → 600"},
		{"nothing known", event.Event{Outcome: event.Success, Sysctl: s(nil, nil, nil)}, "→ ?"},
		{"unchanged", event.Event{Outcome: event.Success, Sysctl: s(v("1"), v("1"), v("1"))}, "1 → 1"},
		{"tabs", event.Event{Outcome: event.Success, Sysctl: s(v("4096\t131072\t6291456"), v("4096 87380 6291456"), v("4096\t87380\t6291456"))}, "4096 131072 6291456 → 4096 87380 6291456"},
		{"empty", event.Event{Outcome: event.Success, Sysctl: s(v("core"), v(""), v(""))}, `core → ""`},
		{"blank", event.Event{Outcome: event.Success, Sysctl: s(v("core"), v("x "), nil)}, `core → "x "`},
		{"a question mark", event.Event{Outcome: event.Success, Sysctl: s(v("?"), v("x"), nil)}, `"?" → x`},
		{"an arrow", event.Event{Outcome: event.Success, Sysctl: s(v("0"), v("1 → 2"), nil)}, `0 → "1 → 2"`},
		{"a claim", event.Event{Outcome: event.Success, Sysctl: s(v("0"), v("1 (now 0)"), nil)}, `0 → "1 (now 0)"`},
		{"two lines", event.Event{Outcome: event.Success, Sysctl: s(v("0"), v("1\n2"), nil)}, `0 → 1\n2`},
		{"cut", event.Event{Outcome: event.Success, Sysctl: &event.Sysctl{Name: "vm.x", Old: v("0"), New: v("1"), Truncated: true}}, "0 → 1 (truncated)"},
		{"folded", event.Event{Outcome: event.Success, Count: 250, LastTime: at(3210), Sysctl: s(v("0"), v("1"), v("1"))}, "0 → 1 ×250 in 3.2s"},

		{"made", event.Event{Type: event.NamespaceCreate, Outcome: event.Success, Via: "clone3", ChildPID: 77, Namespace: &event.Namespace{Type: "net", ID: 5}}, "clone3 child 77"},
		{"not made", event.Event{Type: event.NamespaceCreate, Outcome: event.Failure, Error: "ENOSPC", Via: "unshare", Namespace: &event.Namespace{Type: "user"}}, "FAILED ENOSPC unshare"},
		{"entered from the host's", event.Event{Type: event.NamespaceEnter, Outcome: event.Success, Namespace: &event.Namespace{Type: "net", ID: 5, From: 4026531840}}, "from host"},
		{"entered from another", event.Event{Type: event.NamespaceEnter, Outcome: event.Success, Namespace: &event.Namespace{Type: "mnt", ID: 5, From: 4026531840}}, "from 4026531840"},
		{"entered again", event.Event{Type: event.NamespaceEnter, Outcome: event.Success, Namespace: &event.Namespace{Type: "net", ID: 5, From: 5}}, "already in it"},
		{"refused, already in it", event.Event{Type: event.NamespaceEnter, Outcome: event.Failure, Error: "EINVAL", Namespace: &event.Namespace{Type: "user", ID: 5, From: 5}, Request: &event.Request{Types: []event.NSType{"user"}}}, "FAILED EINVAL already in it"},
		{"refused for another reason", event.Event{Type: event.NamespaceEnter, Outcome: event.Failure, Error: "EPERM", Namespace: &event.Namespace{Type: "net", ID: 5, From: 5}}, "FAILED EPERM"},
		{"refused for the type", event.Event{Type: event.NamespaceEnter, Outcome: event.Failure, Error: "EINVAL", Namespace: &event.Namespace{Type: "user", ID: 5, From: 5}, Request: &event.Request{Types: []event.NSType{"net", "uts"}, Path: "/run/\x1b[m"}}, `FAILED EINVAL asked for net, uts /run/\x1b[m`},
		{"refused by pidfd", event.Event{Type: event.NamespaceEnter, Outcome: event.Failure, Error: "EPERM", Namespace: &event.Namespace{Type: "net", ID: 5, From: 6}, Request: &event.Request{Types: []event.NSType{"net"}, PID: 77}}, "FAILED EPERM of process 77"},
		{"entered, perhaps", event.Event{Type: event.NamespaceEnter, Namespace: &event.Namespace{Type: "net", ID: 5}}, "?"},
		{"freed", event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 5, LifetimeMS: ptr[int64](3723004)}}, "lived 1h02m"},
		{"found gone", event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 5, LifetimeMS: ptr[int64](12), Detected: "scan"}}, "lived 12ms (found by scan)"},
		{"pinned", event.Event{Type: event.NamespacePin, Outcome: event.Success, Via: "mount", Namespace: &event.Namespace{Type: "net", ID: 5, Path: "/run/netns/web"}}, "/run/netns/web"},
		{"not pinned", event.Event{Type: event.NamespacePin, Outcome: event.Failure, Error: "EINVAL", Via: "mount", Namespace: &event.Namespace{Type: "net", ID: 5, Path: "/run/\x1b[m"}}, `FAILED EINVAL /run/\x1b[m`},
		{"not pinned anywhere", event.Event{Type: event.NamespacePin, Outcome: event.Failure, Error: "ENOENT", Via: "move_mount", Namespace: &event.Namespace{Type: "net", ID: 5}}, "FAILED ENOENT"},
		{"unpinned, found by scan", event.Event{Type: event.NamespaceUnpin, Namespace: &event.Namespace{Type: "net", ID: 5, Path: "/run/netns/web", Detected: "scan"}}, "/run/netns/web (found by scan)"},
		{"freed, older than the trace", event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 5}}, ""},
		{"moved", event.Event{Type: event.NetdevMove, Outcome: event.Success, Netdev: &event.Netdev{Name: "a", From: host, To: web}}, "from host"},
		{"moved back", event.Event{Type: event.NetdevMove, Outcome: event.Success, Netdev: &event.Netdev{Name: "a", From: web, To: host}}, "from 5 web"},
		{"moved from somewhere", event.Event{Type: event.NetdevMove, Outcome: event.Success, Netdev: &event.Netdev{Name: "a", To: web}}, "from ?"},
		{"not moved", event.Event{Type: event.NetdevMove, Outcome: event.Failure, Error: "EEXIST", Netdev: &event.Netdev{Name: "a", From: host, To: web}}, "FAILED EEXIST from host"},
		{"made elsewhere", event.Event{Type: event.NetdevMove, Outcome: event.Success, Netdev: &event.Netdev{Name: "a", Created: true, From: host, To: web}}, "made from host"},
	} {
		ev := tt.ev
		ev.Time = at(0)
		if ev.Type == "" {
			ev.Type = event.SysctlWrite
		}
		out := write(t, tableSink(output.TableOptions{Width: 300, HostNS: hostNS}), &ev)
		header, row, _ := strings.Cut(out, "\n")
		cells := screen(row)
		start, end := strings.Index(header, "CHANGE"), strings.Index(header, "WHO")
		got := strings.TrimSpace(string(cells[min(start, len(cells)):min(end, len(cells))]))
		if strings.Count(out, "\n") != 2 {
			// The cell takes several lines: compare the words.
			got = strings.Join(strings.Fields(strings.Join(strings.Split(out, "\n")[1:], " ")), " ")
			if !strings.HasSuffix(got, tt.want) {
				t.Errorf("%s: %q does not end in %q", tt.name, got, tt.want)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTableTarget(t *testing.T) {
	sysctl := func(name string, ns *event.Namespace) event.Event {
		return event.Event{Type: event.SysctlWrite, Outcome: event.Success, Sysctl: &event.Sysctl{Name: name, Old: ptr("OLD"), Namespace: ns}}
	}
	enter := func(ns *event.Namespace) event.Event {
		return event.Event{Type: event.NamespaceEnter, Outcome: event.Failure, Namespace: ns}
	}
	move := func(d *event.Netdev) event.Event { return event.Event{Type: event.NetdevMove, Netdev: d} }
	for _, tt := range []struct {
		ev   event.Event
		want string
	}{
		{sysctl("vm.swappiness", nil), "vm.swappiness"},
		{sysctl("net.x", &event.Namespace{Type: "net", ID: 5, Host: true}), "net.x"},
		{sysctl("net.x", &event.Namespace{Type: "net", ID: 4026531840}), "net.x"},
		{sysctl("net.x", &event.Namespace{Type: "net", ID: 5, Name: "web"}), "net.x in net 5 web"},
		{sysctl("net.x", nil), "net.x in net ?"},
		{sysctl("kernel.hostname", &event.Namespace{Type: "uts", ID: 6}), "kernel.hostname in uts 6"},
		{sysctl("net.ipv4.conf.eth0/100.rp_filter", &event.Namespace{Host: true}), "net.ipv4.conf.eth0/100.rp_filter"},
		{enter(&event.Namespace{Type: "net", ID: 5}), "net 5"},
		{enter(&event.Namespace{Type: "net", ID: 5, Name: "a (host)"}), `net 5 "a (host)"`},
		{enter(&event.Namespace{Type: "mnt", ID: 4026531841}), "mnt 4026531841 (host)"},
		{enter(&event.Namespace{Type: "pid", ID: 7, Host: true}), "pid 7 (host)"},
		{enter(&event.Namespace{Type: "net"}), "net"},
		{enter(&event.Namespace{}), "?"},
		{enter(nil), "?"},
		{move(&event.Netdev{Name: "veth0"}), "veth0 to net ?"},
		{move(&event.Netdev{Name: "veth0", NewName: "eth0", To: &event.Namespace{Type: "net", ID: 5, Name: "web"}}), "veth0 → eth0 to net 5 web"},
		{move(&event.Netdev{Name: "eth0", To: &event.Namespace{Type: "net", ID: 4026531840}}), "eth0 to host"},
		{move(&event.Netdev{Name: "eth0", Created: true, To: &event.Namespace{Type: "net", ID: 5}}), "eth0 in net 5"},
		{move(&event.Netdev{Name: "a→b", NewName: "\x1b[2J", To: &event.Namespace{Host: true}}), `"a→b" → \x1b[2J to host`},
	} {
		tt.ev.Time = at(0)
		out := write(t, tableSink(output.TableOptions{Width: 200, HostNS: hostNS}), &tt.ev)
		header, row, _ := strings.Cut(out, "\n")
		got := strings.TrimSpace(row[strings.Index(header, "TARGET"):strings.Index(header, "CHANGE")])
		if got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestTableWho(t *testing.T) {
	systemd := event.Actor{PID: 1, Comm: "systemd"}
	for _, tt := range []struct {
		p    event.Process
		want string
	}{
		{*viaSSH(4712, "sysctl"), "sshd > bash > sudo > sysctl[4712] alice as root"},
		{event.Process{PID: 1, Comm: "systemd"}, "systemd[1]"},
		{event.Process{PID: 5, Comm: "tuned", Ancestors: []event.Actor{systemd}}, "systemd > tuned[5]"},
		{event.Process{PID: 5, Comm: "a", Ancestors: []event.Actor{{PID: 4, Comm: "cron"}, {PID: 3, Comm: "cron"}, systemd}}, "cron > a[5]"},
		{event.Process{PID: 5, Comm: "bash", Ancestors: []event.Actor{{PID: 4, Comm: "bash"}, systemd}}, "bash[5]"},
		{event.Process{PID: 5, Comm: "(sd-pam)", Ancestors: []event.Actor{{PID: 4, Comm: "tmux: server"}, systemd}}, "tmux: server > (sd-pam)[5]"},
		{event.Process{PID: 5, Comm: "x > sudo", Ancestors: []event.Actor{{PID: 4, Comm: `"`}, {PID: 3, Comm: ""}}}, `"" > "\"" > "x > sudo"[5]`},
		{event.Process{PID: 5, Comm: "x[1]"}, "x[1][5]"},
		{event.Process{PID: 5, Comm: `a\b`}, `a\\b[5]`},
		{event.Process{PID: 5, Comm: "x", UID: 1000, User: "alice"}, "x[5] alice"},
		{event.Process{PID: 5, Comm: "x", UID: 1000}, "x[5] uid=1000"},
		{event.Process{PID: 5, Comm: "x", UID: 1000, User: "alice", LoginUID: ptr[uint32](1000), LoginUser: "alice"}, "x[5] alice"},
		{event.Process{PID: 5, Comm: "x", UID: 1001, User: "bob", LoginUID: ptr[uint32](1000), LoginUser: "alice"}, "x[5] alice as bob"},
		{event.Process{PID: 5, Comm: "x", UID: 1001, LoginUID: ptr[uint32](1000)}, "x[5] uid=1000 as uid=1001"},
		{event.Process{PID: 5, Comm: "x", LoginUID: ptr[uint32](0)}, "x[5]"},
		{event.Process{PID: 5, Comm: "x", UID: 33, User: "www-data", LoginUID: ptr[uint32](0)}, "x[5] root as www-data"},
		{event.Process{PID: 742, TID: 745, Comm: "iou-wrk-742", LeaderComm: "uring"}, "iou-wrk-742[742/745] of uring"},
		{event.Process{PID: 742, TID: 745, Comm: "java"}, "java[742/745]"},
	} {
		ev := &event.Event{Type: event.NamespaceEnter, Outcome: event.Success, Time: at(0), Process: &tt.p}
		out := write(t, tableSink(output.TableOptions{Width: 200}), ev)
		header, row, _ := strings.Cut(out, "\n")
		if got := strings.TrimSpace(row[strings.Index(header, "WHO"):]); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestTableWhere has a row for each kind of place that a process is in.
func TestTableWhere(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct {
		ev   event.Event
		want string
	}{
		{event.Event{Unit: "tuned.service"}, "x[5] in tuned.service"},
		{event.Event{Unit: "user@1000.service/app.slice/foobar.service"}, "x[5] in user@1000.service/app.slice/foobar.service"},
		{event.Event{Unit: "session-3.scope"}, "x[5]"},
		{event.Event{Unit: "init.scope"}, "x[5]"},
		{event.Event{Unit: "user@1000.service"}, "x[5]"},
		{event.Event{Unit: "user@1000.service/init.scope"}, "x[5]"},
		{event.Event{Unit: "docker.service", Container: &event.Container{ID: id}}, "x[5] in 0123456789ab"},
		{event.Event{Unit: "docker.service", Container: &event.Container{ID: id, Name: "web-1"}}, "x[5] in web-1"},
	} {
		ev := tt.ev
		ev.Type, ev.Outcome, ev.Time, ev.Process = event.NamespaceEnter, event.Success, at(0), &event.Process{PID: 5, TID: 5, Comm: "x"}
		out := write(t, tableSink(output.TableOptions{Width: 200}), &ev)
		header, row, _ := strings.Cut(out, "\n")
		if got := strings.TrimSpace(row[strings.Index(header, "WHO"):]); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestTableOwner checks that a row has the container that a namespace belongs to, and only once.
func TestTableOwner(t *testing.T) {
	web := &event.Container{ID: "1", Name: "web-1"}
	for _, tt := range []struct {
		want string
		name string
		in   *event.Container
	}{
		{"net 4026532281 of web-1", "", nil},
		{"net 4026532281 blue of web-1", "blue", nil},
		{"net 4026532281 web-1", "web-1", nil},
		{"net 4026532281", "", web},
	} {
		ns := &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, Name: tt.name, Owner: &event.Owner{Container: web}}
		ev := &event.Event{Type: event.NamespaceEnter, Outcome: event.Success, Time: at(0), Namespace: ns, Process: &event.Process{PID: 5, Comm: "x"}, Container: tt.in}
		out := write(t, tableSink(output.TableOptions{Width: 200}), ev)
		header, row, _ := strings.Cut(out, "\n")
		if got := strings.TrimSpace(row[strings.Index(header, "TARGET"):strings.Index(header, "CHANGE")]); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestTableShortensChains checks that both ends of a long chain of ancestors stay.
func TestTableShortensChains(t *testing.T) {
	p := &event.Process{PID: 99999, Comm: "sysctl"}
	for _, comm := range []string{"ansible", "python3", "sh", "bash", "dash", "sshd", "systemd"} {
		p.Ancestors = append(p.Ancestors, event.Actor{PID: uint32(1000 - len(p.Ancestors)), Comm: comm})
	}
	p.Ancestors[6].PID = 1
	ev := &event.Event{Type: event.SysctlWrite, Outcome: event.Success, Time: at(0), Process: p, Sysctl: &event.Sysctl{Name: "vm.x", Old: ptr("1"), New: ptr("0")}}
	out := write(t, tableSink(output.TableOptions{Width: 100}), ev)
	header, rest, _ := strings.Cut(out, "\n")
	var who []string
	for line := range strings.Lines(rest) {
		cells := screen(strings.TrimSuffix(line, "\n"))
		who = append(who, string(cells[strings.Index(header, "WHO"):]))
	}
	if got, want := strings.Join(who, " "), "sshd … bash > sh > python3 > ansible > sysctl[99999]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTableLoss(t *testing.T) {
	ev := &event.Event{Type: event.TraceLoss, Time: at(0), Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 1}, Reason: "missed"}}
	out := write(t, tableSink(output.TableOptions{Width: 100, Location: time.UTC}), ev)
	if want := "12:04:31.123  !! LOST  1 EVENT NOT SHOWN            missed            1 sysctl.write\n"; !strings.HasSuffix(out, want) {
		t.Errorf("%q, want %q", out, want)
	}
	unknown := &event.Event{Type: event.TraceLoss, Time: at(0), Loss: &event.Loss{Reason: event.LossFtraceOff, From: at(0), To: at(1500)}}
	out = write(t, tableSink(output.TableOptions{Wide: true, Location: time.UTC}), unknown)
	if !strings.Contains(out, "!! LOST  EVENTS NOT SHOWN (number unknown)") || !strings.Contains(out, "ftrace off") || !strings.Contains(out, "12:04:31.123 to 12:04:32.623") {
		t.Errorf("%q", out)
	}
	colored := write(t, tableSink(output.TableOptions{Width: 100, Color: true, Location: time.UTC}), ev, sample()[1])
	lines := strings.Split(colored, "\n")
	if !strings.HasPrefix(lines[1], "\x1b[1;37;41m") || !strings.HasSuffix(lines[1], "sysctl.write\x1b[0m") || strings.Count(lines[1], "\x1b") > 4 {
		t.Errorf("not painted as a whole: %q", lines[1])
	}
	if strings.Contains(lines[2], "41m") {
		t.Errorf("paint runs into the next row: %q", lines[2])
	}
}

// TestTableColor checks that colours are all that differs from a table without them.
func TestTableColor(t *testing.T) {
	sgr := regexp.MustCompile("\x1b\\[[0-9;]*m")
	events := append(sample(), hostile()...)
	for _, opts := range []output.TableOptions{{Width: 80}, {Width: 130}, {Wide: true}} {
		plain := write(t, tableSink(opts), events...)
		opts.Color = true
		colored := write(t, tableSink(opts), events...)
		if plain == colored {
			t.Error("no colours")
		}
		if got := sgr.ReplaceAllString(colored, ""); got != plain {
			t.Errorf("differs by more than colours:\n%s\n%s", got, plain)
		}
		for line := range strings.Lines(colored) {
			if all := sgr.FindAllString(line, -1); len(all) > 0 && all[len(all)-1] != "\x1b[0m" {
				t.Errorf("a colour is left on: %q", line)
			}
		}
	}
}

func TestTableLeavesOutTheTrace(t *testing.T) {
	for name, newSink := range sinks {
		if name == "json" {
			continue
		}
		out := write(t, newSink, &event.Event{Type: event.TraceStart, Time: at(0)}, &event.Event{Type: event.TraceStop, Time: at(0)})
		if strings.Count(out, "\n") != 1 {
			t.Errorf("%s: more than the header: %s", name, out)
		}
	}
}

func TestTableDay(t *testing.T) {
	ev := func(h int) *event.Event {
		return &event.Event{Type: event.NamespaceDestroy, Time: eventtest.Start.Add(time.Duration(h) * time.Hour), Namespace: &event.Namespace{Type: "net", ID: 5}}
	}
	zone := time.FixedZone("", 2*3600)
	// Midnight in this zone is 22:00 UTC. The third event is out of order.
	events := []*event.Event{ev(0), ev(10), ev(9), ev(40), ev(41)}
	const want = "14:04:31.123 2026-11-24 00:04:31.123 2026-11-23 23:04:31.123 2026-11-25 06:04:31.123 07:04:31.123"
	for prefix, opts := range map[string]output.TableOptions{"TIME ": {Location: zone}, "TIME 2026-11-23 ": {Location: zone, Date: true}} {
		var first []string
		for line := range strings.Lines(write(t, tableSink(opts), events...)) {
			first = append(first, strings.Fields(line)[0])
		}
		if got := strings.Join(first, " "); got != prefix+want {
			t.Errorf("%s, want %s", got, prefix+want)
		}
	}
	slices.Reverse(events) // as history --reverse shows them
	out := write(t, tableSink(output.TableOptions{Location: zone, Date: true}), events...)
	if n := strings.Count(out, "2026-11-2"); n != 4 {
		t.Errorf("%d dates, want 4: %s", n, out)
	}
}

// TestTableWide checks that a wide table has one line for each event and leaves nothing out.
func TestTableWide(t *testing.T) {
	long := strings.Repeat("v", 3000)
	ev := sample()[1]
	ev.Sysctl.New = &long
	ev.Process.Args = append(ev.Process.Args, "a b", "", long)
	ev.Process.TID = 4713
	out := write(t, tableSink(output.TableOptions{Wide: true, Location: time.UTC, HostNS: hostNS}), ev)
	header, row, _ := strings.Cut(out, "\n")
	if strings.Count(row, "\n") != 1 {
		t.Errorf("more than one line: %s", row)
	}
	for _, title := range []string{"TIME", "EVENT", "TARGET", "CHANGE", "VIA", "TID", "LOGIN", "NS UID", "USER NS", "WHO", "CGROUP", "NAMESPACES", "EXE", "ARGS"} {
		if !strings.Contains(header, title) {
			t.Errorf("no column %s", title)
		}
	}
	for _, want := range []string{
		"2026-11-23 12:04:31.123456", "7200 → " + long + " (now 600)", " write ", " 4713 ", " alice ", " 1 ", " 4026531837 ",
		"systemd[1] > sshd[812] > sshd[3010] > bash[3011] > sudo[4711] > sysctl[4712] alice as root",
		"/user.slice/user-1000.slice/session-17.scope",
		"cgroup:4026531835,ipc:4026531839,mnt:4026531841,net:4026531840,pid:4026531836,time:4026531834,user:4026531837,uts:4026531838",
		"/usr/sbin/sysctl", `sysctl -w net.ipv4.tcp_keepalive_time=600 "a b" "" ` + long + "\n",
	} {
		if !strings.Contains(row, want) {
			t.Errorf("no %q in\n%s", want, row)
		}
	}

	out = write(t, tableSink(output.TableOptions{Wide: true}), append(append(sample(), hostile()...), bare()...)...)
	checkSafe(t, out)
	if got, want := strings.Count(out, "\n"), 1+len(sample())-4+len(hostile())+len(bare()); got != want { // trace.start, trace.attach, trace.alive and trace.stop have no rows
		t.Errorf("%d lines, want %d", got, want)
	}
}

func TestColorWanted(t *testing.T) {
	// The master of a pseudo-terminal is a terminal too.
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		f             *os.File
		noColor, term string
		want          bool
	}{
		{tty, "", "xterm", true},
		{tty, "", "", true},
		{tty, "1", "xterm", false},
		{tty, "0", "xterm", false},
		{tty, "", "dumb", false},
		{file, "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", tt.noColor)
		t.Setenv("TERM", tt.term)
		if got := output.ColorWanted(tt.f); got != tt.want {
			t.Errorf("%s, NO_COLOR=%q, TERM=%q: %v", tt.f.Name(), tt.noColor, tt.term, got)
		}
	}
	if w := output.TerminalWidth(file); w != 0 {
		t.Errorf("a file is %d columns wide", w)
	}
}
