// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
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
	appeared := output.ExplainedWrite{ID: 2, Event: &event.Event{Type: event.SysctlAppear, Time: at, Process: &event.Process{Comm: "modprobe", PID: 8}}}
	late := write(3, "systemd-sysctl", "0")
	greater := func(own, all string) *output.Combined {
		return combine(output.Greater, own, "net.ipv4.conf.all.rp_filter", all)
	}
	const when = " at 2026-01-02 03:04:05"
	for _, c := range []struct {
		x    output.Explanation
		want string
	}{
		{output.Explanation{Value: value("1"), Rulings: rulings("", "")}, "declared nowhere; without a history, nstrace cannot know who set it; is 1"},
		{output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true}, "declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is 1, differs"},
		{
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Since: at},
			"declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since" + strings.TrimPrefix(when, " at") + ", when the history of this boot begins; is as declared",
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
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Skipped: &applied, Copied: "net.ipv4.conf.default.rp_filter"},
			"declared 0 in /etc/sysctl.d/a.conf:3; systemd-sysctl[7]" + when + " wrote other lines of this file, but not this one; no write is recorded since the boot; is 1, as net.ipv4.conf.default.rp_filter, which the kernel copies for a new device, differs",
		},
		{ // systemd-sysctl need not write what is there
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Skipped: &applied, Appeared: &appeared},
			"declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is as declared",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Skipped: &applied, Appeared: &appeared},
			"declared 0 in /etc/sysctl.d/a.conf:3; systemd-sysctl[7]" + when + " wrote other lines of this file, but not this one; the parameter appeared with modprobe[8]" + when + ", and no write is recorded since; is 1, differs",
		},
		{ // the writes are those to the parameter of an earlier device or module
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{applied}, Applied: &applied, Appeared: &appeared},
			"declared 0 in /etc/sysctl.d/a.conf:3; applied by systemd-sysctl[7]" + when + "; the parameter appeared with modprobe[8]" + when + ", and no write is recorded since; is 1, still differs",
		},
		{
			output.Explanation{Value: value("1"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{late}, Applied: &late, Appeared: &appeared, State: output.Drifted},
			"declared 0 in /etc/sysctl.d/a.conf:3; the parameter appeared with modprobe[8]" + when + "; applied by systemd-sysctl[7]" + when + "; changed later without a recorded write; is 1, still differs",
		},
		{
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Writes: []output.ExplainedWrite{applied}, Applied: &applied, Combined: greater("0", "2")},
			"declared 0 in /etc/sysctl.d/a.conf:3; applied by systemd-sysctl[7]" + when + "; is as declared; in effect 2: the greater of this and net.ipv4.conf.all.rp_filter = 2 counts",
		},
		{
			output.Explanation{Value: value("0"), Rulings: rulings("0", "0"), HasHistory: true, Combined: &output.Combined{Rule: output.Greater}},
			"declared 0 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is as declared; for each device, the greater of this and its own counts",
		},
		{ // it makes no difference
			output.Explanation{Value: value("2"), Rulings: rulings("2", "2"), HasHistory: true, Combined: greater("2", "1")},
			"declared 2 in /etc/sysctl.d/a.conf:3; no write is recorded since the boot; is as declared",
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

// Combine says what counts, and nothing for a value that is no number.
func TestCombine(t *testing.T) {
	for _, c := range []struct {
		rule      output.Rule
		own, all  string
		effective string
		same      bool
	}{
		{output.Greater, "0", "2", "2", false}, {output.Greater, "2", "1", "2", true}, {output.Greater, "1", "1", "1", true},
		{output.Either, "0", "1", "1", false}, {output.Either, "1", "0", "1", true}, {output.Either, "0", "0", "0", true},
		{output.Both, "1", "0", "0", false}, {output.Both, "2", "1", "1", true}, {output.Both, "0", "1", "0", true},
	} {
		if got := combine(c.rule, c.own, "x", c.all); got == nil || got.Effective != c.effective || got.Same != c.same {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	for _, bad := range []string{"", "x", "1 2", "99999999999999999999"} {
		if a, b := combine(output.Greater, bad, "x", "1"), combine(output.Greater, "1", "x", bad); a != nil || b != nil {
			t.Errorf("%q: %+v %+v", bad, a, b)
		}
	}
}

func TestSetting(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.conf.eth0/100.rp_filter": "/proc/sys/net/ipv4/conf eth0.100 rp_filter", "net.ipv6.conf.all.forwarding": "/proc/sys/net/ipv6/conf all forwarding",
		"net.ipv4.neigh.eth0.gc_stale_time": "", "net.mpls.conf.lo.input": "", "net.ipv4.ip_forward": "", "kernel.a.conf.b.c": "",
	} {
		folder, device, key, ok := setting(name)
		if got := strings.TrimSpace(folder + " " + device + " " + key); got != want || ok != (want != "") {
			t.Errorf("%s: %q %t", name, got, ok)
		}
	}
}

// An event is about a parameter only if it lists it, whatever its pattern matches.
func TestLists(t *testing.T) {
	e := &event.Event{Type: event.SysctlAppear, Sysctl: &event.Sysctl{
		Name: "net.{netfilter.*,nf_conntrack_max}", Parameters: &event.Parameters{Count: 3, Tables: []event.ParameterTable{
			{Prefix: "net.netfilter", Names: []string{"nf_conntrack_max"}}, {Prefix: "net.ipv4.conf.eth0/100", Names: []string{"rp_filter"}}, {Names: []string{"x"}},
		}},
	}}
	for name, want := range map[string]bool{
		"net.netfilter.nf_conntrack_max": true, "net.ipv4.conf.eth0/100.rp_filter": true, "x": true,
		"net.netfilter.nf_log.0": false, "net.nf_conntrack_max": false, "nf_conntrack_max": false, "": false,
	} {
		if got := lists(e, name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
	if lists(&event.Event{Sysctl: &event.Sysctl{Name: "x"}}, "x") || lists(&event.Event{}, "x") {
		t.Error("an event without parameters")
	}
}

func TestMatches(t *testing.T) {
	for pattern, want := range map[string]string{
		"net.{netfilter.*,nf_conntrack_max}": "net.netfilter.nf_conntrack_max", "net.*.{conf,neigh}.eth0/100.*": "net.ipv4.conf.eth0/100.rp_filter",
		"net.netfilter.*": "net.netfilter.a", "x": "x",
	} {
		if !matches(pattern, want) {
			t.Errorf("%s does not match %s", pattern, want)
		}
	}
	for pattern, other := range map[string]string{
		"net.{netfilter.*,x}": "net.nf_conntrack_max", "net.*.{conf,neigh}.eth0/100.*": "net.ipv4.conf.eth0/10.rp_filter", "{": "x", "{a,b": "a", strings.Repeat("{a,b}", 40): "x",
	} {
		if matches(pattern, other) {
			t.Errorf("%s matches %s", pattern, other)
		}
	}
}
