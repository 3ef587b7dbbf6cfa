// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/safefile"
)

// A DB reads a history. Only one goroutine may use it at a time, and only one iteration may run.
type DB struct {
	path string
	file os.FileInfo
	conn *sqlite.Conn

	untrusted string // see Untrusted

	schema       int64  // schema_version of the tables that were checked
	leftOut      uint64 // rows
	firstLeftOut error
	held         int // bytes that were read for the page
	cached       int // bytes that were read for the caches

	texts     map[int64]string
	processes map[int64]*event.Process
	workloads map[int64]workload
	views     map[int64]*event.Namespace
	buffer    []readEvent // of the page
	entries   []entry     // of the segment
	kinds     map[int64]kindKey
	origins   map[int64]originKey
	params    map[int64]parameterKey
	boots     map[string]*boot // that Initial looked at
}

// A workload is the container, pod and unit of a process.
type workload struct {
	container *event.Container
	pod       *event.Pod
	unit      string
}

// Open opens the history at path for reading. The caller needs permission to read the file only.
// The error wraps ErrNewer, ErrNotHistory or ErrCorrupt if one of them applies.
func Open(path string) (*DB, error) { return OpenContext(context.Background(), path) }

// OpenContext is Open with a context. When ctx ends, every running and later query ends with an
// error that wraps context.Canceled.
func OpenContext(ctx context.Context, path string) (*DB, error) {
	// Do not open the file to check this: closing it would release SQLite's locks if this process
	// records.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !file.Mode().IsRegular() { // to open a pipe would wait for ever
		return nil, fmt.Errorf("%s: not a regular file: %w", path, ErrNotHistory)
	}
	untrusted, alone := trust(path, file)
	var conn *sqlite.Conn
	if alone {
		conn, err = openAlone(ctx, path)
	} else {
		conn, err = openReader(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	db := &DB{path: path, file: file, conn: conn, schema: -1, untrusted: untrusted}
	db.clearCaches()
	err = sqlitex.ExecuteTransient(conn, fmt.Sprintf("PRAGMA cache_size = -%d", readerCache), nil)
	// begin checks the tables.
	if err == nil {
		err = db.begin()
	}
	if err == nil {
		err = db.commit()
	}
	if err != nil {
		return nil, errors.Join(explain(path, err), conn.Close())
	}
	return db, nil
}

// readerCache is the size of SQLite's cache of a reader, in KiB. Most queries read a page once, and the kernel has it
// too: memory that a process uses for the first time takes longer than to read a page again.
const readerCache = 400

// openReader opens a database read-only. To see the content of the log, SQLite needs to write to
// the folder. Without permission for that, and if there is no log, openReader reads only the file.
func openReader(ctx context.Context, path string) (*sqlite.Conn, error) {
	conn, err := openConn(ctx, path, sqlite.OpenReadOnly, 5*time.Second)
	if err == nil {
		if _, err = pragma(conn, "user_version"); err == nil {
			return conn, nil
		}
		err = errors.Join(explain(path, err), conn.Close())
	}
	if info, statErr := os.Stat(path + "-wal"); statErr == nil && info.Size() > 0 {
		return nil, err
	}
	if code := sqlite.ErrCode(err).ToPrimary(); code == sqlite.ResultNotADB || code == sqlite.ResultCorrupt || errors.Is(err, ErrCorrupt) || ctx.Err() != nil {
		return nil, err
	}
	alone, aloneErr := openAlone(ctx, path)
	if aloneErr != nil {
		return nil, err
	}
	return alone, nil
}

// openAlone opens a database read-only. It opens no other file of the folder, and writes nothing.
func openAlone(ctx context.Context, path string) (*sqlite.Conn, error) {
	if !strings.HasPrefix(path, "/") { // a path that begins with // would be a host's name
		path = "./" + path
	}
	uri := "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) + "?immutable=1"
	conn, err := openConn(ctx, uri, sqlite.OpenReadOnly|sqlite.OpenURI, 0)
	if err != nil {
		return nil, err
	}
	if _, err = pragma(conn, "user_version"); err != nil {
		return nil, errors.Join(explain(path, err), conn.Close())
	}
	return conn, nil
}

// trust says why other users can have written to a database, "" if they cannot, and whether to open
// it alone: the other files of its folder could be anything.
func trust(path string, file os.FileInfo) (why string, alone bool) {
	st, ok := file.Sys().(*syscall.Stat_t)
	switch {
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		why = fmt.Sprintf("it belongs to user %d", st.Uid)
	case file.Mode().Perm()&0o022 != 0:
		why = fmt.Sprintf("its mode is %04o", file.Mode().Perm())
	}
	if err := safefile.CheckFiles(path, "", "-wal", "-shm"); errors.Is(err, safefile.ErrShared) {
		if info, statErr := os.Lstat(path + "-wal"); why == "" && statErr == nil {
			why = errors.Unwrap(err).Error()
			if info.Mode().IsRegular() && info.Size() > 0 {
				why += ", so that the newest events, which are in its log, are not read"
			}
		}
		alone = true
	}
	return why, alone
}

// Untrusted says why users other than root and the caller can have written to the database, "" if
// they cannot. Whatever they wrote, it is safe to read.
func (db *DB) Untrusted() string { return db.untrusted }

// Close closes the database.
func (db *DB) Close() error { return db.conn.Close() }

func (db *DB) clearCaches() {
	db.texts, db.processes, db.workloads = map[int64]string{}, map[int64]*event.Process{}, map[int64]workload{}
	db.views, db.kinds, db.origins, db.params = map[int64]*event.Namespace{}, map[int64]kindKey{}, map[int64]originKey{}, map[int64]parameterKey{}
	db.boots, db.cached = map[string]*boot{}, 0
}

// Moved reports whether the history is no longer at its path: somebody removed, moved or replaced
// it. A recorder continues in the database that is at the path.
func (db *DB) Moved() bool { return moved(db.path, db.file) }

// Last returns the ID of the last event, 0 if there is none.
func (db *DB) Last() (int64, error) {
	n, err := number(db.conn, "SELECT coalesce(max(id), 0) FROM event")
	return n, explain(db.path, err)
}

// pageEvents is the number of events that one transaction reads. Between two pages, a recorder can
// do what it cannot do while somebody reads, such as truncating the log. The first page has firstPage
// events: many readers need no more, and events take memory, which takes time.
const (
	pageEvents = 2000
	firstPage  = 64
)

// Events returns the events that q selects. The caller may keep an event, but must not change it.
// Every event has passed Check. Events skips rows that do not; see LeftOut. It ends with the first
// error, which can wrap ErrCorrupt, ErrNotHistory or ctx's error.
func (db *DB) Events(ctx context.Context, q Query) iter.Seq2[Stored, error] {
	return db.events(ctx, q, func(s *readEvent) (use bool, err error) {
		if s.err == nil {
			s.err = Check(s.Event)
		}
		if s.err != nil {
			db.leaveOut(fmt.Errorf("event %d: %w", s.ID, s.err))
		}
		return s.err == nil, nil
	})
}

// events returns the events that q selects and for which take returns true. An error of take ends
// it.
func (db *DB) events(ctx context.Context, q Query, take func(*readEvent) (bool, error)) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		fail := func(err error) { yield(Stored{}, explain(db.path, err)) }
		plan, err := db.plan(&q)
		if err != nil {
			fail(err)
			return
		}
		plan.err = ctx.Err
		given := 0
		for !plan.empty {
			page, more, err := db.page(plan)
			if err != nil {
				fail(err)
				return
			}
			for i := range page {
				s := &page[i]
				if err := ctx.Err(); err != nil {
					yield(Stored{}, err)
					return
				}
				// The next page begins after this event.
				if err := plan.advance(s.ID); err != nil {
					fail(err)
					return
				}
				use, err := take(s)
				if err != nil {
					fail(err)
					return
				}
				if !use || !q.wants(s.Event) {
					continue
				}
				if given++; !yield(s.Stored, nil) || given == q.Limit {
					return
				}
			}
			if !more {
				return
			}
			if plan.passed >= plan.from && plan.passed <= plan.to {
				if err := plan.advance(plan.passed); err != nil {
					fail(err)
					return
				}
			}
			plan.passed = 0
			plan.limit = min(4*plan.limit, pageEvents)
		}
	}
}

