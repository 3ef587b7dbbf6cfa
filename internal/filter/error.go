// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/agext/levenshtein"
)

// Error is an error in an expression.
type Error struct {
	Expr    string
	Offset  int    // in bytes, from 0
	Column  int    // in runes, from 1
	Message string // what is wrong
	Hint    string // what would be right, can be ""
}

// Error returns one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s at column %d", e.Message, e.Column)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Caret returns the line of the expression that has the error, and below it a caret that
// points at the error.
func (e *Error) Caret() string {
	start := strings.LastIndexByte(e.Expr[:e.Offset], '\n') + 1
	line, _, _ := strings.Cut(e.Expr[start:], "\n")
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // tabs and control characters
			return ' '
		}
		return r
	}, line)
	indent := strings.Repeat(" ", len([]rune(e.Expr[start:e.Offset])))
	return line + "\n" + indent + "^"
}

// nearest returns the name that is most similar to the typed one, "" if none is similar.
func nearest(typed string, names []string) string {
	best, dist := "", min(4, len(typed)/2+1)
	for _, name := range names {
		if d := levenshtein.Distance(typed, name, nil); d < dist {
			best, dist = name, d
		}
	}
	return best
}

// choose returns the hint for a name that is not in names.
func choose(what, typed string, names []string) string {
	slices.Sort(names)
	hint := what + " are " + strings.Join(names, ", ")
	if best := nearest(typed, names); best != "" {
		hint += fmt.Sprintf("; did you mean %q?", best)
	}
	return hint
}
