// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// unwritten reports whether the event is about a parameter that no process wrote to.
func (e *emitted) unwritten() bool {
	return e.Type == event.SysctlWrite && slices.Contains([]string{"cascade", "netlink", "device"}, e.Via)
}

// written returns the events without those of parameters that changed without a write.
func written(events []*emitted) []*emitted {
	return slices.DeleteFunc(slices.Clone(events), (*emitted).unwritten)
}

// confs reads all settings of network devices in a namespace of ip-netns(8), by the name of the
// parameter. A secret that was never made cannot be read.
func confs(t *testing.T, netns string) map[string]string {
	t.Helper()
	text := output(t, "ip", "netns", "exec", netns, "sh", "-c",
		"cd /proc/sys && grep -rs '' net/ipv4/ip_forward net/ipv4/conf net/ipv6/conf --exclude=stable_secret")
	m := map[string]string{}
	for line := range strings.Lines(text) {
		path, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			t.Fatalf("grep printed %q", line)
		}
		m[strings.ReplaceAll(path, "/", ".")] = value
	}
	return m
}

// ipMonitorConf matches a line of ip monitor netconf about forwarding.
var ipMonitorConf = regexp.MustCompile(`^(inet6?) (?:dev )?(\S+) forwarding (on|off)`)

// testNetconf changes settings of devices by a write to another setting, by rtnetlink, and with the
// device. It compares the events with /proc/sys before and after.
func testNetconf(t *testing.T, h *host) {
	if !slices.ContainsFunc(h.streams, func(s *stream) bool { return seesDevices(s.backend) }) {
		t.Skip("no backend of this kernel sees them, as nstrace check says; TestBackends")
	}
	if os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("no modules, so no devices")
	}
	const netns = "nstrace-e2e-c"
	addNetns(t, netns)
	output(t, "sh", "-e", "-c", strings.ReplaceAll(`
		ip -n NS link set lo up
		ip -n NS link add nc0 type dummy
		ip -n NS link set nc0 up
		ip -n NS link add nc1 type veth peer name nc2
		ip -n NS link add nc3 type bridge
		ip -n NS link set nc1 master nc3`, "NS", netns))
	id := mustID(t, "/run/netns/"+netns)

	monitor := exec.Command("ip", "-n", netns, "monitor", "netconf")
	var heard buffer
	monitor.Stdout = &heard
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		monitor.Process.Kill()
		monitor.Wait()
	}()
	// ip monitor listens once it has reported something.
	for deadline := time.Now().Add(patience); heard.String() == ""; {
		if time.Now().After(deadline) {
			t.Fatal("ip monitor reports nothing")
		}
		output(t, "ip", "netns", "exec", netns, "sh", "-c", "for v in 1 0; do echo $v >/proc/sys/net/ipv4/conf/nc2/forwarding; done")
	}

	// Some handlers return that they wrote one byte, and refuse a newline after it.
	set := func(name, value string) string { return "printf " + value + " >/proc/sys/" + sysctlPath(name) }
	for _, tt := range []struct {
		name   string
		script string
		via    string // of the changes without a write; empty: there are none
		at     string // one of them
		heard  bool   // by ip monitor: one for each device that now forwards
	}{
		{name: "ip_forward", script: set("net.ipv4.ip_forward", "1"), via: "cascade", at: "net.ipv4.conf.nc2.forwarding 0 1", heard: true},
		{name: "ip_forward back", script: set("net.ipv4.ip_forward", "0"), via: "cascade", at: "net.ipv4.conf.all.accept_redirects 0 1", heard: true},
		{name: "ip_forward again", script: set("net.ipv4.ip_forward", "0")},
		{name: "ip_forward refused", script: "! " + set("net.ipv4.ip_forward", "on")},
		{name: "all.forwarding", script: set("net.ipv4.conf.all.forwarding", "1"), via: "cascade", at: "net.ipv4.ip_forward 0 1", heard: true},
		{name: "one device forwards no more", script: set("net.ipv4.conf.nc1.forwarding", "0")},
		{name: "all.forwarding back", script: set("net.ipv4.conf.all.forwarding", "0"), via: "cascade", at: "net.ipv4.conf.nc0.forwarding 1 0", heard: true},
		{name: "default", script: set("net.ipv4.conf.default.arp_ignore", "2"), via: "cascade", at: "net.ipv4.conf.nc3.arp_ignore 0 2"},
		{name: "default where one was set", script: set("net.ipv4.conf.nc0.arp_ignore", "1") + "; " + set("net.ipv4.conf.default.arp_ignore", "3"),
			via: "cascade", at: "net.ipv4.conf.nc3.arp_ignore 2 3"},
		{name: "all that stands for itself", script: set("net.ipv4.conf.all.arp_ignore", "1")},
		{name: "IPv6 forwarding", script: set("net.ipv6.conf.all.forwarding", "1"), via: "cascade", at: "net.ipv6.conf.nc3.forwarding 0 1", heard: true},
		{name: "IPv6 forwarding back", script: set("net.ipv6.conf.all.forwarding", "0"), via: "cascade", at: "net.ipv6.conf.default.forwarding 1 0", heard: true},
		{name: "IPv6 off", script: set("net.ipv6.conf.all.disable_ipv6", "1"), via: "cascade", at: "net.ipv6.conf.nc0.disable_ipv6 0 1"},
		{name: "IPv6 on", script: set("net.ipv6.conf.all.disable_ipv6", "0"), via: "cascade", at: "net.ipv6.conf.nc0.disable_ipv6 1 0"},
		{name: "ignore_routes_with_linkdown", script: set("net.ipv6.conf.all.ignore_routes_with_linkdown", "1"), via: "cascade",
			at: "net.ipv6.conf.nc2.ignore_routes_with_linkdown 0 1"},
		{name: "all.addr_gen_mode", script: set("net.ipv6.conf.all.addr_gen_mode", "1"), via: "cascade", at: "net.ipv6.conf.nc1.addr_gen_mode 0 1"},
		{name: "a secret", script: set("net.ipv6.conf.nc0.stable_secret", "2001:db8::1"), via: "cascade", at: "net.ipv6.conf.nc0.addr_gen_mode 1 2"},
		{name: "a secret by default", script: set("net.ipv6.conf.default.stable_secret", "2001:db8::2"), via: "cascade", at: "net.ipv6.conf.nc1.addr_gen_mode 1 2"},
		{name: "an IPv6 default", script: set("net.ipv6.conf.default.accept_ra", "2")},

		{name: "ip link addrgenmode", script: "ip link set dev nc1 addrgenmode none", via: "netlink", at: "net.ipv6.conf.nc1.addr_gen_mode 2 1"},
		{name: "IFLA_INET_CONF", script: helper("nslink") + " conf nc2 1 1", via: "netlink", at: "net.ipv4.conf.nc2.forwarding 0 1"},
		{name: "IFLA_INET_CONF, the same", script: helper("nslink") + " conf nc2 1 1"},
		{name: "MTU", script: "ip link set dev nc0 mtu 1400", via: "device", at: "net.ipv6.conf.nc0.mtu 1500 1400"},
		{name: "MTU, the same", script: "ip link set dev nc0 mtu 1400"},
		{name: "MTU for IPv6 alone", script: set("net.ipv6.conf.nc0.mtu", "1300")},
		{name: "down and up", script: "ip link set nc0 down; ip link set nc0 up", via: "device", at: "net.ipv6.conf.nc0.mtu 1300 1400"},
		{name: "up", script: "ip link set nc2 up; ip link set nc3 up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, n := confs(t, netns), len(heard.String())
			w := h.run(t, "ip", []string{"netns", "exec", netns, "sh", "-e", "-c", tt.script})
			after := confs(t, netns)
			var want, forwards []string
			for name, now := range after {
				if was := before[name]; was != now {
					want = append(want, fmt.Sprintf("%s %s %s", name, was, now))
				}
			}
			for name := range before {
				if _, ok := after[name]; !ok {
					t.Errorf("%s disappeared", name)
				}
			}
			if tt.via != "" && !slices.Contains(want, tt.at) {
				t.Fatalf("/proc/sys shows %q, and no %s", want, tt.at)
			}
			if tt.heard {
				for _, line := range want {
					if name, value, _ := strings.Cut(line, " "); strings.HasSuffix(name, ".forwarding") {
						parts := strings.Split(name, ".")
						forwards = append(forwards, fmt.Sprintf("%s %s %s", strings.Replace(parts[1], "ipv", "inet", 1), parts[3], value[2:]))
					}
				}
				awaitConf(t, &heard, n, forwards)
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				events = only(events, event.SysctlWrite)
				if !seesDevices(s.backend) { // as nstrace check says
					for _, e := range events {
						if e.unwritten() || e.Sysctl.Cause != nil {
							t.Errorf("%s", e.line)
						}
					}
					return
				}
				checkChanges(t, s, events, want, tt.via, id)
			})
		})
	}
}

