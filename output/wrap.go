// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strings"
	"unicode/utf8"

	"github.com/olekukonko/tablewriter/pkg/twwidth"
)

// word is a piece of a cell that is kept on one line where it fits on one.
type word struct {
	text  string
	style style
	// tight joins it to the word before: the two part only where they would
	// not fit on one line anyway.
	tight bool
}

// say makes a word that may start a line.
func say(text string, st style) word { return word{text: text, style: st} }

// add makes a word that belongs to the one before.
func add(text string, st style) word { return word{text: text, style: st, tight: true} }

// textWidth returns how many columns a string takes, counted as tablewriter
// counts (East Asian wide characters are two).
func textWidth(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf || s[i] < 0x20 {
			return twwidth.WidthNoCache(s)
		}
	}
	return len(s)
}

// wrap lays words out over as many lines as it takes, none wider than width.
// Words that belong together stay so where there is room for them on a line,
// and what is wider than a line is cut.
func wrap(words []word, width int) [][]word {
	var lines [][]word
	var line []word
	used := 0
	newLine := func() {
		if used > 0 {
			lines = append(lines, line)
			line, used = nil, 0
		}
	}
	for len(words) > 0 {
		group := 1
		for group < len(words) && words[group].tight {
			group++
		}
		if used > 0 && used+1+lineWidth(words[:group]) > width {
			newLine()
		}
		for _, w := range words[:group] {
			n := textWidth(w.text)
			if used > 0 && used+1+n > width {
				newLine()
			}
			for n > width {
				var head string
				head, w.text = cut(w.text, width)
				lines = append(lines, []word{say(head, w.style)})
				n = textWidth(w.text)
			}
			if used > 0 {
				used++
			}
			used += n
			line = append(line, w)
		}
		words = words[group:]
	}
	newLine()
	return lines
}

// cut splits s so that its head is at most width columns wide: at best where
// a name has its parts, else where a part has its words, else where it is full.
// There is always progress: a character wider than width makes a head of its
// own.
func cut(s string, width int) (head, tail string) {
	full, weak, strong, used := 0, 0, 0, 0
	for i, r := range s {
		n := 1
		if r >= utf8.RuneSelf {
			n = twwidth.WidthNoCache(string(r))
		}
		// The pid that ends a process.
		if r == '[' && used >= width/5 && i > 0 {
			strong = i
		}
		// A character without width belongs to the one before it.
		if used+n > width && n > 0 && i > 0 {
			break
		}
		used += n
		full = i + utf8.RuneLen(r)
		switch {
		case strings.ContainsRune(" ./", r) && used >= width/5:
			strong = full
		case strings.ContainsRune("_-:,", r) && used >= width/2:
			weak = full
		}
	}
	at := full
	if full < len(s) {
		if strong > 0 {
			at = strong
		} else if weak > 0 {
			at = weak
		}
	}
	return strings.TrimRight(s[:at], " "), strings.TrimLeft(s[at:], " ")
}

// shorten cuts s to width columns, the last of which is then an ellipsis.
func shorten(s string, width int) string {
	if textWidth(s) <= width {
		return s
	}
	used := 0
	for i, r := range s {
		n := textWidth(string(r))
		if used+n > width-textWidth(ellipsis) {
			return s[:i] + ellipsis
		}
		used += n
	}
	return s
}

// lineWidth returns how many columns words take on one line.
func lineWidth(words []word) int {
	n := max(len(words)-1, 0)
	for _, w := range words {
		n += textWidth(w.text)
	}
	return n
}
