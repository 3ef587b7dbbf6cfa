// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"time"

	"github.com/nstrace/nstrace/event"
)

func ptr[T any](v T) *T { return &v }

var sampleStart = time.Date(2026, 11, 23, 12, 4, 31, 123456789, time.UTC)

// at is a time some milliseconds into the sample.
func at(ms int) time.Time { return sampleStart.Add(time.Duration(ms) * time.Millisecond) }

var hostNS = map[event.NSType]uint32{
	"cgroup": 4026531835, "ipc": 4026531839, "mnt": 4026531841, "net": 4026531840,
	"pid": 4026531836, "time": 4026531834, "user": 4026531837, "uts": 4026531838,
}

func viaSSH(pid uint32, comm string, args ...string) *event.Process {
	return &event.Process{
		PID: pid, TID: pid, StartTime: at(-5), Comm: comm, Exe: "/usr/sbin/" + comm, Args: append([]string{comm}, args...),
		PPID: pid - 1, User: "root", LoginUID: ptr[uint32](1000), LoginUser: "alice", SessionID: ptr[uint32](17), TTY: "pts/3",
		Cgroup: "/user.slice/user-1000.slice/session-17.scope", NS: hostNS,
		Ancestors: []event.Actor{{PID: pid - 1, Comm: "sudo"}, {PID: 3011, UID: 1000, Comm: "bash"}, {PID: 3010, UID: 1000, Comm: "sshd"}, {PID: 812, Comm: "sshd"}, {PID: 1, Comm: "systemd"}},
	}
}

func asRoot(p *event.Process) *event.Process {
	p.LoginUID, p.LoginUser, p.SessionID, p.TTY = nil, "", nil, ""
	return p
}

func runc(pid uint32) *event.Process {
	return &event.Process{
		PID: pid, TID: pid, StartTime: at(400), Comm: "runc:[1:CHILD]", Exe: "/usr/bin/runc", Args: []string{"runc", "init"},
		PPID: pid - 4, User: "root", Cgroup: "/system.slice/docker-9f3c1e0d7a54.scope", NS: hostNS,
		Ancestors: []event.Actor{{PID: pid - 4, Comm: "runc"}, {PID: 90210, Comm: "containerd-shim"}, {PID: 1, Comm: "systemd"}},
	}
}