// wants reports whether q selects e, as far as the SQL query did not decide it.
func (q *Query) wants(e *event.Event) bool {
	last := e.Time
	if e.LastTime.After(last) {
		last = e.LastTime
	}
	if (!q.Since.IsZero() && last.Before(q.Since)) || (!q.Until.IsZero() && e.Time.After(q.Until)) {
		return false
	}
	if q.Types != nil && !q.Types[e.Type] {
		return false
	}
	if q.BootID != "" && e.BootID != q.BootID {
		return false
	}
	if q.Life != nil && q.Life.wide && !q.Life.touches(e) {
		return false
	}
	if q.Namespace != nil && q.Namespace.BootID != "" && e.BootID != q.Namespace.BootID {
		return false
	}
	if q.Process != nil && !q.Process(e.Process) {
		return false
	}
	if q.New != nil && (e.Sysctl == nil || e.Sysctl.New == nil || !q.New(*e.Sysctl.New)) {
		return false
	}
	return q.Match == nil || q.Match(e)
}

// A plan says how to find the events of a Query.
type plan struct {
	from, to int64  // ids, both inclusive
	where    string // further conditions
	table    listTable
	listed   []int64 // ids of parameters or namespaces whose lists contain the events, sorted; nil to scan the table
	reverse  bool
	limit    int
	empty    bool
	sparse   bool  // many rows can lie between two events
	passed   int64 // the page has all events up to this id, 0: up to its last one
	host     *boot // see Query
	process  func(*event.Process) bool
	new      func(string) bool
	err      func() error // of the context
}

// advance moves the bounds of a plan past an event. Ids out of order would make the loop read the
// same events forever.
func (p *plan) advance(id int64) error {
	if id < p.from || id > p.to {
		return fmt.Errorf("%w: event %d is out of order", ErrCorrupt, id)
	}
	if p.reverse {
		p.to = id - 1
	} else {
		p.from = id + 1
	}
	return nil
}

// fromNamespaces selects the namespaces of a NamespaceQuery, whose args it needs.
const fromNamespaces = `FROM namespace JOIN origin ON origin.id = namespace.origin
	WHERE (?1 = '' OR type = ?1) AND (?2 = 0 OR inode = ?2) AND (?3 = '' OR uid = ?3) AND (?4 = '' OR boot_id = ?4)
		AND (?5 = '' OR namespace.id IN (SELECT namespace FROM namespace_view WHERE name = ?5))`

