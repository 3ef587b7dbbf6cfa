// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/pipeline"
)

const netLimit = "user.max_net_namespaces"

func userNS(id uint32, uid string) *event.Namespace {
	return &event.Namespace{Type: event.NSTypeUser, ID: id, UID: uid}
}

// limitWrite is a write to a limit.
func limitWrite(pid uint32, value string, outcome event.Outcome, ns *event.Namespace) *event.Event {
	e := &event.Event{
		V: 1, Seq: 1, Time: time.Unix(int64(pid), 0).UTC(), BootID: procfs.BootID(), Type: event.SysctlWrite, Outcome: outcome, Via: "write", Unit: "a.service",
		Sysctl:  &event.Sysctl{Name: netLimit, Path: "/proc/sys/user/max_net_namespaces", New: &value, Namespace: ns},
		Process: &event.Process{PID: pid, UID: 1000, Comm: "sh", User: "alice"}, Container: &event.Container{ID: "0123456789ab"},
	}
	if outcome == event.Failure {
		e.Error = "EINVAL"
	}
	return e
}

// limitRefusal is a refusal by a limit.
func limitRefusal(value int64, ns *event.Namespace) *event.Event {
	return &event.Event{
		V: 1, Time: time.Unix(1000, 0).UTC(), Type: event.NamespaceCreate, Outcome: event.Failure, Error: "ENOSPC",
		Refusal: []event.Refusal{
			{Reason: event.RefusedByNesting, Type: event.NSTypePID},
			{Reason: event.RefusedByLimit, Type: event.NSTypeNet, Sysctl: netLimit, Value: &value, Limit: ns},
		},
	}
}

// last keeps the last event.
type last struct{ e *event.Event }

func (l *last) Event(e *event.Event) error { l.e = e; return nil }
func (l *last) Idle() error                { return nil }

