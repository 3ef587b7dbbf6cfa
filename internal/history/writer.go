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

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/safefile"
)

// A writer writes events to a database's tables. It finds the rows that events refer to by their
// values:
//
//   - parameters, kinds, origins and namespaces have one row each.
//   - processes, texts, workloads and views have one row in each generation that uses them.
//
// Once retention has dropped the events of a generation, it can drop the generation's rows as well.
// From time to time it looks for the other rows that no event refers to.
type writer struct {
	path string
	conn *sqlite.Conn

	epoch uint64 // the row ids in pending events are valid in this epoch
	// The next ids, and the end of the chain.
	nextEvent, nextProcess, nextText, nextWorkload, nextView int64
	head                                                     Hash
	generationEnd                                            int64 // first event of the next generation
	segmentEnd                                               int64 // last event of the last segment

	origins    cache[originKey, int64]
	kinds      cache[kindKey, int64]
	params     cache[parameterKey, int64]
	namespaces cache[originNamespace, int64]
	texts      cache[string, int64]
	processes  cache[processRow, int64]
	byPointer  cache[*event.Process, int64]
	workloads  cache[workloadRow, int64]

	lastProcess *event.Process // the process whose texts were looked up last; nil if none
	lastRow     processRow     // the ids of its texts

	share, maxKept  int64 // see setLimit
	generationBytes int64 // about how many bytes of rows this generation has added
	shared          int64 // about the size of the tables without generations
	unused          int64 // the rows of these tables that no event refers to have at most about this size
	dropped         int64 // events that this writer dropped
	kept            int64 // size of the writes that last_write keeps, or more
	rowsLeft        bool  // dropGenerations can have left rows
	keepAnchors     bool  // mergeAnchors found some that somebody changed

	held      bool                   // the empty journal keeps others from making one
	files     map[string]os.FileInfo // the open files, by their suffix after path
	run       int64
	writes    map[writeKey]*write // last writes of the batch
	u         unpacked
	encode    *event.Encoder
	sum       hash.Hash
	line      []byte
	firstTime int64
	lastTime  int64

	// Prepared statements of the hot path. To find a statement by its text takes as long as to run
	// it.
	insertEvent, insertWhole, insertProcess, insertText, insertNamespace, insertView, endNamespace, upsertLastWrite *sqlite.Stmt
	insertList                                                                                                      [len(listTables)]*sqlite.Stmt
}

type (
	originNamespace struct {
		origin int64
		namespaceKey
	}
	writeKey struct{ param, namespace int64 }
	write    struct {
		event, time int64
		late        bool // of its event
		writes      uint64
	}
	// A processRow is a row of the table process.
	processRow struct {
		pid, tid, ppid, uid, gid               uint32
		started                                bool
		start                                  int64
		comm                                   string
		exe, args, identity, cgroup, ns, chain int64
	}
	workloadRow struct{ container, pod, unit string }
)

// identity is the JSON of a process's user, login, sudo, terminal and role: the column person.
type identity struct {
	User      string  `json:"user,omitempty"`
	LoginUID  *uint32 `json:"login_uid,omitempty"`
	LoginUser string  `json:"login_user,omitempty"`
	SessionID *uint32 `json:"session_id,omitempty"`
	SudoUID   *uint32 `json:"sudo_uid,omitempty"`
	SudoUser  string  `json:"sudo_user,omitempty"`
	TTY       string  `json:"tty,omitempty"`
	Role      string  `json:"role,omitempty"`
}

// generationEvents is the number of events in a generation.
const generationEvents = 1 << 20

// cacheKiB is the size of the page cache while recording. A larger cache has no use, because a
// transaction only appends to tables.
var cacheKiB = 4 << 10

// epochs counts the epochs of all writers: a pending event can outlive its writer.
var epochs atomic.Uint64

