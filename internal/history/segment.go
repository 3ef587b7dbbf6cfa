// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Queries by parameter or namespace use segments. A segment is segmentEvents consecutive events.
// When it is complete, the tables parameter_list and namespace_list get a list of its events for
// each of its parameters and namespaces.
//
// An index on the table event costs more. In a storm over thousands of parameters, each event would
// write another page of the index, and each write of a parameter would take a read of another page
// of events. So a parameter's list contains everything but the hash, in about 15 bytes for each
// write.
//
// Queries scan the few events after the last segment.

// segmentEvents is the number of events in a segment. Twice the number halves the reads for one
// parameter and doubles the events to scan.
var segmentEvents = int64(maxSegment)

// maxSegment is the maximum number of events in a segment.
const maxSegment = 1 << 17

// maxList is about the maximum length of a list in bytes. The entries after it only refer to rows.
// A list gets so long only if somebody keeps writing long values to one parameter.
var maxList = 32 << 20

// An entry is an event in a list: its id and, unless inRow is set, the columns of its row. 0 stands
// for NULL.
type entry struct {
	id                    int64
	inRow                 bool // the list has only the id
	time, seq             int64
	origin, kind, process int64
	workload, view        int64
	parameter             int64 // not in the list, whose key it is
	old, new, after       *string
	truncated             bool
	count, last           int64
}

// A listTable is a table of lists.
type listTable uint8

const (
	byParameter listTable = iota
	byNamespace
)

var listTables = [...]string{byParameter: "parameter_list", byNamespace: "namespace_list"}

// A listKey says what a list is about.
type listKey struct {
	table listTable
	id    int64 // of the parameter or namespace
}

// listID is the id of a list. The lists of a segment are adjacent. As the rowid, it needs no second
// index.
func listID(segment, id int64) int64 { return segment<<32 | id }

// An entry begins with flags that say which values follow.
const (
	hasOld         = 1 << iota
	oldIsLastAfter // old is the last entry's after
	hasNew
	hasAfter
	afterIsNew
	hasContext // origin, kind, workload or view differ from the last entry's
	hasShift   // seq-id differs from the last entry's
	isTruncated
	isCounted
)

// A list is a sequence of entries. Each is encoded as its difference from the last one.
type list struct {
	bytes  []byte
	before entry
}

func (l *list) add(e *entry) {
	p, b := &l.before, l.bytes
	step := uint64(e.id-p.id) << 1
	long := len(b)
	for _, v := range [...]*string{e.old, e.new, e.after} {
		if v != nil {
			long += len(*v)
		}
	}
	if e.inRow || long > maxList {
		l.bytes, p.id = binary.AppendUvarint(b, step|1), e.id
		return
	}
	b = binary.AppendUvarint(b, step)
	flags := uint64(0)
	set := func(flag uint64, is bool) bool {
		if is {
			flags |= flag
		}
		return is
	}
	oldSpelt := set(hasOld, e.old != nil) && !set(oldIsLastAfter, p.after != nil && *p.after == *e.old)
	newSpelt := set(hasNew, e.new != nil)
	afterSpelt := set(hasAfter, e.after != nil) && !set(afterIsNew, e.new != nil && *e.new == *e.after)
	context := set(hasContext, e.origin != p.origin || e.kind != p.kind || e.workload != p.workload || e.view != p.view)
	shift := set(hasShift, e.seq-e.id != p.seq)
	set(isTruncated, e.truncated)
	counted := set(isCounted, e.count != 0 || e.last != 0)
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendVarint(b, e.time-p.time)
	b = binary.AppendVarint(b, e.process-p.process)
	if context {
		for _, n := range [...]int64{e.origin, e.kind, e.workload, e.view} {
			b = binary.AppendVarint(b, n)
		}
	}
	if shift {
		b = binary.AppendVarint(b, e.seq-e.id)
	}
	if counted {
		b = binary.AppendVarint(b, e.count)
		b = binary.AppendVarint(b, e.last)
	}
	for _, v := range [...]struct {
		spelt bool
		text  *string
	}{{oldSpelt, e.old}, {newSpelt, e.new}, {afterSpelt, e.after}} {
		if v.spelt {
			b = append(binary.AppendUvarint(b, uint64(len(*v.text))), *v.text...)
		}
	}
	l.bytes = b
	*p = *e
	p.seq -= p.id // seq-id of the last entry
}

// errList reports a list that cannot be decoded.
var errList = errors.New("their list is damaged")

