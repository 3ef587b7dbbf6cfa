// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// maxMarked is how many parameters Marked returns at most.
const maxMarked = 20_000

// Marked returns the names of the parameters that an event moved away from their expected value or back, and the first
// such event of each.
func (db *DB) Marked(ctx context.Context) (first map[string]int64, err error) {
	if err := db.begin(); err != nil {
		return nil, explain(db.path, err)
	}
	defer func() { err = explain(db.path, errors.Join(err, db.commit())) }()
	first = map[string]int64{}
	const query = `SELECT parameter.name, min(event.id) FROM event JOIN parameter ON parameter.id = event.parameter
		WHERE event.line IS NOT NULL AND instr(event.line, '"expected":{') > 0 GROUP BY event.parameter`
	err = sqlitex.ExecuteTransient(db.conn, query, &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if stmt.ColumnLen(0) > maxText || len(first) >= maxMarked {
			return fmt.Errorf("more than %d parameters had another value than expected: %w", maxMarked, ErrNotHistory)
		}
		name, id := stmt.ColumnText(0), stmt.ColumnInt64(1)
		if before, ok := first[name]; !ok || id < before { // a name can have several paths in the history of others
			first[name] = id
		}
		return nil
	}})
	return first, err
}

// maxFirstRuns is how many runs FirstRuns returns at most.
const maxFirstRuns = 100_000

// FirstRuns returns the first run of each boot, the oldest first.
func (db *DB) FirstRuns(ctx context.Context) (all []Run, err error) {
	if err := db.begin(); err != nil {
		return nil, explain(db.path, err)
	}
	defer func() { err = explain(db.path, errors.Join(err, db.commit())) }()
	const query = `SELECT min(run.id), boot_id, started FROM run JOIN origin ON origin.id = run.origin
		WHERE length(boot_id) BETWEEN 1 AND 100 GROUP BY boot_id ORDER BY 1 LIMIT ?`
	err = sqlitex.ExecuteTransient(db.conn, query, &sqlitex.ExecOptions{Args: []any{maxFirstRuns}, ResultFunc: func(stmt *sqlite.Stmt) error {
		all = append(all, Run{ID: stmt.ColumnInt64(0), BootID: stmt.ColumnText(1), Started: nanos(stmt.ColumnInt64(2))})
		return ctx.Err()
	}})
	return all, err
}