func (n *NamespaceQuery) args() []any {
	return []any{string(n.Type), int64(n.ID), n.UID, n.BootID, n.Name}
}

func (db *DB) plan(q *Query) (*plan, error) {
	p := &plan{from: q.After + 1, to: 1<<63 - 1, reverse: q.Reverse, limit: firstPage, process: q.Process, new: q.New}
	if !q.Since.IsZero() || !q.Until.IsZero() {
		since, until := int64(-1<<63), int64(1<<63-1)
		if fitsNanos(q.Since) && !q.Since.IsZero() {
			since = q.Since.UnixNano()
		}
		if fitsNanos(q.Until) && !q.Until.IsZero() {
			until = q.Until.UnixNano()
		}
		var first, last int64
		if err := db.eachRow("SELECT coalesce(min(first_event), 0), coalesce(max(last_event), 0) FROM batch WHERE last_time >= ? AND first_time <= ?", func(stmt *sqlite.Stmt) {
			first, last = stmt.ColumnInt64(0), stmt.ColumnInt64(1)
		}, since, until); err != nil {
			return nil, err
		}
		p.from, p.to, p.empty = max(p.from, first), last, last == 0
	}
	if q.To > 0 {
		p.to = min(p.to, q.To)
	}
	var where []string
	names := q.Parameters
	if names == nil && q.Parameter != "" {
		names = []string{q.Parameter}
	}
	if names != nil {
		list, err := json.Marshal(names)
		if err != nil {
			return nil, err
		}
		ids, err := db.ids("SELECT id FROM parameter WHERE name IN (SELECT value FROM json_each(?)) ORDER BY id", string(list))
		if err != nil {
			return nil, err
		}
		where = append(where, "parameter"+in(ids))
		p.table, p.listed = byParameter, ids
		p.empty = p.empty || len(ids) == 0
	}
	if q.Life != nil {
		if err := db.planLife(p, q.Life); err != nil {
			return nil, err
		}
	} else if n := q.Namespace; n != nil {
		ids, err := db.ids("SELECT namespace.id "+fromNamespaces+" ORDER BY namespace.id", n.args()...)
		if err != nil {
			return nil, err
		}
		where = append(where, "namespace"+in(ids))
		p.table, p.listed = byNamespace, ids
		p.empty = p.empty || len(ids) == 0
	}
	if q.BootID != "" {
		ids, err := db.ids("SELECT id FROM origin WHERE boot_id = ?", q.BootID)
		if err != nil {
			return nil, err
		}
		where = append(where, "origin"+in(ids))
		p.empty = p.empty || len(ids) == 0
		// None comes before the first run of the boot. An import has no run.
		first, err := number(db.conn, `SELECT coalesce(min(first_event), 0) FROM batch WHERE run = 0
			OR run IN (SELECT run.id FROM run JOIN origin ON origin.id = run.origin WHERE boot_id = ?)`, q.BootID)
		if err != nil {
			return nil, err
		}
		p.from = max(p.from, first)
	}
	if p.host = q.host; p.host != nil {
		p.from, p.to = max(p.from, p.host.first), min(p.to, p.host.last)
		where = append(where, "(view IS NULL OR view IN (SELECT id FROM namespace_view WHERE host))")
	}
	if q.Likely != nil {
		narrow, err := db.narrow(q.Likely)
		if err != nil {
			return nil, err
		}
		where, p.sparse = append(where, narrow...), len(narrow) > 0
	}
	if q.Types != nil {
		names := []string{}
		for t := range q.Types {
			names = append(names, string(t))
		}
		list, err := json.Marshal(names)
		if err != nil {
			return nil, err
		}
		ids, err := db.ids("SELECT id FROM kind WHERE type IN (SELECT value FROM json_each(?))", string(list))
		if err != nil {
			return nil, err
		}
		where = append(where, "kind"+in(ids))
		p.empty = p.empty || len(ids) == 0
	}
	for _, w := range where {
		p.where += " AND " + w
	}
	return p, nil
}

// in returns the condition that a column is one of ids.
func in(ids []int64) string {
	text := strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")
	return " IN (" + text + ")"
}

func (db *DB) ids(query string, args ...any) (ids []int64, err error) {
	err = db.eachRow(query, func(stmt *sqlite.Stmt) { ids = append(ids, stmt.ColumnInt64(0)) }, args...)
	return ids, err
}

// eachRow calls do for each row of a query.
func (db *DB) eachRow(query string, do func(*sqlite.Stmt), args ...any) error {
	return sqlitex.ExecuteTransient(db.conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
		do(stmt)
		return nil
	}})
}

// eventColumns are the columns of the table event, in their order.
const eventColumns = `id, time, seq, origin, kind, process, place, parameter, namespace, view, ns_from, old, new, after, truncated,
	child_pid, count, last_time, created, lifetime_ms, creator_pid, creator_uid, creator, detected, line, hash`

// A readEvent is an event, or the error in its row.
type readEvent struct {
	Stored
	err error
}

