// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Writers adds to each reason for a refusal the process that set the parameter: the last
// recorded write, if the parameter still had the written value.
//
// It stands before every step that drops events, so that it sees all writes of the run.
type Writers struct {
	Next Handler
	last map[writerKey]lastWriter

	// Until the history was read:
	loading chan map[writerKey]lastWriter // what it has
	changed map[writerKey]bool            // parameters that were written since the start
	cleared bool                          // writes were lost
}

// maxWriters limits the memory. A user can make many user namespaces and write in each.
const maxWriters = 4096

// A writerKey is a parameter and the user namespace whose copy it is, 0 for the host.
type writerKey struct {
	name string
	ns   uint32
}

type lastWriter struct {
	writer *event.Writer
	value  string
	uid    string // of the namespace
}

// loadTime is how long NewWriters reads a history.
const loadTime = 5 * time.Second

// NewWriters returns a Writers that soon knows the last writes of this boot that a history has. r can
// be nil. If its database is not open yet, or cannot be read in time, only the writes of the run
// are known. Users decide how many writes a history has, so nothing waits for it.
func NewWriters(r *history.Recorder, db string) *Writers {
	w := &Writers{last: map[writerKey]lastWriter{}}
	if r == nil {
		return w
	}
	select {
	case <-r.Opened():
		w.loading, w.changed = make(chan map[writerKey]lastWriter, 1), map[writerKey]bool{}
		go func() {
			old := &Writers{last: map[writerKey]lastWriter{}}
			_ = old.load(db) // refusals then have no writer
			w.loading <- old.last
		}()
	default:
	}
	return w
}

// takeLoaded takes over what the history has, once it was read: the last writes to the parameters that
// nobody has written since.
func (w *Writers) takeLoaded() {
	select {
	case old := <-w.loading:
		for k, last := range old {
			if !w.changed[k] && !w.cleared && (k.ns == 0 || len(w.last) < maxWriters) {
				w.last[k] = last
			}
		}
		w.loading, w.changed = nil, nil
	default:
	}
}

// change notes that a parameter changed since the start.
func (w *Writers) change(k writerKey) {
	if w.loading == nil {
		return
	}
	if len(w.changed) >= maxWriters {
		w.cleared = true // what the history has can be out of date
		return
	}
	k.name = strings.Clone(k.name)
	w.changed[k] = true
}

// load reads the last writes of a database. Those it reads before an error count too.
func (w *Writers) load(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	db, err := history.OpenContext(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	boot := procfs.BootID()
	for write, err := range db.LastWrites(ctx, isLimit) {
		if err != nil {
			return err
		}
		e := write.Event
		if e.BootID != boot || e.Process == nil {
			continue
		}
		if ns := e.Sysctl.Namespace; ns != nil && !ns.Host && !ns.KernelUID() {
			continue // the next run gives the namespace another uid
		}
		if _, later := w.last[keyOf(e.Sysctl)]; !later { // the newest write comes first
			w.note(e)
		}
	}
	return nil
}

// isLimit reports whether a refusal can name a parameter.
func isLimit(name string) bool {
	return strings.HasPrefix(name, "user.max_") || name == "kernel.unprivileged_userns_clone" || name == "kernel.apparmor_restrict_unprivileged_userns"
}

func keyOf(s *event.Sysctl) writerKey {
	k := writerKey{name: s.Name}
	if s.Namespace != nil && !s.Namespace.Host {
		k.ns = s.Namespace.ID
	}
	return k
}

// Event hands on e.
func (w *Writers) Event(e *event.Event) error {
	if w.loading != nil {
		w.takeLoaded()
	}
	switch {
	case e.Sysctl != nil && isLimit(e.Sysctl.Name):
		if e.Outcome == event.Failure {
			break // nothing changed
		}
		w.change(keyOf(e.Sysctl))
		if e.Type == event.SysctlWrite && e.Process != nil {
			w.note(e)
		} else {
			delete(w.last, keyOf(e.Sysctl)) // somebody unknown changed it
		}
	case len(e.Refusal) > 0:
		w.complete(e)
	case e.Type == event.TraceLoss && missesWrites(e.Loss):
		clear(w.last)
		w.cleared = true
	}
	return w.Next.Event(e)
}

// Idle hands on the call.
func (w *Writers) Idle() error { return w.Next.Idle() }

// missesWrites reports whether writes can be among what was lost.
func missesWrites(l *event.Loss) bool {
	if l == nil {
		return false
	}
	switch l.Reason {
	case event.LossHistory, event.LossQuota, event.LossOutput: // these passed here
		return false
	}
	return l.Records == nil || l.Records[event.SysctlWrite] > 0
}

// note remembers a write that did not fail.
func (w *Writers) note(e *event.Event) {
	s, p := e.Sysctl, e.Process
	if e.Outcome == event.Failure {
		return
	}
	k := keyOf(s)
	value := s.After
	if value == nil {
		value = s.New
	}
	if value == nil || s.Truncated {
		delete(w.last, k)
		return
	}
	if _, ok := w.last[k]; !ok && len(w.last) >= maxWriters && !w.forgetOne() {
		return
	}
	writer := &event.Writer{
		Time: e.Time, PID: p.PID, UID: p.UID, Comm: p.Comm, User: p.User, LoginUser: p.LoginUser, Unit: e.Unit,
	}
	if c := e.Container; c != nil {
		if writer.Container = c.Name; c.Name == "" {
			writer.Container = c.ID
		}
	}
	last := lastWriter{writer: writer, value: strings.Clone(strings.TrimSpace(*value))}
	if s.Namespace != nil {
		last.uid = s.Namespace.UID
	}
	k.name = strings.Clone(k.name)
	w.last[k] = last
}

// forgetOne makes room. What belongs to the host stays.
func (w *Writers) forgetOne() bool {
	for k := range w.last {
		if k.ns != 0 {
			delete(w.last, k)
			return true
		}
	}
	return false
}

// complete adds the writers to the reasons of e. The list in e is shared with other events.
func (w *Writers) complete(e *event.Event) {
	var own []event.Refusal
	for i := range e.Refusal {
		writer := w.find(&e.Refusal[i])
		if writer == nil {
			continue
		}
		if own == nil {
			own = slices.Clone(e.Refusal)
		}
		own[i].SetBy = writer
	}
	if own != nil {
		e.Refusal = own
	}
}

// find returns the process that set the parameter of a reason, nil if unknown.
func (w *Writers) find(r *event.Refusal) *event.Writer {
	if r.Sysctl == "" || r.Value == nil {
		return nil
	}
	k := writerKey{name: r.Sysctl}
	if r.Limit != nil && !r.Limit.Host {
		if r.Limit.UID == "" {
			return nil
		}
		k.ns = r.Limit.ID
	}
	last, ok := w.last[k]
	if !ok || last.value != strconv.FormatInt(*r.Value, 10) || k.ns != 0 && last.uid != r.Limit.UID {
		return nil
	}
	return last.writer
}
