// SPDX-License-Identifier: Apache-2.0

package history

import (
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Users choose the names of devices, and with them those of parameters, the arguments of processes
// and the number of namespaces. So each table whose rows events refer to can get a new row with each
// event. Retention deletes these rows too, or they would fill the database. How much of them can wait
// to be deleted is limited:
//
//   - a generation ends when its rows exceed the writer's share;
//   - sweep runs when the share of the tables without generations can be unused;
//   - of the writes that last_write keeps after their events, the oldest go when they exceed maxKept;
//   - anchors are merged when there are more than maxAnchors.

const (
	// defaultShare is the share of a writer without a limit for the database.
	defaultShare = 64 << 20
	// minShare is the smallest share: 256 KiB, a quarter of the smallest --keep-size.
	minShare = 256 << 10
	// shareOf is the part of the database's limit that the share is.
	shareOf = 16
	// keptOf is the part of the database's limit that last_write can keep.
	keptOf = 8
	// maxKept is the maximum that last_write can keep: each step of retention reads all of it.
	maxKept = 32 << 20
	// rowBytes is about the size of a short row with its index entries.
	rowBytes = 100
)

// maxAnchors is the maximum number of anchors.
var maxAnchors int64 = 4096

// setLimit sets the limits that depend on the size that the database may have, 0 for any.
func (w *writer) setLimit(size int64) {
	w.share, w.maxKept = defaultShare, maxKept
	if size > 0 {
		w.share = min(w.share, max(size/shareOf, minShare))
		w.maxKept = min(w.maxKept, size/keptOf)
	}
}

// countShared estimates the size of the tables without generations.
func (w *writer) countShared() error {
	rows, err := number(w.conn, "SELECT (SELECT count(*) FROM parameter) + (SELECT count(*) FROM namespace) + (SELECT count(*) FROM origin) + (SELECT count(*) FROM kind)")
	w.shared = 2 * rowBytes * rows
	return err
}

// clean deletes rows that no event refers to. first is the first event. It reports whether rows of
// generations are left.
func (w *writer) clean(first int64) (left bool, err error) {
	old, err := number(w.conn, "SELECT count(*) FROM generation WHERE first_event <= ?", first)
	if err != nil {
		return false, err
	}
	if old > 1 || w.rowsLeft {
		if err := w.transaction(func() error {
			w.rowsLeft, err = w.dropGenerations(first)
			return err
		}); err != nil {
			return false, err
		}
	}
	if w.kept > w.maxKept {
		if err := w.transaction(w.dropKept); err != nil {
			return false, err
		}
	}
	if min(w.shared, w.unused) > w.share {
		if err := w.transaction(w.sweep); err != nil {
			return false, err
		}
	}
	anchors, err := number(w.conn, "SELECT count(*) FROM anchor")
	if err == nil && anchors > maxAnchors && !w.keepAnchors {
		err = w.transaction(w.mergeAnchors)
	}
	return w.rowsLeft, err
}

// dropGenerations deletes rows that only events before first refer to, and reports whether it left
// some. It deletes more of them than the events that one step drops can have.
func (w *writer) dropGenerations(first int64) (left bool, err error) {
	var g [4]int64
	// The newest generation before which all events are dropped.
	if err := w.eachRow("SELECT first_process, first_text, first_place, first_view FROM generation WHERE first_event <= ? ORDER BY first_event DESC LIMIT 1", func(stmt *sqlite.Stmt) {
		for i := range g {
			g[i] = stmt.ColumnInt64(i)
		}
	}, first); err != nil {
		return false, err
	}
	for i, table := range []string{"process", "text", "place", "namespace_view"} {
		const limit = 8 * pruneStep
		if err := execute(w.conn, "DELETE FROM "+table+" WHERE id IN (SELECT id FROM "+table+" WHERE id < ? LIMIT ?)", g[i], limit); err != nil {
			return false, err
		}
		left = left || w.conn.Changes() == limit
	}
	return left, execute(w.conn, "DELETE FROM generation WHERE first_event < (SELECT max(first_event) FROM generation WHERE first_event <= ?)", first)
}

// sweep deletes rows of the tables without generations that nothing refers to any more. It reads all events.
func (w *writer) sweep() error {
	for _, query := range []string{
		"DELETE FROM parameter WHERE id NOT IN (SELECT parameter FROM event WHERE parameter IS NOT NULL) AND id NOT IN (SELECT parameter FROM last_write)",
		// Each generation has its own views of its namespaces.
		"DELETE FROM namespace WHERE id NOT IN (SELECT namespace FROM namespace_view) AND id NOT IN (SELECT namespace FROM last_write)",
		"DELETE FROM run WHERE id < (SELECT min(run) FROM batch WHERE run > 0)", // an import has no run
		"DELETE FROM origin WHERE id NOT IN (SELECT origin FROM event) AND id NOT IN (SELECT origin FROM namespace) AND id NOT IN (SELECT origin FROM run)",
		"DELETE FROM kind WHERE id NOT IN (SELECT kind FROM event)",
	} {
		if err := execute(w.conn, query); err != nil {
			return err
		}
	}
	w.unused = 0
	w.forget()
	return w.countShared()
}

// forget makes the writer look up all rows again.
func (w *writer) forget() {
	w.epoch = epochs.Add(1)
	w.origins.clear()
	w.kinds.clear()
	w.params.clear()
	w.namespaces.clear()
}

// keptBytes returns the size of the writes that last_write keeps.
func (w *writer) keptBytes() (int64, error) {
	return number(w.conn, "SELECT coalesce(sum(octet_length(line)), 0) FROM last_write")
}

// dropKept deletes the oldest writes that last_write keeps, until they have three quarters of the
// size that they may have. Those in other namespaces than the host's go first: every user can make
// such namespaces, and parameters in them.
func (w *writer) dropKept() error {
	var err error
	if w.kept, err = w.keptBytes(); err != nil || w.kept <= w.maxKept {
		return err
	}
	var drop [][2]int64
	left := w.kept
	const order = "CASE WHEN json_valid(line) THEN coalesce(json_extract(line, '$.sysctl.namespace.host'), json_extract(line, '$.sysctl.namespace') IS NULL) ELSE 0 END"
	if err := w.eachRow("SELECT parameter, namespace, octet_length(line) FROM last_write WHERE line IS NOT NULL ORDER BY "+order+", time", func(stmt *sqlite.Stmt) {
		if left > w.maxKept/4*3 {
			drop = append(drop, [2]int64{stmt.ColumnInt64(0), stmt.ColumnInt64(1)})
			left -= stmt.ColumnInt64(2)
		}
	}); err != nil {
		return err
	}
	for _, key := range drop {
		if err := execute(w.conn, "DELETE FROM last_write WHERE parameter = ? AND namespace = ?", key[0], key[1]); err != nil {
			return err
		}
	}
	w.kept = left
	return nil
}

// mergeAnchors replaces the older half of the anchors by one. It leaves anchors that somebody changed,
// because Verify reports them.
func (w *writer) mergeAnchors() error {
	var all []Anchor
	var last Anchor
	var before Hash
	if err := eachAnchor(w.conn, func(a Anchor, seal Hash) {
		w.keepAnchors = w.keepAnchors || !a.follows(&last, before, seal)
		all = append(all, a)
		last, before = a, seal
	}); err != nil || w.keepAnchors {
		return err
	}
	old := len(all) / 2
	for _, a := range all[:old-1] {
		all[old-1].Events += a.Events
	}
	if err := execute(w.conn, "DELETE FROM anchor"); err != nil {
		return err
	}
	before = Hash{}
	for _, a := range all[old-1:] {
		var err error
		if before, err = w.addAnchor(&a, before); err != nil {
			return err
		}
	}
	return nil
}

// follows reports whether an anchor with a seal follows the one before it.
func (a *Anchor) follows(before *Anchor, sealBefore, seal Hash) bool {
	return a.ID == before.ID+int64(a.Events) && a.seal(sealBefore) == seal
}

// eachAnchor calls do for each anchor and its seal, oldest first.
func eachAnchor(conn *sqlite.Conn, do func(a Anchor, seal Hash)) error {
	return sqlitex.ExecuteTransient(conn, "SELECT event, hash, time, events, reason, made, seal FROM anchor ORDER BY id", &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		a := Anchor{ID: stmt.ColumnInt64(0), Time: nanos(stmt.ColumnInt64(2)), Events: uint64(stmt.ColumnInt64(3)), Reason: stmt.ColumnText(4), Made: nanos(stmt.ColumnInt64(5))}
		stmt.ColumnBytes(1, a.Hash[:])
		var seal Hash
		stmt.ColumnBytes(6, seal[:])
		do(a, seal)
		return nil
	}})
}

// addAnchor adds an anchor after the one with the seal before, and returns its seal.
func (w *writer) addAnchor(a *Anchor, before Hash) (seal Hash, err error) {
	seal = a.seal(before)
	return seal, execute(w.conn, "INSERT INTO anchor VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", a.ID, a.Hash[:], a.Time.UnixNano(), int64(a.Events), a.Reason, a.Made.UnixNano(), seal[:])
}
