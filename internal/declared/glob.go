// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"regexp"
	"strings"
)

// A glob is a pattern as in glob(7). A wildcard matches neither a slash nor a dot at the beginning of a name. Its
// matching takes time that is linear in the length of the path, whatever the pattern is.
type glob struct {
	parts []part
}

// A part is the pattern of one name of a path.
type part struct {
	re  *regexp.Regexp // nil: matches nothing
	dot bool           // it begins with a dot
}

// maxGlob is the maximum length of a pattern.
const maxGlob = 4096

func newGlob(pattern string) *glob {
	if pattern == "" || len(pattern) > maxGlob {
		return nil
	}
	g := &glob{}
	for text := range strings.SplitSeq(pattern, "/") {
		// An error means something like [z-a], which matches nothing.
		re, _ := regexp.Compile(`^(?s:` + expression(text) + `)$`)
		g.parts = append(g.parts, part{re, strings.HasPrefix(text, ".") || strings.HasPrefix(text, `\.`)})
	}
	return g
}

func (g *glob) matches(path string) bool {
	if g == nil || strings.Count(path, "/") != len(g.parts)-1 {
		return false
	}
	i := 0
	for name := range strings.SplitSeq(path, "/") {
		p := &g.parts[i]
		if p.re == nil || strings.HasPrefix(name, ".") && !p.dot || !p.re.MatchString(name) {
			return false
		}
		i++
	}
	return true
}

// expression returns the regular expression of a part.
func expression(text string) string {
	var b strings.Builder
	for text != "" {
		c := text[0]
		n := 1
		switch {
		case c == '*':
			b.WriteString(".*")
		case c == '?':
			b.WriteString(".")
		case c == '\\' && len(text) > 1:
			n = 2
			b.WriteString(regexp.QuoteMeta(text[1:2]))
		case c == '[' && bracket(text) > 0:
			n = bracket(text)
			writeSet(&b, text[1:n-1])
		default:
			b.WriteString(regexp.QuoteMeta(text[:1]))
		}
		text = text[n:]
	}
	return b.String()
}

// bracket returns the length of the set of characters at the beginning of text, 0 if it does not end.
func bracket(text string) int {
	i := 1
	if i < len(text) && (text[i] == '!' || text[i] == '^') {
		i++
	}
	for first := true; i < len(text); first = false {
		switch {
		case text[i] == ']' && !first:
			return i + 1
		case strings.HasPrefix(text[i:], "[:") && strings.Contains(text[i:], ":]"):
			i += strings.Index(text[i:], ":]") + 2
		case text[i] == '\\':
			i += 2
		default:
			i++
		}
	}
	return 0
}

// writeSet writes what is between the brackets of a set.
func writeSet(b *strings.Builder, set string) {
	b.WriteByte('[')
	if set[0] == '!' || set[0] == '^' {
		b.WriteByte('^')
		set = set[1:]
	}
	for set != "" {
		n := 1
		switch {
		case strings.HasPrefix(set, "[:") && strings.Contains(set, ":]"):
			n = strings.Index(set, ":]") + 2
			b.WriteString(set[:n])
		case set[0] == '-':
			b.WriteByte('-')
		case set[0] == '\\' && len(set) > 1:
			n = 2
			b.WriteString(inSet(set[1]))
		default:
			b.WriteString(inSet(set[0]))
		}
		set = set[n:]
	}
	b.WriteByte(']')
}

// inSet returns a character for a set of a regular expression.
func inSet(c byte) string {
	if strings.IndexByte(`[]^-\&~`, c) >= 0 {
		return `\` + string(rune(c))
	}
	return string([]byte{c})
}
