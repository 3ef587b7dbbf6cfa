// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
)

// A Boot is a boot of a host of which events are recorded.
type Boot struct {
	ID     string // boot_id of its events
	Host   string // in the newest of them
	Events uint64
	// First and Last are the times of its first and its last event, without those that the next boot recorded: which of
	// its namespaces are gone.
	First, Last time.Time
}

// maxOrigins is more than a history has, of runs and of boots. Others can have made the database.
const maxOrigins = 1 << 16

// maxEvent is more events than a history ever has.
const maxEvent = 1 << 60

// maxName is how much of an id or of a host's name Boots reads.
const maxName = 256

// bootStep is how many events Boots reads in one transaction. Between two, a recorder can truncate the log.
var bootStep = int64(1 << 20)

// Boots returns the boots that have events, in the order of their first ones. It reads all events, but little of each.
func (db *DB) Boots() ([]Boot, error) {
	all, err := db.readBoots()
	return all, explain(db.path, err)
}

func (db *DB) readBoots() (all []Boot, err error) {
	last, err := number(db.conn, "SELECT coalesce(max(id), 0) FROM event")
	if err != nil {
		return nil, err
	}
	if last > maxEvent {
		return nil, fmt.Errorf("it has an event %d: %w", last, ErrNotHistory)
	}
	// Another run of a boot, or another name of the host, is another origin.
	origins := map[string][]int64{}
	count := 0
	if err := db.eachRow("SELECT id, substr(boot_id, 1, ?) FROM origin LIMIT ?", func(stmt *sqlite.Stmt) {
		id := stmt.ColumnText(1)
		origins[id] = append(origins[id], stmt.ColumnInt64(0))
		count++
	}, maxName, maxOrigins+1); err != nil {
		return nil, err
	}
	if count > maxOrigins {
		return nil, fmt.Errorf("it has events of more than %d runs: %w", maxOrigins, ErrNotHistory)
	}
	index := map[string]int{}
	next, err := number(db.conn, "SELECT coalesce(min(id), 0) FROM event")
	for err == nil && next > 0 && next <= last {
		from := next
		b := Boot{}
		if b.ID, _, b.First, err = db.originOf(from); err != nil {
			break
		}
		if next, err = db.otherOrigin(origins[b.ID], from, last); err != nil {
			break
		}
		if _, b.Host, b.Last, err = db.originOf(next - 1); err != nil {
			break
		}
		i, ok := index[b.ID]
		if !ok {
			i = len(all)
			index[b.ID] = i
			all = append(all, b)
		}
		all[i].Events += uint64(next - from) // ids have no gaps
		if i == len(all)-1 {                 // otherwise the next boot recorded them
			all[i].Host, all[i].Last = b.Host, b.Last
		}
	}
	return all, err
}

// originOf returns the boot, the host and the time of an event. They are empty for an id without an event.
func (db *DB) originOf(id int64) (bootID, host string, at time.Time, err error) {
	err = db.eachRow("SELECT substr(boot_id, 1, ?2), substr(host, 1, ?2), time FROM event JOIN origin ON origin.id = event.origin WHERE event.id = ?1", func(stmt *sqlite.Stmt) {
		bootID, host, at = stmt.ColumnText(0), stmt.ColumnText(1), nanos(stmt.ColumnInt64(2))
	}, id, maxName)
	return bootID, host, at, err
}

// otherOrigin returns the first event behind from that has none of the origins, and last + 1 if there is none.
func (db *DB) otherOrigin(origins []int64, from, last int64) (int64, error) {
	for step := from + 1; step <= last; step += bootStep {
		var err error
		if step, err = number(db.conn, "SELECT coalesce(min(id), 0) FROM event WHERE id >= ?", step); err != nil {
			return 0, err
		}
		if step == 0 || step > last { // others can have left gaps
			break
		}
		id, err := number(db.conn, "SELECT id FROM event WHERE id BETWEEN ? AND ? AND origin NOT"+in(origins)+" ORDER BY id LIMIT 1", step, min(step+bootStep-1, last))
		if err != nil || id > 0 {
			return id, err
		}
	}
	return last + 1, nil
}

// BootAt returns the boot with an offset as journalctl counts them: 0 is the newest one, -1 the one before, and 1 the
// oldest one. ok is false if there is none.
func BootAt(all []Boot, offset int) (b Boot, ok bool) {
	i := offset - 1
	if offset <= 0 {
		i = len(all) - 1 + offset
	}
	if i < 0 || i >= len(all) {
		return b, false
	}
	return all[i], true
}

// BootWith returns the boot with an id, which can be written without its dashes. ok is false if there is none.
func BootWith(all []Boot, id string) (b Boot, ok bool) {
	plain := func(id string) string { return strings.ReplaceAll(id, "-", "") }
	i := slices.IndexFunc(all, func(b Boot) bool { return plain(b.ID) == plain(id) })
	if i < 0 {
		return b, false
	}
	return all[i], true
}
