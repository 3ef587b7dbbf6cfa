// SPDX-License-Identifier: Apache-2.0

package output

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
)

// Declared is a parameter that is not as declared.
type Declared struct {
	Parameter string
	By        *declared.Declaration
	Value     *DiffValue // nil if it cannot be read
	Error     string     // why it cannot
	State     DeclaredState
	Last      *event.Event // the last write of this boot, nil if none is recorded
	Blame     State        // of Last
}

// WriteDeclaredText writes rows as text.
func WriteDeclaredText(w io.Writer, rows []*Declared, location *time.Location) error {
	if len(rows) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PARAMETER\tDECLARED\tIS\tWHERE\tLAST WRITE")
	for _, row := range rows {
		is := "? " + escape(row.Error)
		switch {
		case row.State == Missing:
			is = "(no such parameter)"
		case row.Value != nil:
			is = escapeValue(*row.Value.Text)
			if row.State == NotComparable {
				is += " (cannot compare)"
			}
		}
		last := ""
		if row.Last != nil {
			last = row.Last.Time.In(location).Format(time.DateTime) + " " + writerOf(row.Last)
			if row.Blame == Drifted || row.Blame == Unknown {
				last += ", changed since"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", escapeName(row.Parameter, ""), escapeValue(*row.By.Value), is, escape(row.By.Where()), last)
	}
	return t.Flush()
}

// A declaredLine is the JSON of a Declared.
type declaredLine struct {
	Parameter json.RawMessage       `json:"parameter"`
	State     DeclaredState         `json:"state"`
	Declared  *declared.Declaration `json:"declared"`
	Value     json.RawMessage       `json:"value,omitempty"`
	Error     string                `json:"error,omitempty"`
	Changed   bool                  `json:"changed_since,omitempty"` // the last write set another value
	Event     json.RawMessage       `json:"event,omitempty"`
}

// WriteDeclaredJSON writes rows as lines of JSON.
func WriteDeclaredJSON(w io.Writer, rows []*Declared, _ *time.Location) error {
	var enc event.Encoder
	for _, row := range rows {
		line := declaredLine{
			Parameter: rawText(&row.Parameter), State: row.State, Declared: row.By, Error: row.Error, Changed: row.Blame == Drifted || row.Blame == Unknown,
		}
		if row.Value != nil {
			line.Value = rawText(row.Value.Text)
		}
		if row.Last != nil {
			line.Event = enc.Append(nil, row.Last)
		}
		if err := writeLineOfJSON(w, line); err != nil {
			return err
		}
	}
	return nil
}
