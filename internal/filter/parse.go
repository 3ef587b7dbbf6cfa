// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

// A parser turns tokens into nodes, which are typed and ready to run, in one pass.
// Operators bind as in expr-lang, from the loosest: or, and, comparisons, not.
type parser struct {
	expr    string
	tokens  []lexer.Token // the last is EOF
	element *node         // inside of any, all and none: the element

	warnings []string // see Program.Warnings
}

// fail ends the parsing with an error, which parse recovers. at is in runes.
func (p *parser) fail(at int, hint, format string, args ...any) {
	e := &Error{Expr: p.expr, Column: at + 1, Message: fmt.Sprintf(format, args...), Hint: hint}
	for range at {
		_, size := utf8.DecodeRuneInString(p.expr[e.Offset:])
		e.Offset += size
	}
	panic(e)
}

// parse parses the expression and calls use with the result.
func (p *parser) parse(use func(node)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	if len(p.expr) > MaxLength {
		p.fail(0, "", "the expression is too long: want at most %d bytes", MaxLength)
	}
	if p.tokens, err = lexer.Lex(file.NewSource(p.expr)); err != nil {
		at, message := 0, err.Error()
		var lexical *file.Error
		if errors.As(err, &lexical) {
			at, message = lexical.From, lexical.Message
		}
		p.fail(min(at, utf8.RuneCountInString(p.expr)), "", "%s", message)
	}
	if len(p.tokens) == 1 {
		p.fail(0, "see --filter help", "empty expression")
	}
	n := p.or()
	if p.next().Kind != lexer.EOF {
		p.unexpected()
	}
	use(n)
	return nil
}

// next returns the next token.
func (p *parser) next() lexer.Token { return p.tokens[0] }

// take returns the next token and moves behind it.
func (p *parser) take() lexer.Token {
	t := p.tokens[0]
	if t.Kind != lexer.EOF {
		p.tokens = p.tokens[1:]
	}
	return t
}

// is reports whether the next token is one of the operators or brackets in values.
func (p *parser) is(values ...string) bool {
	t := p.next()
	return (t.Kind == lexer.Operator || t.Kind == lexer.Bracket) && slices.Contains(values, t.Value)
}

// accept takes the next token if it is one of values, and reports whether it was.
func (p *parser) accept(values ...string) bool {
	ok := p.is(values...)
	if ok {
		p.take()
	}
	return ok
}

// expect takes the next token, which must be value, and returns where it ends.
func (p *parser) expect(value string) int {
	if !p.is(value) {
		p.unexpected()
	}
	return p.take().To
}

// hints are hints for tokens that are not part of the language.
var hints = map[string]string{
	"=":  "use == to compare",
	"&":  "use && or and",
	"|":  "use || or or",
	"?.": "use a dot: an absent field is empty or 0",
	"??": "an absent field is empty or 0",
	"[":  "a list can only follow in",
	"(":  "functions are " + strings.Join(functions, ", "),
}

func (p *parser) unexpected() {
	t := p.next()
	if t.Kind == lexer.EOF {
		p.fail(utf8.RuneCountInString(p.expr), "", "unexpected end of the expression")
	}
	hint := hints[t.Value]
	if t.Kind == lexer.String {
		hint = ""
	}
	p.fail(t.From, hint, "unexpected %q", p.source(t.From, t.To))
}

// source returns a part of the expression.
func (p *parser) source(from, to int) string {
	r := []rune(p.expr)
	return string(r[min(from, len(r)):min(to, len(r))])
}

// name returns the name of a node for messages.
func (p *parser) name(n node) string {
	const enough = 40
	s := p.source(n.from, n.to)
	if s == "" {
		return "the element"
	}
	if len(s) <= enough && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return "this"
}

// truth returns the value of a node that must be a boolean.
func (p *parser) truth(n node) func(*scope) bool {
	if n.kind != boolean {
		hint := ""
		if n.kind == text || n.kind == number || n.kind == moment {
			hint = "compare it with a value"
		}
		p.fail(n.from, hint, "%s is %s, not a boolean", p.name(n), n.kind.a())
	}
	return n.boolean
}

func (p *parser) or() node {
	left := p.and()
	for p.accept("or", "||") {
		right := p.and()
		x, y := p.truth(left), p.truth(right)
		left = node{kind: boolean, from: left.from, to: right.to, boolean: func(s *scope) bool { return x(s) || y(s) }}
	}
	return left
}

func (p *parser) and() node {
	left := p.comparison()
	for p.accept("and", "&&") {
		right := p.comparison()
		x, y := p.truth(left), p.truth(right)
		left = node{kind: boolean, from: left.from, to: right.to, boolean: func(s *scope) bool { return x(s) && y(s) }}
	}
	return left
}

func (p *parser) comparison() node {
	left := p.unary()
	for {
		not := p.is("not") && len(p.tokens) > 1
		if not {
			p.take()
			if !p.is("in", "contains", "startsWith", "endsWith", "matches") {
				p.unexpected()
			}
		}
		op := p.next()
		var holds func(*scope) bool
		to := 0
		switch {
		case p.accept("==", "!="):
			right := p.unary()
			holds, to = p.compare(op.Value, left, right), right.to
		case p.accept("<", "<=", ">", ">="):
			right := p.unary()
			holds, to = p.compare(op.Value, left, right), right.to
			// 1 < x < 3 is 1 < x && x < 3.
			for p.is("<", "<=", ">", ">=") {
				op, middle, first := p.take(), right, holds
				right = p.unary()
				second := p.compare(op.Value, middle, right)
				holds, to = func(s *scope) bool { return first(s) && second(s) }, right.to
			}
		case p.accept("in"):
			right := p.container()
			holds, to = p.in(left, right), right.to
		case p.accept("contains", "startsWith", "endsWith", "matches"):
			right := p.unary()
			holds, to = p.textual(op.Value, left, right), right.to
		default:
			return left
		}
		if not {
			positive := holds
			holds = func(s *scope) bool { return !positive(s) }
		}
		left = node{kind: boolean, from: left.from, to: to, boolean: holds}
	}
}

