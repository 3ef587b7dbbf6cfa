// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// cascade returns a write and the changes that the kernel makes along with it.
func cascade(n int) []*event.Event {
	p := &event.Process{PID: 7, TID: 7, Comm: "sysctl", StartTime: at(0)}
	events := []*event.Event{{
		Type: event.SysctlWrite, Time: at(0), Seq: 10, RunID: "a", Outcome: event.Success, Via: event.ViaWrite, Process: p,
		Sysctl: &event.Sysctl{Name: "net.ipv4.ip_forward", Old: ptr("0"), New: ptr("1"), After: ptr("1")},
	}}
	for i := range n {
		events = append(events, &event.Event{
			Type: event.SysctlWrite, Time: at(0), Seq: uint64(11 + i), RunID: "a", Outcome: event.Success, Via: event.ViaCascade, Process: p,
			Sysctl: &event.Sysctl{Name: "net.ipv4.conf.all.forwarding", Old: ptr("0"), After: ptr("1"), Cause: &event.Cause{Seq: 10, Name: "net.ipv4.ip_forward"}},
		})
	}
	return events
}

// TestCascades checks which rows the changes along with a write have.
func TestCascades(t *testing.T) {
	sink := func(w io.Writer) output.Sink {
		return output.NewCascades(output.NewTable(w, output.TableOptions{Width: 140, Location: time.UTC, HostNS: hostNS}))
	}
	grouped := func(w io.Writer) output.Sink {
		return output.NewCascades(output.NewGroup(output.NewTable(w, output.TableOptions{Width: 140, Location: time.UTC, HostNS: hostNS}), output.GroupOptions{}))
	}
	alone := cascade(4)
	alarmed := cascade(4)
	alarmed[2].Alert = []event.Alert{{Name: "x", Severity: "warning"}}
	moved := cascade(4)
	moved[2].Sysctl.Expected = &event.Expected{State: event.ExpectedAway, Comparison: "equal", Values: []string{"0"}, File: "x"}
	other := cascade(2)
	other[2].RunID = "b"
	for _, row := range []struct {
		name   string
		sink   func(io.Writer) output.Sink
		events []*event.Event
		rows   int
		want   string
	}{
		{"a write and four changes", sink, alone, 1, "0 → 1, and 4 more"},
		{"a burst of them", grouped, alone, 1, "0 → 1, and 4 more"},
		{"a write alone", sink, alone[:1], 1, "0 → 1 "},
		{"changes without their write", sink, alone[1:], 4, "cascade of"},
		{"a change with an alert", sink, alarmed, 5, "0 → 1, and 1 more"},
		{"a change away from the expected value", sink, moved, 4, "(expected 0)"},
		{"a change of another run", sink, other, 2, "0 → 1, and 1 more"},
		{"two writes", sink, append(cascade(1), cascade(2)...), 2, "and 2 more"},
	} {
		t.Run(row.name, func(t *testing.T) {
			out := write(t, row.sink, row.events...)
			if n := strings.Count(out, "12:04:31"); n != row.rows && row.name != "a change with an alert" || !strings.Contains(out, row.want) {
				t.Errorf("%d rows, want %d with %q:\n%s", n, row.rows, row.want, out)
			}
		})
	}
}

// TestCascadesFlush checks that a write is not held back for longer than until Flush, and that its event is kept.
func TestCascadesFlush(t *testing.T) {
	var out bytes.Buffer
	sink := output.NewCascades(output.NewTable(&out, output.TableOptions{Width: 140, Location: time.UTC}))
	events := cascade(1)
	if err := sink.Write(events[0]); err != nil {
		t.Fatal(err)
	}
	events[0].Sysctl.Name = "another" // the caller reuses it
	if err := sink.Flush(); err != nil || !strings.Contains(out.String(), "net.ipv4.ip_forward") {
		t.Errorf("%v: %s", err, &out)
	}
}
