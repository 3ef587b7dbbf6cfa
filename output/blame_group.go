// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A BlameGroup folds parameters into one row as Group does with events: those that one
// process set last, one after the other. The row takes the position of the first of them. A
// parameter that has drifted keeps a row of its own.
type BlameGroup struct {
	table *BlameTable
	open  bool
	rows  []*Blame
}

// NewBlameGroup returns a BlameGroup that writes to a table. If open, each parameter follows
// below the row, with the time of its write since the first one.
func NewBlameGroup(t *BlameTable, open bool) *BlameGroup {
	return &BlameGroup{table: t, open: open}
}

// Add adds a row. Flush writes it, because any later row can belong to the same burst.
func (g *BlameGroup) Add(row *Blame) error {
	g.rows = append(g.rows, row)
	return nil
}

// Flush writes the rows that Add has added.
func (g *BlameGroup) Flush() error {
	bursts := burstsOf(g.rows)
	for _, row := range g.rows {
		b := bursts[row]
		switch {
		case b == nil:
			if err := g.table.Add(row); err != nil {
				return err
			}
		case b.rows[0] == row:
			if err := g.table.addBurst(b, g.open); err != nil {
				return err
			}
		}
	}
	g.rows = nil
	return g.table.Flush()
}

// A blameBurst is several parameters that have one row, in the order in which they were
// added.
type blameBurst struct {
	rows        []*Blame
	part        burstPart // their names
	first, last time.Time // the first and the last of their last writes
	writes      uint64
	oneNS       bool // all are of the namespace of the first
}

// A blameKey is what the parameters of a burst have in common.
type blameKey struct {
	burstKey
	boot  string
	state State
}

// burstsOf finds the bursts among rows. It returns the burst of each row that is in one.
func burstsOf(rows []*Blame) map[*Blame]*blameBurst {
	byKey := map[blameKey][]*Blame{}
	for _, row := range rows {
		if row.Last == nil || row.State == Drifted {
			continue
		}
		if key, ok := burstKeyOf(row.Last); ok {
			k := blameKey{key, row.Last.BootID, row.State}
			byKey[k] = append(byKey[k], row)
		}
	}
	bursts := map[*Blame]*blameBurst{}
	for _, all := range byKey {
		slices.SortStableFunc(all, func(a, b *Blame) int { return a.Last.Time.Compare(b.Last.Time) })
		for from := 0; from < len(all); {
			to := from + 1
			for to < len(all) && all[to].Last.Time.Sub(lastTime(all[to-1].Last)) <= DefaultGap {
				to++
			}
			if to-from >= minBurst {
				b := &blameBurst{first: all[from].Last.Time}
				for _, row := range all[from:to] {
					bursts[row] = b
				}
			}
			from = to
		}
	}
	for _, row := range rows {
		if b := bursts[row]; b != nil {
			b.add(row)
		}
	}
	return bursts
}

// lastTime returns when the last of the events happened that a line stands for.
func lastTime(ev *event.Event) time.Time {
	if ev.LastTime.After(ev.Time) {
		return ev.LastTime
	}
	return ev.Time
}

func (b *blameBurst) add(row *Blame) {
	if len(b.rows) == 0 {
		b.oneNS = true
	} else if !sameNamespace(row.Namespace, b.rows[0].Namespace) {
		b.oneNS = false
	}
	if at := lastTime(row.Last); at.After(b.last) {
		b.last = at
	}
	b.rows = append(b.rows, row)
	b.writes += row.Writes
	b.part.add(row.Parameter, 1)
}
