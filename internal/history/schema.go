// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// SchemaVersion is the version of the tables that this package writes. The database's user_version
// contains it.
const SchemaVersion = 4

// oldestReadable is the oldest version whose tables this package can read without migrating them.
const oldestReadable = 3

// applicationID is the application_id of a history: "nstr".
const applicationID = 0x6e737472

// ErrNewer is wrapped by the error for a database that a newer nstrace made.
var ErrNewer = errors.New("made by a newer nstrace")

// ErrNotHistory is wrapped by the error for a file that is not a history.
var ErrNotHistory = errors.New("this is not a database that nstrace wrote")

// ErrCorrupt is wrapped by the error for a database that SQLite cannot read.
var ErrCorrupt = errors.New("the database is corrupt")

// Errors that can pass.
var (
	errFull   = errors.New("the disk is full")
	errLocked = errors.New("another program has the database locked")
)

// migrations[i] makes version i+1 from version i. Never change a released one. docs/history.md
// documents the result of all of them.
var migrations = []string{
	`
CREATE TABLE origin (
	id      INTEGER PRIMARY KEY,
	host    TEXT NOT NULL,
	boot_id TEXT NOT NULL
);
CREATE TABLE run (
	id          INTEGER PRIMARY KEY,
	origin      INTEGER REFERENCES origin,
	version     TEXT NOT NULL,
	started     INTEGER NOT NULL,
	last        INTEGER NOT NULL,
	stopped     INTEGER
);
CREATE TABLE kind (
	id      INTEGER PRIMARY KEY,
	type    TEXT NOT NULL,
	outcome TEXT NOT NULL,
	error   TEXT NOT NULL,
	via     TEXT NOT NULL
);
CREATE TABLE parameter (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL,
	path TEXT NOT NULL,
	UNIQUE (name, path)
);
CREATE TABLE namespace (
	id     INTEGER PRIMARY KEY,
	origin INTEGER NOT NULL REFERENCES origin,
	type   TEXT NOT NULL,
	inode  INTEGER NOT NULL,
	uid    TEXT NOT NULL,
	ended  INTEGER
);
CREATE INDEX namespace_inode ON namespace (inode);
CREATE TABLE namespace_view (
	id        INTEGER PRIMARY KEY,
	namespace INTEGER NOT NULL REFERENCES namespace,
	name      TEXT NOT NULL,
	host      INTEGER NOT NULL,
	user_ns   INTEGER NOT NULL,
	owner     TEXT
);
CREATE TABLE text (
	id    INTEGER PRIMARY KEY,
	value TEXT NOT NULL
);
CREATE TABLE place (
	id        INTEGER PRIMARY KEY,
	container TEXT,
	pod       TEXT,
	unit      TEXT NOT NULL
);
CREATE TABLE process (
	id         INTEGER PRIMARY KEY,
	pid        INTEGER NOT NULL,
	tid        INTEGER NOT NULL,
	ppid       INTEGER NOT NULL,
	start_time INTEGER,
	comm       TEXT NOT NULL,
	exe        INTEGER REFERENCES text,
	args       INTEGER REFERENCES text,
	uid        INTEGER NOT NULL,
	gid        INTEGER NOT NULL,
	person     INTEGER REFERENCES text,
	cgroup     INTEGER REFERENCES text,
	ns         INTEGER REFERENCES text,
	ancestors  INTEGER REFERENCES text
);
CREATE TABLE event (
	id          INTEGER PRIMARY KEY,
	time        INTEGER NOT NULL,
	seq         INTEGER NOT NULL,
	origin      INTEGER NOT NULL REFERENCES origin,
	kind        INTEGER NOT NULL REFERENCES kind,
	process     INTEGER REFERENCES process,
	place       INTEGER REFERENCES place,
	parameter   INTEGER REFERENCES parameter,
	namespace   INTEGER REFERENCES namespace,
	view        INTEGER REFERENCES namespace_view,
	ns_from     INTEGER,
	old         TEXT,
	new         TEXT,
	after       TEXT,
	truncated   INTEGER,
	child_pid   INTEGER,
	count       INTEGER,
	last_time   INTEGER,
	created     INTEGER,
	lifetime_ms INTEGER,
	creator_pid INTEGER,
	creator_uid INTEGER,
	creator     INTEGER REFERENCES text,
	detected    INTEGER REFERENCES text,
	line        TEXT,
	hash        BLOB NOT NULL
);
CREATE INDEX event_parameter ON event (parameter) WHERE parameter IS NOT NULL;
CREATE INDEX event_namespace ON event (namespace) WHERE namespace IS NOT NULL;
CREATE TABLE batch (
	first_event INTEGER PRIMARY KEY,
	last_event  INTEGER NOT NULL,
	first_time  INTEGER NOT NULL,
	last_time   INTEGER NOT NULL,
	run         INTEGER NOT NULL,
	committed   INTEGER NOT NULL
);
CREATE TABLE last_write (
	parameter INTEGER NOT NULL REFERENCES parameter,
	namespace INTEGER NOT NULL,
	event     INTEGER NOT NULL,
	time      INTEGER NOT NULL,
	writes    INTEGER NOT NULL,
	line      TEXT,
	PRIMARY KEY (parameter, namespace)
) WITHOUT ROWID;
CREATE TABLE generation (
	first_event   INTEGER PRIMARY KEY,
	first_process INTEGER NOT NULL,
	first_text    INTEGER NOT NULL,
	first_place   INTEGER NOT NULL,
	first_view    INTEGER NOT NULL
);
CREATE TABLE anchor (
	id         INTEGER PRIMARY KEY,
	event      INTEGER NOT NULL,
	hash       BLOB NOT NULL,
	time       INTEGER NOT NULL,
	events     INTEGER NOT NULL,
	reason     TEXT NOT NULL,
	made       INTEGER NOT NULL,
	seal       BLOB NOT NULL
);
CREATE TABLE snapshot (
	name    TEXT PRIMARY KEY,
	version INTEGER NOT NULL,
	run     INTEGER NOT NULL,
	taken   INTEGER NOT NULL,
	data    BLOB NOT NULL
);
CREATE VIEW events AS
SELECT event.id, strftime('%Y-%m-%dT%H:%M:%f', event.time / 1e9, 'unixepoch') || 'Z' AS time,
	kind.type, kind.outcome, kind.error, kind.via,
	parameter.name AS parameter, event.old, event.new, event.after,
	namespace.type AS ns_type, namespace.inode AS ns_id, namespace_view.name AS ns_name, event.ns_from,
	process.pid, process.comm, process.uid, exe.value AS exe, args.value AS args, cgroup.value AS cgroup,
	ancestors.value AS ancestors, place.container, place.pod, place.unit,
	coalesce(event.count, 1) AS count, lower(hex(event.hash)) AS hash
FROM event JOIN kind ON kind.id = event.kind
	LEFT JOIN parameter ON parameter.id = event.parameter
	LEFT JOIN namespace ON namespace.id = event.namespace
	LEFT JOIN namespace_view ON namespace_view.id = event.view
	LEFT JOIN process ON process.id = event.process
	LEFT JOIN text exe ON exe.id = process.exe
	LEFT JOIN text args ON args.id = process.args
	LEFT JOIN text cgroup ON cgroup.id = process.cgroup
	LEFT JOIN text ancestors ON ancestors.id = process.ancestors
	LEFT JOIN place ON place.id = event.place;
`,
	`
CREATE TABLE segment (
	id          INTEGER PRIMARY KEY,
	first_event INTEGER NOT NULL,
	last_event  INTEGER NOT NULL
);
CREATE TABLE parameter_list (
	id     INTEGER PRIMARY KEY,
	events BLOB NOT NULL
);
CREATE TABLE namespace_list (
	id     INTEGER PRIMARY KEY,
	events BLOB NOT NULL
);
DROP INDEX event_parameter;
DROP INDEX event_namespace;
`,
	// The row of an event refers to the origin with its run id. The rows of run and namespace refer
	// to the origin without one, so that a namespace has one row in each boot.
	`
ALTER TABLE origin ADD COLUMN run_id TEXT NOT NULL DEFAULT '';
`,
	`
DROP VIEW events;
CREATE VIEW events AS
SELECT event.id, strftime('%Y-%m-%dT%H:%M:%f', event.time / 1e9, 'unixepoch') || 'Z' AS time,
	kind.type, kind.outcome, kind.error, kind.via,
	parameter.name AS parameter, event.old, event.new, event.after,
	namespace.type AS ns_type, namespace.inode AS ns_id, namespace_view.name AS ns_name, event.ns_from,
	process.pid, process.comm, process.uid, exe.value AS exe, args.value AS args, cgroup.value AS cgroup,
	ancestors.value AS ancestors, place.container, place.pod, place.unit,
	coalesce(event.count, 1) AS count, lower(hex(event.hash)) AS hash, origin.run_id, event.seq
FROM event JOIN kind ON kind.id = event.kind JOIN origin ON origin.id = event.origin
	LEFT JOIN parameter ON parameter.id = event.parameter
	LEFT JOIN namespace ON namespace.id = event.namespace
	LEFT JOIN namespace_view ON namespace_view.id = event.view
	LEFT JOIN process ON process.id = event.process
	LEFT JOIN text exe ON exe.id = process.exe
	LEFT JOIN text args ON args.id = process.args
	LEFT JOIN text cgroup ON cgroup.id = process.cgroup
	LEFT JOIN text ancestors ON ancestors.id = process.ancestors
	LEFT JOIN place ON place.id = event.place;
`,
}

