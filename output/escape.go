// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
)

// A process chooses its command name, arguments, file names and values, so they can have any
// byte. The functions below make every byte visible, and make sure that the terminal acts
// on none: no byte moves the cursor, changes colours, reverses text or hides anything.

// maxMarks is how many combining characters a letter may have. Living scripts need up to
// four. A stack of hundreds covers the lines around it.
const maxMarks = 4

// escape returns s in a form that is safe to print and differs from that of every other
// string. It writes these as the escapes that Go, C and shells share: control and
// invisible characters, bytes that are not UTF-8, characters that would reorder the line,
// and the backslash.
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
	// A mark at the start or after an escape would combine with text of another cell or
	// with the escape.
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

// printable reports whether a character needs no escape. Spaces other than ASCII's do, and
// so do characters that are newer than Go's tables: their width is unknown.
func printable(r rune) bool {
	if r < 0x80 {
		return event.Plain(byte(r))
	}
	return unicode.IsPrint(r) && !unicode.Is(unicode.M, r) && !event.Invisible(r) && !rightToLeft(r)
}

// combining reports whether a character is drawn onto the one before it.
func combining(r rune) bool {
	return r >= 0x300 && unicode.In(r, unicode.Mn, unicode.Mc) && !event.Invisible(r) && !rightToLeft(r)
}

// rightToLeft reports whether a character is in a block of right-to-left scripts. A terminal
// that supports them reverses the numbers and arrows after such a word too, and shows
// "7200 → 600" as 600 ← 7200. JSON, which has no layout, keeps these characters.
func rightToLeft(r rune) bool {
	return r >= 0x0590 && r <= 0x08ff || r >= 0xfb1d && r <= 0xfdff || r >= 0xfe70 && r <= 0xfeff ||
		r >= 0x10800 && r <= 0x10fff || r >= 0x1e800 && r <= 0x1efff
}

func writeHex(b *strings.Builder, prefix string, r rune, digits int) {
	var buf [10]byte
	b.Write(event.AppendHex(append(buf[:0], prefix...), r, digits))
}

// escapeName escapes a name that stands among other words. It quotes a name that would not
// read as one, or that has one of the special characters of its surroundings.
func escapeName(s, special string) string {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' || s == "?" || strings.ContainsAny(s, special) {
		return quoted(escape(s))
	}
	return escape(s)
}

// escapeComm escapes a command name in a chain of ancestors. Brackets, parentheses and
// single spaces are common ("runc:[2:INIT]", "(sd-pam)", "tmux: server") and need no quotes:
// the last bracket is always the pid's.
func escapeComm(s string) string { return escapeName(s, `">…`) }

// escapeValue escapes the value of a parameter. The kernel separates the numbers of a list
// by tabs, and writers use spaces: both appear as a space. It quotes a value whose ends
// would be invisible, or that would read as another part of the cell.
func escapeValue(s string) string {
	s = escape(strings.ReplaceAll(s, "\t", " "))
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' || s == "?" ||
		strings.ContainsAny(s, `"→…×`) || strings.Contains(s, "(now ") || strings.Contains(s, "FAILED") {
		return quoted(s)
	}
	return s
}

// quoted puts quotation marks around an escaped string.
func quoted(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

// shellWord returns s as a word of a command line that people may copy: safe to print on a terminal, and
// nothing of it is special to a shell. Where it takes quotes, these are $'...' of bash, ksh, zsh and
// POSIX.1-2024.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) && printable(r) || r >= '0' && r <= '9' || strings.ContainsRune("_./:@%+,-", r)
	}
	if s != "" && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	var b strings.Builder
	b.WriteString("$'")
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == '\'' || r == '\\':
			b.WriteString(`\` + s[:size])
		case r == utf8.RuneError || !plain(r) && (r < ' ' || r > '~'):
			for _, c := range []byte(s[:size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	b.WriteByte('\'')
	return b.String()
}

// escapeArgs joins an argument vector roughly as a shell accepts it. It quotes an argument
// that is empty or has a space.
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

// Escape returns s as tables show it: safe to print on a terminal, and different from that of every
// other string.
func Escape(s string) string { return escape(s) }
