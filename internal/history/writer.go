// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
)

// A writer puts events into a database's tables. Rows that events refer to are known by
// their values, so that each is there once, or once in a generation; after that, all but
// parameters, kinds, origins and namespaces begin anew, and when the events of a
// generation have been dropped the rest of it can go as well.
type writer struct {
	path string
	conn *sqlite.Conn

	epoch uint64 // of the ids in what pending events refer to
	// The next ids, and where the chain is.
	nextEvent, nextProcess, nextText, nextPlace, nextView int64
	head                                                  Hash
	generationEnd                                         int64 // the event with which the next one begins
	sealed                                                int64 // the last event of the last segment

	origins    cache[[2]string, int64]
	kinds      cache[kindKey, int64]
	params     cache[parameterKey, int64]
	namespaces cache[originNamespace, int64]
	texts      cache[string, int64]
	processes  cache[processRow, int64]
	byPointer  cache[*event.Process, int64]
	places     cache[placeRow, int64]

	described    *event.Process // the one whose texts were found last, nil for none
	describedRow processRow     // and their ids

	files     map[string]os.FileInfo // what is written to, by what is behind path in the name
	run       int64
	writes    map[writeKey]*write // of the batch
	u         unpacked
	encode    *event.Encoder
	sum       hash.Hash
	line      []byte
	firstTime int64
	lastTime  int64

	// The statements of a storm are kept: to find one by its text takes as long as to run it.
	insertEvent, insertWhole, insertProcess, insertText, insertNamespace, insertView, endNamespace, noteWrite *sqlite.Stmt
	insertList                                                                                                [len(listTables)]*sqlite.Stmt
}

type (
	originNamespace struct {
		origin int64
		namespaceKey
	}
	writeKey struct{ param, namespace int64 }
	write    struct {
		event, time int64
		writes      uint64
	}
	// A processRow is a row of the table process.
	processRow struct {
		pid, tid, ppid, uid, gid             uint32
		started                              bool
		start                                int64
		comm                                 string
		exe, args, person, cgroup, ns, chain int64
	}
	placeRow struct{ container, pod, unit string }
)

// person is what a process's row has of who it is, in one text.
type person struct {
	User      string  `json:"user,omitempty"`
	LoginUID  *uint32 `json:"login_uid,omitempty"`
	LoginUser string  `json:"login_user,omitempty"`
	SessionID *uint32 `json:"session_id,omitempty"`
	SudoUID   *uint32 `json:"sudo_uid,omitempty"`
	SudoUser  string  `json:"sudo_user,omitempty"`
	TTY       string  `json:"tty,omitempty"`
	Role      string  `json:"role,omitempty"`
}

// generationEvents is after how many events what they refer to is written anew.
const generationEvents = 1 << 20

// cacheKiB is how much of the database is kept in memory while it is written: more than the
// ends of tables that a transaction writes to is of no use.
var cacheKiB = 4 << 10

// epochs counts those of all writers: what pending events refer to outlives one.
var epochs atomic.Uint64

// makeFile makes an empty file that only its owner may read and write, whatever the umask is,
// if there is none at path. SQLite gives the files next to a database the mode of it.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fileMode)
	if errors.Is(err, os.ErrExist) {
		if _, statErr := os.Stat(path); !errors.Is(statErr, os.ErrNotExist) {
			return nil
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode) // where a link leads
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(fileMode), f.Close())
}

// openWriter opens, makes or migrates the database at path for writing.
func openWriter(ctx context.Context, path string) (*writer, error) {
	if err := makeFile(path); err != nil {
		return nil, err
	}
	conn, err := openConn(ctx, path, sqlite.OpenReadWrite, 500*time.Millisecond)
	if err != nil {
		return nil, err
	}
	w := &writer{path: path, conn: conn, encode: new(event.Encoder), sum: sha256.New(), writes: map[writeKey]*write{}}
	if err := w.prepare(); err != nil {
		return nil, errors.Join(explain(path, err), conn.Close())
	}
	w.files = map[string]os.FileInfo{}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		// The last two are not where the file system can have no log.
		if info, err := os.Stat(path + suffix); err == nil {
			w.files[suffix] = info
		}
	}
	return w, nil
}

