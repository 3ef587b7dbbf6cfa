// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
)

// A database can come from somebody else, who wants the reader to hang, to fill its memory or
// to crash. What defends against that is here: SQLite gets limits, the tables have to be those
// that migrations make, and each event has to have what its type needs.

// maxValue is how long a value in a database may be. The longest that a recorder writes are the
// lists of a segment (maxList) and the snapshot of thousands of network namespaces.
var maxValue = 64 << 20

// pageBytes is about how much of a database is in memory for one page of events.
var pageBytes = 32 << 20

// openConn opens a database file. What is no database, or a broken one, is found here. Its
// statements end when ctx does.
func openConn(ctx context.Context, path string, flags sqlite.OpenFlags, busy time.Duration) (*sqlite.Conn, error) {
	conn, err := sqlite.OpenConn(path, flags)
	if err != nil {
		return nil, explain(path, err)
	}
	conn.SetBusyTimeout(busy)
	if ctx.Done() != nil {
		conn.SetInterrupt(ctx.Done())
	}
	if err := restrict(conn); err != nil {
		return nil, errors.Join(explain(path, err), conn.Close())
	}
	return conn, nil
}

// restrict has SQLite trust a database no more than it needs to.
func restrict(conn *sqlite.Conn) error {
	conn.Limit(sqlite.LimitLength, int32(maxValue))
	conn.Limit(sqlite.LimitAttached, 0)
	if err := conn.SetDefensive(true); err != nil {
		return err
	}
	for _, set := range []string{"trusted_schema = OFF", "cell_size_check = ON"} {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+set, nil); err != nil {
			return err
		}
	}
	return nil
}

// An object is a table, an index, a view or a trigger.
type object struct{ kind, table, sql string }

// statistics are the tables that ANALYZE makes, which somebody may have run. They change how
// fast a query is and not what it finds.
var statistics = map[string]object{
	"sqlite_stat1": {"table", "sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"},
	"sqlite_stat4": {"table", "sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"},
}

// schemas returns, by version, the objects that a database has, by their names.
var schemas = sync.OnceValues(func() (all []map[string]object, err error) {
	conn, err := sqlite.OpenConn(":memory:", sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenMemory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for v := 0; v <= SchemaVersion; v++ {
		if err := migrate(conn, v); err != nil {
			return nil, err
		}
		objects := map[string]object{}
		if err := eachObject(conn, func(name string, o object) error {
			objects[name] = o
			return nil
		}); err != nil {
			return nil, err
		}
		all = append(all, objects)
	}
	return all, nil
})

// eachObject calls do for each object of a database. It asks for sqlite_master, which is the
// name that no other table can have.
func eachObject(conn *sqlite.Conn, do func(name string, o object) error) error {
	return sqlitex.ExecuteTransient(conn, "SELECT name, type, tbl_name, sql FROM main.sqlite_master", &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		return do(stmt.ColumnText(0), object{stmt.ColumnText(1), stmt.ColumnText(2), stmt.ColumnText(3)})
	}})
}

// errOther ends a look at the objects of a database that has far more than it should.
var errOther = errors.New("too many objects")

// checkSchema returns an error, which wraps ErrNotHistory, if a database of a version has not
// exactly the objects that migrations make for that version.
func checkSchema(conn *sqlite.Conn, version int) error {
	all, err := schemas()
	if err != nil {
		return err
	}
	want := all[version]
	seen := map[string]bool{}
	var wrong [4]string // the first of each kind of mistake, what says most before the others
	note := func(kind int, what string) {
		if wrong[kind] == "" {
			wrong[kind] = what
		}
	}
	rows := 0
	if err := eachObject(conn, func(name string, o object) error {
		w, ok := want[name]
		if !ok {
			w, ok = statistics[name]
		}
		switch {
		case !ok || seen[name]:
			note(3, "it has the "+o.describe(name))
		case o.kind != w.kind:
			note(0, w.describe(name)+" is a "+o.kindWord())
		case o != w:
			note(1, w.describe(name)+" is not as nstrace makes it")
		}
		if ok {
			seen[name] = true
		}
		if rows++; rows > 2*(len(want)+len(statistics)) {
			return errOther
		}
		return nil
	}); err != nil && !errors.Is(err, errOther) {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !seen[name] {
			note(2, "it has no "+want[name].describe(name))
		}
	}
	for _, what := range wrong {
		if what != "" {
			return fmt.Errorf("%s: %w", what, ErrNotHistory)
		}
	}
	return nil
}