// page reads the next events and reports whether there can be more. They are valid until the next
// page.
func (db *DB) page(p *plan) (page []readEvent, more bool, err error) {
	db.trim()
	// One transaction, so that retention does not drop rows that the events refer to.
	if err := db.begin(); err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	clear(db.buffer)
	if page = db.buffer[:0]; p.listed != nil {
		page, err = db.inLists(p, page)
	} else if p.sparse {
		page, more, err = db.sparseRows(p, page)
	} else {
		page, err = db.rows(p, page)
	}
	db.buffer = page
	return page, more || len(page) >= p.limit || db.pageFull(), err
}

// sparseStep is how many ids sparseRows looks at in one transaction.
var sparseStep = int64(1 << 19)

// sparseRows is rows for at most sparseStep ids. It reports whether there can be more.
func (db *DB) sparseRows(p *plan, page []readEvent) (_ []readEvent, more bool, err error) {
	bound, step := "min", *p
	if p.reverse {
		bound = "max"
	}
	// Others can have left gaps between ids.
	next, err := number(db.conn, "SELECT coalesce("+bound+"(id), 0) FROM event WHERE id BETWEEN ? AND ?", p.from, p.to)
	if err != nil || next == 0 {
		return page, false, err
	}
	if p.reverse {
		step.to = next
		step.from = max(p.from, next-min(next, sparseStep)+1)
	} else {
		step.from = next
		step.to = min(p.to, next+min(1<<63-1-next, sparseStep-1))
	}
	if page, err = db.rows(&step, page); err != nil || len(page) >= p.limit || db.pageFull() {
		return page, true, err
	}
	if p.reverse {
		more, p.passed = step.from > p.from, step.from
	} else {
		more, p.passed = step.to < p.to, step.to
	}
	return page, more, nil
}

// maxNarrow is how many processes narrow names one by one.
const maxNarrow = 10_000

// narrow returns conditions that the rows of likely events meet, and those rows that do not tell: a line has everything.
func (db *DB) narrow(l *Likely) (where []string, err error) {
	list := func(values any) string {
		text, _ := json.Marshal(values) // numbers and strings have a JSON form
		return string(text)
	}
	if len(l.PIDs)+len(l.UIDs)+len(l.Comms) > 0 {
		var conditions []string
		var args []any
		for _, c := range []struct {
			column string
			n      int
			values any
		}{{"pid", len(l.PIDs), l.PIDs}, {"uid", len(l.UIDs), l.UIDs}, {"comm", len(l.Comms), l.Comms}} {
			if c.n > 0 {
				conditions, args = append(conditions, c.column+" IN (SELECT value FROM json_each(?))"), append(args, list(c.values))
			}
		}
		ids, err := db.ids("SELECT id FROM process WHERE "+strings.Join(conditions, " AND ")+fmt.Sprintf(" LIMIT %d", maxNarrow+1), args...)
		if err != nil {
			return nil, err
		}
		if len(ids) <= maxNarrow { // else most events can be theirs
			where = append(where, "(process"+in(ids)+" OR process IS NULL OR line IS NOT NULL)")
		}
	}
	if l.Contained {
		where = append(where, `(place IN (SELECT id FROM place WHERE container IS NOT NULL OR pod IS NOT NULL)
			OR view IN (SELECT id FROM namespace_view WHERE owner IS NOT NULL) OR line IS NOT NULL)`)
	}
	if len(l.Inodes) > 0 {
		ids, err := db.ids("SELECT id FROM namespace WHERE inode IN (SELECT value FROM json_each(?)) LIMIT ?", list(l.Inodes), maxNarrow+1)
		if err != nil {
			return nil, err
		}
		if len(ids) <= maxNarrow {
			where = append(where, "(namespace"+in(ids)+" OR line IS NOT NULL)")
		}
	}
	return where, nil
}

// trim bounds the memory before the next page.
func (db *DB) trim() {
	if db.full() {
		db.clearCaches()
	}
	db.held = 0
}

// full reports whether the caches have reached their size.
func (db *DB) full() bool {
	return len(db.texts)+len(db.processes)+len(db.views) > 3*maxShared || db.cached > pageBytes
}

// pageFull reports whether the page has reached its size in bytes.
func (db *DB) pageFull() bool { return db.held >= pageBytes }

// errFullPage ends the query of a full page.
var errFullPage = errors.New("the page is full")

// rows scans the table and appends events to a page.
func (db *DB) rows(p *plan, page []readEvent) ([]readEvent, error) {
	order := "ASC"
	if p.reverse {
		order = "DESC"
	}
	limit, before := p.limit, len(page)
	if p.process != nil || p.new != nil {
		limit = -1 // it would count the rows that are skipped
	}
	err := sqlitex.Execute(db.conn, "SELECT "+eventColumns+" FROM event WHERE id BETWEEN ? AND ?"+p.where+" ORDER BY id "+order+" LIMIT ?",
		&sqlitex.ExecOptions{Args: []any{p.from, p.to, limit}, ResultFunc: func(stmt *sqlite.Stmt) error {
			if db.pageFull() || len(page)-before == p.limit {
				return errFullPage
			}
			var value *string
			if p.new != nil && stmt.ColumnIsNull(24) && stmt.ColumnLen(12) <= maxText {
				value = textOrNil(stmt, 12)
			}
			if db.skips(p, stmt.ColumnInt64(5), value) {
				return nil
			}
			s, err := db.event(stmt)
			if err != nil && !isRowError(err) {
				return err
			}
			page = append(page, readEvent{s, err})
			return nil
		}})
	if errors.Is(err, errFullPage) {
		err = nil
	}
	return page, err
}

