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

// maxBoots is more than a history has. Others can have made the database.
const maxBoots = 1 << 16

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
	index := map[string]int{}
	next, err := number(db.conn, "SELECT coalesce(min(id), 0) FROM event")
	for next > 0 && err == nil {
		var b Boot
		from := next
		// The events up to the next one of another boot. Ids have no gaps.
		if b, next, err = db.bootFrom(from); err != nil || b.Events == 0 {
			break
		}
		i, ok := index[b.ID]
		if !ok {
			if len(all) == maxBoots {
				return nil, fmt.Errorf("it has events of more than %d boots: %w", maxBoots, ErrNotHistory)
			}
			index[b.ID] = len(all)
			all = append(all, b)
			continue
		}
		all[i].Events += b.Events
		if i == len(all)-1 { // otherwise the next boot recorded them
			all[i].Host, all[i].Last = b.Host, b.Last
		}
	}
	return all, err
}

// bootFrom returns the boot of an event and of those behind it, and the first event behind these. That is 0 if there
// is none.
func (db *DB) bootFrom(from int64) (b Boot, next int64, err error) {
	const named = "FROM event JOIN origin ON origin.id = event.origin WHERE event.id = "
	if err := db.eachRow("SELECT substr(boot_id, 1, ?2), time "+named+"?1", func(stmt *sqlite.Stmt) {
		b.ID, b.First = stmt.ColumnText(0), nanos(stmt.ColumnInt64(1))
	}, from, maxName); err != nil {
		return b, 0, err
	}
	// Another run of the boot, or another name of the host, is another origin.
	same, err := db.ids("SELECT id FROM origin WHERE substr(boot_id, 1, ?2) = ?1", b.ID, maxName)
	if err != nil {
		return b, 0, err
	}
	last, err := number(db.conn, "SELECT coalesce(max(id), 0) FROM event")
	if err != nil {
		return b, 0, err
	}
	for step := from; step <= last && next == 0; step += bootStep {
		if next, err = number(db.conn, "SELECT id FROM event WHERE id BETWEEN ? AND ? AND origin NOT"+in(same)+" ORDER BY id LIMIT 1", step, step+bootStep-1); err != nil {
			return b, 0, err
		}
	}
	end := last
	if next > 0 {
		if end, err = number(db.conn, "SELECT coalesce(max(id), 0) FROM event WHERE id < ?", next); err != nil {
			return b, 0, err
		}
	}
	err = db.eachRow("SELECT substr(host, 1, ?2), time "+named+"?1", func(stmt *sqlite.Stmt) {
		b.Host, b.Last, b.Events = stmt.ColumnText(0), nanos(stmt.ColumnInt64(1)), uint64(max(0, end-from+1))
	}, end, maxName)
	return b, next, err
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
