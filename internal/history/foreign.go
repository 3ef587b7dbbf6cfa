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

// A database can come from an attacker who wants to hang, crash or fill the memory of the reader.
// The defenses are here: limits for SQLite, exactly the tables that migrations make, and a check of
// each event.

// maxValue is the maximum length of a value in a database, in bytes. The longest that a recorder
// writes are the lists of a segment (maxList) and the snapshot of a host with thousands of network
// namespaces.
var maxValue = 64 << 20

// pageBytes is about the maximum memory for one page of events, in bytes.
var pageBytes = 32 << 20

// maxText is the maximum length of a text of an event, or of its JSON line, in bytes. The longest that
// a recorder writes is a line with two values of 64 KiB.
var maxText = 4 << 20

// errLongText reports a text that no recorder wrote.
var errLongText = errors.New("one of its texts is longer than any that nstrace writes")

// maxHeld is about the maximum memory for all last writes, in bytes.
var maxHeld = 256 << 20

// openConn opens a database file. It fails if the file is not a database or is corrupt. Statements
// end when ctx does.
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

// restrict turns off the features of SQLite that trust the content of the database and that nstrace
// does not need. It does not call Conn.SetDefensive, which limits only what statements can do, and
// nstrace runs only its own. SetDefensive passes one argument where SQLite reads two, so SQLite can
// write to any address (zombiezen.com/go/sqlite v1.4.2).
func restrict(conn *sqlite.Conn) error {
	conn.Limit(sqlite.LimitLength, int32(maxValue))
	conn.Limit(sqlite.LimitAttached, 0)
	for _, set := range []string{"trusted_schema = OFF", "cell_size_check = ON"} {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+set, nil); err != nil {
			return err
		}
	}
	return nil
}

// An object is a table, index, view or trigger.
type object struct{ kind, table, sql string }

// statistics are the tables that ANALYZE makes. They only change the speed of queries.
var statistics = map[string]object{
	"sqlite_stat1": {"table", "sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"},
	"sqlite_stat4": {"table", "sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"},
}

// schemas returns the objects of each version's database by name.
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

// eachObject calls do for each object of a database. No other table can have the name
// sqlite_master.
func eachObject(conn *sqlite.Conn, do func(name string, o object) error) error {
	return sqlitex.ExecuteTransient(conn, "SELECT name, type, tbl_name, sql FROM main.sqlite_master", &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		return do(stmt.ColumnText(0), object{stmt.ColumnText(1), stmt.ColumnText(2), stmt.ColumnText(3)})
	}})
}

// errTooManyObjects ends the check of a database that has far too many objects.
var errTooManyObjects = errors.New("too many objects")

// checkSchema returns an error that wraps ErrNotHistory unless a database has exactly the objects
// that migrations make for its version.
func checkSchema(conn *sqlite.Conn, version int) error {
	all, err := schemas()
	if err != nil {
		return err
	}
	want := all[version]
	seen := map[string]bool{}
	var wrong [4]string // the first mistake of each kind, the most informative kind first
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
			note(3, "unexpected "+o.describe(name))
		case o.kind != w.kind:
			note(0, w.describe(name)+" is a "+o.kindWord())
		case o != w:
			note(1, w.describe(name)+" differs from the one that nstrace makes")
		}
		if ok {
			seen[name] = true
		}
		if rows++; rows > 2*(len(want)+len(statistics)) {
			return errTooManyObjects
		}
		return nil
	}); err != nil && !errors.Is(err, errTooManyObjects) {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !seen[name] {
			note(2, want[name].describe(name)+" is missing")
		}
	}
	for _, what := range wrong {
		if what != "" {
			return fmt.Errorf("%s: %w", what, ErrNotHistory)
		}
	}
	return nil
}

// kindWord returns the kind of an object as a word.
func (o object) kindWord() string {
	switch o.kind {
	case "table", "index", "view", "trigger":
		return o.kind
	}
	return "object of unknown kind"
}

// describe names an object. Its name can contain anything, so it is escaped and cut.
func (o object) describe(name string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(name) > 40 {
		name = fmt.Sprintf("%.40q", name)
	}
	return o.kindWord() + " " + name
}

// checkVersion returns an error unless this package can read the database.
func checkVersion(conn *sqlite.Conn) error {
	have, err := version(conn)
	switch {
	case err != nil:
		return err
	case have == 0:
		return fmt.Errorf("it is empty: %w", ErrNotHistory)
	case have > SchemaVersion:
		return fmt.Errorf("its tables have version %d, this nstrace supports up to version %d: %w", have, SchemaVersion, ErrNewer)
	}
	if err := checkSchema(conn, have); err != nil {
		return err
	}
	if have < oldestReadable {
		return fmt.Errorf("its tables have version %d: nstrace record migrates them to version %d", have, SchemaVersion)
	}
	return nil
}

// begin begins a transaction. It checks the tables again if another process has changed them.
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

// commit ends a read transaction.
func (db *DB) commit() error {
	if db.conn.AutocommitEnabled() { // an interrupt ended it
		return nil
	}
	return execute(db.conn, "COMMIT")
}

// isRowError reports whether an error is about one row and not about the database.
func isRowError(err error) bool { return err != nil && sqlite.ErrCode(err) == sqlite.ResultError }

// leaveOut counts a row that was skipped because of an error.
func (db *DB) leaveOut(err error) {
	if db.leftOut++; db.firstLeftOut == nil {
		db.firstLeftOut = err
	}
}

// LeftOut returns the number of rows that Events and LastWrites have skipped so far because no
// nstrace writes such rows, and the error of the first one.
func (db *DB) LeftOut() (rows uint64, first error) { return db.leftOut, db.firstLeftOut }

// maxAncestors is the maximum number of ancestors of a process. A tracer gives 24.
const maxAncestors = 1024

// Check returns an error if the type of e is unknown or if e lacks a field that its type requires.
// Code that reads events that passed Check can rely on these fields.
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
		// A failed setns can name anything.
		lacks("namespace", e.Namespace == nil && e.Outcome != event.Failure)
	case event.NamespaceAppeared, event.NamespaceGone:
		lacks("namespace", e.Namespace == nil)
		lacks("between", e.Between == nil)
	case event.SysctlWrite:
		lacks("sysctl", e.Sysctl == nil)
	case event.SysctlAppear, event.SysctlVanish:
		lacks("sysctl", e.Sysctl == nil)
		lacks("parameters", e.Sysctl != nil && e.Sysctl.Parameters == nil)
	case event.SysctlDrift:
		lacks("sysctl", e.Sysctl == nil)
		lacks("between", e.Between == nil)
	case event.NetdevMove:
		lacks("netdev", e.Netdev == nil)
	case event.TraceStart, event.TraceAttach, event.TraceAlive, event.TraceStop, event.TraceGap:
		lacks("trace", e.Trace == nil)
	case event.TraceLoss:
		lacks("loss", e.Loss == nil)
	case event.TraceTamper:
		lacks("tamper", e.Tamper == nil)
	default:
		return fmt.Errorf("unknown type %.40q", string(e.Type))
	}
	if need != "" {
		return fmt.Errorf("a %s without %s", e.Type, need)
	}
	if e.Process != nil && len(e.Process.Ancestors) > maxAncestors {
		return fmt.Errorf("its process has %d ancestors, the limit is %d", len(e.Process.Ancestors), maxAncestors)
	}
	return nil
}