// skips reports whether a plan needs no event of a process that writes a value, nil if that is unknown.
func (db *DB) skips(p *plan, process int64, value *string) bool {
	if p.new != nil && value != nil && !p.new(*value) {
		return true
	}
	if p.process == nil || process == 0 {
		return false
	}
	held := db.held
	who, err := db.process(process)
	if db.held = held; db.full() { // what the page does not contain must not fill it
		db.clearCaches()
	}
	return err == nil && !p.process(who) // an error is that of the event, too
}

// event makes an event from its row.
func (db *DB) event(stmt *sqlite.Stmt) (s Stored, err error) {
	s.ID = stmt.ColumnInt64(0)
	for _, text := range [...]int{11, 12, 13, 24} {
		n := stmt.ColumnLen(text)
		if n > maxText {
			return s, errLongText
		}
		db.held += n
	}
	if n := stmt.ColumnLen(25); n != len(s.Hash) {
		return s, fmt.Errorf("its hash has %d bytes", n)
	}
	stmt.ColumnBytes(25, s.Hash[:])
	if !stmt.ColumnIsNull(24) {
		s.Event, err = decodeLine(stmt, 24)
		return s, err
	}
	e, ns, err := db.assemble(&entry{
		id: s.ID, time: stmt.ColumnInt64(1), seq: stmt.ColumnInt64(2), origin: stmt.ColumnInt64(3), kind: stmt.ColumnInt64(4),
		process: stmt.ColumnInt64(5), workload: stmt.ColumnInt64(6), parameter: stmt.ColumnInt64(7), view: stmt.ColumnInt64(9),
		old: textOrNil(stmt, 11), new: textOrNil(stmt, 12), after: textOrNil(stmt, 13), truncated: stmt.ColumnInt64(14) != 0,
		count: stmt.ColumnInt64(16), last: stmt.ColumnInt64(17),
	})
	if err != nil {
		return s, err
	}
	s.Event = e
	e.ChildPID = uint32(stmt.ColumnInt64(15))
	if ns != nil { // a copy, with the fields that only this event has
		own := *ns
		own.From = uint32(stmt.ColumnInt64(10))
		err = db.readDestroyDetails(stmt, &own)
		if e.Sysctl != nil {
			e.Sysctl.Namespace = &own
		} else {
			e.Namespace = &own
		}
	}
	return s, err
}

// decodeLine decodes a column that contains an event's JSON line.
func decodeLine(stmt *sqlite.Stmt, col int) (*event.Event, error) {
	e := &event.Event{}
	if err := json.Unmarshal([]byte(stmt.ColumnText(col)), e); err != nil {
		return nil, fmt.Errorf("its JSON line is not an event: %w", err)
	}
	e.RestoreBytes()
	return e, nil
}

// assemble makes an event from its row or its list entry. The namespace is the view's, which events
// share; nil if there is none.
func (db *DB) assemble(r *entry) (*event.Event, *event.Namespace, error) {
	o, err := db.origin(r.origin)
	if err != nil {
		return nil, nil, err
	}
	k, err := db.kind(r.kind)
	if err != nil {
		return nil, nil, err
	}
	e := &event.Event{
		V: event.SchemaVersion, Time: nanos(r.time), LastTime: nanosOrZero(r.last),
		RunID: o.runID, Seq: uint64(r.seq), Host: o.host, BootID: o.bootID,
		Type: k.typ, Outcome: k.outcome, Error: k.error, Via: k.via, Count: uint64(r.count),
	}
	if r.process != 0 {
		if e.Process, err = db.process(r.process); err != nil {
			return nil, nil, err
		}
	}
	if r.workload != 0 {
		p, err := db.workload(r.workload)
		if err != nil {
			return nil, nil, err
		}
		e.Container, e.Pod, e.Unit = p.container, p.pod, p.unit
	}
	var ns *event.Namespace
	if r.view != 0 {
		if ns, err = db.view(r.view); err != nil {
			return nil, nil, err
		}
	}
	if r.parameter == 0 {
		e.Namespace = ns
		return e, ns, nil
	}
	p, err := db.parameter(r.parameter)
	if err != nil {
		return nil, nil, err
	}
	e.Sysctl = &event.Sysctl{Name: p.name, Path: p.path, Namespace: ns, Old: r.old, New: r.new, After: r.after, Truncated: r.truncated}
	return e, ns, nil
}

func textOrNil(stmt *sqlite.Stmt, col int) *string {
	if stmt.ColumnIsNull(col) {
		return nil
	}
	s := stmt.ColumnText(col)
	return &s
}

