// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"reflect"
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
)

// Text is a compiled field name, which can be replaced by the value that an event has there.
type Text struct {
	there  func(*scope) bool
	append func([]byte, *scope) []byte
	scope  scope
}

// CompileText compiles a field name, for example process.comm or process.args[0]. The field
// must have a value that an expression can compare. An error in the name is an *Error.
func CompileText(field string) (*Text, error) {
	p := &parser{expr: field}
	t := &Text{}
	err := p.parse(func(n node) {
		t.there = n.there
		if n.there == nil {
			p.fail(n.from, "", "%s is not a field", p.name(n))
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
			p.fail(n.from, "", "%s is %s, which cannot be written as text", p.name(n), n.kind.a())
		}
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Append appends the field's value to b. If the event does not have the field, ok is false and
// nothing is appended. One goroutine at a time can use it.
func (t *Text) Append(b []byte, e *event.Event) (_ []byte, ok bool) {
	t.scope.event = reflect.ValueOf(e).Elem()
	defer func() { t.scope = scope{} }()
	if !t.there(&t.scope) {
		return b, false
	}
	return t.append(b, &t.scope), true
}
