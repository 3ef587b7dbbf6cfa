// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"errors"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
)

// TestJournalFields checks the entries of all types of events.
func TestJournalFields(t *testing.T) {
	var got []map[string]string
	j := &journald{summary: newSummary(), send: func(message string, priority journal.Priority, fields map[string]string) error {
		if message == "" || strings.Contains(message, "\n") || priority < 2 || priority > 6 {
			t.Errorf("%d %q", priority, message)
		}
		fields["MESSAGE"] = message
		got = append(got, fields)
		return nil
	}}
	var items []Item
	var shared encoded
	for _, e := range eventtest.Sample() {
		items = append(items, Item{Line: shared.encode(e), Event: e})
	}
	if n, err := j.Deliver(t.Context(), items); n != len(items) || err != nil {
		t.Fatal(n, err)
	}
	for i, f := range got {
		e := items[i].Event
		for name, value := range f {
			if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" || value == "" && !strings.HasPrefix(name, "NSTRACE_SYSCTL_") {
				t.Errorf("%s=%q", name, value)
			}
		}
		if f["NSTRACE_TYPE"] != string(e.Type) || f["NSTRACE_JSON"]+"\n" != string(items[i].Line) {
			t.Errorf("%+v", f)
		}
		if p := e.Process; (p != nil && p.PID != 0) != (f["OBJECT_PID"] != "") || f["OBJECT_PID"] != f["NSTRACE_PID"] || p != nil && f["NSTRACE_COMM"] != p.Comm {
			t.Errorf("%+v", f)
		}
		if s := e.Sysctl; s != nil && (f["NSTRACE_SYSCTL"] != s.Name || s.New != nil && f["NSTRACE_SYSCTL_NEW"] != *s.New) {
			t.Errorf("%+v", f)
		}
	}
}

// TestJournalRefuses has an entry that is too large, and a journal that is not there.
func TestJournalRefuses(t *testing.T) {
	items := []Item{{Line: []byte("{}\n"), Event: &event.Event{Type: event.TraceStart}}}
	for _, tt := range []struct {
		err     error
		refused bool
	}{{unix.EMSGSIZE, true}, {unix.ECONNREFUSED, false}} {
		j := &journald{summary: newSummary(), send: func(string, journal.Priority, map[string]string) error { return tt.err }}
		n, err := j.Deliver(t.Context(), items)
		var refused *Refused
		if n != 0 || !errors.Is(err, tt.err) || errors.As(err, &refused) != tt.refused {
			t.Errorf("%d, %v", n, err)
		}
	}
}