// version returns a database's version, 0 for an empty database.
func version(conn *sqlite.Conn) (int, error) {
	app, err := pragma(conn, "application_id")
	if err != nil {
		return 0, err
	}
	v, err := pragma(conn, "user_version")
	if err != nil {
		return 0, err
	}
	if app != applicationID {
		tables, err := number(conn, "SELECT count(*) FROM (SELECT 1 FROM main.sqlite_master LIMIT 1)")
		if err != nil {
			return 0, err
		}
		if app != 0 || v != 0 || tables != 0 {
			return 0, ErrNotHistory
		}
	}
	if v < 0 { // the file has 32 bits with a sign
		return 0, ErrNotHistory
	}
	return int(v), nil
}

// migrate migrates a database to version to.
func migrate(conn *sqlite.Conn, to int) (err error) {
	have, err := version(conn)
	if err != nil {
		return err
	}
	if have > SchemaVersion {
		return fmt.Errorf("its tables have version %d, this nstrace supports up to version %d: %w", have, SchemaVersion, ErrNewer)
	}
	for v := have; v < to; v++ {
		if v == 0 {
			// This has an effect only while there is no table.
			if err := sqlitex.ExecuteTransient(conn, "PRAGMA auto_vacuum = INCREMENTAL", nil); err != nil {
				return err
			}
		}
		script := fmt.Sprintf("%s;\nPRAGMA application_id = %d;\nPRAGMA user_version = %d;", strings.TrimSuffix(strings.TrimSpace(migrations[v]), ";"), applicationID, v+1)
		if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
			return fmt.Errorf("make version %d of its tables: %w", v+1, err)
		}
	}
	return nil
}

