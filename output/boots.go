// SPDX-License-Identifier: Apache-2.0

package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// A Boot is a recorded boot.
type Boot struct {
	Index  int       `json:"index"` // 0 is the newest one, -1 the one before
	ID     string    `json:"boot_id"`
	Host   string    `json:"host"`
	First  time.Time `json:"first,omitzero"` // of its events
	Last   time.Time `json:"last,omitzero"`
	Events uint64    `json:"events"`
}

// WriteBoots writes boots as a table, in the order and with the columns of journalctl --list-boots, and two more.
func WriteBoots(w io.Writer, boots []Boot, location *time.Location) error {
	rows := [][6]string{{"IDX", "BOOT ID", "FIRST EVENT", "LAST EVENT", "EVENTS", "HOST"}}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "?"
		}
		return t.In(location).Format("2006-01-02 15:04:05")
	}
	for _, b := range boots {
		rows = append(rows, [6]string{fmt.Sprint(b.Index), escape(b.ID), at(b.First), at(b.Last), fmt.Sprint(b.Events), escape(b.Host)})
	}
	var width [6]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var text strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&text, "%*s %-*s %-*s %-*s %*s %s\n", width[0], row[0], width[1], row[1], width[2], row[2], width[3], row[3], width[4], row[4], row[5])
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// WriteBootsJSON writes each boot as a line of JSON.
func WriteBootsJSON(w io.Writer, boots []Boot) error {
	encode := json.NewEncoder(w)
	encode.SetEscapeHTML(false)
	for i := range boots {
		if err := encode.Encode(&boots[i]); err != nil {
			return err
		}
	}
	return nil
}
