// SPDX-License-Identifier: Apache-2.0

package output

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// blameOrders compare rows by a column.
var blameOrders = []struct {
	name    string
	compare func(a, b *Blame) int
}{
	{"parameter", func(a, b *Blame) int { return strings.Compare(a.Parameter, b.Parameter) }},
	{"set", func(a, b *Blame) int { return a.SetAt().Compare(b.SetAt()) }},
	{"n", func(a, b *Blame) int { return cmp.Compare(a.Writes, b.Writes) }},
	{"who", func(a, b *Blame) int { return strings.Compare(a.comm(), b.comm()) }},
}

// BlameColumns returns the columns that SortBlame knows.
func BlameColumns() (names []string) {
	for _, o := range blameOrders {
		names = append(names, o.name)
	}
	return names
}

// SortBlame sorts rows by columns. A minus sign before a name reverses the order. Rows that are equal keep
// their order.
func SortBlame(rows []*Blame, columns []string) {
	slices.SortStableFunc(rows, func(a, b *Blame) int {
		for _, name := range columns {
			name, reverse := strings.CutPrefix(name, "-")
			for _, o := range blameOrders {
				if c := o.compare(a, b); o.name == name && c != 0 {
					if reverse {
						return -c
					}
					return c
				}
			}
		}
		return 0
	})
}

// SetAt returns when the parameter was set last, the zero time if no write is recorded.
func (b *Blame) SetAt() time.Time {
	if b.Last == nil {
		return time.Time{}
	}
	return lastTime(b.Last)
}

func (b *Blame) comm() string {
	if b.Last == nil || b.Last.Process == nil {
		return ""
	}
	return b.Last.Process.Comm
}
