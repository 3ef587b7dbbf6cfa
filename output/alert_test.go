// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// alerted returns a write with two alerts.
func alerted() *event.Event {
	ev := sample()[1]
	ev.Alert = []event.Alert{
		{Name: "keepalive", Severity: "critical", Message: "sysctl set the time after which a connection that is not used is probed, for everybody, to 600 (was 7200)"},
		{Name: "any write", Severity: "warning"},
	}
	return ev
}

func TestTableAlerts(t *testing.T) {
	events := []*event.Event{alerted(), sample()[2]}
	const want = `TIME          EVENT    TARGET                       CHANGE            WHO
12:04:31.123  sysctl   net.ipv4.tcp_keepalive_time  7200 → 600        sshd > bash > sudo >
                                                                      sysctl[4712] alice as root
              !! critical keepalive: sysctl set the time after which a connection that is not used
                is probed, for everybody, to 600 (was 7200)
              ! warning any write
12:04:31.333  sysctl   net.core.netdev_budget       600 → 100000      sshd > bash > sudo >
                                                    (now 32767)       sysctl[4719] alice as root
`
	if got := write(t, tableSink(output.TableOptions{Location: time.UTC}), events...); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	lines := strings.SplitAfter(write(t, tableSink(output.TableOptions{Location: time.UTC, Color: true}), events...), "\n")
	if lines[3] != "              \x1b[1;37;41m!! critical keepalive: sysctl set the time after which a connection that is not used\x1b[0m\n" ||
		lines[5] != "              \x1b[33m! warning any write\x1b[0m\n" {
		t.Errorf("with colours %q", lines)
	}
	wide := strings.Split(write(t, tableSink(output.TableOptions{Wide: true}), events...), "\n")
	if len(wide) != 4 || !strings.Contains(wide[1], "  !! critical keepalive: sysctl set the time") || !strings.Contains(wide[1], " ! warning any write") || strings.Contains(wide[2], "!") {
		t.Errorf("wide:\n%s", strings.Join(wide, "\n"))
	}
	color := strings.Split(write(t, tableSink(output.TableOptions{Wide: true, Color: true}), events...), "\n")
	if !strings.HasPrefix(color[1], "\x1b[1;37;41m") || strings.HasPrefix(color[2], "\x1b[1;37;41m") {
		t.Errorf("wide, with colours:\n%q", color)
	}
}

// TestTableAlertLayout checks that no line is too wide, whatever the name and the message of
// a rule have.
func TestTableAlertLayout(t *testing.T) {
	var events []*event.Event
	for _, ev := range hostile() {
		text := "x"
		if ev.Process != nil {
			text = ev.Process.Comm
		}
		ev.Alert = []event.Alert{{Name: text, Severity: "info", Message: strings.Repeat(text+" ", 5)}}
		events = append(events, ev)
	}
	for _, width := range []int{80, 100, 200} {
		out := write(t, tableSink(output.TableOptions{Width: width, Location: time.UTC}), events...)
		checkSafe(t, out)
		for line := range strings.Lines(out) {
			if n := len(screen(strings.TrimSuffix(line, "\n"))); n > width {
				t.Errorf("width %d: a line of %d columns: %s", width, n, line)
			}
		}
	}
	checkSafe(t, write(t, tableSink(output.TableOptions{Wide: true}), events...))
}

// TestTableDrift checks that the row of an event that nstrace did not trace has the time
// span.
func TestTableDrift(t *testing.T) {
	between := &event.Between{From: at(-3600_000), To: at(0), Boot: "same"}
	booted := &event.Between{From: at(-86400_000), To: at(0), Boot: "different"}
	ns := &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web"}
	events := []*event.Event{
		{V: 1, Seq: 1, Type: event.SysctlDrift, Time: at(0), Between: between, Sysctl: &event.Sysctl{Name: "vm.swappiness", Path: "/proc/sys/vm/swappiness", Old: ptr("60"), After: ptr("1")}},
		{V: 1, Seq: 2, Type: event.SysctlDrift, Time: at(0), Between: booted, Sysctl: &event.Sysctl{Name: "net.ipv4.ip_forward", Path: "/proc/sys/net/ipv4/ip_forward", Old: ptr("0"), After: ptr("1"), Namespace: ns}},
		{V: 1, Seq: 3, Type: event.NamespaceAppeared, Time: at(0), Between: between, Namespace: ns},
		{V: 1, Seq: 4, Type: event.NamespaceGone, Time: at(0), Between: between, Namespace: ns},
	}
	const want = `TIME          EVENT    TARGET                       CHANGE            WHO
12:04:31.123  drift    vm.swappiness                60 → 1            not traced
                                                                      between 2026-11-23 11:04:31
                                                                      and 12:04:31
12:04:31.123  drift    net.ipv4.ip_forward          0 → 1             not traced
                       in net 4026532281 web                          between 2026-11-22 12:04:31
                                                                      and 2026-11-23 12:04:31
                                                                      (rebooted since)
12:04:31.123  appear   net 4026532281 web                             not traced
                                                                      between 2026-11-23 11:04:31
                                                                      and 12:04:31
12:04:31.123  gone     net 4026532281 web                             not traced
                                                                      between 2026-11-23 11:04:31
                                                                      and 12:04:31
`
	if got := write(t, tableSink(output.TableOptions{Location: time.UTC}), events...); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
