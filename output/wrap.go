// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strings"
	"unicode/utf8"

	"github.com/olekukonko/tablewriter/pkg/twwidth"
)

// A word is a piece of a cell. It stays on one line if it fits.
type word struct {
	text  string
	style style
	// joined keeps the word on the line of the word before it, if both fit.
	joined bool
}

// newWord returns a word that may start a line.
func newWord(text string, st style) word { return word{text: text, style: st} }

// joinedWord returns a word that belongs to the one before it.
func joinedWord(text string, st style) word { return word{text: text, style: st, joined: true} }

// textWidth returns how many columns a string takes. It counts as tablewriter does: East
// Asian wide characters take two.
func textWidth(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf || s[i] < 0x20 {
			return twwidth.WidthNoCache(s)
		}
	}
	return len(s)
}

// wrap lays words out over lines of at most width columns. Joined words stay on one line if
// they fit, and a word that is wider than a line is cut.
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
		for group < len(words) && words[group].joined {
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
				lines = append(lines, []word{newWord(head, w.style)})
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

// cut splits s so that head is at most width columns wide. It prefers to cut between the
// parts of a name, then between the words of a part. head has at least one character, even
// if that is wider than width.
func cut(s string, width int) (head, tail string) {
	full, weak, strong, used := 0, 0, 0, 0
	for i, r := range s {
		n := 1
		if r >= utf8.RuneSelf {
			n = twwidth.WidthNoCache(string(r))
		}
		// The pid after a command name.
		if r == '[' && used >= width/5 && i > 0 {
			strong = i
		}
		// A character of no width belongs to the one before it.
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

// shorten cuts s to width columns. The last one is then an ellipsis.
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

// lineWidth returns how many columns the words take on one line.
func lineWidth(words []word) int {
	n := max(len(words)-1, 0)
	for _, w := range words {
		n += textWidth(w.text)
	}
	return n
}

// Fold puts text on lines of at most width columns, between words. Lines other than the first begin with
// indent. A longer word has a line of its own.
func Fold(text string, width int, indent string) string {
	var b strings.Builder
	used := 0
	for i, word := range strings.Split(text, " ") { // several blanks align a column
		n := textWidth(word)
		switch {
		case i == 0:
		case used+1+n > width && used > len(indent):
			b.WriteString("\n" + indent)
			used = len(indent)
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += n
	}
	return b.String()
}