// moved says whether the database is no more where it was opened: somebody has removed it,
// or put another there. SQLite would go on writing to a file that nobody finds.
func (w *writer) moved() bool { return moved(w.path, w.files[""]) }

func moved(path string, opened os.FileInfo) bool {
	now, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist) || (err == nil && opened != nil && !os.SameFile(opened, now))
}

// leave closes a database that has moved, with all in it. SQLite leaves its log behind then,
// which would be taken for that of the one that is there now.
func (w *writer) leave() error {
	err := errors.Join(execute(w.conn, "PRAGMA wal_checkpoint(TRUNCATE)"), w.close())
	for _, suffix := range []string{"-wal", "-shm"} {
		if now, statErr := os.Stat(w.path + suffix); statErr == nil && w.files[suffix] != nil && os.SameFile(w.files[suffix], now) {
			err = errors.Join(err, os.Remove(w.path+suffix))
		}
	}
	return err
}

func (w *writer) prepare() (err error) {
	have, err := version(w.conn)
	if err != nil {
		return err
	}
	if have <= SchemaVersion { // migrate says it of a newer one
		if err := checkSchema(w.conn, have); err != nil {
			return err
		}
	}
	// Before there are tables: these take effect only then. In larger pages there are more
	// lists and events to be read at once.
	for _, set := range []string{"page_size = 8192", "auto_vacuum = INCREMENTAL"} {
		if err := sqlitex.ExecuteTransient(w.conn, "PRAGMA "+set, nil); err != nil {
			return err
		}
	}
	for _, set := range []string{
		"journal_mode = WAL",
		"synchronous = FULL", // what is committed has to outlive a power cut
		fmt.Sprintf("cache_size = -%d", cacheKiB),
		"wal_autocheckpoint = 2000",
		"journal_size_limit = 33554432",
	} {
		if err := sqlitex.ExecuteTransient(w.conn, "PRAGMA "+set, nil); err != nil {
			return err
		}
	}
	if err := migrate(w.conn, SchemaVersion); err != nil {
		return err
	}
	return w.load()
}