// readDestroyDetails sets the fields of a namespace that only namespace.destroy has.
func (db *DB) readDestroyDetails(stmt *sqlite.Stmt, ns *event.Namespace) (err error) {
	if !stmt.ColumnIsNull(18) {
		ns.Created = nanos(stmt.ColumnInt64(18))
	}
	if !stmt.ColumnIsNull(19) {
		ms := stmt.ColumnInt64(19)
		ns.LifetimeMS = &ms
	}
	if !stmt.ColumnIsNull(20) {
		ns.Creator = &event.Actor{PID: uint32(stmt.ColumnInt64(20)), UID: uint32(stmt.ColumnInt64(21))}
		if ns.Creator.Comm, err = db.text(stmt.ColumnInt64(22)); err != nil {
			return err
		}
	}
	ns.Detected, err = db.text(stmt.ColumnInt64(23))
	return err
}

// errMissing reports a reference to a row that does not exist.
var errMissing = errors.New("the database lacks a row that it refers to")

// lookup returns the value of id from the cache, or reads it.
func lookup[V any](db *DB, known map[int64]V, id int64, query string, read func(*sqlite.Stmt) (V, error)) (V, error) {
	if v, ok := known[id]; ok {
		return v, nil
	}
	return readRow(db, known, id, query, read)
}

// readRow is a separate function because the variables that its closure changes are allocated on
// each call.
func readRow[V any](db *DB, known map[int64]V, id int64, query string, read func(*sqlite.Stmt) (V, error)) (v V, err error) {
	found := false
	err = sqlitex.Execute(db.conn, query, &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(stmt *sqlite.Stmt) error {
		found = true
		for i := range stmt.ColumnCount() {
			if t := stmt.ColumnType(i); t == sqlite.TypeText || t == sqlite.TypeBlob {
				if stmt.ColumnLen(i) > maxText {
					return errLongText
				}
				db.held += stmt.ColumnLen(i)
				db.cached += stmt.ColumnLen(i)
			}
		}
		v, err = read(stmt)
		return err
	}})
	if err == nil && !found {
		err = fmt.Errorf("%w: %s %d", errMissing, query[strings.LastIndex(query, "FROM ")+5:strings.LastIndex(query, " WHERE")], id)
	}
	if err == nil {
		known[id] = v
	}
	return v, err
}

func (db *DB) text(id int64) (string, error) {
	if id == 0 {
		return "", nil
	}
	return lookup(db, db.texts, id, "SELECT value FROM text WHERE id = ?", func(stmt *sqlite.Stmt) (string, error) { return stmt.ColumnText(0), nil })
}

func (db *DB) origin(id int64) (originKey, error) {
	return lookup(db, db.origins, id, "SELECT host, boot_id, run_id FROM origin WHERE id = ?", func(stmt *sqlite.Stmt) (originKey, error) {
		return originKey{stmt.ColumnText(0), stmt.ColumnText(1), stmt.ColumnText(2)}, nil
	})
}

func (db *DB) kind(id int64) (kindKey, error) {
	return lookup(db, db.kinds, id, "SELECT type, outcome, error, via FROM kind WHERE id = ?", func(stmt *sqlite.Stmt) (kindKey, error) {
		return kindKey{event.Type(stmt.ColumnText(0)), event.Outcome(stmt.ColumnText(1)), stmt.ColumnText(2), stmt.ColumnText(3)}, nil
	})
}

func (db *DB) parameter(id int64) (parameterKey, error) {
	return lookup(db, db.params, id, "SELECT name, path FROM parameter WHERE id = ?", func(stmt *sqlite.Stmt) (parameterKey, error) {
		return parameterKey{stmt.ColumnText(0), stmt.ColumnText(1)}, nil
	})
}

func (db *DB) workload(id int64) (workload, error) {
	return lookup(db, db.workloads, id, "SELECT container, pod, unit FROM place WHERE id = ?", func(stmt *sqlite.Stmt) (p workload, err error) {
		p.unit = stmt.ColumnText(2)
		err = errors.Join(parse(stmt, 0, &p.container), parse(stmt, 1, &p.pod))
		return p, err
	})
}

// parse decodes a column that contains JSON, or leaves to as it is if the column is NULL.
func parse[T any](stmt *sqlite.Stmt, col int, to **T) error {
	if stmt.ColumnIsNull(col) {
		return nil
	}
	return json.Unmarshal([]byte(stmt.ColumnText(col)), to)
}

func (db *DB) view(id int64) (*event.Namespace, error) {
	const query = `SELECT namespace.type, namespace.inode, namespace.uid, v.name, v.host, v.user_ns, v.owner
		FROM namespace_view v JOIN namespace ON namespace.id = v.namespace WHERE v.id = ?`
	return lookup(db, db.views, id, query, func(stmt *sqlite.Stmt) (*event.Namespace, error) {
		ns := &event.Namespace{
			Type: event.NSType(stmt.ColumnText(0)), ID: uint32(stmt.ColumnInt64(1)), UID: stmt.ColumnText(2), Name: stmt.ColumnText(3),
			Host: stmt.ColumnInt64(4) != 0, UserNS: uint32(stmt.ColumnInt64(5)),
		}
		return ns, parse(stmt, 6, &ns.Owner)
	})
}

