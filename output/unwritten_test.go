// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// TestUnwritten checks that the table shows how a parameter changed that no process wrote
// to.
func TestUnwritten(t *testing.T) {
	made := func(via string, cause *event.Cause) *event.Event {
		return &event.Event{V: 1, Seq: 4, Host: "box", BootID: "e0cbd28c-5d3a-4460-851c-2b9526ef9219", Type: event.SysctlWrite, Time: at(211),
			Outcome: event.Success, Via: via, Process: viaSSH(4720, "sysctl", "-w", "net.ipv4.ip_forward=1"), Sysctl: &event.Sysctl{
				Name: "net.ipv4.conf.eth0.forwarding", Path: "/proc/sys/net/ipv4/conf/eth0/forwarding", Old: ptr("0"), After: ptr("1"), Cause: cause,
			}}
	}
	for _, row := range []struct {
		event       *event.Event
		table, wide string
	}{
		{made("cascade", &event.Cause{Seq: 3, Name: "net.ipv4.ip_forward"}), "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{made("cascade", &event.Cause{Name: "net.ipv4.ip_forward"}), "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{made("cascade", &event.Cause{}), "0 → 1 cascade of ?", "0 → 1 cascade of ?"},
		{made("netlink", nil), "0 → 1 via netlink", "netlink"},
		{made("device", nil), "0 → 1 via device", "device"},
	} {
		for _, o := range []struct {
			options output.TableOptions
			want    string
		}{{output.TableOptions{Width: 200}, row.table}, {output.TableOptions{Wide: true}, row.wide}} {
			if out := write(t, tableSink(o.options), row.event); !strings.Contains(strings.Join(strings.Fields(out), " "), o.want) {
				t.Errorf("want %q:\n%s", o.want, out)
			}
		}
	}
}
