// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A recorder stands by while another recorder writes to its database. It remembers the newest
// events. When the other recorder ends, in whatever way, it writes the events that the other one
// did not write.

// standbyKeep is how long a recorder on standby remembers events. It is much longer than the other
// recorder takes to write an event plus the time to notice its end.
const standbyKeep = 10 * time.Second

// clockSpread is the maximum difference between the times that two processes give the same event.
// Each process measures the offset between the wall clock and the kernel's clock.
const clockSpread = 50 * time.Millisecond

// dropOld drops whole chunks that the other recorder must have written by now. The caller holds
// r.mu.
func (r *Recorder) dropOld(now time.Time) {
	for len(r.chunks) > 1 {
		first := r.chunks[0]
		if !r.full() && first[len(first)-1].time > now.Add(-standbyKeep).UnixNano() {
			return
		}
		r.remove(first)
		r.chunks = r.chunks[1:]
	}
}

// takeOver drops all events that the other recorder has written, from chunks and from the waiting
// events. It does so once.
func (r *Recorder) takeOver(chunks [][]pending) error {
	if !r.successor {
		return nil
	}
	done, err := r.writtenByOther()
	if err != nil {
		return explain(r.options.Path, err)
	}
	r.successor = false
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, all := range [...][][]pending{chunks, r.chunks} {
		for i, c := range all {
			all[i] = slices.DeleteFunc(c, func(q pending) bool {
				gone := done(q)
				if gone {
					r.remove([]pending{q})
				}
				return gone
			})
		}
	}
	return nil
}

// writtenByOther returns a function that reports whether the previous run has written an event.
// Call it once for each event, in order.
func (r *Recorder) writtenByOther() (func(pending) bool, error) {
	none := func(pending) bool { return false }
	if r.previous == nil || r.previous.BootID != r.options.BootID {
		return none, nil
	}
	last, err := number(r.w.conn, "SELECT coalesce(max(last_time), 0) FROM batch WHERE run = ?", r.previous.ID)
	if err != nil || last == 0 {
		return none, err
	}
	db, err := Open(r.options.Path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	// trace.* events do not count: a recorder writes trace.stop after it stopped tracing.
	seen := func(e *event.Event) bool { return !strings.HasPrefix(string(e.Type), "trace.") }
	end := nanos(last).Add(-standbyKeep)
	for s, err := range db.Events(context.Background(), Query{Since: end, Match: seen, Reverse: true, Limit: 1}) {
		if err != nil {
			return nil, err
		}
		end = s.Event.Time
	}
	// Around the end, times do not decide, because they differ between the two processes.
	around := map[string]int{}
	for s, err := range db.Events(context.Background(), Query{Since: end.Add(-2 * clockSpread), Match: seen}) {
		if err != nil {
			return nil, err
		}
		around[fingerprint(s.Event)]++
	}
	before, after := end.Add(-clockSpread).UnixNano(), end.Add(clockSpread).UnixNano()
	var u unpacked
	return func(q pending) bool {
		if q.time < before || q.time > after {
			return q.time < before
		}
		key := fingerprint(u.fill(&q))
		around[key]--
		return around[key] >= 0
	}, nil
}

// fingerprint returns a text that identifies an event among those of about the same time. Both
// processes see the same one. So it excludes the count, which depends on the folding, and the UID,
// which nstrace makes up where the kernel has none.
func fingerprint(e *event.Event) string {
	text := fmt.Sprint(e.Type, e.Outcome, e.Error, e.Via, e.ChildPID)
	if p := e.Process; p != nil {
		text += fmt.Sprint(" by ", p.PID, p.TID)
	}
	ns := e.Namespace
	if s := e.Sysctl; s != nil {
		ns = s.Namespace
		text += fmt.Sprintf(" %q", s.Path)
		for _, v := range [...]*string{s.Old, s.New, s.After} {
			if v != nil {
				text += fmt.Sprintf(" %q", *v)
			} else {
				text += " ?"
			}
		}
	}
	if ns != nil {
		text += fmt.Sprint(" of ", ns.Type, ns.ID, ns.From)
	}
	return text
}

// isRecorded reports whether err says that another recorder has the database.
func isRecorded(err error) bool { return errors.Is(err, errRecorded) }