func (db *DB) process(id int64) (*event.Process, error) {
	return lookup(db, db.processes, id, `SELECT pid, tid, ppid, start_time, comm, exe, args, uid, gid, person, cgroup, ns, ancestors
		FROM process WHERE id = ?`, func(stmt *sqlite.Stmt) (*event.Process, error) {
		p := &event.Process{
			PID: uint32(stmt.ColumnInt64(0)), TID: uint32(stmt.ColumnInt64(1)), PPID: uint32(stmt.ColumnInt64(2)), Comm: stmt.ColumnText(4),
			UID: uint32(stmt.ColumnInt64(7)), GID: uint32(stmt.ColumnInt64(8)),
		}
		if !stmt.ColumnIsNull(3) {
			p.StartTime = nanos(stmt.ColumnInt64(3))
		}
		var who identity
		for _, part := range []struct {
			col int
			to  any
		}{{5, &p.Exe}, {6, &p.Args}, {9, &who}, {10, &p.Cgroup}, {11, &p.NS}, {12, &p.Ancestors}} {
			text, err := db.text(stmt.ColumnInt64(part.col))
			if err != nil {
				return nil, err
			}
			if s, ok := part.to.(*string); ok {
				*s = text
			} else if text != "" {
				if err := json.Unmarshal([]byte(text), part.to); err != nil {
					return nil, fmt.Errorf("process %d: %w", id, err)
				}
			}
		}
		p.User, p.LoginUID, p.LoginUser, p.SessionID = who.User, who.LoginUID, who.LoginUser, who.SessionID
		p.SudoUID, p.SudoUser, p.TTY, p.Role = who.SudoUID, who.SudoUser, who.TTY, who.Role
		return p, nil
	})
}

// LastWrites returns the last write to each parameter for which match is nil or returns true. They
// are sorted by name, then by time, newest first. Each has an Event with a Sysctl, which has passed
// Check. LastWrites skips rows that do not; see LeftOut.
func (db *DB) LastWrites(ctx context.Context, match func(parameter string) bool) iter.Seq2[LastWrite, error] {
	return db.eachLastWrite(func(read func(*sqlite.Stmt) error) error {
		return sqlitex.Execute(db.conn, selectLastWrites+" ORDER BY p.name, l.time DESC", &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
			if match != nil && !match(stmt.ColumnText(0)) {
				return ctx.Err()
			}
			return cmp.Or(read(stmt), ctx.Err())
		}})
	})
}

