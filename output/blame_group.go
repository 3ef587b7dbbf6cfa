// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A BlameGroup is what Group is for events: it makes one row out of parameters that one
// process set last, one behind the other. The row stands where the first of them would by
// its name. One that holds something else than what was recorded has a row of its own.
type BlameGroup struct {
	table *BlameTable
	open  bool
	rows  []*Blame
}

// NewBlameGroup makes a BlameGroup in front of a table. If it is open, each parameter is
// below the row, with the time of its write from the first on.
func NewBlameGroup(t *BlameTable, open bool) *BlameGroup {
	return &BlameGroup{table: t, open: open}
}

// Add takes a row. Nothing is written before Flush: any other may belong to it.
func (g *BlameGroup) Add(row *Blame) error {
	g.rows = append(g.rows, row)
	return nil
}

// Flush writes the rows taken so far.
func (g *BlameGroup) Flush() error {
	of := burstsOf(g.rows)
	for _, row := range g.rows {
		b := of[row]
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

// A blameBurst is what a row says of several parameters, which are in the order in which
// they were taken.
type blameBurst struct {
	rows        []*Blame
	part        burstPart // their names
	first, last time.Time // of their last writes
	writes      uint64
	ns          *event.Namespace
	oneNS       bool // all are of ns, which may be none
}

// blameKey is what the parameters of a burst have in common, besides that they follow one
// another.
type blameKey struct {
	agent
	boot  string
	state State
}

// burstsOf finds the bursts among rows, and says of each row in one in which it is.
func burstsOf(rows []*Blame) map[*Blame]*blameBurst {
	byAgent := map[blameKey][]*Blame{}
	for _, row := range rows {
		if row.Last == nil || row.State == Drifted {
			continue
		}
		if who, ok := whoseBurst(row.Last); ok {
			k := blameKey{who, row.Last.BootID, row.State}
			byAgent[k] = append(byAgent[k], row)
		}
	}
	of := map[*Blame]*blameBurst{}
	for _, all := range byAgent {
		slices.SortStableFunc(all, func(a, b *Blame) int { return a.Last.Time.Compare(b.Last.Time) })
		for from := 0; from < len(all); {
			to := from + 1
			for to < len(all) && all[to].Last.Time.Sub(lastTime(all[to-1].Last)) <= DefaultGap {
				to++
			}
			if to-from >= minBurst {
				b := &blameBurst{first: all[from].Last.Time}
				for _, row := range all[from:to] {
					of[row] = b
				}
			}
			from = to
		}
	}
	for _, row := range rows {
		if b := of[row]; b != nil {
			b.add(row)
		}
	}
	return of
}

// lastTime is when the last of the events was that a line stands for.
func lastTime(ev *event.Event) time.Time {
	if ev.LastTime.After(ev.Time) {
		return ev.LastTime
	}
	return ev.Time
}

func (b *blameBurst) add(row *Blame) {
	if len(b.rows) == 0 {
		b.ns, b.oneNS = row.Namespace, true
	} else if (row.Namespace == nil) != (b.ns == nil) || b.ns != nil && (row.Namespace.ID != b.ns.ID || row.Namespace.UID != b.ns.UID) {
		b.oneNS = false
	}
	if at := lastTime(row.Last); at.After(b.last) {
		b.last = at
	}
	b.rows = append(b.rows, row)
	b.writes += row.Writes
	b.part.events++
	b.part.addName(row.Parameter, 1)
}
