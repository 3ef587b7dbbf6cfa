// SPDX-License-Identifier: Apache-2.0

package alert

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// A message is a text with fields of the event: {process.comm}. {a|b|'c'} stands for the first
// field that the event has, or the constant. A field that is absent becomes a question mark. {{
// is a brace.
type message []part

// A part of a message is a text, or one of several fields.
type part struct {
	text   string
	fields []*filter.Text
	last   string // used if the event has none of the fields
}

// parseMessage parses a message. at is the offset of an error in the text, in bytes.
func parseMessage(text string) (m message, at int, err error) {
	literal := ""
	for i := 0; i < len(text); {
		brace := strings.IndexByte(text[i:], '{')
		if brace < 0 {
			literal += text[i:]
			break
		}
		literal += text[i : i+brace]
		i += brace + 1
		if strings.HasPrefix(text[i:], "{") {
			literal += "{"
			i++
			continue
		}
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			return nil, i - 1, fmt.Errorf("missing }: write {{ for a brace")
		}
		if literal != "" {
			m = append(m, part{text: literal})
			literal = ""
		}
		p, off, err := parseFields(text[i : i+end])
		if err != nil {
			return nil, i + off, err
		}
		m = append(m, p)
		i += end + 1
	}
	if literal != "" {
		m = append(m, part{text: literal})
	}
	return m, 0, nil
}

func parseFields(text string) (p part, at int, err error) {
	p.last = "?"
	names := strings.Split(text, "|")
	for i, name := range names {
		if constant, ok := quoted(strings.TrimSpace(name)); ok && i > 0 && i == len(names)-1 {
			p.last = constant
			break
		}
		field, err := filter.CompileText(name)
		if err != nil {
			var mistake *filter.Error
			if errors.As(err, &mistake) {
				at += mistake.Offset
				err = whatIsWrong(mistake)
			}
			return p, at, err
		}
		p.fields = append(p.fields, field)
		at += len(name) + 1
	}
	return p, 0, nil
}

// quoted returns the text between single quotes.
func quoted(s string) (string, bool) {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return "", false
	}
	return s[1 : len(s)-1], true
}

// maxMessage is the maximum length of a message, in bytes. Values and arguments can have
// kilobytes, and are complete in the event.
const maxMessage = 1024

// of returns the message for e.
func (m message) of(e *event.Event) string {
	var b []byte
	for _, p := range m {
		b = append(b, p.text...)
		if p.text == "" {
			b = p.append(b, e)
		}
	}
	if len(b) > maxMessage {
		cut := maxMessage
		for cut > 0 && !utf8.RuneStart(b[cut]) {
			cut--
		}
		b = append(b[:cut], "…"...)
	}
	return string(b)
}

func (p *part) append(b []byte, e *event.Event) []byte {
	for _, f := range p.fields {
		if b, ok := f.Append(b, e); ok {
			return b
		}
	}
	return append(b, p.last...)
}