func pragma(conn *sqlite.Conn, name string) (int64, error) { return number(conn, "PRAGMA "+name) }

// number returns the first column of a query's first row, 0 if there is no row.
func number(conn *sqlite.Conn, query string, args ...any) (n int64, err error) {
	err = sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
		n = stmt.ColumnInt64(0)
		return nil
	}})
	return n, err
}

func execute(conn *sqlite.Conn, query string, args ...any) error {
	return sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args})
}

// explain turns an error of SQLite into one line that says what it means for the database at path.
func explain(path string, err error) error {
	if err == nil {
		return nil
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultInterrupt:
		return fmt.Errorf("%s: %w", path, context.Canceled)
	case sqlite.ResultTooBig:
		return fmt.Errorf("%s: a value has more than %d bytes, which nstrace neither writes nor reads", path, maxValue)
	case sqlite.ResultFull:
		return fmt.Errorf("%s: %w", path, errFull)
	case sqlite.ResultIOErr:
		// SQLite does not report ENOSPC for every allocation, such as for the log's index.
		var fs unix.Statfs_t
		if unix.Statfs(filepath.Dir(path), &fs) == nil && fs.Bavail == 0 {
			return fmt.Errorf("%s: %w", path, errFull)
		}
	case sqlite.ResultBusy, sqlite.ResultLocked:
		return fmt.Errorf("%s: %w", path, errLocked)
	case sqlite.ResultCorrupt, sqlite.ResultNotADB:
		return fmt.Errorf("%s: %w (%s)", path, ErrCorrupt, sqlite.ErrCode(err).Message())
	case sqlite.ResultCantOpen:
		info, statErr := os.Stat(path)
		if statErr == nil && info.IsDir() {
			statErr = unix.EISDIR
		}
		if statErr != nil {
			err = statErr
			var pathErr *os.PathError
			if errors.As(err, &pathErr) {
				err = pathErr.Err
			}
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return fmt.Errorf("%s: %w", path, err)
}
