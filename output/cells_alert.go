// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// alert returns the words of the ALERT column of a wide table.
func (t *Table) alert(ev *event.Event) []word {
	var words []word
	for i := range ev.Alert {
		words = append(words, alertWords(&ev.Alert[i])...)
	}
	return words
}

// isCritical reports whether an event matched a critical rule.
func isCritical(ev *event.Event) bool {
	return slices.ContainsFunc(ev.Alert, func(a event.Alert) bool { return a.Severity == "critical" })
}

// alertWords is "!! critical core-pattern: sh set ...".
func alertWords(a *event.Alert) []word {
	mark, st := "!", normal
	switch a.Severity {
	case "critical":
		mark, st = "!!", alarm
	case "warning":
		st = doubtful
	}
	name := escapeName(a.Name, `":`)
	if a.Message != "" {
		name += ":"
	}
	words := []word{newWord(mark, st), joinedWord(escapeName(a.Severity, ""), st), joinedWord(name, st)}
	for text := range strings.FieldsSeq(escape(a.Message)) {
		words = append(words, newWord(text, st))
	}
	return words
}
