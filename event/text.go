// SPDX-License-Identifier: Apache-2.0

package event

import "unicode"

// Plain reports whether a byte is a printable ASCII character other than the backslash. Such
// a byte needs no escape.
func Plain(c byte) bool { return c >= 0x20 && c < 0x7f && c != '\\' }

// Invisible reports whether a character is a control character or has no ink. It can act on a
// terminal, hide in text, or change how the text around it looks.
func Invisible(r rune) bool {
	switch {
	case r < 0x20 || r >= 0x7f && r < 0xa0:
		return true
	case r < 0xa0:
		return false
	case r == '\u2800': // a Braille pattern without dots
		return true
	}
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// AppendHex appends the last digits hexadecimal digits of r.
func AppendHex(dst []byte, r rune, digits int) []byte {
	const hex = "0123456789abcdef"
	for shift := (digits - 1) * 4; shift >= 0; shift -= 4 {
		dst = append(dst, hex[r>>shift&0xf])
	}
	return dst
}
