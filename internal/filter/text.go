// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"reflect"
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
)

// Text is the compiled name of a field, for a text with an event's values in it.
type Text struct {
	there  func(*scope) bool
	append func([]byte, *scope) []byte
	scope  scope
}

// CompileText makes a Text of a field's name, such as process.comm or process.args[0],
// that an expression could compare. What is wrong with it is an *Error.
func CompileText(field string) (*Text, error) {
	p := &parser{expr: field}
	t := &Text{}
	err := p.parse(func(n node) {
		t.there = n.there
		if n.there == nil {
			p.fail(n.from, "", "%s is no field", p.name(n))
		}
		switch n.kind {
		case boolean:
			t.append = func(b []byte, s *scope) []byte { return strconv.AppendBool(b, n.boolean(s)) }
		case text:
			t.append = func(b []byte, s *scope) []byte { return append(b, n.text(s)...) }
		case number:
			t.append = func(b []byte, s *scope) []byte { return strconv.AppendInt(b, n.number(s), 10) }
		case moment:
			t.append = func(b []byte, s *scope) []byte { return n.moment(s).UTC().AppendFormat(b, time.RFC3339Nano) }
		default:
			p.fail(n.from, "", "%s is %s, which has no text", p.name(n), n.kind.a())
		}
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Append appends the field's value to b. It is not ok, and nothing is appended, where the
// event does not have the field. It is for one goroutine at a time.
func (t *Text) Append(b []byte, e *event.Event) (_ []byte, ok bool) {
	t.scope.event = reflect.ValueOf(e).Elem()
	defer func() { t.scope = scope{} }()
	if !t.there(&t.scope) {
		return b, false
	}
	return t.append(b, &t.scope), true
}