func (p *parser) unary() node {
	t := p.next()
	switch {
	case p.accept("!", "not"):
		n := p.unary()
		if n.kind != boolean && p.is("==", "!=", "<", "<=", ">", ">=", "in", "contains", "startsWith", "endsWith", "matches") {
			p.fail(t.From, fmt.Sprintf("write %s (...)", t.Value), "%s applies only to %s", t.Value, p.name(n))
		}
		holds := p.truth(n)
		return node{kind: boolean, from: t.From, to: n.to, boolean: func(s *scope) bool { return !holds(s) }}
	case p.accept("-"):
		n := p.unary()
		if n.kind != number || !n.constant {
			p.fail(n.from, "", "%s is not a number and cannot follow a minus", p.name(n))
		}
		c := numberNode(-n.n)
		c.from, c.to = t.From, n.to
		return c
	}
	return p.postfix(p.primary())
}

func (p *parser) primary() node {
	t := p.next()
	var n node
	switch t.Kind {
	case lexer.Identifier:
		p.take()
		switch {
		case t.Value == "true" || t.Value == "false":
			holds := t.Value == "true"
			n = node{kind: boolean, constant: true, boolean: func(*scope) bool { return holds }}
		case t.Value == "nil":
			n = node{kind: nothing, constant: true}
		case p.is("("):
			return p.call(t)
		default:
			event := node{kind: object, typ: eventType, ref: func(s *scope) reflect.Value { return s.event }}
			n = p.field(event, t.Value, t.From)
		}
	case lexer.Number:
		p.take()
		n = p.integer(t)
	case lexer.String:
		p.take()
		n = textNode(t.Value)
	default:
		switch {
		case p.accept("("):
			n = p.or()
			t.To = p.expect(")")
		case p.element != nil && p.is("."): // of the element, and taken by postfix
			n, t.To = *p.element, t.From
		case p.element != nil && p.accept("#"):
			n = *p.element
		default:
			p.unexpected()
		}
	}
	n.from, n.to = t.From, t.To
	return n
}

func textNode(c string) node {
	return node{kind: text, constant: true, s: c, text: func(*scope) string { return c }}
}

func numberNode(c int64) node {
	return node{kind: number, constant: true, n: c, number: func(*scope) int64 { return c }}
}

func (p *parser) integer(t lexer.Token) node {
	digits, base := strings.ReplaceAll(t.Value, "_", ""), 10
	if len(digits) > 1 && unicode.IsLetter(rune(digits[1])) {
		base = 0 // from the prefix: 0x, 0o, 0b
	}
	c, err := strconv.ParseInt(digits, base, 64)
	if err != nil {
		p.fail(t.From, "", "invalid number %s: want a whole number of 64 bits", t.Value)
	}
	return numberNode(c)
}

func (p *parser) postfix(n node) node {
	for {
		switch {
		case p.accept("."):
			t := p.next()
			if t.Kind != lexer.Identifier && !(t.Kind == lexer.Operator && t.Value != "" && unicode.IsLetter(rune(t.Value[0]))) {
				p.unexpected()
			}
			p.take()
			m := p.field(n, t.Value, t.From)
			m.from, m.to = n.from, t.To
			n = m
		case p.accept("["):
			key := p.unary()
			to := p.expect("]")
			var m node
			switch {
			case n.kind == list && key.kind == number && key.constant:
				m = n.at(int(key.n))
			case (n.kind == table || n.kind == object) && key.kind == text && key.constant:
				m = p.field(n, key.s, key.from)
			case n.kind == list:
				p.fail(key.from, "", "%s is a list: want a number in the brackets", p.name(n))
			default:
				p.fail(key.from, "", "%s is %s and has no elements", p.name(n), n.kind.a())
			}
			m.from, m.to = n.from, to
			n = m
		default:
			return n
		}
	}
}

// field returns the field of an object or the element of a map with a name.
func (p *parser) field(n node, name string, at int) node {
	var what string
	var names []string
	switch {
	case n.kind == object:
		what = "field"
		for _, f := range fieldsOf(n.typ) {
			if f.name == name {
				return n.member(f)
			}
			names = append(names, f.name)
		}
	case n.kind == table:
		what = "key"
		if names = keys(n.typ); names == nil || slices.Contains(names, name) {
			return n.under(name)
		}
	case n.kind == list:
		p.fail(at, fmt.Sprintf("write any(%s, .%s ...)", p.name(n), name), "%s is a list and has no field %q", p.name(n), name)
	default:
		p.fail(at, "", "%s is %s and has no field %q", p.name(n), n.kind.a(), name)
	}
	of := ""
	if n.typ != eventType {
		of = " of " + p.name(n)
	}
	p.fail(at, choose(what+"s"+of, name, names), "unknown %s %q%s", what, name, of)
	panic("not reached")
}

// container parses the right side of in.
func (p *parser) container() node {
	t := p.next()
	if !p.accept("[") {
		return p.unary()
	}
	n := node{kind: list, constant: true, from: t.From}
	for !p.is("]") {
		n.elements = append(n.elements, p.unary())
		if !p.accept(",") {
			break
		}
	}
	n.to = p.expect("]")
	return n
}
