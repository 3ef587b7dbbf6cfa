// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
)

// Whatever names itself on a host (a command, an argument, a file, a value) can
// hold any byte. What follows makes sure that all of it can be seen and that
// none of it is acted upon: no cursor moved, no colour changed, no text turned
// round, nothing hidden.

// maxMarks is how many combining characters may stand on one letter. Scripts in
// use need up to four; a stack of hundreds paints over the lines around it.
const maxMarks = 4

// escape returns s in a form that is safe to print and can be told apart from
// every other string: control and invisible characters, bytes that are not
// UTF-8, characters that would reorder the line, and the backslash itself
// appear as the escapes that Go, C and the shell's $” share.
func escape(s string) string {
	i := 0
	for i < len(s) && event.Plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}

	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	// A mark at the very start, or after an escape, would be put on text that is
	// not its own.
	marks := maxMarks
	if i > 0 {
		marks = 0
	}
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		invalid := r == utf8.RuneError && size == 1
		switch {
		case combining(r) && marks < maxMarks:
			b.WriteString(s[i : i+size])
			marks++
		case printable(r) && !invalid:
			b.WriteString(s[i : i+size])
			marks = 0
		case invalid:
			writeHex(&b, `\x`, rune(s[i]), 2)
			marks = maxMarks
		default:
			writeEscape(&b, r)
			marks = maxMarks
		}
		i += size
	}
	return b.String()
}

func writeEscape(b *strings.Builder, r rune) {
	switch {
	case r == '\\':
		b.WriteString(`\\`)
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < 0x80:
		writeHex(b, `\x`, r, 2)
	case r <= 0xffff:
		writeHex(b, `\u`, r, 4)
	default:
		writeHex(b, `\U`, r, 8)
	}
}

// printable says that a character can be shown as it is. Spaces other than the
// ASCII one count as invisible, as do characters newer than the tables this was
// built with, whose width nobody knows.
func printable(r rune) bool {
	if r < 0x80 {
		return event.Plain(byte(r))
	}
	return unicode.IsPrint(r) && !unicode.Is(unicode.M, r) && !event.Invisible(r) && !rightToLeft(r)
}

// combining says that a character is drawn onto the one before it.
func combining(r rune) bool {
	return r >= 0x300 && unicode.In(r, unicode.Mn, unicode.Mc) && !event.Invisible(r) && !rightToLeft(r)
}

// rightToLeft says that a character belongs to a block that Unicode sets aside
// for right-to-left scripts. A terminal that knows about them turns round not
// only the word but the numbers and arrows next to it, so that "7200 → 600"
// after such a word is shown as 600 ← 7200. In a table that is not bearable; in
// JSON, which has no layout, these characters stay.
func rightToLeft(r rune) bool {
	return r >= 0x0590 && r <= 0x08ff || r >= 0xfb1d && r <= 0xfdff || r >= 0xfe70 && r <= 0xfeff ||
		r >= 0x10800 && r <= 0x10fff || r >= 0x1e800 && r <= 0x1efff
}

func writeHex(b *strings.Builder, prefix string, r rune, digits int) {
	var buf [10]byte
	b.Write(event.AppendHex(append(buf[:0], prefix...), r, digits))
}

// escapeName is escape for a name that stands among other words: it is quoted
// where it would otherwise read as none, or where it holds one of the
// characters that have a meaning around it.
func escapeName(s, special string) string {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' || s == "?" || strings.ContainsAny(s, special) {
		return quoted(escape(s))
	}
	return escape(s)
}

// escapeComm is escape for a command name in a chain of them. Brackets,
// parentheses and single spaces are common ("runc:[2:INIT]", "(sd-pam)",
// "tmux: server") and take no quoting: the last bracket is always the pid.
func escapeComm(s string) string { return escapeName(s, `">…`) }

// escapeValue is escape for the value of a parameter. The kernel separates the
// numbers of a list by tabs, people type spaces: both are shown as a space. It
// is quoted where its ends could not be seen or it reads as part of the change.
func escapeValue(s string) string {
	s = escape(strings.ReplaceAll(s, "\t", " "))
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' || s == "?" ||
		strings.ContainsAny(s, `"→…×`) || strings.Contains(s, "(now ") || strings.Contains(s, "FAILED") {
		return quoted(s)
	}
	return s
}

// quoted puts an escaped string between quotation marks.
func quoted(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

// escapeArgs shows an argument vector as a shell would take it, more or less:
// an argument that is empty or holds a space is quoted.
func escapeArgs(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		e := escape(a)
		if e == "" || strings.ContainsAny(e, ` "'`) {
			e = quoted(e)
		}
		b.WriteString(e)
	}
	return b.String()
}

func number[T ~uint32 | ~uint64](n T) string { return strconv.FormatUint(uint64(n), 10) }