// makeFile creates an empty file at path if there is none. Only its owner may read and write it, whatever the
// umask. An existing database keeps its mode. SQLite gives that to the files next to it.
func makeFile(path string) error {
	// It does not open an existing database: to close it would release SQLite's locks.
	f, err := safefile.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, os.ErrExist) {
		// To open a pipe would wait for ever.
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			return fmt.Errorf("%s: not a regular file: %w", path, ErrNotHistory)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// databaseFiles are the suffixes of the files that SQLite opens by name.
var databaseFiles = []string{"-journal", "-wal", "-shm", ""}

// openWriter opens the database at path for writing. It creates or migrates it if necessary.
func openWriter(ctx context.Context, path string) (*writer, error) {
	// Each time: while the database is closed, others can put a journal beside it, which SQLite would play back.
	// SQLite takes an empty journal for none.
	held, err := safefile.HoldFiles(path, databaseFiles...)
	if err != nil {
		return nil, err
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	conn, err := openConn(ctx, path, sqlite.OpenReadWrite, 500*time.Millisecond)
	if err != nil {
		return nil, err
	}
	w := &writer{path: path, conn: conn, encode: new(event.Encoder), sum: sha256.New(), writes: map[writeKey]*write{}, rowsLeft: true, held: held}
	w.setLimit(0)
	if err := w.prepare(); err != nil {
		return nil, errors.Join(explain(path, err), conn.Close())
	}
	w.files = map[string]os.FileInfo{}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		// There is no log if the file system does not support one.
		if info, err := os.Stat(path + suffix); err == nil {
			w.files[suffix] = info
		}
	}
	return w, nil
}

// moved reports whether the database is no longer at path: somebody removed or replaced it. SQLite
// would continue to write to the old file.
func (w *writer) moved() bool { return moved(w.path, w.files[""]) }

func moved(path string, opened os.FileInfo) bool {
	now, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist) || (err == nil && opened != nil && !os.SameFile(opened, now))
}