// awaitConf waits until ip monitor has reported for each device that it forwards, or that it no
// longer does.
func awaitConf(t *testing.T, heard *buffer, from int, want []string) {
	t.Helper()
	if len(want) < 4 {
		t.Errorf("only %q changed", want)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got := map[string]bool{}
		for line := range strings.Lines(heard.String()[from:]) {
			if m := ipMonitorConf.FindStringSubmatch(line); m != nil {
				got[fmt.Sprintf("%s %s %d", strings.Replace(m[1]+"4", "64", "6", 1), m[2], map[string]int{"off": 0, "on": 1}[m[3]])] = true
			}
		}
		if !slices.ContainsFunc(want, func(s string) bool { return !got[s] }) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("ip monitor prints\n%s\nand not all of %q", heard.String()[from:], want)
			return
		}
	}
}

// checkChanges checks that the events are about the differences in /proc/sys, and nothing else.
func checkChanges(t *testing.T, s *stream, events []*emitted, want []string, via string, netns uint32) {
	t.Helper()
	// Two writes to related parameters follow each other. Compare the first old value and the last
	// new one.
	first, last := map[string]string{}, map[string]string{}
	var wrote *emitted
	for i, e := range events {
		v := e.Sysctl
		if v.Namespace == nil || v.Namespace.ID != netns {
			t.Errorf("want netns %d: %s", netns, e.line)
		}
		if !e.unwritten() {
			if wrote = e; v.Cause != nil {
				t.Errorf("a write has a cause: %s", e.line)
			}
			if strings.HasSuffix(v.Name, ".stable_secret") {
				continue
			}
		} else {
			if e.Via != via || e.Outcome != event.Success || v.New != nil || v.Old == nil || v.After == nil || *v.Old == *v.After {
				t.Errorf("want a change via %s: %s", via, e.line)
				continue
			}
			switch {
			case e.Via != "cascade":
				if v.Cause != nil {
					t.Errorf("unexpected cause: %s", e.line)
				}
			case wrote == nil || v.Cause == nil || v.Cause.Seq != wrote.Seq || v.Cause.Name != wrote.Sysctl.Name ||
				e.Seq != events[i-1].Seq+1 || e.Process.TID != wrote.Process.TID || e.Time.Before(wrote.Time):
				t.Errorf("the event does not follow its cause: %s", e.line)
			}
		}
		if v.Old == nil || v.After == nil {
			t.Errorf("the old or new value is missing: %s", e.line)
			continue
		}
		if _, ok := first[v.Name]; !ok {
			first[v.Name] = *v.Old
		} else if e.unwritten() && last[v.Name] != *v.Old {
			t.Errorf("the value was %s: %s", last[v.Name], e.line)
		}
		last[v.Name] = *v.After
	}
	var got []string
	for name, was := range first {
		if now := last[name]; now != was {
			got = append(got, fmt.Sprintf("%s %s %s", name, was, now))
		}
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant, as /proc/sys shows\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if via == "" && slices.ContainsFunc(events, (*emitted).unwritten) {
		t.Error("the changed parameter was also written to")
	}
}
