// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/output"
)

// The columns of the list of namespaces.
const (
	columnType = iota
	columnID
	columnOwner
	columnProcesses
	columnRate
	columnOldest
	columnAge
	columnCreator
)

// A column is a column of the list.
type column struct {
	title string
	width int  // the smallest
	share int  // of the width that is left, in percent
	right bool // aligned
	// descending is the order in which the column is sorted unless it is reversed.
	descending bool
	dates      bool // it is about when and by whom the namespace was made
	compare    func(a, b *row) int
}

var columns = []column{
	columnType:      {title: "TYPE", width: 6, compare: func(a, b *row) int { return inventory.CompareTypes(a.ns.Type, b.ns.Type) }},
	columnID:        {title: "ID", width: 10, right: true, compare: func(a, b *row) int { return cmp.Compare(a.ns.ID, b.ns.ID) }},
	columnOwner:     {title: "OWNER", width: 12, share: 60, compare: func(a, b *row) int { return compareTexts(a.cells[columnOwner], b.cells[columnOwner]) }},
	columnProcesses: {title: "PROCS", width: 6, right: true, descending: true, compare: func(a, b *row) int { return cmp.Compare(a.ns.Processes, b.ns.Processes) }},
	columnRate:      {title: "EV/S", width: 7, right: true, descending: true, compare: func(a, b *row) int { return cmp.Compare(a.now, b.now) }},
	columnOldest:    {title: "OLDEST PROCESS", width: 15, share: 40, compare: compareOldest},
	columnAge: {title: "AGE", width: 6, right: true, dates: true, compare: func(a, b *row) int {
		return compareKnown(!a.ns.Created.IsZero(), !b.ns.Created.IsZero(), b.ns.Created.Compare(a.ns.Created))
	}},
	columnCreator: {title: "CREATOR", width: 12, dates: true, compare: func(a, b *row) int { return compareTexts(a.cells[columnCreator], b.cells[columnCreator]) }},
}

// compareKnown puts what is unknown last.
func compareKnown(a, b bool, order int) int {
	switch {
	case a && b:
		return order
	case a:
		return -1
	case b:
		return 1
	}
	return 0
}

// compareTexts puts what is empty last.
func compareTexts(a, b string) int {
	if (a == "") != (b == "") {
		return strings.Compare(b, a)
	}
	return strings.Compare(a, b)
}

// compareOldest puts the namespace first whose oldest process started first.
func compareOldest(a, b *row) int {
	switch x, y := a.ns.Oldest, b.ns.Oldest; {
	case x == nil && y == nil:
		return 0
	case x == nil:
		return 1
	case y == nil:
		return -1
	default:
		return cmp.Or(cmp.Compare(x.Start, y.Start), cmp.Compare(x.PID, y.PID))
	}
}

// sortRows sorts by a column. Equal rows are in the order of their types and numbers.
func sortRows(rows []*row, by int, reverse bool) {
	c := &columns[by]
	sign := 1
	if c.descending != reverse {
		sign = -1
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(sign*c.compare(a, b), inventory.CompareTypes(a.ns.Type, b.ns.Type), cmp.Compare(a.ns.ID, b.ns.ID))
	})
}

// layOut makes the cells. now is the time that ages are relative to.
func (r *row) layOut(now time.Time) {
	ns := r.ns
	r.cells = make([]string, len(columns))
	r.cells[columnType] = output.Escape(string(ns.Type))
	r.cells[columnID] = strconv.FormatUint(uint64(ns.ID), 10)
	r.cells[columnOwner] = output.OwnerOf(ns)
	if r.since.IsZero() { // otherwise the number is not known yet
		r.cells[columnProcesses] = strconv.Itoa(ns.Processes)
	}
	r.cells[columnRate] = formatRate(r.now)
	if ns.Oldest != nil {
		r.cells[columnOldest] = processName(ns.Oldest.Comm, ns.Oldest.PID)
	}
	if !ns.Created.IsZero() {
		r.cells[columnAge] = output.Age(now.Sub(ns.Created))
	}
	if c := ns.Creator; c != nil {
		r.cells[columnCreator] = processName(c.Comm, c.PID)
	}
	r.text = strings.ToLower(strings.Join(r.cells[:columnProcesses], " ") + " " + r.cells[columnOldest] + " " + r.cells[columnCreator])
}

// processName is "sh[4712]".
func processName(comm string, pid uint32) string {
	return fmt.Sprintf("%s[%d]", output.Escape(comm), pid)
}

// formatRate formats events per second.
func formatRate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0"
	case perSecond < 10:
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	case perSecond < 100000:
		return strconv.FormatFloat(perSecond, 'f', 0, 64)
	}
	return strconv.FormatFloat(perSecond/1000, 'f', 0, 64) + "k"
}
