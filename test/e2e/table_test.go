// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// parameterFiles returns the names of all parameters, as find(1) sees their files in a network namespace ("" for the
// host's).
func parameterFiles(t *testing.T, netns string) map[string]bool {
	t.Helper()
	args := []string{"find", "/proc/sys", "-type", "f"}
	if netns != "" {
		args = slices.Concat([]string{"ip", "netns", "exec", netns}, args)
	}
	names := map[string]bool{}
	for path := range strings.Lines(output(t, args[0], args[1:]...)) {
		name, ok := event.SysctlName(strings.TrimSuffix(path, "\n"))
		if !ok {
			t.Fatalf("find prints %q", path)
		}
		names[name] = true
	}
	return names
}

// onlyIn returns the names that a has and b does not.
func onlyIn(a, b map[string]bool) (names []string) {
	for name := range a {
		if !b[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// testTables makes parameters appear and vanish, by modules and devices. It compares the events with the files below
// /proc/sys before and after.
func testTables(t *testing.T, h *host) {
	if !slices.ContainsFunc(h.streams, func(s *stream) bool { return seesDevices(s.backend) }) {
		t.Skip("no backend of this kernel has a hook for them; TestRecordTables")
	}
	if !hasModules {
		t.Skip("no modules, so no devices")
	}
	const a = "nstrace-e2e-tables"
	addNetns(t, a)
	nets := map[uint32]string{h.ns["net"]: "", mustID(t, "/run/netns/"+a): a}
	for _, tt := range []struct {
		name, setup, script string
		want                []string // the events, without the numbers of parameters
	}{
		{"module", "modprobe -rq nf_conntrack || true", "modprobe nf_conntrack", []string{"appear by finit_module in several namespaces"}},
		{"dummy", "modprobe -q dummy", "ip link add nst0 type dummy", []string{"appear nst0 dummy by netlink"}},
		{"vlan", "modprobe -q 8021q", "ip link add link nst0 name nst0.5 type vlan id 5", []string{"appear nst0.5 vlan by netlink"}},
		{"renamed", "", "ip link set nst0 name nst1", []string{"vanish nst0 > nst1 dummy by netlink", "appear nst0 > nst1 dummy by netlink"}},
		{"moved", "", "ip link set nst1 netns " + a, []string{
			"vanish nst1 dummy from host to " + a + " by netlink", "appear nst1 dummy from host to " + a + " by netlink",
		}},
		{"pair", "", "ip link add nst2 type veth peer name nst3 netns " + a, []string{"appear nst3 veth by netlink", "appear nst2 veth by netlink"}},
		{"without IPv6", "", "ip link set nst2 mtu 1000", []string{"vanish nst2 veth by netlink"}},
		{"removed", "", "ip link del nst2", []string{"vanish nst2 veth by netlink", "vanish nst3 veth by netlink"}},
		{"written at once", "", "ip link add nst4 type dummy; echo 1 >/proc/sys/net/ipv4/conf/nst4/rp_filter", []string{
			"appear nst4 dummy by netlink", "write net.ipv4.conf.nst4.rp_filter",
		}},
		{"removed at once", "", "ip link add nst5 type dummy; ip link del nst4; ip link del nst5", []string{
			"appear nst5 dummy by netlink", "vanish nst4 dummy by netlink", "vanish nst5 dummy by netlink",
		}},
		{"a new namespace", "", "unshare --net true", nil},
		{"other new namespaces", "", "unshare --user --map-root-user --ipc --pid --uts --mount true", nil},
		{"modules removed", "", "modprobe -r nf_conntrack", []string{"vanish by delete_module in several namespaces"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.setup != "" {
				output(t, "sh", "-c", tt.setup)
			}
			look := func() map[string]map[string]bool {
				all := map[string]map[string]bool{}
				for _, name := range nets {
					all[name] = parameterFiles(t, name)
				}
				return all
			}
			before := look()
			w := h.sh(t, tt.script)
			after := look()
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				var got []string
				changed := map[string]map[string]int{"": {}, a: {}} // by namespace and parameter: appeared minus vanished
				for _, e := range events {
					switch e.Type {
					case event.SysctlWrite:
						got = append(got, "write "+e.Sysctl.Name)
					case event.SysctlAppear, event.SysctlVanish:
						got = append(got, saidTable(e, nets))
						by := 1
						if e.Type == event.SysctlVanish {
							by = -1
						}
						n := uint64(0)
						e.Sysctl.Parameters.Each(func(name string) bool {
							n++
							for _, ns := range nets {
								switch {
								case e.Sysctl.Parameters.Namespaces > 1:
									// A module can register some for the host only, such as net.nf_conntrack_max.
									if before[ns][name] != after[ns][name] {
										changed[ns][name] += by
									}
								case e.Sysctl.Namespace == nil && ns == "", e.Sysctl.Namespace != nil && nets[e.Sysctl.Namespace.ID] == ns:
									changed[ns][name] += by
								}
							}
							return true
						})
						if n != e.Sysctl.Parameters.Count {
							t.Errorf("count is %d: %s", e.Sysctl.Parameters.Count, e.line)
						}
					}
				}
				want := slices.Clone(tt.want)
				if !seesDevices(s.backend) {
					want = slices.DeleteFunc(want, func(s string) bool { return !strings.HasPrefix(s, "write") })
				}
				if tt.name == "modules removed" && len(got) > 1 {
					// modprobe removes several modules, one after the other, and one table is of the host only.
					got = slices.DeleteFunc(got, func(s string) bool { return s == "vanish by delete_module" })
					got = slices.Compact(got)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
				if !seesDevices(s.backend) {
					return
				}
				for _, ns := range nets {
					var came, went []string
					for name, n := range changed[ns] {
						switch n {
						case 1:
							came = append(came, name)
						case -1:
							went = append(went, name)
						}
					}
					slices.Sort(came)
					slices.Sort(went)
					if want := onlyIn(after[ns], before[ns]); !slices.Equal(came, want) {
						t.Errorf("in %q there appeared %q, want %q", ns, came, want)
					}
					if want := onlyIn(before[ns], after[ns]); !slices.Equal(went, want) {
						t.Errorf("from %q there vanished %q, want %q", ns, went, want)
					}
				}
			})
		})
	}
}

// saidTable describes an event, without its parameters.
func saidTable(e *emitted, nets map[uint32]string) string {
	text := strings.TrimPrefix(string(e.Type), "sysctl.")
	if d := e.Netdev; d != nil {
		text += " " + d.Name
		if d.NewName != "" {
			text += " > " + d.NewName
		}
		text += " " + d.Kind
		if d.Ifindex == 0 || e.Sysctl.Ifindex == 0 {
			text += " without an index"
		}
		for _, end := range []struct {
			name string
			ns   *event.Namespace
		}{{"from", d.From}, {"to", d.To}} {
			if end.ns == nil {
				continue
			}
			name := nets[end.ns.ID]
			if name == "" {
				name = "host"
			}
			text += " " + end.name + " " + name
		}
	}
	text += " by " + e.Via
	if e.Sysctl.Parameters.Namespaces > 1 {
		text += " in several namespaces"
	}
	return text
}

// tagBaseline expects a value that no new device has.
const tagBaseline = "baseline:\n- {name: 'net.ipv4.conf.nsttab*.tag', value: 7}\n- {name: 'net.ipv4.conf.nsttab*.log_martians', value: 0}\n"

// unmetText says which parameters appeared with a value that is not expected.
func unmetText(e *emitted) string {
	if e.Sysctl == nil || e.Sysctl.Parameters == nil {
		return ""
	}
	var all []string
	for _, u := range e.Sysctl.Parameters.Unmet {
		all = append(all, fmt.Sprintf("%s is %s, not %s", u.Name, u.Value, strings.Join(u.Expected.Values, " ")))
	}
	return strings.Join(all, ", ")
}

// TestUnmet makes devices whose parameters do not have the values that a baseline expects, and one whose parameter a
// process sets in time.
func TestUnmet(t *testing.T) {
	if !slices.ContainsFunc(backends, seesDevices) {
		t.Skip("no backend of this kernel has a hook for devices; TestRecordTables")
	}
	if !hasModules {
		t.Skip("no modules, so no devices")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "own.yaml")
	if err := os.WriteFile(file, []byte(tagBaseline), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "modprobe", "-q", "dummy")
	for _, backend := range backends {
		if !seesDevices(backend) {
			continue
		}
		t.Run(string(backend), func(t *testing.T) {
			s := startStream(t, "record", "--db", filepath.Join(dir, string(backend)+".db"), "--backend", string(backend), "-e", "sysctl", "--baseline", file)
			s.awaitStart(t)
			for _, tt := range []struct{ script, want string }{
				{"ip link add nsttab0 type dummy", "net.ipv4.conf.nsttab0.tag is 0, not 7"},
				{"ip link add nsttab1 type dummy; echo 7 >/proc/sys/net/ipv4/conf/nsttab1/tag", ""},
				{"ip link set nsttab0 name nsttab2", "net.ipv4.conf.nsttab2.tag is 0, not 7"},
				{"ip netns add nsttab; ip -n nsttab link add nsttab3 type dummy; ip netns del nsttab", ""},
			} {
				n := s.len()
				output(t, "sh", "-e", "-c", tt.script)
				var got []string
				s.awaitFrom(t, n, "the parameters", func(all []*emitted) bool {
					got = nil
					for _, e := range all {
						if e.Type == event.SysctlAppear && e.Netdev != nil && strings.HasPrefix(e.Netdev.Name+e.Netdev.NewName, "nsttab") {
							got = append(got, unmetText(e))
						}
					}
					return len(got) > 0
				})
				// The event of a parameter that is written at once can come before nstrace has read the value.
				if got[0] != tt.want && !(strings.Contains(tt.script, "echo") && got[0] == "net.ipv4.conf.nsttab1.tag is 0, not 7") {
					t.Errorf("%s: got %q, want %q", tt.script, got, tt.want)
				}
			}
			output(t, "sh", "-c", "ip link del nsttab1; ip link del nsttab2")
			s.interrupt(t)
			s.checkEnd(t, true)
		})
	}
}

// TestRecordTables lets record find by a scan what no hook shows: the parameters of a device.
func TestRecordTables(t *testing.T) {
	if testing.Short() || os.Getenv("NSTRACE_TEST_ALL") == "" {
		t.Skip("takes three minutes: the scans are a minute apart (NSTRACE_TEST_ALL=1)")
	}
	dir := t.TempDir()
	db, file := filepath.Join(dir, "history.db"), filepath.Join(dir, "own.yaml")
	if err := os.WriteFile(file, []byte(tagBaseline), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startStream(t, "record", "--db", db, "--backend", "tracepoint", "-e", "sysctl", "--baseline", file)
	s.awaitStart(t)
	s.awaitSnapshot(t, db)
	const folder = "/proc/sys/net/ipv4/conf/nsttab0"
	for _, step := range []struct{ command, typ string }{
		{"ip link add nsttab0 type veth peer name nsttab1", "sysctl.appear"}, {"ip link del nsttab0", "sysctl.vanish"},
	} {
		output(t, "sh", "-e", "-c", step.command)
		var want int
		err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				want++
			}
			return nil
		})
		if err != nil || (want > 0) != (step.typ == "sysctl.appear") {
			t.Fatalf("after %s there are %d files in %s: %v", step.command, want, folder, err)
		}
		s.await(t, step.typ, func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool {
				return string(e.Type) == step.typ && e.Netdev != nil && e.Netdev.Name == "nsttab0" && e.Between != nil && e.Process == nil &&
					(step.typ == "sysctl.vanish") == (unmetText(e) == "") && (unmetText(e) == "" || unmetText(e) == "net.ipv4.conf.nsttab0.tag is 0, not 7")
			})
		})
	}
	s.interrupt(t)
	s.checkEnd(t, true)
}
