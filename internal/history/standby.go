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

// A recorder on a database that another one records to stands by: it keeps the newest of
// what it sees, and when the other one ends, however it does, it writes what that one did
// not.

// standbyKeep is how far back a recorder on standby remembers: much longer than the other
// one takes to write what it sees, and this one to notice that it ended.
const standbyKeep = 10 * time.Second

// clockSpread is by how much the times differ that two processes give one event: each
// measures for itself how far the wall clock is from the kernel's.
const clockSpread = 50 * time.Millisecond

// forgetOld drops what the other recorder surely has by now, whole chunks of it. r.mu is
// held.
func (r *Recorder) forgetOld(now time.Time) {
	for len(r.chunks) > 1 {
		first := r.chunks[0]
		if r.waiting < r.o.Buffer && first[len(first)-1].time > now.Add(-standbyKeep).UnixNano() {
			return
		}
		r.waiting -= len(first)
		r.chunks = r.chunks[1:]
	}
}

// takeOver drops from chunks, and from what waits behind them, all that the recorder before
// this one has written. It does so once.
func (r *Recorder) takeOver(chunks [][]pending) error {
	if !r.heir {
		return nil
	}
	done, err := r.writtenByOther()
	if err != nil {
		return explain(r.o.Path, err)
	}
	r.heir = false
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, all := range [...][][]pending{chunks, r.chunks} {
		for i, c := range all {
			all[i] = slices.DeleteFunc(c, done)
			r.waiting -= len(c) - len(all[i])
		}
	}
	return nil
}

// writtenByOther returns what says of an event whether the run before has it. It is to be
// asked of each event once, in their order.
func (r *Recorder) writtenByOther() (func(pending) bool, error) {
	none := func(pending) bool { return false }
	if r.previous == nil || r.previous.BootID != r.o.BootID {
		return none, nil
	}
	last, err := number(r.w.conn, "SELECT coalesce(max(last_time), 0) FROM batch WHERE run = ?", r.previous.ID)
	if err != nil || last == 0 {
		return none, err
	}
	db, err := Open(r.o.Path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	// What it said of itself does not count: it watched nothing any more when it said that it
	// ended.
	seen := func(e *event.Event) bool { return !strings.HasPrefix(string(e.Type), "trace.") }
	end := nanos(last).Add(-standbyKeep)
	for s, err := range db.Events(context.Background(), Query{Since: end, Match: seen, Reverse: true, Limit: 1}) {
		if err != nil {
			return nil, err
		}
		end = s.Event.Time
	}
	// Around the end times do not tell, since they are not the same here and there.
	around := map[string]int{}
	for s, err := range db.Events(context.Background(), Query{Since: end.Add(-2 * clockSpread), Match: seen}) {
		if err != nil {
			return nil, err
		}
		around[what(s.Event)]++
	}
	before, after := end.Add(-clockSpread).UnixNano(), end.Add(clockSpread).UnixNano()
	var u unpacked
	return func(q pending) bool {
		if q.time < before || q.time > after {
			return q.time < before
		}
		key := what(u.fill(&q))
		around[key]--
		return around[key] >= 0
	}, nil
}

// what tells one event from others at about the same time, by what each process that sees it
// says alike: not how often it folded it, nor the uid that it gives to a namespace where the
// kernel has none.
func what(e *event.Event) string {
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

// standsBy says whether err is that another recorder has the database.
func standsBy(err error) bool { return errors.Is(err, errRecorded) }
