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
	// Nearly every string is short ASCII without anything to escape. This copies it while
	// checking it, eight bytes at a time.
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

// A JSONString is a string that encoding/json writes as AppendString does, for JSON other than events.
type JSONString string

// MarshalJSON implements json.Marshaler.
func (s JSONString) MarshalJSON() ([]byte, error) { return AppendString(nil, string(s)), nil }

// verbatim reports whether a byte is a character that a JSON string has unchanged.
func verbatim(c byte) bool { return Plain(c) && c != '"' }

// verbatimWord reports whether all eight bytes of w are verbatim.
func verbatimWord(w uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	// Among ASCII bytes, adding one sets the top bit of DEL only, and subtracting sets that
	// of smaller bytes only. A carry or borrow reaches other bytes only if there is such a
	// byte.
	del, control := w+ones, w-' '*ones
	quote, backslash := (w^'"'*ones)-ones, (w^'\\'*ones)-ones
	return (w|del|control|quote|backslash)&tops == 0
}

// appendEscaped appends any string, as AppendString does.
func appendEscaped(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		if verbatim(s[i]) {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		// The replacement character becomes an escape, as bytes that are not UTF-8 do. So
		// decoding a line and encoding it again does not change it.
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

// appendEscape appends the escape of a character, the short one if there is one.
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
