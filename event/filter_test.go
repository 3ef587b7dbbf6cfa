// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

var (
	shell  = &event.Process{PID: 10, UID: 1000, Comm: "sh"}
	asRoot = &event.Actor{PID: 20, UID: 0, Comm: "ip"}

	netns = &event.Namespace{Type: event.NSTypeNet, ID: 7}
	utsns = &event.Namespace{Type: event.NSTypeUTS, ID: 8}
)

func types(all ...event.Type) map[event.Type]bool {
	m := map[event.Type]bool{}
	for _, t := range all {
		m[t] = true
	}
	return m
}

func nsTypes(all ...event.NSType) map[event.NSType]bool {
	m := map[event.NSType]bool{}
	for _, t := range all {
		m[t] = true
	}
	return m
}

// TestFilter has a row for each rule. A Tracer and a history can differ on an event: the
// kernel has applied the rules about a process to the events of a Tracer, and a stored event
// does not say who made what it is about, unless it is a destroy.
func TestFilter(t *testing.T) {
	created := &event.Event{Type: event.NamespaceCreate, Process: shell, Namespace: netns, Outcome: event.Success}
	destroyed := &event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: event.NSTypeNet, Creator: asRoot}}
	unpinned := &event.Event{Type: event.NamespaceUnpin, Namespace: netns}
	unknownNS := &event.Event{Type: event.NamespaceEnter, Process: shell, Namespace: &event.Namespace{}, Outcome: event.Failure}
	moved := &event.Event{Type: event.NetdevMove, Process: shell, Netdev: &event.Netdev{Name: "eth0", From: netns}, Outcome: event.Success}
	returned := &event.Event{Type: event.NetdevMove, Netdev: &event.Netdev{Name: "eth0"}, Outcome: event.Failure}
	netWrite := &event.Event{Type: event.SysctlWrite, Process: shell, Outcome: event.Success, Sysctl: &event.Sysctl{Name: "net.ipv4.conf.eth0/100.forwarding", Namespace: netns}}
	hostWrite := &event.Event{Type: event.SysctlWrite, Process: shell, Outcome: event.Failure, Sysctl: &event.Sysctl{Name: "vm.swappiness"}}
	worker := &event.Event{Type: event.SysctlWrite, Process: &event.Process{PID: 30, TID: 31, Comm: "iou-wrk-30", LeaderComm: "uring"}, Outcome: event.Success, Sysctl: &event.Sysctl{Name: "vm.swappiness"}}
	drift := &event.Event{Type: event.SysctlDrift, Sysctl: &event.Sysctl{Name: "kernel.hostname", Namespace: utsns}}
	loss := &event.Event{Type: event.TraceLoss, Loss: &event.Loss{Reason: event.LossMissed}}

	const no, yes = false, true
	for _, row := range []struct {
		name           string
		f              event.Filter
		e              *event.Event
		maker          *event.Actor // for traced
		traced, stored bool
	}{
		{"nothing is selected", event.Filter{}, created, nil, yes, yes},
		{"nothing is selected, no process", event.Filter{}, destroyed, asRoot, yes, yes},

		{"a type", event.Filter{Types: types(event.NamespaceCreate)}, created, nil, yes, yes},
		{"another type", event.Filter{Types: types(event.NamespaceCreate)}, destroyed, asRoot, no, no},
		{"no type", event.Filter{Types: types()}, created, nil, no, no},

		{"-t net, a net namespace ended", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, destroyed, asRoot, yes, yes},
		{"-t uts, a net namespace ended", event.Filter{NSTypes: nsTypes(event.NSTypeUTS)}, destroyed, asRoot, no, no},
		{"-t net, unpinned", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, unpinned, nil, yes, yes},
		{"-t uts, unpinned", event.Filter{NSTypes: nsTypes(event.NSTypeUTS)}, unpinned, nil, no, no},
		{"-t net, a device moved", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, moved, nil, yes, yes},
		{"-t net, a device between unknown namespaces", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, returned, nil, yes, yes},
		{"-t uts, a device between unknown namespaces", event.Filter{NSTypes: nsTypes(event.NSTypeUTS)}, returned, nil, no, no},
		{"-t net, a parameter of a net namespace", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, netWrite, nil, yes, yes},
		{"-t uts, a parameter of a net namespace", event.Filter{NSTypes: nsTypes(event.NSTypeUTS)}, netWrite, nil, no, no},
		{"-t net, a parameter of no namespace", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, hostWrite, nil, no, no},
		{"-t uts, drift in a uts namespace", event.Filter{NSTypes: nsTypes(event.NSTypeUTS)}, drift, nil, yes, yes},
		{"-t net, an entry of what is no namespace", event.Filter{NSTypes: nsTypes(event.NSTypeNet)}, unknownNS, nil, yes, no},

		{"--sysctl matches", event.Filter{Sysctl: []string{"vm.*", "net.*.forwarding"}}, netWrite, nil, yes, yes},
		{"--sysctl does not match", event.Filter{Sysctl: []string{"vm.*"}}, netWrite, nil, no, no},
		{"--sysctl, no parameter", event.Filter{Sysctl: []string{"vm.*"}}, created, nil, yes, yes},

		{"--failed, a failed write", event.Filter{Failed: true}, hostWrite, nil, yes, yes},
		{"--failed, an end has no outcome", event.Filter{Failed: true}, destroyed, asRoot, no, no},
		{"--failed, a worker failed to move a device", event.Filter{Failed: true}, returned, nil, yes, yes},

		{"-p, the process", event.Filter{PIDs: []uint32{10}}, created, nil, yes, yes},
		{"-p, the maker of what ended", event.Filter{PIDs: []uint32{20}}, destroyed, asRoot, yes, yes},
		{"-p, another one made what ended", event.Filter{PIDs: []uint32{10}}, destroyed, asRoot, no, no},
		{"-c, the maker of what ended", event.Filter{Comms: []string{"sh", "ip"}}, destroyed, asRoot, yes, yes},
		{"-c, the thread", event.Filter{Comms: []string{"iou-wrk-30"}}, worker, nil, yes, yes},
		{"-c, its main thread", event.Filter{Comms: []string{"uring"}}, worker, nil, yes, yes},
		{"-c, neither", event.Filter{Comms: []string{"wrk", ""}}, worker, nil, yes, no},
		{"-u, another user made what ended", event.Filter{UIDs: []uint32{1000}}, destroyed, asRoot, no, no},
		{"-p and -u, only one matches", event.Filter{PIDs: []uint32{20}, UIDs: []uint32{1000}}, destroyed, asRoot, no, no},
		{"-p, an unknown maker", event.Filter{PIDs: []uint32{20}}, unpinned, nil, no, no},
		{"-p, the maker of a pin", event.Filter{PIDs: []uint32{20}}, unpinned, asRoot, yes, no},
		{"-p, the maker of the namespace that a device left", event.Filter{PIDs: []uint32{20}}, returned, asRoot, yes, no},
		{"-p, drift has no process", event.Filter{PIDs: []uint32{10}}, drift, nil, no, no},
	} {
		t.Run(row.name, func(t *testing.T) {
			// A Tracer does not emit drift.
			if got := row.f.MatchTraced(row.e, row.maker); got != row.traced && row.e != drift {
				t.Errorf("MatchTraced: %v", got)
			}
			if got := row.f.MatchStored(row.e); got != row.stored {
				t.Errorf("MatchStored: %v", got)
			}
		})
	}
	for _, f := range []event.Filter{{Types: types(event.SysctlWrite)}, {Failed: true}, {PIDs: []uint32{10}}, {NSTypes: nsTypes(event.NSTypeNet)}} {
		if !f.MatchStored(loss) {
			t.Errorf("%+v drops a %s", f, loss.Type)
		}
	}
	// The kernel has applied the rules about the process.
	for _, f := range []event.Filter{{PIDs: []uint32{99}}, {Comms: []string{"x"}}, {UIDs: []uint32{99}}, {Failed: true}} {
		if !f.MatchTraced(created, nil) {
			t.Errorf("%+v drops an event that the kernel selected", f)
		}
		if f.MatchStored(created) {
			t.Errorf("%+v selects a stored event of another process", f)
		}
	}
}