// load reads where the database is, and forgets all that was known of its rows.
func (w *writer) load() (err error) {
	w.epoch = epochs.Add(1)
	w.origins.clear()
	w.kinds.clear()
	w.params.clear()
	w.namespaces.clear()
	w.forget()
	for _, next := range []struct {
		to    *int64
		table string
	}{{&w.nextEvent, "event"}, {&w.nextProcess, "process"}, {&w.nextText, "text"}, {&w.nextPlace, "place"}, {&w.nextView, "namespace_view"}} {
		if *next.to, err = number(w.conn, "SELECT coalesce(max(id), 0) + 1 FROM "+next.table); err != nil {
			return err
		}
	}
	w.head = Hash{}
	// What was dropped last, should nothing be left behind it.
	if err := w.eachRow("SELECT event + 1, hash FROM anchor ORDER BY id DESC LIMIT 1", func(stmt *sqlite.Stmt) {
		if next := stmt.ColumnInt64(0); next >= w.nextEvent {
			w.nextEvent = next
			stmt.ColumnBytes(1, w.head[:])
		}
	}); err != nil {
		return err
	}
	if err := w.eachRow("SELECT hash FROM event WHERE id = (SELECT max(id) FROM event)", func(stmt *sqlite.Stmt) {
		stmt.ColumnBytes(0, w.head[:])
	}); err != nil {
		return err
	}
	if w.generationEnd, err = number(w.conn, "SELECT coalesce(max(first_event), 0) FROM generation"); err != nil {
		return err
	}
	if w.generationEnd > 0 {
		w.generationEnd += generationEvents
	}
	if err := w.loadSealed(); err != nil {
		return err
	}
	for _, prepare := range []struct {
		to    **sqlite.Stmt
		query string
	}{

		{&w.insertEvent, `INSERT INTO event (id, time, seq, origin, kind, process, place, parameter, namespace, view, ns_from, old, new, after, hash)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`},
		{&w.insertWhole, "INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
		{&w.insertProcess, "INSERT INTO process VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
		{&w.insertText, "INSERT INTO text VALUES (?, ?)"},
		{&w.insertNamespace, "INSERT INTO namespace VALUES (NULL, ?, ?, ?, ?, NULL)"},
		{&w.insertView, "INSERT INTO namespace_view VALUES (?, ?, ?, ?, ?, ?)"},
		{&w.endNamespace, "UPDATE namespace SET ended = ? WHERE id = ?"},
		{&w.insertList[byParameter], "INSERT INTO parameter_list VALUES (?, ?)"},
		{&w.insertList[byNamespace], "INSERT INTO namespace_list VALUES (?, ?)"},
		{&w.noteWrite, `INSERT INTO last_write VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT DO UPDATE
			SET event = excluded.event, time = excluded.time, writes = writes + excluded.writes, line = NULL`},
	} {
		if *prepare.to, err = w.conn.Prepare(prepare.query); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) eachRow(query string, do func(*sqlite.Stmt), args ...any) error {
	return sqlitex.Execute(w.conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
		do(stmt)
		return nil
	}})
}

// forget begins anew with what is written once in a generation.
func (w *writer) forget() {
	w.texts.clear()
	w.processes.clear()
	w.byPointer.clear()
	w.places.clear()
	w.described, w.describedRow = nil, processRow{}
}

// transaction does something whole or not at all. After an error nothing of it is left,
// neither in the database nor in what the writer knows of it.
func (w *writer) transaction(do func() error) (err error) {
	if err := execute(w.conn, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err = do()
	if err == nil {
		err = execute(w.conn, "COMMIT")
	}
	if err == nil {
		return nil
	}
	if !w.conn.AutocommitEnabled() { // a full disk rolls back by itself
		err = errors.Join(err, execute(w.conn, "ROLLBACK"))
	}
	return errors.Join(err, w.load())
}

// batch writes events in one transaction, and returns when they are on the disk.
func (w *writer) batch(chunks [][]pending) error {
	return w.transaction(func() error {
		first := w.nextEvent
		clear(w.writes)
		w.firstTime, w.lastTime = 1<<63-1, -1<<63
		for _, chunk := range chunks {
			for i := range chunk {
				if err := w.add(&chunk[i]); err != nil {
					return err
				}
			}
		}
		if w.nextEvent == first {
			return nil
		}
		if err := w.sealSome(w.nextEvent - first); err != nil {
			return err
		}
		if err := w.noteWrites(); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		if err := execute(w.conn, `INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?)`, first, w.nextEvent-1, w.firstTime, w.lastTime, w.run, now); err != nil {
			return err
		}
		return execute(w.conn, `UPDATE run SET last = ? WHERE id = ?`, now, w.run)
	})
}

// noteWrites keeps the table of last writes, with those of a batch.
func (w *writer) noteWrites() error {
	for k, n := range w.writes {
		if err := do(w.noteWrite, k.param, k.namespace, n.event, n.time, int64(n.writes)); err != nil {
			return err
		}
	}
	return nil
}

// add writes one event.
func (w *writer) add(q *pending) error {
	if w.nextEvent >= w.generationEnd {
		w.forget()
		w.epoch = epochs.Add(1) // for views
		if err := execute(w.conn, "INSERT INTO generation VALUES (?, ?, ?, ?, ?)", w.nextEvent, w.nextProcess, w.nextText, w.nextPlace, w.nextView); err != nil {
			return err
		}
		w.generationEnd = w.nextEvent + generationEvents
	}
	id := w.nextEvent
	s, hashColumn := w.insertEvent, 15
	whole := q.truncated || q.child != 0 || q.count != 0 || q.lastTime != 0 || q.end != nil || q.line != ""
	if whole {
		s, hashColumn = w.insertWhole, 26
	}
	if err := anew(s); err != nil {
		return err
	}
	s.BindInt64(1, id)
	s.BindInt64(2, q.time)
	s.BindInt64(3, int64(q.seq))
	origin, err := w.originID(q.origin)
	if err != nil {
		return err
	}
	s.BindInt64(4, origin)
	kind, err := w.kindID(q.kind)
	if err != nil {
		return err
	}
	s.BindInt64(5, kind)
	if q.process != nil {
		p, err := w.processID(q.process)
		if err != nil {
			return err
		}
		s.BindInt64(6, p)
	}
	if q.container != nil || q.pod != nil || q.unit != "" {
		p, err := w.placeID(q.container, q.pod, q.unit)
		if err != nil {
			return err
		}
		s.BindInt64(7, p)
	}
	var param, namespace int64
	if q.param != nil {
		if param, err = w.parameterID(q.param); err != nil {
			return err
		}
		s.BindInt64(8, param)
	}
	if q.view != nil {
		if err := w.viewID(q.view, origin, q.kind); err != nil {
			return err
		}
		namespace = q.view.namespaceID
		s.BindInt64(9, namespace)
		s.BindInt64(10, q.view.row.id)
	}
	bindNonZero(s, 11, int64(q.from))
	values := q.values
	for i, n := range q.length {
		if n != absent {
			s.BindText(12+i, values[:n])
			values = values[n:]
		}
	}
	if whole {
		if err := w.bindRest(s, q); err != nil {
			return err
		}
	}

	line := w.line[:0]
	if q.line != "" {
		line = append(line, q.line...)
	} else {
		line = w.encode.Append(line, w.u.fill(q))
	}
	w.line = line
	w.sum.Reset()
	w.sum.Write(w.head[:])
	w.sum.Write(line)
	var head Hash
	w.sum.Sum(head[:0])
	s.BindBytes(hashColumn, head[:])
	if _, err := s.Step(); err != nil {
		return err
	}
	w.head = head
	w.nextEvent++
	w.firstTime, w.lastTime = min(w.firstTime, q.time), max(w.lastTime, q.time, q.lastTime)
	if param != 0 && q.kind.typ == event.SysctlWrite && q.kind.outcome != event.Failure {
		n := w.writes[writeKey{param, namespace}]
		if n == nil {
			n = &write{}
			w.writes[writeKey{param, namespace}] = n
		}
		n.event, n.time = id, max(q.time, q.lastTime)
		n.writes += max(1, q.count)
	}
	if q.kind.typ == event.NamespaceDestroy && q.view != nil {
		w.namespaces.remove(originNamespace{origin, q.view.namespaceKey})
		return do(w.endNamespace, id, namespace)
	}
	return nil
}

// anew makes a statement ready for other values.
func anew(s *sqlite.Stmt) error {
	if err := s.Reset(); err != nil {
		return err
	}
	return s.ClearBindings()
}

// do runs a statement that was kept, with numbers.
func do(s *sqlite.Stmt, values ...int64) error {
	if err := anew(s); err != nil {
		return err
	}
	for i, v := range values {
		s.BindInt64(i+1, v)
	}
	_, err := s.Step()
	return err
}

// bindRest binds what most events do not have.
func (w *writer) bindRest(s *sqlite.Stmt, q *pending) error {
	if q.truncated {
		s.BindInt64(15, 1)
	}
	bindNonZero(s, 16, int64(q.child))
	bindNonZero(s, 17, int64(q.count))
	bindNonZero(s, 18, q.lastTime)
	if q.line != "" {
		s.BindText(25, q.line)
	}
	if q.end == nil {
		return nil
	}
	return w.bindEnd(s, q.end)
}

func bindNonZero(s *sqlite.Stmt, i int, n int64) {
	if n != 0 {
		s.BindInt64(i, n)
	}
}

func (w *writer) bindEnd(s *sqlite.Stmt, e *end) error {
	if !e.created.IsZero() {
		s.BindInt64(19, e.created.UnixNano())
	}
	if e.lifetime != nil {
		s.BindInt64(20, *e.lifetime)
	}
	if c := e.creator; c != nil {
		comm, err := w.textID(c.Comm)
		if err != nil {
			return err
		}
		s.BindInt64(21, int64(c.PID))
		s.BindInt64(22, int64(c.UID))
		s.BindInt64(23, comm)
	}
	if e.detected != "" {
		detected, err := w.textID(e.detected)
		if err != nil {
			return err
		}
		s.BindInt64(24, detected)
	}
	return nil
}

func (w *writer) originID(o *origin) (int64, error) {
	return w.shared(&o.row, func() (int64, error) {
		return remember(w, &w.origins, [2]string{o.host, o.bootID}, "origin", "host = ?1 AND boot_id = ?2", o.host, o.bootID)
	})
}

func (w *writer) kindID(k *kind) (int64, error) {
	return w.shared(&k.row, func() (int64, error) {
		return remember(w, &w.kinds, k.kindKey, "kind", "type = ?1 AND outcome = ?2 AND error = ?3 AND via = ?4", string(k.typ), string(k.outcome), k.error, k.via)
	})
}

func (w *writer) parameterID(p *parameter) (int64, error) {
	return w.shared(&p.row, func() (int64, error) {
		return remember(w, &w.params, p.parameterKey, "parameter", "name = ?1 AND path = ?2", p.name, p.path)
	})
}

// shared returns the id that was found for r in this epoch, or finds it.
func (w *writer) shared(r *row, find func() (int64, error)) (int64, error) {
	if r.epoch == w.epoch {
		return r.id, nil
	}
	id, err := find()
	if err != nil {
		return 0, err
	}
	r.epoch, r.id = w.epoch, id
	return id, nil
}

// remember returns the id of the row of a table that has these values, which it makes if
// there is none.
func remember[K comparable](w *writer, known *cache[K, int64], key K, table, where string, values ...any) (int64, error) {
	if id, ok := known.get(key); ok {
		return id, nil
	}
	id, err := number(w.conn, "SELECT id FROM "+table+" WHERE "+where, values...)
	if err != nil {
		return 0, err
	}
	if id == 0 {
		marks := ""
		for range values {
			marks += ", ?"
		}
		if err := execute(w.conn, "INSERT INTO "+table+" VALUES (NULL"+marks+")", values...); err != nil {
			return 0, err
		}
		id = w.conn.LastInsertRowID()
	}
	known.put(key, id)
	return id, nil
}

// viewID finds the ids of a view and its namespace.
func (w *writer) viewID(v *view, origin int64, k *kind) error {
	if v.row.epoch == w.epoch {
		return nil
	}
	key := originNamespace{origin, v.namespaceKey}
	id, ok := w.namespaces.get(key)
	if !ok {
		var err error
		// One that was just made is new, whoever had its number before.
		if k.typ != event.NamespaceCreate || k.outcome == event.Failure {
			if id, err = number(w.conn, "SELECT max(id) FROM namespace WHERE inode = ? AND type = ? AND uid = ? AND origin = ?", int64(v.inode), string(v.typ), v.uid, origin); err != nil {
				return err
			}
		}
		if id == 0 {
			s := w.insertNamespace
			if err := anew(s); err != nil {
				return err
			}
			s.BindInt64(1, origin)
			s.BindText(2, string(v.typ))
			s.BindInt64(3, int64(v.inode))
			s.BindText(4, v.uid)
			if _, err := s.Step(); err != nil {
				return err
			}
			id = w.conn.LastInsertRowID()
		}
		w.namespaces.put(key, id)
	}
	s := w.insertView
	if err := anew(s); err != nil {
		return err
	}
	s.BindInt64(1, w.nextView)
	s.BindInt64(2, id)
	s.BindText(3, v.name)
	s.BindBool(4, v.host)
	s.BindInt64(5, int64(v.userNS))
	if v.owner != nil {
		s.BindText(6, asText(v.owner))
	}
	if _, err := s.Step(); err != nil {
		return err
	}
	v.namespaceID, v.row = id, row{w.epoch, w.nextView}
	w.nextView++
	return nil
}

func (w *writer) placeID(c *event.Container, p *event.Pod, unit string) (int64, error) {
	key := placeRow{unit: unit}
	if c != nil {
		key.container = asText(c)
	}
	if p != nil {
		key.pod = asText(p)
	}
	if id, ok := w.places.get(key); ok {
		return id, nil
	}
	if err := execute(w.conn, "INSERT INTO place VALUES (?, nullif(?, ''), nullif(?, ''), ?)", w.nextPlace, key.container, key.pod, unit); err != nil {
		return 0, err
	}
	id := w.nextPlace
	w.places.put(key, id)
	w.nextPlace++
	return id, nil
}

// asText is v as JSON. The types that it is used for can always be.
func asText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("history: " + strconv.Quote(fmt.Sprintf("%T", v)) + " as JSON: " + err.Error())
	}
	return string(text)
}

