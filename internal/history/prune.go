// SPDX-License-Identifier: Apache-2.0

package history

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/internal/procfs"
)

const (
	// pruneStep is the maximum number of events that one transaction drops. That takes a few
	// hundredths of a second. Events that came in the meantime are written before the next step.
	pruneStep = 4096
	// sizeStep is the part of all events that one transaction drops at most to save space: a small
	// database can have fewer than pruneStep.
	sizeStep = 8
	// tidyEvery is the time between checks for events to drop.
	tidyEvery = 10 * time.Second
	// beatEvery is the time between heartbeats, which record that the run is alive even without
	// events.
	beatEvery = 30 * time.Second
	// freeStep is the number of pages that are returned to the file system at once.
	freeStep = 1024
)

// tidy does one step of maintenance: heartbeat, segments, retention. It returns when to call it
// again.
func (r *Recorder) tidy(now time.Time) time.Duration {
	if now.Sub(r.lastBeat) >= beatEvery {
		r.lastBeat = now
		if r.w.moved() && r.write(nil) != nil {
			return tidyEvery
		}
		if err := r.w.heartbeat(now); err != nil {
			return tidyEvery
		}
	}
	if r.w.segmentFull() { // the database has an older version's events
		if err := r.w.transaction(r.w.addSegment); err != nil {
			return tidyEvery
		}
		return 0
	}
	more, err := r.w.prune(now, r.options.Keep, r.options.KeepSize)
	if err != nil {
		// The next batch fails with the same error and reports it.
		return tidyEvery
	}
	if more {
		return 0
	}
	return tidyEvery
}

// heartbeat records that the run is alive.
func (w *writer) heartbeat(now time.Time) error {
	return execute(w.conn, "UPDATE run SET last = ? WHERE id = ?", now.UnixNano(), w.run)
}

// prune drops some of the oldest events if they are older than keep or if the database
// uses more than size bytes, and rows that no event refers to. It reports whether there is more to
// drop.
func (w *writer) prune(now time.Time, keep time.Duration, size int64) (more bool, err error) {
	first, err := number(w.conn, "SELECT coalesce(min(id), ?) FROM event", w.nextEvent)
	if err != nil {
		return false, err
	}
	// These rows first, so that events stay as long as they can.
	left, err := w.clean(first)
	if err != nil {
		return false, err
	}
	reason := ""
	var last int64 // last event that may be dropped
	if keep > 0 {
		// The first batch with an event to keep is the limit: ids follow the order of recording
		// even if the clock was set back.
		limit := now.Add(-keep).UnixNano()
		next, err := number(w.conn, "SELECT first_event FROM batch WHERE last_time >= ? ORDER BY first_event LIMIT 1", limit)
		if err != nil {
			return false, err
		}
		if next == 0 {
			next = w.nextEvent
		}
		last, reason = next-1, "age"
	}
	if enough := first + max(1, (w.nextEvent-first)/sizeStep) - 1; size > 0 && !left && last < enough {
		used, err := w.used()
		if err != nil {
			return false, err
		}
		if used > size {
			last, reason = enough, "size"
		}
	}
	last = min(last, first+pruneStep-1, w.nextEvent-1)
	if more = left; last >= first {
		if err := w.transaction(func() error { return w.drop(first, last, reason, now) }); err != nil {
			return false, err
		}
		more = true
	}
	free, err := pragma(w.conn, "freelist_count")
	if err != nil {
		return false, err
	}
	// Keep some free pages for new events.
	if free > 2*freeStep || (free > freeStep && !more) {
		if err := sqlitex.ExecuteTransient(w.conn, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", freeStep), nil); err != nil {
			return more, err
		}
		more = more || free > 2*freeStep
	}
	return more, nil
}

// used returns how many bytes of the database are in use.
func (w *writer) used() (int64, error) {
	pages, err := pragma(w.conn, "page_count")
	if err != nil {
		return 0, err
	}
	free, err := pragma(w.conn, "freelist_count")
	if err != nil {
		return 0, err
	}
	bytes, err := pragma(w.conn, "page_size")
	return (pages - free) * bytes, err
}

