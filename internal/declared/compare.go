// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// An Equality says whether a parameter has the declared value.
type Equality string

// Values of an Equality.
const (
	Equal     Equality = "equal"
	Different Equality = "different"
	Unclear   Equality = "unclear" // the kernel can print the declared value in this way
)

var (
	numeral = regexp.MustCompile(`^-?(0[xX][0-9a-fA-F]+|[0-9]+)$`)
	// word is the value of a parameter with names as values, such as that of net.core.default_qdisc.
	word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Compare compares the value that a file declares with the one that the kernel prints. The kernel reads numbers in
// the notations of C, and prints most of them in decimal.
func Compare(is, want string) Equality {
	if event.SameValue(want, is) {
		return Equal
	}
	a, b := strings.Fields(want), strings.Fields(is)
	x, numbers := numberList(a)
	y, too := numberList(b)
	switch {
	case numbers && too && len(x) > 0 && len(x) <= len(y):
		// A write of fewer numbers changes only the first ones.
		for i := range x {
			if x[i] != y[i] {
				return Different
			}
		}
		return Equal
	case len(a) == 1 && len(b) == 1 && word.MatchString(a[0]) && word.MatchString(b[0]) && !strings.HasPrefix(a[0], b[0]):
		return Different
	case strings.HasPrefix(want, "|") != strings.HasPrefix(is, "|") && is != "": // kernel.core_pattern
		return Different
	case strings.HasPrefix(want, "/") && strings.HasPrefix(is, "/") && !strings.HasPrefix(want, is): // a program
		return Different
	}
	return Unclear
}

// numberList returns the numbers that words are, and false if one is none.
func numberList(words []string) (all []int64, ok bool) {
	for _, w := range words {
		if !numeral.MatchString(w) {
			return nil, false
		}
		n, err := strconv.ParseInt(w, 0, 64)
		if err != nil {
			u, err := strconv.ParseUint(w, 0, 64)
			if err != nil {
				return nil, false
			}
			n = int64(u)
		}
		all = append(all, n)
	}
	return all, true
}
