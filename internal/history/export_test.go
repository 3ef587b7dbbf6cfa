// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"
)

// SetCache sets how many KiB of a database a recorder keeps in memory, and returns how many
// they were.
func SetCache(kib int) int {
	before := cacheKiB
	cacheKiB = kib
	return before
}

// Waiting is how many events r has in memory.
func (r *Recorder) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// SetSegment sets how many events a segment has, and returns how many they were.
func SetSegment(events int64) int64 {
	before := segmentEvents
	segmentEvents = events
	return before
}

// ReadList takes a list of a segment apart, and says what it has in words.
func ReadList(bytes []byte) (entries []string, err error) {
	err = eachEntry(bytes, func(e *entry) error {
		entries = append(entries, fmt.Sprintf("%d %v", e.id, e.elsewhere))
		return nil
	})
	return entries, err
}

// Segments returns how many segments a history has, and how many events are behind them.
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

// Unchecked gives the events that q asks for, also such as no tracer makes.
func (db *DB) Unchecked(q Query) iter.Seq2[Stored, error] {
	return db.events(context.Background(), q, func(s *readEvent) (bool, error) { return true, s.err })
}

// SetMaxList sets how long a list of a segment gets, and returns how long it got.
func SetMaxList(n int) int {
	before := maxList
	maxList = n
	return before
}

// SetMaxValue sets how long a value in a database may be, and returns how long it might.
func SetMaxValue(n int) int {
	before := maxValue
	maxValue = n
	return before
}

// SetPageBytes sets how much is in memory for a page, and returns how much that was.
func SetPageBytes(n int) int {
	before := pageBytes
	pageBytes = n
	return before
}

// Held is how many bytes were read for the page that there is.
func (db *DB) Held() int { return db.held }

// Endless asks for what has no end, and calls begun once the answer begins.
func (db *DB) Endless(begun func()) error {
	n := 0
	return explain(db.path, db.row("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 3 OR x < 0", func(*sqlite.Stmt) {
		if n++; n == 2 {
			begun()
		}
	}))
}
