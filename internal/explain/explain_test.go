// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/output"
)

// Only root's programs that apply files count as such, and the path of the program counts more than its name.
func TestApplies(t *testing.T) {
	for _, c := range []struct {
		p    *event.Process
		want bool
	}{
		{nil, false}, {&event.Process{Comm: "systemd-sysctl", Exe: "/usr/lib/systemd/systemd-sysctl"}, true}, {&event.Process{Comm: "sysctl"}, true},
		{&event.Process{Comm: "systemd-sysctl", UID: 1000}, false}, {&event.Process{Comm: "sysctl", Exe: "/tmp/x"}, false}, {&event.Process{Comm: "sh", Exe: "/bin/sh"}, false},
	} {
		if got := applies(c.p); got != c.want {
			t.Errorf("%+v: %t", c.p, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text := func(s string) *string { return &s }
	write := func(id int64, comm, value string) output.ExplainedWrite {
		return output.ExplainedWrite{ID: id, Event: &event.Event{
			Type: event.SysctlWrite, Time: at, Outcome: event.Success, Process: &event.Process{Comm: comm, PID: 7}, Sysctl: &event.Sysctl{New: text(value), After: text(value)},
		}}
	}
	failed, caused := write(3, "sh", "5"), write(3, "sysctl", "1")
	failed.Event.Outcome = event.Failure
	caused.Event.Sysctl.Cause = &event.Cause{Name: "net.ipv4.ip_forward"}
	rulings := func(values ...string) (all []declared.Ruling) {
		for i, p := range declared.Programs() {
			r := declared.Ruling{Program: p}
			if values[i] != "" {
				r.Declarations = []declared.Declaration{{File: "/etc/sysctl.d/a.conf", Line: 3, Value: text(values[i]), Wins: true}}
			}
			all = append(all, r)
		}
		return all
	}
	value := func(s string) *output.DiffValue { return &output.DiffValue{Text: &s} }
	applied, set := write(1, "systemd-sysctl", "0"), write(2, "dockerd", "1")
	const when = " at 2026-01-02 03:04:05"
	for _, c := range []struct {
		x    output.Explanation
		want string
	}{
		{output.Explanation{Value: value("1"), Rulings: rulings("", "")}, "declared nowhere; without a history, nstrace cannot know who set it; is 1"},
		{output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true}, "declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is 1, differs"},
		{
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Since: at},
			"declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the history of this boot begins" + when + ", and earlier ones, as of the initrd, are unknown; is as declared",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{applied, set, failed}, Applied: &applied},
			"declared 0 in /etc/sysctl.d/a.conf:3; applied by systemd-sysctl[7]" + when + "; set to 1 by dockerd[7]" + when + "; is 1, still differs",
		},
		{
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{applied}, Applied: &applied},
			"declared 0 in /etc/sysctl.d/a.conf:3; applied by systemd-sysctl[7]" + when + "; is as declared",
		},
		{
			output.Explanation{Value: value("2"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{set}, State: output.Drifted},
			"declared 0 in /etc/sysctl.d/a.conf:3; set to 1 by dockerd[7]" + when + "; changed later without a recorded write; is 2, still differs",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{caused}},
			"declared 0 in /etc/sysctl.d/a.conf:3; set to 1 by sysctl[7]" + when + ", which wrote net.ipv4.ip_forward; is 1, still differs",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "1"), HasHistory: true, Unread: true, Problems: []string{"x"}},
			"by the files, systemd-sysctl sets 0 (/etc/sysctl.d/a.conf:3) and sysctl --system sets 1 (/etc/sysctl.d/a.conf:3) as far as the files could be read; the history could not be read in time; is 1, differs",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Behind: true},
			"declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; the history can lack the newest writes; is 1, differs",
		},
		{output.Explanation{Gone: true, Error: "x", Rulings: rulings("0", "0")}, "declared 0 in /etc/sysctl.d/a.conf:3; without a history, nstrace cannot know who set it; the parameter does not exist now"},
		{output.Explanation{Value: value("1-3"), Rulings: rulings("1,2,3", "1,2,3"), HasHistory: true}, "declared 1,2,3 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is 1-3, which nstrace cannot compare with the declared value"},
	} {
		c.x.Program = declared.Systemd
		judge(&c.x, time.UTC)
		if c.x.Verdict != c.want {
			t.Errorf("%s\nwant\n%s", c.x.Verdict, c.want)
		}
	}
}
