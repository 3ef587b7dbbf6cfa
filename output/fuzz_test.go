// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// FuzzTable checks that a terminal gets nothing that it acts upon and no line that it has
// to fold, whatever bytes a command name, an argument or a value has.
func FuzzTable(f *testing.F) {
	for _, ev := range hostile() {
		if s := ev.Sysctl; ev.Type == event.SysctlWrite && s.New != nil {
			f.Add(ev.Process.Comm, *s.Old, *s.New, s.Namespace.Name)
		}
	}
	f.Add("sysctl", "4096\t131072\t6291456", "|/usr/lib/systemd/systemd-coredump %P %u", "cni-2b3f6c1e")
	f.Fuzz(func(t *testing.T, comm, old, written, name string) {
		// The longest string of an event is a path.
		if max(len(comm), len(old), len(written), len(name)) > 4096 {
			t.Skip()
		}
		p := viaSSH(4712, comm, name, written)
		p.Ancestors[1].Comm, p.User, p.LoginUser = name, old, name
		ns := &event.Namespace{Type: "net", ID: 4026532281, Name: name, UID: "1"}
		events := []*event.Event{
			{Type: event.SysctlWrite, Outcome: event.Success, Via: "write", Process: p, Sysctl: &event.Sysctl{
				Name: "net." + name, Path: "/proc/sys/net/" + strings.TrimLeft(name, "/"), Old: &old, New: &written, After: &comm, Namespace: ns,
			}},
			{Type: event.NamespaceCreate, Outcome: event.Success, Via: "clone", ChildPID: 4713, Process: p, Namespace: ns},
			{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 1, Name: name, Creator: &event.Actor{PID: 1, Comm: comm}}},
		}
		for i, ev := range events {
			ev.V, ev.Seq, ev.Time = 1, uint64(i+1), at(i)
		}

		for _, width := range []int{80, 100, 173} {
			out := write(t, tableSink(output.TableOptions{Width: width}), events...)
			checkSafe(t, out)
			for line := range strings.Lines(out) {
				if n := len(screen(strings.TrimSuffix(line, "\n"))); n > width {
					t.Errorf("%d columns, want %d: %q", n, width, line)
				}
			}
		}
		wide := write(t, tableSink(output.TableOptions{Wide: true}), events...)
		checkSafe(t, wide)
		if n := strings.Count(wide, "\n"); n != 1+len(events) {
			t.Errorf("%d lines of a wide table: %q", n, wide)
		}
	})
}
