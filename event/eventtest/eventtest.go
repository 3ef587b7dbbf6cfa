// SPDX-License-Identifier: Apache-2.0

// Package eventtest provides events for tests. It is apart from package event so that
// no program contains them.
package eventtest

import (
	"time"

	"github.com/nstrace/nstrace/event"
)

// The run that the events of Sample belong to.
const (
	RunID  = "5b1d0c6e9f2a47d8b3c4e5f60718293a"
	BootID = "6f3c1a52-8a0e-4a55-9a43-0d2f6b1c7e21"
)

// Ptr returns a pointer to v.
func Ptr[T any](v T) *T { return &v }

// Start is the time of the first write in Sample.
var Start = time.Date(2026, 11, 23, 12, 4, 31, 123456789, time.UTC)

// At returns the time that many milliseconds after Start.
func At(ms int) time.Time { return Start.Add(time.Duration(ms) * time.Millisecond) }

// HostNS returns the namespaces of the sample's host.
func HostNS() map[event.NSType]uint32 {
	return map[event.NSType]uint32{
		"cgroup": 4026531835, "ipc": 4026531839, "mnt": 4026531841, "net": 4026531840,
		"pid": 4026531836, "time": 4026531834, "user": 4026531837, "uts": 4026531838,
	}
}

// ViaSSH returns a process that the user alice started with sudo in an SSH session.
func ViaSSH(pid uint32, comm string, args ...string) *event.Process {
	return &event.Process{
		PID: pid, TID: pid, StartTime: At(-5), Comm: comm, Exe: "/usr/sbin/" + comm, Args: append([]string{comm}, args...),
		PPID: pid - 1, User: "root", LoginUID: Ptr[uint32](1000), LoginUser: "alice", SessionID: Ptr[uint32](17), TTY: "pts/3",
		Cgroup: "/user.slice/user-1000.slice/session-17.scope", NS: HostNS(),
		Ancestors: []event.Actor{{PID: pid - 1, Comm: "sudo"}, {PID: 3011, UID: 1000, Comm: "bash"}, {PID: 3010, UID: 1000, Comm: "sshd"}, {PID: 812, Comm: "sshd"}, {PID: 1, Comm: "systemd"}},
	}
}

// Runc returns a process of runc that starts a container.
func Runc(pid uint32) *event.Process {
	return &event.Process{
		PID: pid, TID: pid, StartTime: At(400), Comm: "runc:[1:CHILD]", Exe: "/usr/bin/runc", Args: []string{"runc", "init"},
		PPID: pid - 4, User: "root", Cgroup: "/system.slice/docker-9f3c1e0d7a54.scope", NS: HostNS(),
		Ancestors: []event.Actor{{PID: pid - 4, Comm: "runc"}, {PID: 90210, Comm: "containerd-shim"}, {PID: 1, Comm: "systemd"}},
	}
}

// Storm returns two events of Sample as they come by the hundred thousand: a write and a
// new namespace.
func Storm() []*event.Event {
	events := Sample()
	return []*event.Event{events[1], events[4]}
}

