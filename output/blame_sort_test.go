// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// TestSortBlame sorts the same rows by each column.
func TestSortBlame(t *testing.T) {
	row := func(name string, n uint64, ms int, comm string) *output.Blame {
		return &output.Blame{Parameter: name, Writes: n, Last: &event.Event{Time: at(ms), Process: &event.Process{Comm: comm}}}
	}
	for columns, want := range map[string]string{
		"":               "b a c d",
		"parameter":      "a b c d",
		"-parameter":     "d c b a",
		"set":            "d a b c", // d was never set
		"-set":           "c b a d",
		"n":              "d b c a",
		"-n,-parameter":  "a c b d",
		"who,parameter":  "d a c b",
		"-who,parameter": "b a c d",
	} {
		rows := []*output.Blame{row("b", 1, 2, "z"), row("a", 3, 1, "x"), row("c", 1, 3, "x"), {Parameter: "d"}}
		var sort []string
		if columns != "" {
			sort = strings.Split(columns, ",")
		}
		output.SortBlame(rows, sort)
		var got []string
		for _, r := range rows {
			got = append(got, r.Parameter)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", columns, got, want)
		}
	}
}
