// SPDX-License-Identifier: Apache-2.0

// Package filter selects events by an expression over their fields:
//
//	p, err := filter.Compile(`type == "sysctl.write" && process.comm != "systemd-sysctl"`)
//	if err != nil { ... }
//	if p.Match(event) { ... }
//
// The language is a part of that of github.com/expr-lang/expr (expr-lang.org), with
// that library's lexer, and with the types of the event. Fields are called as they
// are in the JSON, and found by reflection over tracer.Event: a new one can be used
// as soon as it is there. An expression that Compile takes cannot fail, and takes a
// time that grows with its length and the event's: no loops in loops, no regular
// expression that steps back.
//
// What an event does not have is the zero value: an empty string, 0, false, the
// zero time, an empty list. Whether it is there is asked with nil: `process != nil`.
package filter

import (
	"reflect"
	"time"

	"github.com/nstrace/nstrace/event"
)

// MaxLength is how long an expression may be, in bytes.
const MaxLength = 4096

// Program is a compiled expression.
type Program struct {
	match func(*scope) bool
	scope scope
}

// scope is what an expression is looked up in.
type scope struct {
	event   reflect.Value
	element reflect.Value // of the list that any, all or none goes through
}

// Compile makes a program of an expression. What is wrong with it is an *Error.
func Compile(expr string) (*Program, error) {
	p := &parser{expr: expr}
	program := &Program{}
	if err := p.parse(func(n node) { program.match = p.truth(n) }); err != nil {
		return nil, err
	}
	return program, nil
}

// Match says whether the expression holds for e. It is for one goroutine at a time,
// and keeps nothing of e.
func (p *Program) Match(e *event.Event) bool {
	p.scope.event = reflect.ValueOf(e).Elem()
	ok := p.match(&p.scope)
	p.scope = scope{}
	return ok
}

// kind is a type of the language.
type kind uint8

const (
	nothing kind = iota // nil, and what the language has no type for
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

// a is the kind with its article.
func (k kind) a() string {
	switch k {
	case nothing:
		return "nil"
	case object:
		return "an " + k.String()
	}
	return "a " + k.String()
}

// A node is a compiled part of an expression. Which of the functions it has depends
// on its kind: so nothing is boxed and looked into while events go by.
type node struct {
	kind     kind
	from, to int // where it stands, in runes

	boolean func(*scope) bool
	text    func(*scope) string
	number  func(*scope) int64
	moment  func(*scope) time.Time

	// Fields and elements: the value, invalid where absent, and its type.
	ref func(*scope) reflect.Value
	typ reflect.Type
	// there says whether a field is in the event.
	there func(*scope) bool

	// Constants.
	constant bool
	s        string
	n        int64

	elements []node // of [a, b]
}
