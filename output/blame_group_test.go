// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// blamed returns what systemd-sysctl and a user have set, sorted by name as blame does.
func blamed() []*output.Blame {
	systemd := asRoot(&event.Process{PID: 233, TID: 233, StartTime: at(0), Comm: "systemd-sysctl", User: "root", Ancestors: []event.Actor{{PID: 1, Comm: "systemd"}}})
	shell := asRoot(&event.Process{PID: 90, TID: 90, StartTime: at(0), Comm: "bash", User: "root"})
	host := &event.Namespace{Type: "net", ID: hostNS["net"], Host: true}
	web := &event.Namespace{Type: "net", ID: 4026532281, Name: "web"}
	var rows []*output.Blame
	set := func(name string, ms int, p *event.Process, ns *event.Namespace) *output.Blame {
		row := &output.Blame{
			Parameter: name, Namespace: ns, Value: ptr("1"), Recorded: ptr("1"), State: output.AsRecorded, Writes: 1,
			Last: &event.Event{
				Type: event.SysctlWrite, Time: at(ms), Outcome: event.Success, Process: p, BootID: "a",
				Sysctl: &event.Sysctl{Name: name, Old: ptr("0"), New: ptr("1"), After: ptr("1"), Namespace: ns},
			},
		}
		rows = append(rows, row)
		return row
	}
	drifted := set("kernel.panic", 12, systemd, nil)
	drifted.State, drifted.Value = output.Drifted, ptr("30")
	set("kernel.sysrq", 30, systemd, nil).Writes = 4
	set("net.ipv4.conf.all.rp_filter", 20, shell, web)
	set("net.ipv4.conf.lo.rp_filter", 21, shell, web)
	set("net.ipv4.ip_forward", 11, systemd, host)
	set("net.ipv4.tcp_ecn", 10, systemd, host)
	set("vm.swappiness", 280, systemd, nil)
	set("vm.overcommit_memory", 600, systemd, nil) // too late for the burst
	before := set("kernel.printk", 13, systemd, nil)
	before.State = output.Rebooted
	rows = append(rows, &output.Blame{Parameter: "vm.unset", Value: ptr("1"), State: output.Unchanged})
	return rows
}

// TestBlameGroup checks that the parameters that a process set at once have one row, except
// those with another state.
func TestBlameGroup(t *testing.T) {
	const head = `PARAMETER                   NOW          WAS          SET               N    WHO
kernel.panic                30 drifted:  0            2026-11-23 12:04  1    systemd >
                            recorded 1                                       systemd-sysctl[233]
4 parameters kernel.sysrq   1            0            2026-11-23 12:04  7    systemd >
net.ipv4.* ×2                                                                systemd-sysctl[233]
vm.swappiness
`
	const members = `  kernel.sysrq              1            0            +0.020s           4    systemd >
                                                                             systemd-sysctl[233]
  net.ipv4.ip_forward       1            0            +0.001s           1    systemd >
                                                                             systemd-sysctl[233]
  net.ipv4.tcp_ecn          1            0            +0.000s           1    systemd >
                                                                             systemd-sysctl[233]
  vm.swappiness             1            0            +0.270s           1    systemd >
                                                                             systemd-sysctl[233]
`
	const rest = `net.ipv4.conf.all.          1            0            2026-11-23 12:04  1    bash[90]
rp_filter
in net 4026532281 web
net.ipv4.conf.lo.rp_filter  1            0            2026-11-23 12:04  1    bash[90]
in net 4026532281 web
vm.overcommit_memory        1            0            2026-11-23 12:04  1    systemd >
                                                                             systemd-sysctl[233]
kernel.printk               1            0            2026-11-23 12:04  1    systemd >
                            before boot                                      systemd-sysctl[233]
vm.unset                    1                                                no write is recorded
`
	for open, want := range map[bool]string{false: head + rest, true: head + members + rest} {
		var out bytes.Buffer
		g := output.NewBlameGroup(output.NewBlameTable(&out, output.TableOptions{Location: time.UTC, HostNS: hostNS}), open)
		for _, row := range blamed() {
			if err := g.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("open %v: got\n%s\nwant\n%s", open, &out, want)
		}
	}
}

// TestBlameWidths checks that every width has the time on one line, and that a narrow terminal has all values.
func TestBlameWidths(t *testing.T) {
	for _, width := range []int{40, 60, 79, 80, 99, 100, 120, 200} {
		var out bytes.Buffer
		table := output.NewBlameTable(&out, output.TableOptions{Location: time.UTC, HostNS: hostNS, Width: width})
		for _, row := range blamed() {
			if err := table.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
		checkWidth(t, out.String(), width)
		if n := strings.Count(out.String(), "2026-11-23 12:04"); n != len(blamed())-1 {
			t.Errorf("width %d: %d times: %s", width, n, &out)
		}
	}
}