// LastWritesTo is LastWrites for the parameters with these names, which it finds without reading the others. They
// come in the order of names.
func (db *DB) LastWritesTo(ctx context.Context, names ...string) iter.Seq2[LastWrite, error] {
	return db.eachLastWrite(func(read func(*sqlite.Stmt) error) error {
		for _, name := range names {
			if err := sqlitex.Execute(db.conn, selectLastWritesTo, &sqlitex.ExecOptions{Args: []any{name}, ResultFunc: func(stmt *sqlite.Stmt) error {
				return cmp.Or(read(stmt), ctx.Err())
			}}); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// LastWritesIn returns the last write to each parameter in one boot. found are the last writes of all boots, such as
// those of LastWrites. Parameters that belong to no namespace have one last write for all boots: LastWritesIn reads the
// events for those, and Writes counts the stored ones.
func (db *DB) LastWritesIn(ctx context.Context, bootID string, found iter.Seq2[LastWrite, error]) iter.Seq2[LastWrite, error] {
	return func(yield func(LastWrite, error) bool) {
		all, err := db.lastWritesIn(ctx, bootID, found)
		if err != nil {
			yield(LastWrite{}, err)
			return
		}
		for _, w := range all {
			if !yield(w, nil) {
				return
			}
		}
	}
}

func (db *DB) lastWritesIn(ctx context.Context, bootID string, found iter.Seq2[LastWrite, error]) (all []LastWrite, err error) {
	others, err := number(db.conn, "SELECT count(*) FROM origin WHERE boot_id <> ?", bootID)
	if err != nil {
		return nil, explain(db.path, err)
	}
	shared := map[string]*LastWrite{} // by name
	for w, err := range found {
		switch {
		case err != nil:
			return nil, err
		case w.Namespace == nil && others > 0:
			before := shared[w.Parameter] // a name can have several paths in the history of others
			if before == nil {
				before = &LastWrite{Parameter: w.Parameter}
				shared[w.Parameter] = before
			}
			if w.Event.BootID == bootID {
				before.Stored = w.Stored // retention can have dropped the event
			}
		case w.Event.BootID == bootID:
			all = append(all, w)
		}
	}
	if len(shared) == 0 {
		return all, nil
	}
	q := Query{
		Parameters: slices.Collect(maps.Keys(shared)), BootID: bootID, Types: map[event.Type]bool{event.SysctlWrite: true},
		Match: func(e *event.Event) bool {
			return e.Sysctl != nil && e.Sysctl.Namespace == nil && e.Outcome != event.Failure && !hadNoEffect(e)
		},
	}
	newest := map[string]time.Time{}
	for s, err := range db.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		w := shared[s.Event.Sysctl.Name]
		if w == nil {
			continue // another name than in its row
		}
		w.Writes += max(1, s.Event.Count)
		at := s.Event.Time
		if s.Event.LastTime.After(at) {
			at = s.Event.LastTime
		}
		if isLate(s.Event) && at.Before(newest[w.Parameter]) {
			continue
		}
		w.Stored, newest[w.Parameter] = s, at
	}
	for _, w := range shared {
		if w.Event != nil {
			w.Writes = max(1, w.Writes)
			all = append(all, *w)
		}
	}
	slices.SortStableFunc(all, func(a, b LastWrite) int {
		return cmp.Or(cmp.Compare(a.Parameter, b.Parameter), b.Event.Time.Compare(a.Event.Time))
	})
	return all, nil
}

const (
	selectLastWrites = `SELECT p.name, l.event, l.writes, l.line, n.ended FROM last_write l
		JOIN parameter p ON p.id = l.parameter LEFT JOIN namespace n ON n.id = l.namespace`
	selectLastWritesTo = selectLastWrites + " WHERE p.name = ? ORDER BY l.time DESC"
)

// eachLastWrite returns the last writes whose rows query reads.
func (db *DB) eachLastWrite(query func(read func(*sqlite.Stmt) error) error) iter.Seq2[LastWrite, error] {
	return func(yield func(LastWrite, error) bool) {
		all, err := db.lastWrites(query)
		if err != nil {
			yield(LastWrite{}, explain(db.path, err))
			return
		}
		for _, w := range all {
			if !yield(w, nil) {
				return
			}
		}
	}
}

// lastWrites reads all of them in one transaction. One transaction for each would take as long as
// the reads.
func (db *DB) lastWrites(query func(read func(*sqlite.Stmt) error) error) (all []LastWrite, err error) {
	db.trim()
	if err := db.begin(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	read := func(stmt *sqlite.Stmt) error {
		name := stmt.ColumnText(0)
		w := LastWrite{Parameter: name, Stored: Stored{ID: stmt.ColumnInt64(1)}, Writes: uint64(max(0, stmt.ColumnInt64(2)))}
		var err error
		if n := stmt.ColumnLen(3); n > maxText {
			err = errLongText
		} else if db.held += n + rowBytes; db.held > maxHeld {
			return fmt.Errorf("the last writes have more than %d bytes: %w", maxHeld, ErrNotHistory)
		} else if !stmt.ColumnIsNull(3) {
			w.Event, err = decodeLine(stmt, 3)
		} else if w.Stored, err = db.at(w.ID); err == nil && w.Event == nil {
			return nil // removed, but not by retention: Verify reports it
		}
		if err == nil {
			err = Check(w.Event)
		}
		if err == nil && w.Event.Sysctl == nil {
			err = fmt.Errorf("a %s is not a write", w.Event.Type)
		}
		if err != nil {
			if !isRowError(err) {
				return err
			}
			db.leaveOut(fmt.Errorf("the last write to %.100q: %w", name, err))
			return nil
		}
		w.Namespace, w.Ended = w.Event.Sysctl.Namespace, !stmt.ColumnIsNull(4)
		all = append(all, w)
		return nil
	}
	err = query(read)
	return all, err
}

// Patterns returns the names in events that stand for several parameters, those with * or {, for which match returns
// true.
func (db *DB) Patterns(ctx context.Context, match func(pattern string) bool) (names []string, err error) {
	err = sqlitex.Execute(db.conn, "SELECT DISTINCT name FROM parameter WHERE length(name) < 4096 AND name GLOB '*[*{]*'", &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			if name := stmt.ColumnText(0); match(name) {
				names = append(names, name)
			}
			return ctx.Err()
		}})
	return names, explain(db.path, err)
}

// Runs returns the runs of recorders, oldest first.
func (db *DB) Runs() ([]Run, error) {
	all, err := runs(db.conn, "ORDER BY run.id")
	return all, explain(db.path, err)
}

func runs(conn *sqlite.Conn, rest string) (all []Run, err error) {
	err = sqlitex.ExecuteTransient(conn, `SELECT run.id, version, host, boot_id, started, last, stopped
		FROM run JOIN origin ON origin.id = run.origin `+rest, &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		all = append(all, Run{
			ID: stmt.ColumnInt64(0), Version: stmt.ColumnText(1), Host: stmt.ColumnText(2), BootID: stmt.ColumnText(3),
			Started: nanos(stmt.ColumnInt64(4)), Last: nanos(stmt.ColumnInt64(5)), Stopped: nanosOrZero(stmt.ColumnInt64(6)),
		})
		return nil
	}})
	return all, err
}

// Snapshot returns the snapshot with a name, and whether there is one.
func (db *DB) Snapshot(name string) (Snapshot, bool, error) {
	all, err := snapshots(db.conn, "WHERE name = ?", name)
	s, ok := all[name]
	return s, ok, explain(db.path, err)
}

// snapshots returns snapshots, as many as fit into maxValue bytes.
func snapshots(conn *sqlite.Conn, rest string, args ...any) (map[string]Snapshot, error) {
	all := map[string]Snapshot{}
	bytes := 0
	err := sqlitex.ExecuteTransient(conn, "SELECT name, version, run, taken, CASE WHEN length(data) < "+strconv.Itoa(maxValue)+" THEN data END FROM snapshot "+rest,
		&sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
			if bytes += stmt.ColumnLen(4); stmt.ColumnIsNull(4) || bytes > maxValue {
				return nil
			}
			s := Snapshot{
				Name: stmt.ColumnText(0), Version: stmt.ColumnInt(1), Run: stmt.ColumnInt64(2), Taken: nanos(stmt.ColumnInt64(3)),
				Data: make([]byte, stmt.ColumnLen(4)),
			}
			stmt.ColumnBytes(4, s.Data)
			all[s.Name] = s
			return nil
		}})
	return all, err
}
