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

// The writes to a parameter, and what happened to a namespace, are found by segments. A
// segment is so many events in a row, and once they are there, the tables parameter_list and
// namespace_list get a list of those about each parameter and each namespace. An index on the table event would have
// an entry put in another place for each event, which in a storm over thousands of
// parameters is a page to be written for each; and to read a parameter's writes would be a
// page to be read for each, however fast they were found. So a parameter's list has what the
// rows have, all but the hash, some 15 bytes a write.
//
// The events behind the last segment are few enough to be looked through.

// segmentEvents is how many events a segment has. Twice as many are half the reads for a
// parameter's life, and twice the events to be looked through.
var segmentEvents = int64(maxSegment)

// maxSegment is how many events a segment has at most.
const maxSegment = 1 << 17

// maxList is about how long a list gets. Beyond it, entries leave what the rows have to the
// rows. Only somebody who writes long values to one parameter all the time gets there.
var maxList = 32 << 20

// An entry is an event in a list: its id, and, unless the rest is elsewhere, what its row
// has. 0 is a NULL.
type entry struct {
	id                    int64
	elsewhere             bool // the rest is in the row
	time, seq             int64
	origin, kind, process int64
	place, view           int64
	parameter             int64 // not in the list, which is the parameter's
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

// A listKey is what a list is about.
type listKey struct {
	table listTable
	id    int64 // of the parameter or the namespace
}

// listID is the id of a list: those of a segment are next to each other. A table with such
// an id has no key to be read besides.
func listID(segment, id int64) int64 { return segment<<32 | id }

// What an entry begins with says which of its values follow.
const (
	oldThere   = 1 << iota
	oldAsAfter // the one that the entry before has after
	newThere
	afterThere
	afterAsNew
	otherContext // origin, kind, place or view
	otherShift   // between id and seq
	isTruncated
	isCounted
)

// A list is entries, each as its difference from the one before.
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
	if e.elsewhere || long > maxList {
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
	oldSpelt := set(oldThere, e.old != nil) && !set(oldAsAfter, p.after != nil && *p.after == *e.old)
	newSpelt := set(newThere, e.new != nil)
	afterSpelt := set(afterThere, e.after != nil) && !set(afterAsNew, e.new != nil && *e.new == *e.after)
	context := set(otherContext, e.origin != p.origin || e.kind != p.kind || e.place != p.place || e.view != p.view)
	shift := set(otherShift, e.seq-e.id != p.seq)
	set(isTruncated, e.truncated)
	counted := set(isCounted, e.count != 0 || e.last != 0)
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendVarint(b, e.time-p.time)
	b = binary.AppendVarint(b, e.process-p.process)
	if context {
		for _, n := range [...]int64{e.origin, e.kind, e.place, e.view} {
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
	p.seq -= p.id // of the entry before, what is of use is how far they are apart
}

// errList is a list that can't be made out.
var errList = errors.New("their list is damaged")

// A listReader takes a list apart.
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

// eachEntry calls do for each entry of a list, until it returns an error. The entry is do's
// until it returns.
func eachEntry(bytes []byte, do func(*entry) error) error {
	r := listReader{rest: bytes}
	var e entry
	shift := int64(0)
	for len(r.rest) > 0 {
		step := r.unsigned()
		if step>>1 == 0 { // each event is there once
			return errList
		}
		e.id += int64(step >> 1)
		if e.elsewhere = step&1 != 0; e.elsewhere {
			if r.bad {
				return errList
			}
			other := entry{id: e.id, elsewhere: true}
			if err := do(&other); err != nil {
				return err
			}
			continue
		}
		flags := r.unsigned()
		e.time += r.number()
		e.process += r.number()
		if flags&otherContext != 0 {
			e.origin, e.kind, e.place, e.view = r.number(), r.number(), r.number(), r.number()
		}
		if flags&otherShift != 0 {
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
		case flags&oldAsAfter != 0:
			e.old = before
		case flags&oldThere != 0:
			e.old = r.text()
		}
		if flags&newThere != 0 {
			e.new = r.text()
		}
		switch {
		case flags&afterAsNew != 0:
			e.after = e.new
		case flags&afterThere != 0:
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

// eachListed calls do for each entry of the lists that the events from first to last
// make, in the order of their ids. It is do's until it returns.
func eachListed(conn *sqlite.Conn, first, last int64, do func(listKey, *entry)) error {
	var e entry
	return sqlitex.Execute(conn, `SELECT id, parameter, namespace, time, seq, origin, kind, process, place, view, old, new, after, truncated, count, last_time,
		coalesce(line, child_pid, ns_from, created, lifetime_ms, creator_pid, detected) IS NOT NULL
		FROM event WHERE id BETWEEN ? AND ?`, &sqlitex.ExecOptions{Args: []any{first, last}, ResultFunc: func(stmt *sqlite.Stmt) error {
		id, parameter, namespace := stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
		if namespace != 0 {
			e = entry{id: id, elsewhere: true}
			do(listKey{byNamespace, namespace}, &e)
		}
		if parameter == 0 {
			return nil
		}
		if e = (entry{id: id, elsewhere: true}); stmt.ColumnInt64(16) != 0 {
			do(listKey{byParameter, parameter}, &e)
			return nil
		}
		e = entry{
			id: id, time: stmt.ColumnInt64(3), seq: stmt.ColumnInt64(4), origin: stmt.ColumnInt64(5), kind: stmt.ColumnInt64(6),
			process: stmt.ColumnInt64(7), place: stmt.ColumnInt64(8), view: stmt.ColumnInt64(9),
			old: textOrNil(stmt, 10), new: textOrNil(stmt, 11), after: textOrNil(stmt, 12), truncated: stmt.ColumnInt64(13) != 0,
			count: stmt.ColumnInt64(14), last: stmt.ColumnInt64(15),
		}
		do(listKey{byParameter, parameter}, &e)
		return nil
	}})
}

// full says whether there are enough events for another segment.
func (w *writer) full() bool { return w.nextEvent-1-w.sealed >= segmentEvents }

// sealSome makes the segments that the last events are enough for, and one more, so that it
// takes no longer than to write these took where there are many of an older version.
func (w *writer) sealSome(events int64) error {
	for done := int64(0); w.full() && done <= events; done += segmentEvents {
		if err := w.seal(); err != nil {
			return err
		}
	}
	return nil
}

// seal makes the next segment.
func (w *writer) seal() error {
	first, last := w.sealed+1, w.sealed+segmentEvents
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
	// In the order of the tables, which are then only appended to.
	for _, k := range slices.SortedFunc(maps.Keys(lists), func(a, b listKey) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.id, b.id))
	}) {
		s := w.insertList[k.table]
		if err := anew(s); err != nil {
			return err
		}
		s.BindInt64(1, listID(segment, k.id))
		s.BindBytes(2, lists[k].bytes)
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	w.sealed = last
	return nil
}

// loadSealed finds how far the segments go.
func (w *writer) loadSealed() (err error) {
	// What is not there any more, or never was, is in none.
	w.sealed, err = number(w.conn, "SELECT max((SELECT coalesce(max(last_event), 0) FROM segment), coalesce((SELECT min(id) FROM event), ?) - 1)", w.nextEvent)
	return err
}

// dropSegments deletes those of which no event is left.
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

// segments returns the segments, and the first event that there is: what retention has
// dropped stays in the lists of a segment that has not gone as a whole.
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

// inLists adds events to a page as rows does, but finds them by the lists, and goes only
// through those events that are in no segment yet.
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
		if page, err = db.rows(&rest, page); err != nil || len(page) >= p.limit || db.full() {
			return page, err
		}
	}
	for _, s := range all {
		s.first, s.last = max(s.first, p.from, first), min(s.last, p.to)
		if s.first > s.last {
			continue
		}
		if page, err = db.inSegment(p, s, page); err != nil || len(page) >= p.limit || db.full() {
			return page, err
		}
	}
	if p.reverse {
		return page, nil
	}
	rest.limit -= len(page)
	return db.rows(&rest, page)
}

// inSegment adds events of a segment to a page, until it is full.
func (db *DB) inSegment(p *plan, s segment, page []readEvent) ([]readEvent, error) {
	entries, lists, size := db.entries[:0], 0, 0
	err := db.eachList(p, s.id, func(id int64, bytes []byte) error {
		lists++
		// An event is about one parameter and one namespace, and so in one of them.
		if size += len(bytes); size > maxValue {
			return errList
		}
		return eachEntry(bytes, func(e *entry) error {
			if e.id < s.first || e.id > s.last {
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
		if len(page) >= p.limit || db.full() {
			break
		}
		e := &entries[i]
		if e.elsewhere {
			one := *p
			one.from, one.to, one.limit = e.id, e.id, 1
			page, err = db.rows(&one, page)
		} else {
			s := readEvent{Stored: Stored{ID: e.id}}
			if s.Event, _, err = db.make(e); ofRow(err) {
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

// maxSought is how many lists are sought in a segment one by one. It is faster then to look
// through all of them.
const maxSought = 1000

// eachList calls do for each list of a segment that is about what is asked for.
func (db *DB) eachList(p *plan, segment int64, do func(id int64, bytes []byte) error) error {
	if len(p.listed) > maxSought { // a namespace's number that was given out again and again
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

// readLists reads the lists whose ids are from first to last.
func (db *DB) readLists(table listTable, first, last int64, do func(id int64, bytes []byte) error) error {
	return sqlitex.Execute(db.conn, "SELECT id, events FROM "+listTables[table]+" WHERE id BETWEEN ? AND ?", &sqlitex.ExecOptions{
		Args: []any{first, last}, ResultFunc: func(stmt *sqlite.Stmt) error {
			bytes := make([]byte, stmt.ColumnLen(1))
			stmt.ColumnBytes(1, bytes)
			return do(stmt.ColumnInt64(0)&(1<<32-1), bytes)
		}})
}

// verifyLists compares the lists with the events that they are of.
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

// verifySegment returns the first event of which a segment's lists say something else than
// its row, 0 for none.
func (db *DB) verifySegment(s segment) (id int64, err error) {
	if err := db.begin(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	// Retention may have gone on meanwhile.
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
				// What is in the row alone can't be different in the list.
				if w[0].id != e.id || !e.elsewhere && !w[0].equal(e) {
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
	return a == b && same(e.old, f.old) && same(e.new, f.new) && same(e.after, f.after)
}