// A listReader decodes a list.
type listReader struct {
	rest []byte
	bad  bool
}

func (r *listReader) number() int64 {
	n, size := binary.Varint(r.rest)
	r.skip(size)
	return n
}

func (r *listReader) unsigned() uint64 {
	n, size := binary.Uvarint(r.rest)
	r.skip(size)
	return n
}

func (r *listReader) skip(size int) {
	if size <= 0 {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[size:]
}

func (r *listReader) text() *string {
	n := r.unsigned()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return &s
}

// eachEntry calls do for each entry of a list until do returns an error. The entry is valid until
// do returns.
func eachEntry(bytes []byte, do func(*entry) error) error {
	r := listReader{rest: bytes}
	var e entry
	shift := int64(0)
	for len(r.rest) > 0 {
		step := r.unsigned()
		if step>>1 == 0 { // an event is in a list once
			return errList
		}
		e.id += int64(step >> 1)
		if e.inRow = step&1 != 0; e.inRow {
			if r.bad {
				return errList
			}
			other := entry{id: e.id, inRow: true}
			if err := do(&other); err != nil {
				return err
			}
			continue
		}
		flags := r.unsigned()
		e.time += r.number()
		e.process += r.number()
		if flags&hasContext != 0 {
			e.origin, e.kind, e.workload, e.view = r.number(), r.number(), r.number(), r.number()
		}
		if flags&hasShift != 0 {
			shift = r.number()
		}
		e.seq = e.id + shift
		e.count, e.last = 0, 0
		if flags&isCounted != 0 {
			e.count, e.last = r.number(), r.number()
		}
		e.truncated = flags&isTruncated != 0
		before := e.after
		e.old, e.new, e.after = nil, nil, nil
		switch {
		case flags&oldIsLastAfter != 0:
			e.old = before
		case flags&hasOld != 0:
			e.old = r.text()
		}
		if flags&hasNew != 0 {
			e.new = r.text()
		}
		switch {
		case flags&afterIsNew != 0:
			e.after = e.new
		case flags&hasAfter != 0:
			e.after = r.text()
		}
		if r.bad {
			return errList
		}
		if err := do(&e); err != nil {
			return err
		}
	}
	return nil
}

// eachListed calls do for each list entry that the events from first to last make, in order. The
// entry is valid until do returns.
func eachListed(conn *sqlite.Conn, first, last int64, do func(listKey, *entry)) error {
	var e entry
	return sqlitex.Execute(conn, `SELECT id, parameter, namespace, time, seq, origin, kind, process, place, view, old, new, after, truncated, count, last_time,
		coalesce(line, child_pid, ns_from, created, lifetime_ms, creator_pid, detected) IS NOT NULL
		FROM event WHERE id BETWEEN ? AND ?`, &sqlitex.ExecOptions{Args: []any{first, last}, ResultFunc: func(stmt *sqlite.Stmt) error {
		id, parameter, namespace := stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
		if namespace != 0 {
			e = entry{id: id, inRow: true}
			do(listKey{byNamespace, namespace}, &e)
		}
		if parameter == 0 {
			return nil
		}
		if e = (entry{id: id, inRow: true}); stmt.ColumnInt64(16) != 0 {
			do(listKey{byParameter, parameter}, &e)
			return nil
		}
		e = entry{
			id: id, time: stmt.ColumnInt64(3), seq: stmt.ColumnInt64(4), origin: stmt.ColumnInt64(5), kind: stmt.ColumnInt64(6),
			process: stmt.ColumnInt64(7), workload: stmt.ColumnInt64(8), view: stmt.ColumnInt64(9),
			old: textOrNil(stmt, 10), new: textOrNil(stmt, 11), after: textOrNil(stmt, 12), truncated: stmt.ColumnInt64(13) != 0,
			count: stmt.ColumnInt64(14), last: stmt.ColumnInt64(15),
		}
		do(listKey{byParameter, parameter}, &e)
		return nil
	}})
}

// segmentFull reports whether there are enough events for the next segment.
func (w *writer) segmentFull() bool { return w.nextEvent-1-w.segmentEnd >= segmentEvents }

// addSegments adds the segments that the last batch completed, and one more. So a database of an
// older version, which has no segments, gets them without a long pause.
func (w *writer) addSegments(events int64) error {
	for done := int64(0); w.segmentFull() && done <= events; done += segmentEvents {
		if err := w.addSegment(); err != nil {
			return err
		}
	}
	return nil
}

// addSegment adds the next segment.
func (w *writer) addSegment() error {
	first, last := w.segmentEnd+1, w.segmentEnd+segmentEvents
	lists := map[listKey]*list{}
	if err := eachListed(w.conn, first, last, func(k listKey, e *entry) {
		l := lists[k]
		if l == nil {
			l = &list{}
			lists[k] = l
		}
		l.add(e)
	}); err != nil {
		return err
	}
	if err := execute(w.conn, "INSERT INTO segment VALUES (NULL, ?, ?)", first, last); err != nil {
		return err
	}
	segment := w.conn.LastInsertRowID()
	// In the order of the tables, so that SQLite only appends.
	for _, k := range slices.SortedFunc(maps.Keys(lists), func(a, b listKey) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.id, b.id))
	}) {
		s := w.insertList[k.table]
		if err := resetStatement(s); err != nil {
			return err
		}
		s.BindInt64(1, listID(segment, k.id))
		s.BindBytes(2, lists[k].bytes)
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	w.segmentEnd = last
	return nil
}

