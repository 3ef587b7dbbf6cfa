// SPDX-License-Identifier: Apache-2.0

package event

import (
	"encoding/binary"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendString appends s as a JSON string. It escapes whatever would end the string,
// act on a terminal or be invisible. Each byte that is not UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	// Nearly every string is ASCII with nothing to escape, and short: it is
	// copied while it is looked at, eight bytes at a time.
	start := len(b)
	b = append(slices.Grow(b, len(s)+2), '"')
	to := b[len(b) : len(b)+len(s)]
	i := 0
	for ; i+8 <= len(s); i += 8 {
		word := binary.LittleEndian.Uint64([]byte(s[i : i+8]))
		if !verbatimWord(word) {
			return appendEscaped(b[:start], s)
		}
		binary.LittleEndian.PutUint64(to[i:], word)
	}
	for ; i < len(s); i++ {
		if !verbatim(s[i]) {
			return appendEscaped(b[:start], s)
		}
		to[i] = s[i]
	}
	return append(b[:len(b)+len(s)], '"')
}

// verbatim says that a byte is a character that stands for itself in a JSON
// string.
func verbatim(c byte) bool { return Plain(c) && c != '"' }

// verbatimWord is verbatim for eight bytes.
func verbatimWord(w uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	// Where all bytes are ASCII, one gets its top bit set by adding to DEL, and
	// by subtracting more than it is. Others are reached by the carry or borrow
	// only where there was such a byte.
	del, control := w+ones, w-' '*ones
	quote, backslash := (w^'"'*ones)-ones, (w^'\\'*ones)-ones
	return (w|del|control|quote|backslash)&tops == 0
}

// appendEscaped is AppendString for any string.
func appendEscaped(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		if verbatim(s[i]) {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		// The replacement character is written as what is not UTF-8 is: so a line that
		// is read and written again stays as it is.
		if r >= utf8.RuneSelf && r != utf8.RuneError && !Invisible(r) {
			i += size
			continue
		}
		b = appendEscape(append(b, s[done:i]...), r)
		i += size
		done = i
	}
	return append(append(b, s[done:]...), '"')
}

// appendEscape appends a character as an escape, the short one where there is one.
func appendEscape(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
		b = AppendHex(append(b, `\u`...), r1, 4)
		r = r2
	}
	return AppendHex(append(b, `\u`...), r, 4)
}