// textID returns the id of a text, 0 for the empty one.
func (w *writer) textID(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if id, ok := w.texts.get(s); ok {
		return id, nil
	}
	insert := w.insertText
	if err := anew(insert); err != nil {
		return 0, err
	}
	insert.BindInt64(1, w.nextText)
	insert.BindText(2, s)
	if _, err := insert.Step(); err != nil {
		return 0, err
	}
	id := w.nextText
	w.texts.put(s, id)
	w.nextText++
	return id, nil
}

func (w *writer) processID(p *event.Process) (int64, error) {
	if id, ok := w.byPointer.get(p); ok {
		return id, nil
	}
	r := processRow{pid: p.PID, tid: p.TID, ppid: p.PPID, uid: p.UID, gid: p.GID, comm: p.Comm}
	if r.started = !p.StartTime.IsZero(); r.started {
		r.start = p.StartTime.UnixNano()
	}
	if err := w.describe(p, &r); err != nil {
		return 0, err
	}
	if id, ok := w.processes.get(r); ok {
		w.byPointer.put(p, id)
		return id, nil
	}
	s := w.insertProcess
	if err := anew(s); err != nil {
		return 0, err
	}
	id := w.nextProcess
	s.BindInt64(1, id)
	s.BindInt64(2, int64(r.pid))
	s.BindInt64(3, int64(r.tid))
	s.BindInt64(4, int64(r.ppid))
	if r.started {
		s.BindInt64(5, r.start)
	}
	s.BindText(6, r.comm)
	bindNonZero(s, 7, r.exe)
	bindNonZero(s, 8, r.args)
	s.BindInt64(9, int64(r.uid))
	s.BindInt64(10, int64(r.gid))
	bindNonZero(s, 11, r.person)
	bindNonZero(s, 12, r.cgroup)
	bindNonZero(s, 13, r.ns)
	bindNonZero(s, 14, r.chain)
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	w.nextProcess++
	w.processes.put(r, id)
	w.byPointer.put(p, id)
	return id, nil
}

