// SPDX-License-Identifier: Apache-2.0

package output

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/declared"
)

// Declared is a parameter that is not as declared, or not as a baseline expects.
type Declared struct {
	Parameter string
	By        *declared.Declaration // nil: Expected says what is expected
	Expected  *baseline.Expectation
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", escapeName(row.Parameter, ""), escapeValue(*row.By.Value), row.is(), escape(row.By.Where()), row.lastWrite(location))
	}
	return t.Flush()
}

// is returns the value for a table.
func (row *Declared) is() string {
	switch {
	case row.State == Missing:
		return "(no such parameter)"
	case row.Value == nil:
		return "? " + escape(row.Error)
	case row.State == NotComparable:
		return escapeValue(*row.Value.Text) + " (cannot compare)"
	}
	return escapeValue(*row.Value.Text)
}

// lastWrite returns the last write for a table.
func (row *Declared) lastWrite(location *time.Location) string {
	if row.Last == nil {
		return ""
	}
	last := row.Last.Time.In(location).Format(time.DateTime) + " " + writerOf(row.Last)
	if row.changed() {
		last += ", changed since"
	}
	return last
}

// changed reports whether the last write set another value.
func (row *Declared) changed() bool { return row.Blame == Drifted || row.Blame == Unknown }

// WriteExpectedText writes rows that a baseline expects otherwise as text.
func WriteExpectedText(w io.Writer, rows []*Declared, location *time.Location) error {
	if len(rows) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PARAMETER\tEXPECTED\tIS\tSEVERITY\tWHERE\tLAST WRITE")
	for _, row := range rows {
		x := row.Expected
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", escapeName(row.Parameter, ""), escapeValue(expectation(string(x.Comparison), x.Values)), row.is(),
			escape(x.Severity), escape(x.Where()), row.lastWrite(location))
	}
	return t.Flush()
}

// A declaredLine is the JSON of a Declared.
type declaredLine struct {
	Parameter json.RawMessage       `json:"parameter"`
	State     DeclaredState         `json:"state"`
	Declared  *declared.Declaration `json:"declared,omitempty"`
	Expected  *baseline.Expectation `json:"expected,omitempty"`
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
			Parameter: rawText(&row.Parameter), State: row.State, Declared: row.By, Expected: row.Expected, Error: row.Error, Changed: row.changed(),
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
