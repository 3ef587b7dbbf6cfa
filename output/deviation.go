// SPDX-License-Identifier: Apache-2.0

package output

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/deviation"
)

// WriteDeviationsText writes deviations as text.
func WriteDeviationsText(w io.Writer, all []*deviation.Deviation, location *time.Location) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PARAMETER\tEXPECTED\tWRONG\tFROM\tTO\tSET BY\tBACK BY")
	at := func(when time.Time) string { return when.In(location).Format(time.DateTime) }
	for _, d := range all {
		value := unknown
		if d.Value != nil {
			value = escapeValue(*d.Value)
			if d.Last != nil && !event.SameValue(*d.Value, *d.Last) {
				value += ", then " + escapeValue(*d.Last)
			}
		}
		from, set := "before "+at(d.Seen), unknown
		if d.Set != nil {
			from, set = at(d.Set.Time), writerOf(d.Set)
		}
		to, back := "", ""
		switch {
		case d.State == deviation.Open:
			to = "still wrong"
		case d.State == deviation.Reset:
			to, back = "reset by reboot", unknown
		case d.Back != nil:
			to, back = at(d.Back.Time), writerOf(d.Back)
		case d.State == deviation.Reboot:
			to, back = "unknown: rebooted", unknown
			if !d.By.IsZero() {
				to += " by " + at(d.By)
			}
		case !d.By.IsZero():
			to, back = "unknown: over by "+at(d.By), unknown
		default:
			to, back = "unknown: last seen "+at(d.Seen), unknown
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", escapeName(d.Parameter, ""), escapeValue(expectation(d.Expected.Comparison, d.Expected.Values)), value, from, to, set, back)
	}
	return t.Flush()
}

// A deviationLine is the JSON of a Deviation.
type deviationLine struct {
	Parameter json.RawMessage `json:"parameter"`
	State     deviation.State `json:"state"`
	Expected  expectedLine    `json:"expected"`
	Value     json.RawMessage `json:"value,omitempty"`
	Last      json.RawMessage `json:"last_value,omitempty"`
	From      *time.Time      `json:"from,omitempty"`
	To        *time.Time      `json:"to,omitempty"`
	Seen      *time.Time      `json:"last_seen,omitempty"`
	By        *time.Time      `json:"over_by,omitempty"`
	BootID    string          `json:"boot_id,omitempty"`
	Set       json.RawMessage `json:"set,omitempty"`
	Back      json.RawMessage `json:"back,omitempty"`
}

type expectedLine struct {
	Comparison string   `json:"comparison"`
	Values     []string `json:"values"`
	Severity   string   `json:"severity,omitempty"`
	File       string   `json:"file"`
	Line       uint32   `json:"line,omitempty"`
}

// WriteDeviationsJSON writes deviations as lines of JSON.
func WriteDeviationsJSON(w io.Writer, all []*deviation.Deviation, _ *time.Location) error {
	var enc event.Encoder
	for _, d := range all {
		x := d.Expected
		line := deviationLine{
			Parameter: rawText(&d.Parameter), State: d.State, BootID: d.BootID, Expected: expectedLine{x.Comparison, x.Values, x.Severity, x.File, x.Line},
			From: someTime(d.From()), Seen: someTime(d.Seen), By: someTime(d.By),
		}
		if d.State == deviation.Ended {
			line.To = someTime(d.To())
		}
		if d.Value != nil {
			line.Value = rawText(d.Value)
		}
		if d.Last != nil {
			line.Last = rawText(d.Last)
		}
		if d.Set != nil {
			line.Set = enc.Append(nil, d.Set)
		}
		if d.Back != nil {
			line.Back = enc.Append(nil, d.Back)
		}
		if err := writeLineOfJSON(w, line); err != nil {
			return err
		}
	}
	return nil
}

// someTime returns a time in UTC, nil for zero.
func someTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
