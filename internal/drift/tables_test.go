// SPDX-License-Identifier: Apache-2.0

package drift_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
)

// TestTables compares snapshots of a host on which a module was loaded, a device was made, one was renamed, and a
// namespace has a device less.
func TestTables(t *testing.T) {
	at := time.Unix(1000, 0)
	take := func(devices, inside map[string]int, names ...string) *drift.Snapshot {
		s := &drift.Snapshot{BootID: "b", Time: at, Parameters: map[string]string{"vm.swappiness": "60"}, Devices: devices}
		for _, name := range names {
			s.Parameters[name] = "1"
		}
		for device := range devices {
			name := strings.ReplaceAll(device, ".", "/")
			s.Parameters["net.ipv4.conf."+name+".forwarding"] = "0"
			s.Parameters["net.ipv6.neigh."+name+".delay"] = "0"
		}
		ns := &drift.Namespace{Namespace: event.Namespace{Type: event.NSTypeNet, ID: 7}, Parameters: map[string]string{}, Devices: inside}
		for device := range inside {
			ns.Parameters["net.ipv4.conf."+device+".forwarding"] = "0"
		}
		s.Namespaces = []*drift.Namespace{{Namespace: event.Namespace{Type: event.NSTypeNet, ID: 1, Host: true}}, ns}
		return s
	}
	before := take(map[string]int{"eth0": 2, "old": 3}, map[string]int{"eth0": 2, "v0": 3}, "sunrpc.rpc_debug", "net.unread")
	after := take(map[string]int{"eth0": 2, "new": 3, "eth0.5": 4}, map[string]int{"eth0": 2}, "net.netfilter.nf_max", "net.netfilter.nf_count", "net.nf_max")
	exists := func(name string) bool { _, ok := after.Parameters[name]; return ok || name == "net.unread" }
	show := func(events []*event.Event) (all []string) {
		for _, e := range events {
			s, text := e.Sysctl, fmt.Sprintf("%s %s %d", e.Type, e.Sysctl.Name, e.Sysctl.Parameters.Count)
			if s.Namespace != nil {
				text += fmt.Sprintf(" in %d", s.Namespace.ID)
			}
			if d := e.Netdev; d != nil {
				text += fmt.Sprintf(" %s %s %d", d.Name, d.NewName, d.Ifindex)
			}
			if e.Between == nil || e.Process != nil {
				text += " not found by a scan"
			}
			all = append(all, text)
		}
		return all
	}
	want := []string{
		"sysctl.vanish net.*.{conf,neigh}.old.* 2 in 1 old new 3",
		"sysctl.vanish sunrpc.rpc_debug 1",
		"sysctl.appear net.*.{conf,neigh}.eth0/5.* 2 in 1 eth0.5  4",
		"sysctl.appear net.*.{conf,neigh}.new.* 2 in 1 old new 3",
		"sysctl.appear net.{netfilter.*,nf_max} 3 in 1",
		"sysctl.vanish net.ipv4.conf.v0.forwarding 1 in 7 v0  3",
	}
	if got := show(drift.Tables(before, after, exists)); !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	if got := drift.Tables(before, before, func(string) bool { return true }); len(got) != 0 {
		t.Errorf("no change: %q", show(got))
	}
	after.Cut, after.Namespaces[1].Cut = true, true
	if got := drift.Tables(before, after, exists); len(got) != 0 {
		t.Errorf("cut: %q", show(got))
	}
	after.Cut, after.BootID = false, "c"
	if got := drift.Tables(before, after, exists); len(got) != 0 {
		t.Errorf("another boot: %q", show(got))
	}
}
