// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// refused returns an event with these reasons.
func refused(reasons ...event.Refusal) *event.Event {
	return &event.Event{
		V: 1, Seq: 1, Type: event.NamespaceCreate, Time: at(0), Outcome: event.Failure, Error: "ENOSPC", Via: "unshare",
		Namespace: &event.Namespace{Type: event.NSTypeNet}, Process: &event.Process{PID: 7, TID: 7, Comm: "sh"}, Refusal: reasons,
	}
}

func limitOf(value, count *int64, level, uid uint32, ns uint32) event.Refusal {
	return event.Refusal{
		Reason: event.RefusedByLimit, Type: event.NSTypeNet, Sysctl: "user.max_net_namespaces",
		Value: value, Count: count, UserNS: ns, Level: &level, UID: &uid,
	}
}

// TestTableRefusals checks the line below the row for each reason.
func TestTableRefusals(t *testing.T) {
	const host = 4026531837
	seven := ptr(int64(7))
	for _, tt := range []struct {
		reason event.Refusal
		want   string
	}{
		{limitOf(seven, seven, 0, 1001, 4026532999), "user.max_net_namespaces = 7 (uid=1001 has 7)"},
		{limitOf(ptr(int64(0)), nil, 0, 0, 4026532999), "user.max_net_namespaces = 0"},
		{limitOf(seven, ptr(int64(8)), 1, 0, 4026532999), "user.max_net_namespaces = 7 (root has 8) in user namespace 4026532999, 1 level up"},
		{limitOf(seven, seven, 2, 0, host), "user.max_net_namespaces = 7 (root has 7) in the host's user namespace, 2 levels up"},
		{limitOf(seven, seven, 2, 0, 0), "user.max_net_namespaces = 7 (root has 7) in a user namespace 2 levels up"},
		{event.Refusal{Reason: event.RefusedByNesting, Type: event.NSTypeUser, Value: ptr(int64(33)), Count: ptr(int64(33))}, "user namespaces can be nested 33 deep only"},
		{event.Refusal{Reason: event.RefusedByNesting, Type: event.NSTypePID}, "pid namespaces are nested too deep"},
		{event.Refusal{Reason: event.RefusedByCapability, Capability: "CAP_SYS_ADMIN"}, "no CAP_SYS_ADMIN"},
		{event.Refusal{Reason: event.RefusedByChroot}, "in a chroot"},
		{event.Refusal{Reason: event.RefusedByUID, UID: ptr(uint32(1001))}, "uid 1001 not mapped in the user namespace"},
		{event.Refusal{Reason: event.RefusedByGID, UID: ptr(uint32(0))}, "gid 0 not mapped in the user namespace"},
		{event.Refusal{Reason: event.RefusedBySysctl, Sysctl: "kernel.unprivileged_userns_clone", Value: ptr(int64(0)), Later: true}, "kernel.unprivileged_userns_clone = 0 (read later)"},
		{event.Refusal{Reason: "weather"}, "weather"},
	} {
		lines := strings.Split(write(t, tableSink(output.TableOptions{Width: 200, Location: time.UTC, HostNS: map[event.NSType]uint32{event.NSTypeUser: host}}), refused(tt.reason)), "\n")
		if got := strings.TrimSpace(lines[len(lines)-2]); got != "because: "+tt.want {
			t.Errorf("got  %q\nwant %q", got, "because: "+tt.want)
		}
	}
}

// TestTableRefusalWriter checks the process that set a limit, and both reasons of a call.
func TestTableRefusalWriter(t *testing.T) {
	r := limitOf(ptr(int64(7)), nil, 0, 0, 4026532999)
	r.SetBy = &event.Writer{Time: at(-3000), PID: 4700, Comm: "sysctl", User: "root", LoginUser: "alice", Container: "web"}
	e := refused(r, event.Refusal{Reason: event.RefusedByChroot})
	out := write(t, tableSink(output.TableOptions{Width: 200, Location: time.UTC}), e)
	const want = `
              because: user.max_net_namespaces = 7 set by sysctl[4700] alice as root in web at 2026-11-23 12:04:28
              because: in a chroot
`
	if !strings.HasSuffix(out, want) {
		t.Errorf("got %s", out)
	}
	wide := write(t, tableSink(output.TableOptions{Wide: true, Location: time.UTC}), e)
	if !strings.Contains(wide, "user.max_net_namespaces = 7 set by sysctl[4700] alice as root in web at 2026-11-23 12:04:28; in a chroot") {
		t.Errorf("wide: %s", wide)
	}
}

// TestTableRefusalHostile checks the width of the lines, and that no byte reaches the terminal raw.
func TestTableRefusalHostile(t *testing.T) {
	var events []*event.Event
	for _, ev := range hostile() {
		text := "\x1b[31m\u202e"
		if ev.Process != nil {
			text = ev.Process.Comm
		}
		r := limitOf(ptr(int64(7)), ptr(int64(9)), 3, 1001, 1)
		r.Sysctl, r.User, r.Capability, r.Type = text, text, text, event.NSType(text)
		r.SetBy = &event.Writer{Comm: text, User: text, LoginUser: text + "x", Container: text}
		ev.Refusal = append(ev.Refusal, r)
		for _, reason := range []event.RefusalReason{event.RefusedByNesting, event.RefusedByCapability, event.RefusedBySysctl, event.RefusalReason(text)} {
			r.Reason = reason
			ev.Refusal = append(ev.Refusal, r)
		}
		events = append(events, ev)
	}
	for _, width := range []int{80, 100, 200} {
		out := write(t, tableSink(output.TableOptions{Width: width, Location: time.UTC}), events...)
		checkSafe(t, out)
		for line := range strings.Lines(out) {
			if n := len(screen(strings.TrimSuffix(line, "\n"))); n > width {
				t.Errorf("width %d: a line of %d columns: %s", width, n, line)
			}
		}
	}
	checkSafe(t, write(t, tableSink(output.TableOptions{Wide: true}), events...))
}