// Sample returns the events of ten seconds on a host, at least one of each type.
func Sample() []*event.Event {
	systemd := []event.Actor{{PID: 1, Comm: "systemd"}}
	web := func() *event.Namespace {
		return &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web"}
	}
	events := []*event.Event{
		{Type: event.TraceStart, Time: At(-10), Trace: &event.Trace{
			Version: "0.1.0", Kernel: "6.12.0", Arch: "x86_64",
			Observations: []event.Observation{{Name: "netns.create", Backend: "fentry", Hooks: []string{"fexit/copy_net_ns"}}, {Name: "sysctl.result", Backend: "none", Missing: []string{"the value after a write"}}},
			Notes:        []string{"The kernel has no BTF of the module nf_conntrack."},
		}},
		{Type: event.SysctlWrite, Time: At(0), Outcome: event.Success, Via: "write", Process: ViaSSH(4712, "sysctl", "-w", "net.ipv4.tcp_keepalive_time=600"), Sysctl: &event.Sysctl{
			Name: "net.ipv4.tcp_keepalive_time", Path: "/proc/sys/net/ipv4/tcp_keepalive_time", Old: Ptr("7200"), New: Ptr("600"), After: Ptr("600"),
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, UID: "1", Host: true, UserNS: 4026531837},
		}},
		{Type: event.SysctlWrite, Time: At(210), Labels: map[string]string{"cluster": "north", "environment": "test"}, Outcome: event.Success, Via: "write", Process: ViaSSH(4719, "sysctl", "-w", "net.core.netdev_budget=100000"), Sysctl: &event.Sysctl{
			Name: "net.core.netdev_budget", Path: "/proc/sys/net/core/netdev_budget", Old: Ptr("600"), New: Ptr("100000"), After: Ptr("32767"),
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true},
		}},
		{Type: event.NamespaceCreate, Time: At(420), Outcome: event.Success, Via: "unshare", Process: Runc(90311), Namespace: &event.Namespace{Type: event.NSTypeMnt, ID: 4026532279, UID: "9001", UserNS: 4026531837}},
		{Type: event.NamespaceCreate, Time: At(421), Outcome: event.Success, Via: "clone3", ChildPID: 90312, Process: Runc(90311), Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", UserNS: 4026531837}},
		{Type: event.SysctlWrite, Time: At(455), Outcome: event.Success, Via: "write", Process: Runc(90312), Sysctl: &event.Sysctl{
			Name: "net.ipv4.ip_unprivileged_port_start", Path: "/proc/sys/net/ipv4/ip_unprivileged_port_start", Old: Ptr("1024"), New: Ptr("0"), After: Ptr("0"),
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", UserNS: 4026531837},
		}},
		{Type: event.NetdevMove, Time: At(470), Outcome: event.Success, Via: "netlink", Process: ViaSSH(90320, "ip", "link", "set", "veth9c1f0a2", "netns", "web", "name", "eth0"), Netdev: &event.Netdev{
			Name: "veth9c1f0a2", NewName: "eth0", Ifindex: 7, NewIfindex: 2,
			From: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, UID: "1", Host: true}, To: web(),
		}},
		{Type: event.NamespaceEnter, Time: At(2301), Outcome: event.Success, Via: "setns", Process: ViaSSH(4803, "nsenter", "-t", "90312", "-n"), Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", From: 4026531840, UserNS: 4026531837}},
		{Type: event.SysctlWrite, Time: At(2710), Outcome: event.Success, Via: "write", Process: &event.Process{PID: 1207, TID: 1207, Comm: "tuned", PPID: 1, User: "root", Ancestors: systemd}, Sysctl: &event.Sysctl{
			Name: "net.ipv4.tcp_rmem", Path: "/proc/sys/net/ipv4/tcp_rmem", Old: Ptr("4096\t131072\t6291456"), New: Ptr("4096 87380 16777216"), After: Ptr("4096\t87380\t16777216"),
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true},
		}},
		{Type: event.SysctlWrite, Time: At(2712), Outcome: event.Success, Via: "write", Process: &event.Process{PID: 1207, TID: 1207, Comm: "tuned", PPID: 1, User: "root", Ancestors: systemd}, Sysctl: &event.Sysctl{
			Name: "vm.dirty_expire_centisecs", Path: "/proc/sys/vm/dirty_expire_centisecs", Old: Ptr("31"), New: Ptr("00"), After: Ptr("31"), AfterRead: true, Offset: 2,
		}},
		{Type: event.NamespaceCreate, Time: At(3102), Outcome: event.Failure, Error: "EPERM", Via: "unshare", Namespace: &event.Namespace{Type: event.NSTypeUser}, Process: &event.Process{
			PID: 51877, TID: 51877, Comm: "unshare", PPID: 51760, UID: 1001, GID: 1001, User: "bob", LoginUID: Ptr[uint32](1001), LoginUser: "bob",
			Ancestors: []event.Actor{{PID: 51760, Comm: "zsh"}, {PID: 51750, Comm: "tmux: server"}, {PID: 1, Comm: "systemd"}},
		}},
		{Type: event.SysctlWrite, Time: At(3990), Outcome: event.Failure, Error: "EROFS", Via: "open", Process: &event.Process{
			PID: 90355, TID: 90355, Comm: "sh", PPID: 90312, User: "root", Ancestors: []event.Actor{{PID: 90312, Comm: "nginx"}, {PID: 90210, Comm: "containerd-shim"}, {PID: 1, Comm: "systemd"}},
		}, Sysctl: &event.Sysctl{Name: "kernel.core_pattern", Path: "/proc/sys/kernel/core_pattern"}},
		{Type: event.SysctlWrite, Time: At(4015), Outcome: event.Success, Via: "write", Count: 250, Late: true, LastTime: At(7215), Process: &event.Process{
			PID: 1544, TID: 1551, Comm: "kubelet", PPID: 1, User: "root", Ancestors: systemd,
		}, Sysctl: &event.Sysctl{Name: "vm.overcommit_memory", Path: "/proc/sys/vm/overcommit_memory", Old: Ptr("1"), New: Ptr("1"), After: Ptr("1")}},
		{Type: event.TraceAttach, Time: At(7300), Trace: &event.Trace{
			Observations: []event.Observation{{Name: "netns.create", Backend: "fentry", Hooks: []string{"fexit/copy_net_ns"}}}, Notes: []string{"nstrace in a container"},
		}},
		{Type: event.TraceLoss, Time: At(8020), Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 1200, event.NamespaceCreate: 34}, Reason: event.LossRingFull, From: At(7301), To: At(8011)}},
		{Type: event.TraceLoss, Time: At(8021), Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 1200, event.NamespaceCreate: 34}, Reason: event.LossUserShare, From: At(7301), To: At(8011), UID: new(uint32(1000))}},
		{Type: event.NamespaceEnter, Time: At(8101), Outcome: event.Failure, Error: "EBADF", Via: "setns", Namespace: &event.Namespace{}, Request: &event.Request{Types: []event.NSType{event.NSTypeNet}, PID: 812, Path: "/run/netns/web"}, Bytes: map[string]string{"process.args.1": `caf\xe9`}, Process: &event.Process{
			PID: 60114, TID: 60114, Comm: "\x1b[2Kls\u202e", Args: []string{"ls", "caf\xe9"}, PPID: 60001, UID: 1001, GID: 1001, User: "bob",
			Ancestors: []event.Actor{{PID: 60001, Comm: "zsh"}},
		}},
		{Type: event.NamespacePin, Time: At(8200), Outcome: event.Success, Via: "mount", Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", Path: "/run/netns/web"}, Process: ViaSSH(4720, "ip", "netns", "add", "web")},
		{Type: event.TraceTamper, Time: At(8300), Via: "kill", Tamper: &event.Tamper{Action: "signal", Signal: "SIGKILL"}, Process: ViaSSH(4805, "bash"), Alert: []event.Alert{{Name: "tamper", Severity: "critical", Message: "bash sent SIGKILL"}}},
		{Type: event.TraceLoss, Time: At(8022), Skipped: 3, Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 12}, Reason: event.LossSink, FirstSeq: 4, LastSeq: 15, From: At(7301), To: At(8011)}},
		{Type: event.TraceLoss, Time: At(8800), Loss: &event.Loss{Reason: event.LossFtraceOff, From: At(8400), To: At(8790)}, Trace: &event.Trace{
			Observations: []event.Observation{{Name: "netns.create", Backend: "tracepoint"}}, Notes: []string{"ftrace is off: nstrace now uses tracepoints."},
		}},
		{Type: event.SysctlWrite, Time: At(9000), Outcome: event.Success, Via: "cascade", Process: ViaSSH(4806, "sysctl", "-w", "net.ipv4.ip_forward=1"), Sysctl: &event.Sysctl{
			Name: "net.ipv4.conf.eth0.forwarding", Path: "/proc/sys/net/ipv4/conf/eth0/forwarding", Old: Ptr("0"), After: Ptr("1"),
			Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true}, Cause: &event.Cause{Name: "net.ipv4.ip_forward"},
		}},
		{Type: event.SysctlWrite, Time: At(9100), Outcome: event.Success, Via: "write", Process: ViaSSH(4809, "sysctl", "-w", "kernel.kptr_restrict=0"), Sysctl: &event.Sysctl{
			Name: "kernel.kptr_restrict", Path: "/proc/sys/kernel/kptr_restrict", Old: Ptr("2"), New: Ptr("0"), After: Ptr("0"),
			Expected: &event.Expected{State: event.ExpectedAway, Comparison: "one of", Values: []string{"1", "2"}, Severity: "warning", File: "/etc/nstrace/baseline.yaml", Line: 7},
		}},
		{Type: event.SysctlWrite, Time: At(9150), Outcome: event.Success, Via: "write", Process: ViaSSH(4810, "sysctl", "-w", "kernel.kptr_restrict=1"), Sysctl: &event.Sysctl{
			Name: "kernel.kptr_restrict", Path: "/proc/sys/kernel/kptr_restrict", Old: Ptr("0"), New: Ptr("1"), After: Ptr("1"),
			Expected: &event.Expected{State: event.ExpectedBack, Comparison: "one of", Values: []string{"1", "2"}, Severity: "warning", File: "/etc/nstrace/baseline.yaml", Line: 7},
		}},
		{Type: event.NamespaceUnpin, Time: At(9350), Outcome: event.Success, Via: "umount", Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", Path: "/run/netns/web", MntNS: 4026532500, Copy: true}, Process: ViaSSH(4807, "umount", "/run/netns/web")},
		{Type: event.NamespaceUnpin, Time: At(9400), Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", Path: "/run/netns/web", MntNS: 4026531841}},
		{Type: event.NetdevMove, Time: At(9499), Outcome: event.Success, Via: "exit", Netdev: &event.Netdev{
			Name: "eth1", Ifindex: 3, From: web(), To: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true},
		}},
		{Type: event.NamespaceDestroy, Time: At(9500), Outcome: event.Success, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026532281, UID: "4097", Name: "web", Created: At(421), LifetimeMS: Ptr[int64](9079), Creator: &event.Actor{PID: 90311, Comm: "runc:[1:CHILD]"}}},
		{Type: event.TraceAlive, Time: At(9550), Trace: &event.Trace{
			Totals: &event.Totals{Seen: 1502, Written: 268, Folded: 249, Lost: 1234, Alerts: 1, DurationMS: 9560},
			Head:   &event.Head{ID: 4711, Hash: "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"},
		}},
		{Type: event.TraceGap, Time: At(9600), Trace: &event.Trace{From: At(-90_000), To: At(9600), SameBoot: Ptr(true), Ended: event.GapCrashed}},
	}
	same := &event.Between{From: At(-90_000), To: At(9600), Boot: "same"}
	events = append(events,
		&event.Event{Type: event.SysctlDrift, Time: At(9601), Between: same, Sysctl: &event.Sysctl{Name: "vm.swappiness", Path: "/proc/sys/vm/swappiness", Old: Ptr("60"), After: Ptr("1")}},
		&event.Event{Type: event.SysctlDrift, Time: At(9602), Between: &event.Between{From: At(-86_400_000), To: At(9600), Boot: "different"}, Sysctl: &event.Sysctl{
			Name: "net.ipv4.ip_forward", Path: "/proc/sys/net/ipv4/ip_forward", Old: Ptr("0"), After: Ptr("1"), Namespace: web(),
		}},
		&event.Event{Type: event.SysctlDrift, Time: At(9602), Between: &event.Between{From: At(-50_400), To: At(9600), Boot: "same", Recording: true}, Sysctl: &event.Sysctl{
			Name: "vm.dirty_ratio", Path: "/proc/sys/vm/dirty_ratio", Old: Ptr("20"), After: Ptr("0"),
		}},
		&event.Event{Type: event.SysctlAppear, Time: At(9602), Late: true, Outcome: event.Success, Via: "finit_module", Process: ViaSSH(4808, "modprobe", "nf_conntrack"), Sysctl: &event.Sysctl{
			Name: "net.{netfilter.*,nf_conntrack_max}", Path: "/proc/sys/net/{netfilter/*,nf_conntrack_max}", Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true},
			Parameters: &event.Parameters{Count: 3, Namespaces: 2, Tables: []event.ParameterTable{
				{Prefix: "net.netfilter", Names: []string{"nf_conntrack_count", "nf_conntrack_max"}}, {Prefix: "net", Names: []string{"nf_conntrack_max"}},
			}, Unmet: []event.Unmet{
				{Name: "net.nf_conntrack_max", Value: "65536", Expected: event.Expected{State: event.ExpectedUnmet, Comparison: "equal", Values: []string{"262144"}, File: "/etc/sysctl.d/60-a.conf", Line: 3}},
			}},
		}},
		&event.Event{Type: event.SysctlVanish, Time: At(9602), Outcome: event.Success, Via: "netlink", Process: ViaSSH(4809, "ip", "link", "set", "eth0.100", "name", "lan0"), Netdev: &event.Netdev{Name: "eth0.100", NewName: "lan0", Kind: "vlan", Ifindex: 9}, Sysctl: &event.Sysctl{
			Name: "net.ipv4.conf.eth0/100.*", Path: "/proc/sys/net/ipv4/conf/eth0.100/*", Ifindex: 9, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true},
			Parameters: &event.Parameters{Count: 2, Tables: []event.ParameterTable{{Prefix: "net.ipv4.conf.eth0/100", Names: []string{"forwarding", "rp_filter"}}}},
		}},
		&event.Event{Type: event.SysctlAppear, Time: At(9602), Between: &event.Between{From: At(-50_400), To: At(9600), Boot: "same", Recording: true}, Sysctl: &event.Sysctl{
			Name: "sunrpc.*", Path: "/proc/sys/sunrpc/*",
			Parameters: &event.Parameters{Count: 2, Tables: []event.ParameterTable{{Prefix: "sunrpc", Names: []string{"rpc_debug", "nfs_debug"}}}},
		}},
		&event.Event{Type: event.NamespaceAppeared, Time: At(9603), Between: same, Namespace: web()},
		&event.Event{Type: event.NamespaceGone, Time: At(9604), Between: same, Namespace: web()},
		&event.Event{Type: event.NamespaceCreate, Time: At(9700), Outcome: event.Failure, Error: "ENOSPC", Via: "unshare", Namespace: &event.Namespace{Type: event.NSTypeNet}, Process: &event.Process{
			PID: 70114, TID: 70114, Comm: "bwrap", PPID: 60001, UID: 1001, GID: 1001, User: "bob", Ancestors: []event.Actor{{PID: 60001, Comm: "zsh"}},
		}, Refusal: []event.Refusal{{
			Reason: event.RefusedByLimit, Type: event.NSTypeNet, Sysctl: "user.max_net_namespaces", Value: Ptr[int64](4), Count: Ptr[int64](4),
			UserNS: 4026531837, Level: Ptr[uint32](1), UID: Ptr[uint32](1001), User: "bob",
			SetBy: &event.Writer{Time: At(-3000), PID: 4700, Comm: "sysctl", User: "root", LoginUser: "alice", Unit: "session-17.scope"},
		}}},
		&event.Event{Type: event.NamespaceCreate, Time: At(9701), Outcome: event.Failure, Error: "EPERM", Via: "clone", Namespace: &event.Namespace{Type: event.NSTypeUser}, Process: &event.Process{
			PID: 70115, TID: 70115, Comm: "chrome", PPID: 60001, UID: 1001, GID: 1001, User: "bob", Ancestors: []event.Actor{{PID: 60001, Comm: "zsh"}},
		}, Refusal: []event.Refusal{
			{Reason: event.RefusedByChroot},
			{Reason: event.RefusedBySysctl, Sysctl: "kernel.unprivileged_userns_clone", Value: Ptr[int64](0), Later: true},
		}},
		&event.Event{Type: event.TraceStop, Time: At(9999), Via: "kill", Process: ViaSSH(4807, "kill"), Trace: &event.Trace{
			Totals: &event.Totals{Seen: 1504, Written: 270, Folded: 249, Lost: 1234, Alerts: 1, DurationMS: 10009, Uncounted: []event.Type{event.NamespaceCreate}}, Signal: "SIGTERM",
			Notes: []string{"The hook of clone was still in use."},
		}},
	)
	for i, ev := range events {
		ev.V, ev.RunID, ev.Seq = event.SchemaVersion, RunID, uint64(i+1)
		ev.Host, ev.BootID = "web1", BootID
	}
	return events
}