// TestWriters checks whose write a refusal names.
func TestWriters(t *testing.T) {
	host := &event.Namespace{Type: event.NSTypeUser, ID: 4026531837, UID: "user:4026531837.5", Host: true}
	loss := func(l event.Loss) *event.Event { return &event.Event{Type: event.TraceLoss, Loss: &l} }
	drift := &event.Event{Type: event.SysctlDrift, Sysctl: &event.Sysctl{Name: netLimit, Namespace: host}}
	ok := event.Success
	unknown := limitWrite(2, "x", event.Failure, host)
	unknown.Process = nil
	for _, tt := range []struct {
		name   string
		before []*event.Event
		ns     *event.Namespace
		pid    uint32 // 0: unknown
	}{
		{"nothing", nil, host, 0},
		{"the last", []*event.Event{limitWrite(1, "7", ok, host), limitWrite(2, "7\n", ok, host)}, host, 2},
		{"outcome unknown", []*event.Event{limitWrite(1, "7", "", host)}, host, 1},
		{"failed", []*event.Event{limitWrite(1, "7", ok, host), limitWrite(2, "x", event.Failure, host)}, host, 1},
		{"failed, by an unknown process", []*event.Event{limitWrite(1, "7", ok, host), unknown}, host, 1},
		{"another value", []*event.Event{limitWrite(1, "8", ok, host)}, host, 0},
		{"another namespace", []*event.Event{limitWrite(1, "7", ok, userNS(9, "77"))}, host, 0},
		{"a namespace of its own", []*event.Event{limitWrite(1, "7", ok, userNS(9, "77")), limitWrite(2, "7", ok, host)}, userNS(9, "77"), 1},
		{"a reused number", []*event.Event{limitWrite(1, "7", ok, userNS(9, "77"))}, userNS(9, "78"), 0},
		{"an unknown namespace", []*event.Event{limitWrite(1, "7", ok, userNS(9, ""))}, userNS(9, ""), 0},
		{"drift", []*event.Event{limitWrite(1, "7", ok, host), drift}, host, 0},
		{"lost writes", []*event.Event{limitWrite(1, "7", ok, host), loss(event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 1}})}, host, 0},
		{"an unknown loss", []*event.Event{limitWrite(1, "7", ok, host), loss(event.Loss{Reason: event.LossFtraceOff})}, host, 0},
		{"other losses", []*event.Event{limitWrite(1, "7", ok, host), loss(event.Loss{Records: map[event.Type]uint64{event.NamespaceEnter: 1}}), loss(event.Loss{Reason: event.LossHistory})}, host, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := &last{}
			w := pipeline.NewWriters(nil, "")
			w.Next = out
			e := limitRefusal(7, tt.ns)
			shared := e.Refusal
			feed(t, w, append(tt.before, e)...)
			got := out.e.Refusal[1].SetBy
			switch {
			case shared[1].SetBy != nil || out.e.Refusal[0].SetBy != nil:
				t.Errorf("%+v, %+v", shared[1], out.e.Refusal[0])
			case tt.pid == 0 && got != nil || tt.pid != 0 && got == nil:
				t.Errorf("%+v, want %d", got, tt.pid)
			case got != nil && *got != event.Writer{Time: time.Unix(int64(tt.pid), 0).UTC(), PID: tt.pid, UID: 1000, Comm: "sh", User: "alice", Container: "0123456789ab", Unit: "a.service"}:
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestWritersBound writes in more user namespaces than are remembered. What belongs to the host stays.
func TestWritersBound(t *testing.T) {
	host := &event.Namespace{Type: event.NSTypeUser, ID: 4026531837, Host: true}
	out := &last{}
	w := pipeline.NewWriters(nil, "")
	w.Next = out
	feed(t, w, limitWrite(1, "7", event.Success, host))
	for i := range uint32(5000) {
		feed(t, w, limitWrite(2, "7", event.Success, userNS(10+i, "1")))
	}
	known := 0
	for i := range uint32(5000) {
		feed(t, w, limitRefusal(7, userNS(10+i, "1")))
		if out.e.Refusal[1].SetBy != nil {
			known++
		}
	}
	feed(t, w, limitRefusal(7, host))
	if got := out.e.Refusal[1].SetBy; known != 4095 || got == nil || got.PID != 1 {
		t.Errorf("%d namespaces are known, and the host's limit was set by %+v", known, got)
	}
}

// TestWritersHistory has the writes in a history, of this boot and of another one.
func TestWritersHistory(t *testing.T) {
	host := &event.Namespace{Type: event.NSTypeUser, ID: 4026531837, UID: "user:4026531837.5", Host: true}
	path := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	booted := limitWrite(3, "7", event.Success, userNS(11, "99"))
	booted.BootID = "00000000-0000-0000-0000-000000000000"
	for _, e := range []*event.Event{
		limitWrite(1, "6", event.Success, host), limitWrite(2, "7", event.Success, host), booted,
		limitWrite(4, "7", event.Success, userNS(12, "98")), limitWrite(4, "7", event.Success, userNS(14, "98")), limitWrite(5, "7", event.Success, userNS(13, "user:13.4")),
	} {
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	out := &last{}
	w := pipeline.NewWriters(r, path)
	w.Next = out
	// It was written before the history is read, which is in the background. A failed write changes nothing.
	written := userNS(14, "98")
	feed(t, w, limitWrite(6, "7", event.Success, written), limitWrite(7, "x", event.Failure, host))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		feed(t, w, limitRefusal(7, host))
		if out.e.Refusal[1].SetBy != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the history was not read")
		}
	}
	for _, tt := range []struct {
		ns  *event.Namespace
		pid uint32
	}{{host, 2}, {userNS(11, "99"), 0}, {userNS(12, "98"), 4}, {written, 6}, {userNS(13, "user:13.4"), 0}} {
		feed(t, w, limitRefusal(7, tt.ns))
		if got := out.e.Refusal[1].SetBy; (got == nil) != (tt.pid == 0) || got != nil && got.PID != tt.pid {
			t.Errorf("%d: %+v, want %d", tt.ns.ID, got, tt.pid)
		}
	}
}