// sample is a minute on a host as the stream would have it.
func sample() []*event.Event {
	events := []*event.Event{
		{Type: event.TraceStart, Time: at(-10), Trace: &event.Trace{
			Version: "0.1.0", Kernel: "6.12.0", Arch: "x86_64",
			Observations: []event.Observation{{Name: "netns.create", Backend: "fentry", Hooks: []string{"fexit/copy_net_ns"}}, {Name: "sysctl.result", Backend: "none", Missing: []string{"the value after a write"}}},
		}},
		{Type: event.SysctlWrite, Time: at(0), Outcome: event.Success, Via: "write", Process: viaSSH(4712, "sysctl", "-w", "net.ipv4.tcp_keepalive_time=600"), Sysctl: &event.Sysctl{
			Name: "net.ipv4.tcp_keepalive_time", Path: "/proc/sys/net/ipv4/tcp_keepalive_time", Old: ptr("7200"), New: ptr("600"), After: ptr("600"),
			Namespace: &event.Namespace{Type: "net", ID: 4026531840, UID: "1", Host: true, UserNS: 4026531837},
		}},
		{Type: event.SysctlWrite, Time: at(210), Outcome: event.Success, Via: "write", Process: viaSSH(4719, "sysctl", "-w", "net.core.netdev_budget=100000"), Sysctl: &event.Sysctl{
			Name: "net.core.netdev_budget", Path: "/proc/sys/net/core/netdev_budget", Old: ptr("600"), New: ptr("100000"), After: ptr("32767"),
			Namespace: &event.Namespace{Type: "net", ID: 4026531840, Host: true},
		}},
		{Type: event.NamespaceCreate, Time: at(420), Outcome: event.Success, Via: "unshare", Process: runc(90311), Namespace: &event.Namespace{Type: "mnt", ID: 4026532279, UID: "9001", UserNS: 4026531837}},
		{Type: event.NamespaceCreate, Time: at(421), Outcome: event.Success, Via: "clone3", ChildPID: 90312, Process: runc(90311), Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", UserNS: 4026531837}},
		{Type: event.SysctlWrite, Time: at(455), Outcome: event.Success, Via: "write", Process: runc(90312), Sysctl: &event.Sysctl{
			Name: "net.ipv4.ip_unprivileged_port_start", Path: "/proc/sys/net/ipv4/ip_unprivileged_port_start", Old: ptr("1024"), New: ptr("0"), After: ptr("0"),
			Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", UserNS: 4026531837},
		}},
		{Type: event.NetdevMove, Time: at(470), Outcome: event.Success, Via: "netlink", Process: viaSSH(90320, "ip", "link", "set", "veth9c1f0a2", "netns", "web", "name", "eth0"), Netdev: &event.Netdev{
			Name: "veth9c1f0a2", NewName: "eth0", Ifindex: 7, NewIfindex: 2,
			From: &event.Namespace{Type: "net", ID: 4026531840, UID: "1", Host: true}, To: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web"},
		}},
		{Type: event.NamespaceEnter, Time: at(2301), Outcome: event.Success, Via: "setns", Process: viaSSH(4803, "nsenter", "-t", "90312", "-n"), Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", From: 4026531840, UserNS: 4026531837}},
		{Type: event.SysctlWrite, Time: at(2710), Outcome: event.Success, Via: "write", Process: asRoot(&event.Process{PID: 1207, TID: 1207, Comm: "tuned", PPID: 1, User: "root", Ancestors: []event.Actor{{PID: 1, Comm: "systemd"}}}), Sysctl: &event.Sysctl{
			Name: "net.ipv4.tcp_rmem", Path: "/proc/sys/net/ipv4/tcp_rmem", Old: ptr("4096\t131072\t6291456"), New: ptr("4096 87380 16777216"), After: ptr("4096\t87380\t16777216"),
			Namespace: &event.Namespace{Type: "net", ID: 4026531840, Host: true},
		}},
		{Type: event.NamespaceCreate, Time: at(3102), Outcome: event.Failure, Error: "EPERM", Via: "unshare", Namespace: &event.Namespace{Type: "user"}, Process: &event.Process{
			PID: 51877, TID: 51877, Comm: "unshare", PPID: 51760, UID: 1001, GID: 1001, User: "bob", LoginUID: ptr[uint32](1001), LoginUser: "bob",
			Ancestors: []event.Actor{{PID: 51760, Comm: "zsh"}, {PID: 51750, Comm: "tmux: server"}, {PID: 1, Comm: "systemd"}},
		}},
		{Type: event.SysctlWrite, Time: at(3990), Outcome: event.Failure, Error: "EROFS", Via: "open", Process: &event.Process{
			PID: 90355, TID: 90355, Comm: "sh", PPID: 90312, User: "root", Ancestors: []event.Actor{{PID: 90312, Comm: "nginx"}, {PID: 90210, Comm: "containerd-shim"}, {PID: 1, Comm: "systemd"}},
		}, Sysctl: &event.Sysctl{Name: "kernel.core_pattern", Path: "/proc/sys/kernel/core_pattern"}},
		{Type: event.SysctlWrite, Time: at(4015), Outcome: event.Success, Via: "write", Count: 250, LastTime: at(7215), Process: &event.Process{
			PID: 1544, TID: 1551, Comm: "kubelet", PPID: 1, User: "root", Ancestors: []event.Actor{{PID: 1, Comm: "systemd"}},
		}, Sysctl: &event.Sysctl{Name: "vm.overcommit_memory", Path: "/proc/sys/vm/overcommit_memory", Old: ptr("1"), New: ptr("1"), After: ptr("1")}},
		{Type: event.TraceLoss, Time: at(8020), Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 1200, event.NamespaceCreate: 34}, Reason: "ring_full", From: at(7301), To: at(8011)}},
		{Type: event.NamespaceEnter, Time: at(8101), Outcome: event.Failure, Error: "EBADF", Via: "setns", Namespace: &event.Namespace{}, Process: &event.Process{
			PID: 60114, TID: 60114, Comm: "\x1b[2Kls\u202e", PPID: 60001, UID: 1001, GID: 1001, User: "bob",
			Ancestors: []event.Actor{{PID: 60001, Comm: "zsh"}},
		}},
		{Type: event.NetdevMove, Time: at(9499), Outcome: event.Success, Via: "exit", Netdev: &event.Netdev{
			Name: "eth1", Ifindex: 3, From: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web"}, To: &event.Namespace{Type: "net", ID: 4026531840, Host: true},
		}},
		{Type: event.NamespacePin, Time: at(8200), Outcome: event.Success, Via: "mount", Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", Path: "/run/netns/web"}, Process: viaSSH(4720, "ip", "netns", "add", "web")},
		{Type: event.NamespaceUnpin, Time: at(9400), Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", Path: "/run/netns/web"}},
		{Type: event.NamespaceDestroy, Time: at(9500), Outcome: event.Success, Namespace: &event.Namespace{Type: "net", ID: 4026532281, UID: "4097", Name: "web", Created: at(421), LifetimeMS: ptr[int64](9079), Creator: &event.Actor{PID: 90311, Comm: "runc:[1:CHILD]"}}},
		{Type: event.TraceGap, Time: at(9600), Trace: &event.Trace{From: at(-90_000), To: at(9600), SameBoot: ptr(true), Ended: event.GapCrashed}},
		{Type: event.TraceStop, Time: at(9999), Trace: &event.Trace{Totals: &event.Totals{Seen: 16, Written: 16, DurationMS: 10009}}},
	}
	for i, ev := range events {
		ev.V, ev.Seq = event.SchemaVersion, uint64(i+1)
		ev.Host, ev.BootID = "web1", "6f3c1a52-8a0e-4a55-9a43-0d2f6b1c7e21"
	}
	return events
}
