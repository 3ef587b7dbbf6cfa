// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/schema/schematest"
)

// TestUnwritten has parameters that changed without a write to them: what shows an event
// says how.
func TestUnwritten(t *testing.T) {
	made := func(via string, cause *event.Cause) *event.Event {
		return &event.Event{V: 1, Seq: 4, Host: "box", BootID: "e0cbd28c-5d3a-4460-851c-2b9526ef9219", Type: event.SysctlWrite, Time: at(211),
			Outcome: event.Success, Via: via, Process: viaSSH(4720, "sysctl", "-w", "net.ipv4.ip_forward=1"), Sysctl: &event.Sysctl{
				Name: "net.ipv4.conf.eth0.forwarding", Path: "/proc/sys/net/ipv4/conf/eth0/forwarding", Old: ptr("0"), After: ptr("1"), Cause: cause,
			}}
	}
	for _, row := range []struct {
		event             *event.Event
		json, table, wide string
	}{
		{made("cascade", &event.Cause{Seq: 3, Name: "net.ipv4.ip_forward"}), `"cause":{"seq":3,"name":"net.ipv4.ip_forward"}`, "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{made("cascade", &event.Cause{Name: "net.ipv4.ip_forward"}), `"cause":{"name":"net.ipv4.ip_forward"}`, "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{made("cascade", &event.Cause{}), `"cause":{}`, "0 → 1 cascade of ?", "0 → 1 cascade of ?"},
		{made("netlink", nil), `"via":"netlink"`, "0 → 1 via netlink", "netlink"},
		{made("device", nil), `"via":"device"`, "0 → 1 via device", "device"},
	} {
		line := write(t, jsonSink, row.event)
		if err := schematest.Validate([]byte(line)); err != nil || !strings.Contains(line, row.json) {
			t.Errorf("want %s, %v: %s", row.json, err, line)
		}
		checkReference(t, row.event)
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