// loadSegmentEnd sets the end of the last segment.
func (w *writer) loadSegmentEnd() (err error) {
	// Events that do not exist are in no segment.
	w.segmentEnd, err = number(w.conn, "SELECT max((SELECT coalesce(max(last_event), 0) FROM segment), coalesce((SELECT min(id) FROM event), ?) - 1)", w.nextEvent)
	return err
}

// dropSegments deletes the segments that have no event left.
func (w *writer) dropSegments(last int64) error {
	dropped, err := number(w.conn, "SELECT coalesce(max(id), 0) FROM segment WHERE last_event <= ?", last)
	if err != nil || dropped == 0 {
		return err
	}
	for _, table := range listTables {
		if err := execute(w.conn, "DELETE FROM "+table+" WHERE id < ?", listID(dropped+1, 0)); err != nil {
			return err
		}
	}
	return execute(w.conn, "DELETE FROM segment WHERE id <= ?", dropped)
}

type segment struct{ id, first, last int64 }

// segments returns the segments and the first event. Retention leaves the lists of a segment until
// all of its events are gone.
func segments(conn *sqlite.Conn) (all []segment, first int64, err error) {
	if first, err = number(conn, "SELECT coalesce(min(id), 0) FROM event"); err != nil {
		return nil, 0, err
	}
	err = sqlitex.Execute(conn, "SELECT id, first_event, last_event FROM segment ORDER BY id", &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		all = append(all, segment{stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)})
		return nil
	}})
	return all, first, err
}

// inLists appends events to a page as rows does. It reads the lists, and scans only the events
// after the last segment.
func (db *DB) inLists(p *plan, page []readEvent) ([]readEvent, error) {
	all, first, err := segments(db.conn)
	if err != nil {
		return nil, err
	}
	rest := *p
	if len(all) > 0 {
		rest.from = max(p.from, all[len(all)-1].last+1)
	}
	if p.reverse {
		slices.Reverse(all)
		if page, err = db.rows(&rest, page); err != nil || len(page) >= p.limit || db.pageFull() {
			return page, err
		}
	}
	for _, s := range all {
		s.first, s.last = max(s.first, p.from, first), min(s.last, p.to)
		if s.first > s.last {
			continue
		}
		if err := p.err(); err != nil { // a segment can have no event that the plan needs
			return page, err
		}
		if page, err = db.inSegment(p, s, page); err != nil || len(page) >= p.limit || db.pageFull() {
			return page, err
		}
	}
	if p.reverse {
		return page, nil
	}
	rest.limit -= len(page)
	return db.rows(&rest, page)
}

