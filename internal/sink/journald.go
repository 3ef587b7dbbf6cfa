// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/severity"
)

// A journald is a destination that sends entries to the journal, in its own protocol.
type journald struct {
	summary summary
	send    func(message string, priority journal.Priority, fields map[string]string) error
}

// OpenJournald returns a destination that sends events to the journal of systemd. It wants events.
func OpenJournald() (Destination, error) {
	if !journal.Enabled() {
		return nil, errors.New("there is no journal at /run/systemd/journal/socket")
	}
	return &journald{summary: newSummary(), send: journal.Send}, nil
}

// Deliver sends an entry for each event.
func (j *journald) Deliver(ctx context.Context, items []Item) (int, error) {
	for i, it := range items {
		if err := ctx.Err(); err != nil {
			return i, err
		}
		err := j.send(j.summary.text(it.Event), journal.Priority(severity.Of(it.Event)), journalFields(it.Event, it.Line))
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			return i, &Refused{N: 1, Err: err}
		case err != nil:
			var op *net.OpError
			if errors.As(err, &op) {
				err = op.Err // without the address, which is always the same
			}
			return i, err
		}
	}
	return len(items), nil
}

// Close does nothing: all sinks share one socket.
func (j *journald) Close() error { return nil }

// journalFields returns the fields of an entry besides its message and priority. The names that begin with OBJECT_ are
// those of systemd.journal-fields(7): the journal adds what it knows of that process if it still exists.
func journalFields(e *event.Event, line []byte) map[string]string {
	f := map[string]string{}
	text := func(name, value string) {
		if value != "" {
			f[name] = value
		}
	}
	number := func(name string, value uint64) { f[name] = strconv.FormatUint(value, 10) }

	text("SYSLOG_IDENTIFIER", "nstrace")
	text("SYSLOG_TIMESTAMP", e.Time.UTC().Format(time.RFC3339Nano))
	text("NSTRACE_JSON", strings.TrimSuffix(string(line), "\n"))
	text("NSTRACE_TYPE", string(e.Type))
	text("NSTRACE_RUN_ID", e.RunID)
	number("NSTRACE_SEQ", e.Seq)
	text("NSTRACE_OUTCOME", string(e.Outcome))
	text("NSTRACE_ERROR", e.Error)
	text("NSTRACE_VIA", e.Via)
	text("NSTRACE_UNIT", e.Unit)
	if p := e.Process; p != nil {
		if p.PID != 0 {
			number("OBJECT_PID", uint64(p.PID))
			number("NSTRACE_PID", uint64(p.PID))
			number("NSTRACE_UID", uint64(p.UID))
		}
		text("NSTRACE_USER", p.User)
		text("NSTRACE_COMM", p.Comm)
		text("NSTRACE_EXE", p.Exe)
		text("NSTRACE_ARGS", strings.Join(p.Args, " "))
		text("NSTRACE_CGROUP", p.Cgroup)
	}
	if c := e.Container; c != nil {
		text("NSTRACE_CONTAINER_ID", c.ID)
		text("NSTRACE_CONTAINER_NAME", c.Name)
	}
	if p := e.Pod; p != nil {
		text("NSTRACE_POD", p.Name)
		text("NSTRACE_POD_NAMESPACE", p.Namespace)
	}
	ns := e.Namespace
	if s := e.Sysctl; s != nil {
		text("NSTRACE_SYSCTL", s.Name)
		for name, value := range map[string]*string{"NSTRACE_SYSCTL_OLD": s.Old, "NSTRACE_SYSCTL_NEW": s.New, "NSTRACE_SYSCTL_AFTER": s.After} {
			if value != nil {
				f[name] = *value
			}
		}
		if ns == nil {
			ns = s.Namespace
		}
	}
	if ns != nil {
		text("NSTRACE_NS_TYPE", string(ns.Type))
		if ns.ID != 0 {
			number("NSTRACE_NS_ID", uint64(ns.ID))
		}
	}
	if len(e.Alert) > 0 {
		names := make([]string, len(e.Alert))
		for i := range e.Alert {
			names[i] = e.Alert[i].Name
		}
		text("NSTRACE_ALERT", strings.Join(names, ","))
	}
	return f
}
