// SPDX-License-Identifier: Apache-2.0

package history

import "fmt"

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
	err = eachEntry(bytes, func(e *entry) {
		entries = append(entries, fmt.Sprintf("%d %v", e.id, e.elsewhere))
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