// kindWord is what an object is, in a word.
func (o object) kindWord() string {
	switch o.kind {
	case "table", "index", "view", "trigger":
		return o.kind
	}
	return "thing that SQLite does not know"
}

// describe names an object, whose name can hold anything.
func (o object) describe(name string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(name) > 40 {
		name = fmt.Sprintf("%.40q", name)
	}
	return o.kindWord() + " " + name
}

// checkVersion returns an error if a database is none that this version reads.
func checkVersion(conn *sqlite.Conn) error {
	have, err := version(conn)
	switch {
	case err != nil:
		return err
	case have == 0:
		return fmt.Errorf("it is empty: %w", ErrNotHistory)
	case have > SchemaVersion:
		return fmt.Errorf("its tables are of version %d, this nstrace knows up to %d: %w", have, SchemaVersion, ErrNewer)
	}
	if err := checkSchema(conn, have); err != nil {
		return err
	}
	if have < SchemaVersion {
		return fmt.Errorf("its tables are of version %d: nstrace record brings them to version %d", have, SchemaVersion)
	}
	return nil
}

// begin begins a transaction. Whoever else has the file may have changed the tables since they
// were checked.
func (db *DB) begin() error {
	if err := execute(db.conn, "BEGIN"); err != nil {
		return err
	}
	schema, err := pragma(db.conn, "schema_version")
	if err == nil && schema != db.schema {
		if err = checkVersion(db.conn); err == nil {
			db.schema = schema
		}
	}
	if err != nil {
		return errors.Join(err, db.commit())
	}
	return nil
}

// commit ends a transaction, in which nothing was written.
func (db *DB) commit() error {
	if db.conn.AutocommitEnabled() { // an interrupt has ended it
		return nil
	}
	return execute(db.conn, "COMMIT")
}

// ofRow says whether what is wrong is one row, and not the database.
func ofRow(err error) bool { return err != nil && sqlite.ErrCode(err) == sqlite.ResultError }

// leaveOut notes that a row was left out because of an error.
func (db *DB) leaveOut(err error) {
	if db.leftOut++; db.firstLeftOut == nil {
		db.firstLeftOut = err
	}
}

// LeftOut returns how many rows Events and LastWrites have left out so far, because no nstrace
// writes such, and what was wrong with the first of them.
func (db *DB) LeftOut() (rows uint64, first error) { return db.leftOut, db.firstLeftOut }

// maxAncestors is how many ancestors an event may have. A tracer gives 24.
const maxAncestors = 1024

// Check returns an error if e is no event that this version writes: its type is not known, or
// it lacks what events of its type have. Whoever gets an event that was checked can rely on
// that.
func Check(e *event.Event) error {
	need := ""
	lacks := func(what string, is bool) {
		if is && need == "" {
			need = what
		}
	}
	switch e.Type {
	case event.NamespaceCreate, event.NamespaceDestroy, event.NamespacePin, event.NamespaceUnpin:
		lacks("namespace", e.Namespace == nil)
	case event.NamespaceEnter:
		// What somebody failed to enter need not be known.
		lacks("namespace", e.Namespace == nil && e.Outcome != event.Failure)
	case event.NamespaceAppeared, event.NamespaceGone:
		lacks("namespace", e.Namespace == nil)
		lacks("between", e.Between == nil)
	case event.SysctlWrite:
		lacks("sysctl", e.Sysctl == nil)
	case event.SysctlDrift:
		lacks("sysctl", e.Sysctl == nil)
		lacks("between", e.Between == nil)
	case event.NetdevMove:
		lacks("netdev", e.Netdev == nil)
	case event.TraceStart, event.TraceStop, event.TraceGap:
		lacks("trace", e.Trace == nil)
	case event.TraceLoss:
		lacks("loss", e.Loss == nil)
	case event.TraceTamper:
		lacks("tamper", e.Tamper == nil)
	default:
		return fmt.Errorf("its type %.40q is not known", string(e.Type))
	}
	if need != "" {
		return fmt.Errorf("it is a %s and has no %s", e.Type, need)
	}
	if e.Process != nil && len(e.Process.Ancestors) > maxAncestors {
		return fmt.Errorf("its process has %d ancestors", len(e.Process.Ancestors))
	}
	return nil
}