// inSegment appends a segment's events to a page until it is full.
func (db *DB) inSegment(p *plan, s segment, page []readEvent) ([]readEvent, error) {
	entries, lists, size := db.entries[:0], 0, 0
	err := db.eachList(p, s.id, func(id int64, bytes []byte) error {
		lists++
		// An event has one parameter and one namespace, so it is in at most one of the lists.
		if size += len(bytes); size > maxValue {
			return errList
		}
		return eachEntry(bytes, func(e *entry) error {
			if e.id < s.first || e.id > s.last || p.host != nil && e.view != 0 && !p.host.host[e.view] {
				return nil
			}
			if len(entries) == maxSegment {
				return errList
			}
			entries = append(entries, *e)
			entries[len(entries)-1].parameter = id
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("events %d to %d: %w", s.first, s.last, err)
	}
	db.entries = entries
	if lists > 1 {
		slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	}
	if p.reverse {
		slices.Reverse(entries)
	}
	for i := range entries {
		if len(page) >= p.limit || db.pageFull() {
			break
		}
		e := &entries[i]
		if db.skips(p, e.process, e.new) {
			continue
		}
		if e.inRow {
			one := *p
			one.from, one.to, one.limit = e.id, e.id, 1
			page, err = db.rows(&one, page)
		} else {
			s := readEvent{Stored: Stored{ID: e.id}}
			if s.Event, _, err = db.assemble(e); isRowError(err) {
				s.err, err = err, nil
			}
			for _, v := range [...]*string{e.old, e.new, e.after} {
				if v != nil {
					db.held += len(*v)
				}
			}
			page = append(page, s)
		}
		if err != nil {
			return nil, err
		}
	}
	return page, nil
}

// maxSought is the maximum number of lists that are read one by one. Beyond it, reading all lists
// of the segment is faster.
const maxSought = 1000

// eachList calls do for each list of a segment that the plan needs.
func (db *DB) eachList(p *plan, segment int64, do func(id int64, bytes []byte) error) error {
	if len(p.listed) > maxSought { // an inode that many namespaces had
		return db.readLists(p.table, listID(segment, 0), listID(segment+1, 0)-1, func(id int64, bytes []byte) error {
			if _, ok := slices.BinarySearch(p.listed, id); !ok {
				return nil
			}
			return do(id, bytes)
		})
	}
	for _, id := range p.listed {
		if err := db.readLists(p.table, listID(segment, id), listID(segment, id), do); err != nil {
			return err
		}
	}
	return nil
}

// readLists reads the lists with the ids from first to last.
func (db *DB) readLists(table listTable, first, last int64, do func(id int64, bytes []byte) error) error {
	return sqlitex.Execute(db.conn, "SELECT id, events FROM "+listTables[table]+" WHERE id BETWEEN ? AND ?", &sqlitex.ExecOptions{
		Args: []any{first, last}, ResultFunc: func(stmt *sqlite.Stmt) error {
			bytes := make([]byte, stmt.ColumnLen(1))
			stmt.ColumnBytes(1, bytes)
			return do(stmt.ColumnInt64(0)&(1<<32-1), bytes)
		}})
}

// verifyLists compares all lists with the rows of their events.
func (db *DB) verifyLists(ctx context.Context, report func(Problem) bool) error {
	all, _, err := segments(db.conn)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := db.verifySegment(s)
		if err != nil {
			return err
		}
		if id != 0 && !report(Problem{ID: id, What: "changed in the lists of parameters and namespaces"}) {
			return nil
		}
	}
	return nil
}

// verifySegment returns the first event whose list entry differs from its row, 0 if there is none.
func (db *DB) verifySegment(s segment) (id int64, err error) {
	if err := db.begin(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	// Retention may have dropped events since.
	_, first, err := segments(db.conn)
	if err != nil || first > s.last || first == 0 {
		return 0, err
	}
	wrong := func(found int64) {
		if id == 0 || found < id {
			id = found
		}
	}
	want := map[listKey][]entry{}
	if err := eachListed(db.conn, s.first, s.last, func(k listKey, e *entry) { want[k] = append(want[k], *e) }); err != nil {
		return 0, err
	}
	for table := range listTables {
		if err := db.readLists(listTable(table), listID(s.id, 0), listID(s.id+1, 0)-1, func(id int64, bytes []byte) error {
			k := listKey{listTable(table), id}
			if err := eachEntry(bytes, func(e *entry) error {
				if e.id < first {
					return nil
				}
				w := want[k]
				if len(w) == 0 || w[0].id > e.id {
					wrong(e.id)
					return nil
				}
				// An entry with only an id has nothing else to differ.
				if w[0].id != e.id || !e.inRow && !w[0].equal(e) {
					wrong(w[0].id)
				}
				want[k] = w[1:]
				return nil
			}); err != nil {
				wrong(max(first, s.first))
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	for _, w := range want {
		if len(w) > 0 {
			wrong(w[0].id)
		}
	}
	return id, nil
}

func (e *entry) equal(f *entry) bool {
	a, b := *e, *f
	a.old, a.new, a.after, b.old, b.new, b.after = nil, nil, nil, nil, nil, nil
	return a == b && equalValues(e.old, f.old) && equalValues(e.new, f.new) && equalValues(e.after, f.after)
}