// closeMoved closes a database that was moved, after it has moved the log's content into it. SQLite
// then leaves its log behind. Remove it, because the next database at path would use it.
func (w *writer) closeMoved() error {
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
	if have <= SchemaVersion { // migrate reports a newer version
		if err := checkSchema(w.conn, have); err != nil {
			return err
		}
	}
	if err := w.setLayout(); err != nil {
		return err
	}
	for _, set := range []string{
		"synchronous = FULL", // a committed transaction survives a power cut
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
	if err := w.countShared(); err != nil {
		return err
	}
	w.unused = w.shared
	if w.kept, err = w.keptBytes(); err != nil {
		return err
	}
	return w.load()
}

// setLayout sets the layout of a new database, and makes SQLite use a log where the file system
// supports one.
func (w *writer) setLayout() error {
	mode := func(set string) (mode string, err error) {
		err = w.eachRow("PRAGMA journal_mode"+set, func(stmt *sqlite.Stmt) { mode = stmt.ColumnText(0) })
		return mode, err
	}
	const log = "wal"
	before, err := mode("")
	// Only in this mode, SQLite does not delete the journal when it begins the log. Others could make
	// one in its place.
	if err == nil && w.held && before != log {
		_, err = mode(" = MEMORY")
	}
	if err != nil {
		return err
	}
	// These settings have an effect only before the first table. A larger page holds more lists and
	// events for each read.
	for _, set := range []string{"page_size = 8192", "auto_vacuum = INCREMENTAL"} {
		if err := sqlitex.ExecuteTransient(w.conn, "PRAGMA "+set, nil); err != nil {
			return err
		}
	}
	after, err := mode(" = " + log)
	if err == nil && w.held && after != log {
		_, err = mode(" = TRUNCATE") // it never deletes the journal either
	}
	return err
}

// load reads the next ids and the end of the chain, and clears all caches.
func (w *writer) load() (err error) {
	w.forget()
	w.clearCaches()
	for _, next := range []struct {
		to    *int64
		table string
	}{{&w.nextEvent, "event"}, {&w.nextProcess, "process"}, {&w.nextText, "text"}, {&w.nextWorkload, "place"}, {&w.nextView, "namespace_view"}} {
		if *next.to, err = number(w.conn, "SELECT coalesce(max(id), 0) + 1 FROM "+next.table); err != nil {
			return err
		}
	}
	w.head = Hash{}
	// The last event that was dropped, if no event is left.
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
	if err := w.loadSegmentEnd(); err != nil {
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
		{&w.upsertLastWrite, `INSERT INTO last_write VALUES (?1, ?2, ?3, ?4, ?5, NULL) ON CONFLICT DO UPDATE
			SET event = iif(?6 AND excluded.time < time, event, excluded.event), time = iif(?6, max(time, excluded.time), excluded.time),
				writes = writes + excluded.writes, line = iif(?6 AND excluded.time < time, line, NULL)`},
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

// clearCaches clears the caches of rows that each generation writes again.
func (w *writer) clearCaches() {
	w.texts.clear()
	w.processes.clear()
	w.byPointer.clear()
	w.workloads.clear()
	w.lastProcess, w.lastRow = nil, processRow{}
}

// transaction runs do in a transaction. After an error, neither the database nor the caches contain
// anything of it.
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
	if !w.conn.AutocommitEnabled() { // SQLite rolls back by itself if the disk is full
		err = errors.Join(err, execute(w.conn, "ROLLBACK"))
	}
	return errors.Join(err, w.load())
}

// batch writes events in one transaction. When it returns, they are on the disk.
func (w *writer) batch(chunks [][]pending) error {
	return w.transaction(func() error {
		first := w.nextEvent
		clear(w.writes)
		w.firstTime, w.lastTime = 1<<63-1, -1<<63
		for _, chunk := range chunks {
			for i := range chunk {
				if err := w.insert(&chunk[i]); err != nil {
					return err
				}
			}
		}
		if w.nextEvent == first {
			return nil
		}
		if err := w.addSegments(w.nextEvent - first); err != nil {
			return err
		}
		if err := w.storeLastWrites(); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		if err := execute(w.conn, `INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?)`, first, w.nextEvent-1, w.firstTime, w.lastTime, w.run, now); err != nil {
			return err
		}
		return execute(w.conn, `UPDATE run SET last = ? WHERE id = ?`, now, w.run)
	})
}

// storeLastWrites adds the batch's last writes to the table last_write.
func (w *writer) storeLastWrites() error {
	for k, n := range w.writes {
		late := int64(0)
		if n.late {
			late = 1
		}
		if err := runStatement(w.upsertLastWrite, k.param, k.namespace, n.event, n.time, int64(n.writes), late); err != nil {
			return err
		}
	}
	return nil
}

// insert inserts one event.
func (w *writer) insert(q *pending) error {
	if w.nextEvent >= w.generationEnd || w.generationBytes > w.share {
		w.clearCaches()
		w.generationBytes = 0
		w.epoch = epochs.Add(1) // views are written again
		if err := execute(w.conn, "INSERT INTO generation VALUES (?, ?, ?, ?, ?)", w.nextEvent, w.nextProcess, w.nextText, w.nextWorkload, w.nextView); err != nil {
			return err
		}
		w.generationEnd = w.nextEvent + generationEvents
	}
	id := w.nextEvent
	s, hashColumn := w.insertEvent, 15
	whole := q.truncated || q.child != 0 || q.count != 0 || q.lastTime != 0 || q.details != nil || q.line != ""
	if whole {
		s, hashColumn = w.insertWhole, 26
	}
	if err := resetStatement(s); err != nil {
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
		p, err := w.workloadID(q.container, q.pod, q.unit)
		if err != nil {
			return err
		}
		s.BindInt64(7, p)
	}
	var param, namespace, boot int64
	if q.param != nil {
		if param, err = w.parameterID(q.param); err != nil {
			return err
		}
		s.BindInt64(8, param)
	}
	if q.view != nil {
		if boot, err = w.bootID(q.origin.boot); err != nil {
			return err
		}
		if err := w.viewID(q.view, boot, q.kind); err != nil {
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
	if param != 0 && q.kind.typ == event.SysctlWrite && q.kind.outcome != event.Failure && !q.noEffect {
		n := w.writes[writeKey{param, namespace}]
		if n == nil {
			n = &write{}
			w.writes[writeKey{param, namespace}] = n
		}
		if at := max(q.time, q.lastTime); n.event == 0 || !q.late || at >= n.time {
			n.event, n.time, n.late = id, at, q.late
		}
		n.writes += max(1, q.count)
	}
	if (q.kind.typ == event.NamespaceDestroy || q.kind.typ == event.NamespaceGone) && q.view != nil {
		w.namespaces.remove(originNamespace{boot, q.view.namespaceKey})
		return runStatement(w.endNamespace, id, namespace)
	}
	return nil
}

// resetStatement clears a statement for new values.
func resetStatement(s *sqlite.Stmt) error {
	if err := s.Reset(); err != nil {
		return err
	}
	return s.ClearBindings()
}

// runStatement runs a prepared statement with integers.
func runStatement(s *sqlite.Stmt, values ...int64) error {
	if err := resetStatement(s); err != nil {
		return err
	}
	for i, v := range values {
		s.BindInt64(i+1, v)
	}
	_, err := s.Step()
	return err
}

// bindRest binds the columns that few events have.
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
	if q.details == nil {
		return nil
	}
	return w.bindDestroyDetails(s, q.details)
}

func bindNonZero(s *sqlite.Stmt, i int, n int64) {
	if n != 0 {
		s.BindInt64(i, n)
	}
}

func (w *writer) bindDestroyDetails(s *sqlite.Stmt, e *destroyDetails) error {
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
	return w.rowID(&o.row, func() (int64, error) {
		return findOrInsert(w, &w.origins, o.originKey, "origin", "host = ?1 AND boot_id = ?2 AND run_id = ?3", o.host, o.bootID, o.runID)
	})
}

// bootID returns the row of a boot, to which namespaces refer. It is the first one without a run id: the
// name of the host can change while it runs.
func (w *writer) bootID(o *origin) (int64, error) {
	if o.bootID == "" {
		return w.originID(o)
	}
	return w.rowID(&o.asBoot, func() (int64, error) {
		id, err := number(w.conn, "SELECT id FROM origin WHERE boot_id = ? AND run_id = '' ORDER BY id LIMIT 1", o.bootID)
		if err != nil || id != 0 {
			return id, err
		}
		return w.originID(o)
	})
}

func (w *writer) kindID(k *kind) (int64, error) {
	return w.rowID(&k.row, func() (int64, error) {
		return findOrInsert(w, &w.kinds, k.kindKey, "kind", "type = ?1 AND outcome = ?2 AND error = ?3 AND via = ?4", string(k.typ), string(k.outcome), k.error, k.via)
	})
}

func (w *writer) parameterID(p *parameter) (int64, error) {
	return w.rowID(&p.row, func() (int64, error) {
		return findOrInsert(w, &w.params, p.parameterKey, "parameter", "name = ?1 AND path = ?2", p.name, p.path)
	})
}

// rowID returns the id in r if it is of this epoch, and calls find otherwise.
func (w *writer) rowID(r *row, find func() (int64, error)) (int64, error) {
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

// findOrInsert returns the id of the row that has these values. It inserts the row if there is
// none.
func findOrInsert[K comparable](w *writer, known *cache[K, int64], key K, table, where string, values ...any) (int64, error) {
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
		w.shared += rowBytes
		for _, v := range values {
			w.shared += 2 * int64(len(v.(string))) // in the table and in its index
		}
	}
	known.put(key, id)
	return id, nil
}

// viewID sets the ids of a view and its namespace.
func (w *writer) viewID(v *view, origin int64, k *kind) error {
	if v.row.epoch == w.epoch {
		return nil
	}
	key := originNamespace{origin, v.namespaceKey}
	id, ok := w.namespaces.get(key)
	if !ok {
		var err error
		// A namespace that was just created is a new one, even if an older one had the same inode.
		if k.typ != event.NamespaceCreate || k.outcome == event.Failure {
			if id, err = number(w.conn, "SELECT id FROM namespace WHERE inode = ? AND type = ? AND uid = ? AND origin = ? ORDER BY id DESC LIMIT 1", int64(v.inode), string(v.typ), v.uid, origin); err != nil {
				return err
			}
		}
		if id == 0 {
			s := w.insertNamespace
			if err := resetStatement(s); err != nil {
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
			w.shared += rowBytes + int64(len(v.uid))
		}
		w.namespaces.put(key, id)
	}
	s := w.insertView
	if err := resetStatement(s); err != nil {
		return err
	}
	s.BindInt64(1, w.nextView)
	s.BindInt64(2, id)
	s.BindText(3, v.name)
	s.BindBool(4, v.host)
	s.BindInt64(5, int64(v.userNS))
	w.generationBytes += rowBytes + int64(len(v.name))
	if v.owner != nil {
		owner := jsonText(v.owner)
		s.BindText(6, owner)
		w.generationBytes += int64(len(owner))
	}
	if _, err := s.Step(); err != nil {
		return err
	}
	v.namespaceID, v.row = id, row{w.epoch, w.nextView}
	w.nextView++
	return nil
}

func (w *writer) workloadID(c *event.Container, p *event.Pod, unit string) (int64, error) {
	key := workloadRow{unit: unit}
	if c != nil {
		key.container = jsonText(c)
	}
	if p != nil {
		key.pod = jsonText(p)
	}
	if id, ok := w.workloads.get(key); ok {
		return id, nil
	}
	if err := execute(w.conn, "INSERT INTO place VALUES (?, nullif(?, ''), nullif(?, ''), ?)", w.nextWorkload, key.container, key.pod, unit); err != nil {
		return 0, err
	}
	id := w.nextWorkload
	w.generationBytes += rowBytes + int64(len(key.container)+len(key.pod)+len(unit))
	w.workloads.put(key, id)
	w.nextWorkload++
	return id, nil
}

// jsonText returns v as JSON. It panics if v has none, which no type here does.
func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("history: " + strconv.Quote(fmt.Sprintf("%T", v)) + " as JSON: " + err.Error())
	}
	return string(text)
}

// textID returns the id of a text, 0 for the empty text.
func (w *writer) textID(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if id, ok := w.texts.get(s); ok {
		return id, nil
	}
	insert := w.insertText
	if err := resetStatement(insert); err != nil {
		return 0, err
	}
	insert.BindInt64(1, w.nextText)
	insert.BindText(2, s)
	if _, err := insert.Step(); err != nil {
		return 0, err
	}
	id := w.nextText
	w.generationBytes += rowBytes + int64(len(s))
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
	if err := w.fillTexts(p, &r); err != nil {
		return 0, err
	}
	if id, ok := w.processes.get(r); ok {
		w.byPointer.put(p, id)
		return id, nil
	}
	s := w.insertProcess
	if err := resetStatement(s); err != nil {
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
	bindNonZero(s, 11, r.identity)
	bindNonZero(s, 12, r.cgroup)
	bindNonZero(s, 13, r.ns)
	bindNonZero(s, 14, r.chain)
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	w.nextProcess++
	w.generationBytes += rowBytes
	w.processes.put(r, id)
	w.byPointer.put(p, id)
	return id, nil
}

// fillTexts sets the ids of a process's texts. It compares them with the last process first, often
// a sibling, because encoding them again is slow.
func (w *writer) fillTexts(p *event.Process, r *processRow) (err error) {
	before, known := w.lastProcess, &w.lastRow
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
	text(&r.args, known.args, slices.Equal(p.Args, before.Args), func() string { return jsonList(p.Args) })
	text(&r.chain, known.chain, slices.Equal(p.Ancestors, before.Ancestors), func() string { return jsonList(p.Ancestors) })
	text(&r.ns, known.ns, maps.Equal(p.NS, before.NS), func() string {
		if len(p.NS) == 0 {
			return ""
		}
		return jsonText(p.NS)
	})
	text(&r.identity, known.identity, sameIdentity(p, before), func() string {
		who := identity{p.User, p.LoginUID, p.LoginUser, p.SessionID, p.SudoUID, p.SudoUser, p.TTY, p.Role}
		if who == (identity{}) {
			return ""
		}
		return jsonText(who)
	})
	w.lastProcess, w.lastRow = p, *r
	if err != nil {
		w.lastProcess, w.lastRow = nil, processRow{}
	}
	return err
}

func jsonList[T any](list []T) string {
	if len(list) == 0 {
		return ""
	}
	return jsonText(list)
}

func sameIdentity(a, b *event.Process) bool {
	return a.User == b.User && a.LoginUser == b.LoginUser && a.SudoUser == b.SudoUser && a.TTY == b.TTY && a.Role == b.Role &&
		equalValues(a.LoginUID, b.LoginUID) && equalValues(a.SessionID, b.SessionID) && equalValues(a.SudoUID, b.SudoUID)
}

func (w *writer) close() error {
	err := w.conn.Close()
	if w.held && !w.moved() { // SQLite removes the other files
		if info, statErr := os.Stat(w.path + "-journal"); statErr == nil && info.Size() == 0 {
			err = errors.Join(err, os.Remove(w.path+"-journal"))
		}
	}
	return err
}