// TestFilterMistakes has a filter for each limit, with what the error must name.
func TestFilterMistakes(t *testing.T) {
	for _, row := range []struct {
		f    event.Filter
		want string
	}{
		{event.Filter{Sysctl: []string{"net.[a"}}, `glob "net.[a"`},
		{event.Filter{Comms: []string{"a-name-of-16-byte"}}, "want at most 15 bytes"},
		{event.Filter{PIDs: make([]uint32, 1025)}, "want at most 1024"},
		{event.Filter{UIDs: make([]uint32, 1025)}, "want at most 1024"},
	} {
		err := row.f.Validate()
		if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %q: %v", row.want, err)
		}
	}
	ok := event.Filter{Sysctl: []string{"net.*"}, Comms: []string{"a-name-of-15-by"}, PIDs: make([]uint32, 1024)}
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
}

// TestNamespaces has the namespaces that each kind of event is about.
func TestNamespaces(t *testing.T) {
	for _, row := range []struct {
		e    event.Event
		want [2]*event.Namespace
	}{
		{event.Event{Namespace: utsns}, [2]*event.Namespace{utsns}},
		{event.Event{Sysctl: &event.Sysctl{Namespace: netns}}, [2]*event.Namespace{netns}},
		{event.Event{Netdev: &event.Netdev{From: netns, To: utsns}}, [2]*event.Namespace{netns, utsns}},
		{event.Event{Sysctl: &event.Sysctl{}}, [2]*event.Namespace{}},
	} {
		if got := row.e.Namespaces(); got != row.want {
			t.Errorf("%+v: %v", row.e, got)
		}
	}
}

// TestSysctlName has names and paths with the characters that both write differently.
func TestSysctlName(t *testing.T) {
	for name, path := range map[string]string{
		"vm.swappiness":                     "/proc/sys/vm/swappiness",
		"net.ipv4.conf.eth0/100.forwarding": "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
	} {
		if got, ok := event.SysctlName(path); !ok || got != name {
			t.Errorf("%s: %q, %v", path, got, ok)
		}
		if got := event.SysctlPath(name); got != path {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, path := range []string{"", "/proc/sys", "/proc/sys/", "/etc/passwd", "/proc/sysvipc/shm"} {
		if name, ok := event.SysctlName(path); ok {
			t.Errorf("%q: %q", path, name)
		}
	}
	for glob, want := range map[string]bool{
		"net.ipv4.conf.*.forwarding": true, "net.*": true, "net.ipv4.conf.eth0/100.forwarding": true,
		"net.ipv6.*": false, "*forwarding": true, "forwarding": false,
	} {
		if got := event.MatchSysctl(glob, "net.ipv4.conf.eth0/100.forwarding"); got != want {
			t.Errorf("%s: %v", glob, got)
		}
	}
}
