// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/schema/schematest"
	"github.com/nstrace/nstrace/tracer"
)

// TestUnwritten has parameters that changed without a write to them: what shows an event
// says how.
func TestUnwritten(t *testing.T) {
	event := func(via string, cause *tracer.Cause) *tracer.Event {
		return &tracer.Event{V: 1, Seq: 4, Host: "box", BootID: "e0cbd28c-5d3a-4460-851c-2b9526ef9219", Type: tracer.SysctlWrite, Time: at(211),
			Outcome: tracer.Success, Via: via, Process: viaSSH(4720, "sysctl", "-w", "net.ipv4.ip_forward=1"), Sysctl: &tracer.Sysctl{
				Name: "net.ipv4.conf.eth0.forwarding", Path: "/proc/sys/net/ipv4/conf/eth0/forwarding", Old: ptr("0"), After: ptr("1"), Cause: cause,
			}}
	}
	for _, row := range []struct {
		event             *tracer.Event
		json, table, wide string
	}{
		{event("cascade", &tracer.Cause{Seq: 3, Name: "net.ipv4.ip_forward"}), `"cause":{"seq":3,"name":"net.ipv4.ip_forward"}`, "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{event("cascade", &tracer.Cause{Name: "net.ipv4.ip_forward"}), `"cause":{"name":"net.ipv4.ip_forward"}`, "0 → 1 cascade of net.ipv4.ip_forward", "0 → 1 cascade of net.ipv4.ip_forward"},
		{event("cascade", &tracer.Cause{}), `"cause":{}`, "0 → 1 cascade of ?", "0 → 1 cascade of ?"},
		{event("netlink", nil), `"via":"netlink"`, "0 → 1 via netlink", "netlink"},
		{event("device", nil), `"via":"device"`, "0 → 1 via device", "device"},
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
