// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/nstrace/nstrace/internal/nearest"
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

// choose returns the hint for a name that is not in names.
func choose(what, typed string, names []string) string {
	slices.Sort(names)
	hint := what + " are " + strings.Join(names, ", ")
	if best := nearest.Name(typed, names); best != "" {
		hint += fmt.Sprintf("; did you mean %q?", best)
	}
	return hint
}
