// SPDX-License-Identifier: Apache-2.0

// Package filter selects events by an expression over their fields:
//
//	p, err := filter.Compile(`type == "sysctl.write" && process.comm != "systemd-sysctl"`)
//	if err != nil { ... }
//	if p.Match(event) { ... }
//
// The language is a part of that of github.com/expr-lang/expr (expr-lang.org) and uses that
// library's lexer. Fields have their names in the JSON and are found by reflection over
// event.Event, so a new field can be used without a change here. A compiled expression cannot
// fail. Its running time is bounded by its length times that of the event: loops cannot be
// nested, and regular expressions do not backtrack.
//
// A field that an event does not have is the zero value: an empty string, 0, false, the zero
// time, an empty list. Compare with nil to test whether a field is present: `process != nil`.
package filter

import (
	"reflect"
	"time"

	"github.com/nstrace/nstrace/event"
)

// MaxLength is the maximum length of an expression, in bytes.
const MaxLength = 4096

// Program is a compiled expression.
type Program struct {
	match    func(*scope) bool
	scope    scope
	warnings []string
}

// Warnings says which comparisons can never hold, because the field never has that value.
func (p *Program) Warnings() []string { return p.warnings }

// scope has the values that an expression is evaluated on.
type scope struct {
	event   reflect.Value
	element reflect.Value // the current one of the list of any, all or none
}

// Compile compiles an expression. An error in the expression is an *Error.
func Compile(expr string) (*Program, error) {
	p := &parser{expr: expr}
	program := &Program{}
	if err := p.parse(func(n node) { program.match = p.truth(n) }); err != nil {
		return nil, err
	}
	program.warnings = p.warnings
	return program, nil
}

// Match reports whether the expression holds for e. It keeps nothing of e. One goroutine at a
// time can call it.
func (p *Program) Match(e *event.Event) bool {
	p.scope.event = reflect.ValueOf(e).Elem()
	ok := p.match(&p.scope)
	p.scope = scope{}
	return ok
}

// kind is a type of the language.
type kind uint8

const (
	nothing kind = iota // nil, and Go types without a type in the language
	boolean
	text
	number
	moment
	list
	table
	object
)

func (k kind) String() string {
	return [...]string{"nil", "boolean", "string", "number", "time", "list", "map", "object"}[k]
}

// a returns the kind with its article.
func (k kind) a() string {
	switch k {
	case nothing:
		return "nil"
	case object:
		return "an " + k.String()
	}
	return "a " + k.String()
}

// A node is a compiled part of an expression. Its kind decides which of the functions it has,
// so that values are not boxed in interfaces at run time.
type node struct {
	kind     kind
	from, to int // position in the expression, in runes

	boolean func(*scope) bool
	text    func(*scope) string
	number  func(*scope) int64
	moment  func(*scope) time.Time

	// Fields and elements: the value, invalid where absent, and its type.
	ref func(*scope) reflect.Value
	typ reflect.Type
	// there reports whether the event has a field.
	there func(*scope) bool

	// Constants.
	constant bool
	s        string
	n        int64

	elements []node // of [a, b]
}
