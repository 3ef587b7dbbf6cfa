// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"fmt"
	"iter"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/nstrace/nstrace/event"
)

// SetCache sets the size of a recorder's page cache in KiB, and returns the size before.
func SetCache(kib int) int { return swap(&cacheKiB, kib) }

// Waiting returns the number of events that wait.
func (r *Recorder) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// MaxVisits is how many visits a recorder keeps.
const MaxVisits = maxVisits

// Visits returns the number of visits that a recorder keeps.
func (r *Recorder) Visits() int {
	r.visitors.mu.Lock()
	defer r.visitors.mu.Unlock()
	return len(r.visitors.all)
}

// SetSegment sets the number of events in a segment, and returns the number before.
func SetSegment(events int64) int64 { return swap(&segmentEvents, events) }

// ReadList decodes a list and returns its entries as texts.
func ReadList(bytes []byte) (entries []string, err error) {
	err = eachEntry(bytes, func(e *entry) error {
		entries = append(entries, fmt.Sprintf("%d %v", e.id, e.inRow))
		return nil
	})
	return entries, err
}

// Segments returns the number of segments, and the number of events after the last one.
func (db *DB) Segments() (n int, behind int64, err error) {
	all, _, err := segments(db.conn)
	if err != nil {
		return 0, 0, err
	}
	if behind, err = db.Last(); len(all) > 0 {
		behind -= all[len(all)-1].last
	}
	return len(all), behind, err
}

// Unchecked is Events without Check.
func (db *DB) Unchecked(q Query) iter.Seq2[Stored, error] {
	return db.events(context.Background(), q, func(s *readEvent) (bool, error) { return true, s.err })
}

// SetMaxList sets the maximum length of a list, and returns the maximum before.
func SetMaxList(n int) int { return swap(&maxList, n) }

// SetMaxValue sets the maximum length of a value, and returns the maximum before.
func SetMaxValue(n int) int { return swap(&maxValue, n) }

// SetPageBytes sets the maximum size of a page, and returns the maximum before.
func SetPageBytes(n int) int { return swap(&pageBytes, n) }

// Held returns the number of bytes that were read for the current page.
func (db *DB) Held() int { return db.held }

// Endless runs a query without end, and calls begun after its first rows.
func (db *DB) Endless(begun func()) error {
	n := 0
	return explain(db.path, db.eachRow("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 3 OR x < 0", func(*sqlite.Stmt) {
		if n++; n == 2 {
			begun()
		}
	}))
}

// Used returns how many bytes of the database are in use.
func (db *DB) Used() (int64, error) { return (&writer{conn: db.conn}).used() }

// SetMaxAnchors sets the maximum number of anchors, and returns the maximum before.
func SetMaxAnchors(n int64) int64 { return swap(&maxAnchors, n) }

// NewQuota returns the method add of a quota with budgets of size bytes.
func NewQuota(size int64) func(e *event.Event, bytes int, full bool, now time.Time) bool {
	return (&quota{size: size, report: func(string) {}}).add
}

// Account is account.
var Account = account

// SetMaxText sets the maximum length of a text, and returns the maximum before.
func SetMaxText(n int) int { return swap(&maxText, n) }

// SetMaxHeld sets the maximum size of all last writes, and returns the maximum before.
func SetMaxHeld(n int) int { return swap(&maxHeld, n) }

// SetBootStep changes how many events Boots reads at once.
func SetBootStep(n int64) int64 { return swap(&bootStep, n) }

// SetRetry changes how long a recorder waits between tries after an error.
func SetRetry(pause time.Duration) (restore func()) {
	first, last := retryFirst, retryLast
	retryFirst, retryLast = pause, pause
	return func() { retryFirst, retryLast = first, last }
}

func swap[T any](p *T, v T) (before T) {
	before, *p = *p, v
	return before
}

// PlanOfLastWritesTo returns how SQLite does the query of LastWritesTo.
func (db *DB) PlanOfLastWritesTo() (steps []string, err error) {
	err = db.eachRow("EXPLAIN QUERY PLAN "+selectLastWritesTo, func(stmt *sqlite.Stmt) { steps = append(steps, stmt.ColumnText(3)) }, "x")
	return steps, err
}

// SetSparseStep sets how many ids one transaction of a query with Likely looks at, and returns the number before.
func SetSparseStep(ids int64) int64 { return swap(&sparseStep, ids) }