// drop deletes the oldest events, first to last. It adds an anchor, from which the chain of the
// other events continues.
func (w *writer) drop(first, last int64, reason string, now time.Time) error {
	// Keep the last write of each value that is still in effect.
	var lines []struct {
		param, namespace int64
		line             string
	}
	boot := procfs.BootID()
	reader := &DB{path: w.path, conn: w.conn}
	reader.clearCaches()
	if err := sqlitex.Execute(w.conn, `SELECT parameter, namespace, event, (SELECT ended FROM namespace WHERE id = last_write.namespace)
		FROM last_write WHERE event BETWEEN ? AND ? AND line IS NULL`,
		&sqlitex.ExecOptions{Args: []any{first, last}, ResultFunc: func(stmt *sqlite.Stmt) error {
			stored, err := reader.at(stmt.ColumnInt64(2))
			e := stored.Event
			if err != nil || e == nil {
				return err
			}
			line := string(w.encode.Append(nil, e))
			if s := e.Sysctl; s != nil && s.Namespace != nil && !s.Namespace.Host && (e.BootID != boot || stmt.ColumnInt64(3) != 0) {
				line = "" // its namespace or its boot has ended, and the value with it
			}
			lines = append(lines, struct {
				param, namespace int64
				line             string
			}{stmt.ColumnInt64(0), stmt.ColumnInt64(1), line})
			return nil
		}}); err != nil {
		return err
	}
	for _, l := range lines {
		if l.line == "" {
			if err := execute(w.conn, "DELETE FROM last_write WHERE parameter = ? AND namespace = ?", l.param, l.namespace); err != nil {
				return err
			}
			continue
		}
		if err := execute(w.conn, "UPDATE last_write SET line = ? WHERE parameter = ? AND namespace = ?", l.line, l.param, l.namespace); err != nil {
			return err
		}
		w.kept += int64(len(l.line))
	}

	var a Anchor
	var before Hash
	if err := w.eachRow("SELECT seal FROM anchor ORDER BY id DESC LIMIT 1", func(stmt *sqlite.Stmt) { stmt.ColumnBytes(0, before[:]) }); err != nil {
		return err
	}
	if err := w.eachRow("SELECT hash, time FROM event WHERE id = ?", func(stmt *sqlite.Stmt) {
		stmt.ColumnBytes(0, a.Hash[:])
		a.Time = nanos(stmt.ColumnInt64(1))
	}, last); err != nil {
		return err
	}
	count, err := number(w.conn, "SELECT count(*) FROM event WHERE id <= ?", last)
	if err != nil {
		return err
	}
	w.dropped += count
	w.unused += 4 * rowBytes * count // a parameter and a namespace each
	a.ID, a.Events, a.Reason, a.Made = last, uint64(count), reason, now
	if _, err := w.addAnchor(&a, before); err != nil { // each step adds its own
		return err
	}
	for _, query := range []string{"DELETE FROM event WHERE id <= ?", "DELETE FROM batch WHERE last_event <= ?"} {
		if err := execute(w.conn, query, last); err != nil {
			return err
		}
	}
	return w.dropSegments(last)
}

// at returns an event. Event is nil if there is none.
func (db *DB) at(id int64) (s Stored, err error) {
	err = sqlitex.Execute(db.conn, "SELECT "+eventColumns+" FROM event WHERE id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(stmt *sqlite.Stmt) error {
		s, err = db.event(stmt)
		return err
	}})
	return s, err
}

// An Anchor is a record of dropped events: all events up to ID. The chain of the other events
// begins with Hash.
type Anchor struct {
	ID     int64     // of the last dropped event
	Hash   Hash      // of that event
	Time   time.Time // of that event
	Events uint64    // number of events that this step dropped
	Reason string    // age, size or import
	Made   time.Time
}

// seal returns a hash over an anchor and the previous anchor's seal.
func (a *Anchor) seal(before Hash) (seal Hash) {
	h := sha256.New()
	h.Write([]byte("nstrace history anchor 1\x00"))
	h.Write(before[:])
	h.Write(a.Hash[:])
	for _, n := range []uint64{uint64(a.ID), uint64(a.Time.UnixNano()), a.Events, uint64(a.Made.UnixNano())} {
		h.Write(binary.BigEndian.AppendUint64(nil, n))
	}
	h.Write([]byte(a.Reason))
	h.Sum(seal[:0])
	return seal
}
