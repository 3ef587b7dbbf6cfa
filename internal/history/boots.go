// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/nstrace/nstrace/event"
)

// A Boot is a boot of a host of which events are recorded.
type Boot struct {
	ID     string // boot_id of its events
	Host   string // in the newest of them
	Events uint64
	// First and Last are the times of its earliest and its latest event. A namespace of this boot that the next boot
	// reports as gone does not count.
	First, Last time.Time
}

// maxBoots is more than a history has. Others can have made the database.
const maxBoots = 1 << 16

// bootStep is how many events Boots reads in one transaction. Between two, a recorder can truncate the log.
const bootStep = 200_000

// Boots returns the boots that have events, in the order of their first ones. It reads all events.
func (db *DB) Boots() ([]Boot, error) {
	all, err := db.readBoots()
	return all, explain(db.path, err)
}

func (db *DB) readBoots() (all []Boot, err error) {
	first, err := number(db.conn, "SELECT coalesce(min(id), 0) FROM event")
	if err != nil {
		return nil, err
	}
	last, err := number(db.conn, "SELECT coalesce(max(id), 0) FROM event")
	if err != nil {
		return nil, err
	}
	index := map[string]int{}
	for from := first; from > 0 && from <= last; {
		// Another run of the boot, or another name of the host, is another origin.
		if err := db.eachRow(`WITH gone AS MATERIALIZED (SELECT id FROM kind WHERE type = ?1),
				part AS MATERIALIZED (SELECT origin, min(id) AS first_event, count(*) AS events, min(time) FILTER (WHERE kind NOT IN gone) AS first,
					max(time) FILTER (WHERE kind NOT IN gone) AS last FROM event WHERE id BETWEEN ?2 AND ?3 GROUP BY origin LIMIT ?4)
			SELECT substr(boot_id, 1, ?5), substr(host, 1, ?5), events, coalesce(first, 0), coalesce(last, 0)
			FROM part JOIN origin ON origin.id = part.origin ORDER BY first_event`, func(stmt *sqlite.Stmt) {
			id := stmt.ColumnText(0)
			i, ok := index[id]
			if !ok {
				i = len(all)
				index[id] = i
				all = append(all, Boot{ID: id})
			}
			all[i].add(stmt.ColumnText(1), uint64(max(0, stmt.ColumnInt64(2))), nanosOrZero(stmt.ColumnInt64(3)), nanosOrZero(stmt.ColumnInt64(4)))
		}, string(event.NamespaceGone), from, from+bootStep-1, maxBoots, maxName); err != nil {
			return nil, err
		}
		if len(all) > maxBoots {
			return nil, fmt.Errorf("it has events of more than %d boots: %w", maxBoots, ErrNotHistory)
		}
		// The next event that is there: others can have left any ids.
		if from, err = number(db.conn, "SELECT coalesce(min(id), 0) FROM event WHERE id >= ?", from+bootStep); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// maxName is how much of an id or of a host's name Boots reads.
const maxName = 256

// add adds events of one origin.
func (b *Boot) add(host string, events uint64, first, last time.Time) {
	b.Host = host
	b.Events += events
	if !first.IsZero() && (b.First.IsZero() || first.Before(b.First)) {
		b.First = first
	}
	if last.After(b.Last) {
		b.Last = last
	}
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