// describe finds the texts of a process. What it has in common with the one before, its
// parent's other child more often than not, is not made into text again.
func (w *writer) describe(p *event.Process, r *processRow) (err error) {
	before, known := w.described, &w.describedRow
	if before == nil {
		before = &event.Process{}
	}
	text := func(to *int64, known int64, same bool, text func() string) {
		if *to = known; !same && err == nil {
			*to, err = w.textID(text())
		}
	}
	text(&r.exe, known.exe, p.Exe == before.Exe, func() string { return p.Exe })
	text(&r.cgroup, known.cgroup, p.Cgroup == before.Cgroup, func() string { return p.Cgroup })
	text(&r.args, known.args, slices.Equal(p.Args, before.Args), func() string { return listText(p.Args) })
	text(&r.chain, known.chain, slices.Equal(p.Ancestors, before.Ancestors), func() string { return listText(p.Ancestors) })
	text(&r.ns, known.ns, maps.Equal(p.NS, before.NS), func() string {
		if len(p.NS) == 0 {
			return ""
		}
		return asText(p.NS)
	})
	text(&r.person, known.person, samePerson(p, before), func() string {
		who := person{p.User, p.LoginUID, p.LoginUser, p.SessionID, p.SudoUID, p.SudoUser, p.TTY, p.Role}
		if who == (person{}) {
			return ""
		}
		return asText(who)
	})
	w.described, w.describedRow = p, *r
	if err != nil {
		w.described, w.describedRow = nil, processRow{}
	}
	return err
}

func listText[T any](list []T) string {
	if len(list) == 0 {
		return ""
	}
	return asText(list)
}

func samePerson(a, b *event.Process) bool {
	return a.User == b.User && a.LoginUser == b.LoginUser && a.SudoUser == b.SudoUser && a.TTY == b.TTY && a.Role == b.Role &&
		same(a.LoginUID, b.LoginUID) && same(a.SessionID, b.SessionID) && same(a.SudoUID, b.SudoUID)
}

func (w *writer) close() error {
	return w.conn.Close()
}
