// SPDX-License-Identifier: Apache-2.0

// Package nearest finds what a person meant who mistyped a name.
package nearest

import (
	"strings"

	"github.com/agext/levenshtein"
)

// minPrefix is how many letters of a name suggest it.
const minPrefix = 3

// Name returns the one of names that typed is a near miss of, "" if none is near: it has a few typing
// mistakes in proportion to its length, or it is the beginning of one name only, or begins with one.
func Name(typed string, names []string) string {
	if name := only(names, func(name string) bool { return len(bare(typed)) >= minPrefix && strings.HasPrefix(name, typed) }); name != "" {
		return name
	}
	best, least := "", 1+mistakes(len(typed))
	for _, name := range names {
		if d := distance(typed, name); d < least {
			best, least = name, d
		}
	}
	if best != "" {
		return best
	}
	return only(names, func(name string) bool { return len(bare(name)) >= minPrefix && strings.HasPrefix(typed, name) })
}

// only returns the one name that fits, "" if there are none or several.
func only(names []string, fits func(string) bool) (found string) {
	for _, name := range names {
		switch {
		case !fits(name):
		case found != "":
			return ""
		default:
			found = name
		}
	}
	return found
}

// bare returns a flag without its dashes.
func bare(name string) string { return strings.TrimLeft(name, "-") }

// mistakes returns how many mistakes are typical of a word of n letters.
func mistakes(n int) int {
	switch {
	case n <= 2:
		return 0
	case n <= 5:
		return 1
	case n <= 9:
		return 2
	}
	return 3
}

// distance returns how many letters are wrong, missing, or too many. Two neighbours in the wrong order are
// one mistake.
func distance(a, b string) int {
	d := levenshtein.Distance(a, b, nil)
	if d == 2 && len(a) == len(b) {
		i := 0
		for a[i] == b[i] {
			i++
		}
		if i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:] {
			return 1
		}
	}
	return d
}
