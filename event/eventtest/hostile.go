// SPDX-License-Identifier: Apache-2.0

package eventtest

import (
	"strings"

	"github.com/nstrace/nstrace/event"
)

// Hostile returns events whose strings try to break a table, a terminal or a line of JSON.
func Hostile() []*event.Event {
	var events []*event.Event
	for _, s := range []string{
		"日本語のコマンド",
		"ｆｕｌｌ",
		"e\u0301te\u0301", // combining accents
		"\u0301\u0301start",
		"a" + strings.Repeat("\u0300", 200),
		"\x1b[2J\x1b]0;owned\x07",
		"\u009b31m",
		"\u202e\u2066fdp.exe",
		"שלום 7200",
		"two\nlines\r\n",
		"tab\tbed",
		"\xff\xfe\xc3",
		"> sudo",
		" ",
		"",
		"a\u00adb\u200bc\u2800d\u3164",
		"😀👨\u200d👩\u200d👧🇩🇪",
		"\U000e0041",
		strings.Repeat("x", 300),
		strings.Repeat("界", 100),
		strings.Repeat("a b ", 100),
		strings.Repeat("/very/long/path", 30),
	} {
		p := ViaSSH(4194304, s, s)
		p.Ancestors[0].Comm, p.Ancestors[3].Comm = s, s
		p.LoginUser, p.Cgroup, p.Exe = s, s, s
		ns := &event.Namespace{Type: event.NSTypeNet, ID: 4294967295, Name: s, UID: s}
		events = append(events,
			&event.Event{Type: event.SysctlWrite, Outcome: event.Success, Via: s, Process: p, Sysctl: &event.Sysctl{Name: "net." + s, Path: s, Old: &s, New: Ptr(s + "1"), After: &s, Namespace: ns, Truncated: true}},
			&event.Event{Type: event.NamespaceCreate, Outcome: event.Failure, Error: s, Via: s, Process: p, Namespace: ns, ChildPID: 4194304},
			&event.Event{Type: event.NamespaceEnter, Process: p, Namespace: &event.Namespace{Type: event.NSType(s), ID: 4294967295, From: 4294967294}},
			&event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 1, Name: s, LifetimeMS: Ptr[int64](1 << 40), Creator: &event.Actor{PID: 1, Comm: s}}},
			&event.Event{Type: event.TraceLoss, Loss: &event.Loss{Records: map[event.Type]uint64{event.Type(s): 1 << 60}, Reason: s}},
			&event.Event{Type: event.TraceLoss, Loss: &event.Loss{Reason: s, From: At(0), To: At(1)}, Trace: &event.Trace{
				Observations: []event.Observation{{Name: s, Backend: s}}, Notes: []string{s, s},
			}},
			&event.Event{Type: event.Type(s)},
			&event.Event{Type: event.SysctlWrite, Via: "cascade", Process: p, Sysctl: &event.Sysctl{Name: s, Cause: &event.Cause{Name: s}}},
			&event.Event{Type: event.NetdevMove, Process: p, Netdev: &event.Netdev{Name: s, NewName: s, From: ns, To: ns}},
			&event.Event{Type: event.SysctlAppear, Process: p, Netdev: &event.Netdev{Name: s, Kind: s}, Sysctl: &event.Sysctl{Name: s, Path: s, Namespace: ns, Parameters: &event.Parameters{Count: 1 << 60, Tables: []event.ParameterTable{{Prefix: s, Names: []string{s, s}}}}}},
			&event.Event{Type: event.SysctlVanish, Process: p, Netdev: &event.Netdev{Name: s, NewName: s, From: ns, To: ns}, Sysctl: &event.Sysctl{Name: s, Path: s, Namespace: ns}},
			&event.Event{Type: event.NamespacePin, Process: p, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 4294967295, Name: s, Path: s}},
			&event.Event{Type: event.TraceTamper, Process: p, Tamper: &event.Tamper{Action: s, Signal: s, Object: s}},
			&event.Event{Type: event.SysctlDrift, Between: &event.Between{From: At(0), To: At(1), Boot: s}, Sysctl: &event.Sysctl{Name: s, Old: &s, After: Ptr(s + "1"), Namespace: ns}},
		)
	}
	for _, ev := range events {
		ev.Time = At(0)
	}
	return events
}

// Bare returns events that have a type and hardly anything else.
func Bare() []*event.Event {
	var events []*event.Event
	for _, kind := range []event.Type{event.NamespaceCreate, event.NamespaceEnter, event.NamespaceDestroy, event.NamespacePin, event.NamespaceUnpin, event.NamespaceAppeared, event.NamespaceGone, event.SysctlWrite, event.SysctlDrift, event.SysctlAppear, event.SysctlVanish, event.NetdevMove, event.TraceLoss, event.TraceTamper, event.TraceGap, "socket.open", ""} {
		events = append(events,
			&event.Event{Type: kind},
			&event.Event{Type: kind, Outcome: event.Failure},
			&event.Event{Type: kind, Namespace: &event.Namespace{}, Sysctl: &event.Sysctl{}, Process: &event.Process{}, Loss: &event.Loss{}, Tamper: &event.Tamper{}, Between: &event.Between{}, Trace: &event.Trace{}},
			&event.Event{Type: kind, Netdev: &event.Netdev{}})
	}
	return events
}
