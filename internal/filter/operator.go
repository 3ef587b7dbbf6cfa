// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"cmp"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/parser/lexer"

	"github.com/nstrace/nstrace/event"
)

// compare returns a function that compares two nodes.
func (p *parser) compare(op string, a, b node) func(*scope) bool {
	if a.isNil() || b.isNil() {
		return p.presence(op, a, b)
	}
	a, b = p.timely(a, b), p.timely(b, a)
	if op == "==" || op == "!=" {
		p.warn(a, b)
		p.warn(b, a)
	}
	if a.kind == b.kind {
		switch {
		case a.kind == text && op == "==" && b.constant: // by far the most frequent comparison
			x, c := a.text, b.s
			return func(s *scope) bool { return x(s) == c }
		case a.kind == text:
			return relate(op, a.text, b.text, strings.Compare)
		case a.kind == number:
			return relate(op, a.number, b.number, cmp.Compare[int64])
		case a.kind == moment:
			return relate(op, a.moment, b.moment, time.Time.Compare)
		case a.kind == boolean && (op == "==" || op == "!="):
			x, y, same := a.boolean, b.boolean, op == "=="
			return func(s *scope) bool { return (x(s) == y(s)) == same }
		}
		p.fail(a.from, "", "%s is %s, which %s cannot compare", p.name(a), a.kind.a(), op)
	}
	return p.mismatch(a, b)
}

// warn notes that a field never has a value. Those of some types are all known.
func (p *parser) warn(field, value node) {
	if field.ref == nil || !value.constant || value.kind != text || value.s == "" {
		return
	}
	known := values(field.typ)
	if known == nil || slices.Contains(known, value.s) {
		return
	}
	want := known
	if below := slices.DeleteFunc(slices.Clone(known), func(v string) bool { return !strings.HasPrefix(v, value.s+".") }); len(below) > 0 {
		want = below
	}
	p.warnings = append(p.warnings, fmt.Sprintf("%s is never %q: want %s", p.name(field), value.s, strings.Join(want, ", ")))
}

// values returns the values that fields of a type have, nil if a field can have others.
func values(typ reflect.Type) (all []string) {
	switch typ {
	case reflect.TypeFor[event.Type]():
		for _, f := range event.Families() {
			for _, t := range f.Types {
				all = append(all, string(t))
			}
		}
		for _, t := range []event.Type{event.TraceStart, event.TraceAttach, event.TraceStop, event.TraceLoss, event.TraceTamper, event.TraceGap} {
			all = append(all, string(t))
		}
	case nsTypeType:
		for _, t := range event.NSTypes() {
			all = append(all, string(t))
		}
	case reflect.TypeFor[event.Outcome]():
		all = []string{string(event.Success), string(event.Failure)}
	case reflect.TypeFor[event.Source]():
		all = []string{string(event.FromCgroup), string(event.FromRuntime), string(event.FromNamespace)}
	}
	return all
}

// mismatch fails because of the types of two nodes. It points at the constant, which is the
// likely mistake.
func (p *parser) mismatch(a, b node) func(*scope) bool {
	if a.constant {
		a, b = b, a
	}
	hint := ""
	switch {
	case a.kind == number && b.kind == text && b.constant && isNumber(b.s):
		hint = "write " + b.s
	case a.kind == text && b.kind == number && b.constant:
		hint = fmt.Sprintf("write %q", p.name(b))
	case a.kind == list && b.kind == text:
		hint = fmt.Sprintf("write %s in %s", p.name(b), p.name(a))
	}
	p.fail(b.from, hint, "%s is %s and cannot be compared with %s", p.name(a), a.kind.a(), b.kind.a())
	return nil
}

func isNumber(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

func relate[T any](op string, x, y func(*scope) T, compare func(T, T) int) func(*scope) bool {
	switch op {
	case "==":
		return func(s *scope) bool { return compare(x(s), y(s)) == 0 }
	case "!=":
		return func(s *scope) bool { return compare(x(s), y(s)) != 0 }
	case "<":
		return func(s *scope) bool { return compare(x(s), y(s)) < 0 }
	case "<=":
		return func(s *scope) bool { return compare(x(s), y(s)) <= 0 }
	case ">":
		return func(s *scope) bool { return compare(x(s), y(s)) > 0 }
	}
	return func(s *scope) bool { return compare(x(s), y(s)) >= 0 }
}

func (n *node) isNil() bool { return n.kind == nothing && n.constant }

// presence compares a field with nil.
func (p *parser) presence(op string, a, b node) func(*scope) bool {
	if a.isNil() {
		a, b = b, a
	}
	if op != "==" && op != "!=" {
		p.fail(b.from, "", "%s cannot compare nil", op)
	}
	if a.there == nil {
		p.fail(b.from, "", "%s is not a field and cannot be compared with nil", p.name(a))
	}
	there, want := a.there, op == "!="
	return func(s *scope) bool { return there(s) == want }
}

// timely returns n. A string constant that is compared with a time becomes a time.
func (p *parser) timely(n, with node) node {
	if n.kind != text || !n.constant || with.kind != moment {
		return n
	}
	c, err := time.Parse(time.RFC3339Nano, n.s)
	if err != nil {
		p.fail(n.from, `want for example "2006-01-02T15:04:05Z"`, "%s is a time, and %s is not", p.name(with), p.name(n))
	}
	n.kind, n.moment = moment, func(*scope) time.Time { return c }
	return n
}

// in returns a function that reports whether x is in a list, or a key of a map.
func (p *parser) in(x, all node) func(*scope) bool {
	switch {
	case all.kind == list && all.ref == nil:
		return p.oneOf(x, all.elements)
	case all.kind == list && kindOf(all.typ.Elem()) == x.kind && x.kind == text:
		get, want := all.ref, x.text
		return func(s *scope) bool {
			v := get(s)
			for i := range length(v) {
				if e := follow(v.Index(i)); e.IsValid() && e.String() == want(s) {
					return true
				}
			}
			return false
		}
	case all.kind == list && kindOf(all.typ.Elem()) == x.kind && x.kind == number:
		get, want := all.ref, x.number
		return func(s *scope) bool {
			v := get(s)
			for i := range length(v) {
				if integer(follow(v.Index(i))) == want(s) {
					return true
				}
			}
			return false
		}
	case all.kind == table && x.kind == text:
		get, key, typ := all.ref, x.text, all.typ.Key()
		return func(s *scope) bool {
			v := get(s)
			return v.IsValid() && v.MapIndex(reflect.ValueOf(key(s)).Convert(typ)).IsValid()
		}
	case all.kind == list:
		p.fail(x.from, "", "%s is a %s and cannot contain %s", p.name(all), describe(all.typ), x.kind.a())
	}
	p.fail(all.from, "in needs a list, for example [1, 2]", "%s is %s", p.name(all), all.kind.a())
	return nil
}

// oneOf returns a function that reports whether x equals one of elements.
func (p *parser) oneOf(x node, elements []node) func(*scope) bool {
	var texts []string
	var numbers []int64
	var equals []func(*scope) bool
	for _, e := range elements {
		equals = append(equals, p.compare("==", x, e))
		switch {
		case e.constant && e.kind == text && x.kind == text:
			texts = append(texts, e.s)
		case e.constant && e.kind == number:
			numbers = append(numbers, e.n)
		}
	}
	switch {
	case len(elements) > 0 && len(texts) == len(elements):
		get := x.text
		return func(s *scope) bool { return slices.Contains(texts, get(s)) }
	case len(elements) > 0 && len(numbers) == len(elements):
		get := x.number
		return func(s *scope) bool { return slices.Contains(numbers, get(s)) }
	}
	return func(s *scope) bool {
		return slices.ContainsFunc(equals, func(equal func(*scope) bool) bool { return equal(s) })
	}
}

// length returns the length of a list, 0 if it is absent.
func length(v reflect.Value) int {
	if !v.IsValid() {
		return 0
	}
	return v.Len()
}

// textual returns a function for an operation on two strings.
func (p *parser) textual(op string, a, b node) func(*scope) bool {
	if a.kind == list && b.kind == text {
		p.fail(a.from, fmt.Sprintf("write %s in %s", p.name(b), p.name(a)), "%s is a list, and %s needs strings", p.name(a), op)
	}
	for _, n := range []node{a, b} {
		if n.kind != text {
			p.fail(n.from, "", "%s is %s, and %s needs strings", p.name(n), n.kind.a(), op)
		}
	}
	x, y := a.text, b.text
	switch op {
	case "contains":
		return func(s *scope) bool { return strings.Contains(x(s), y(s)) }
	case "startsWith":
		return func(s *scope) bool { return strings.HasPrefix(x(s), y(s)) }
	case "endsWith":
		return func(s *scope) bool { return strings.HasSuffix(x(s), y(s)) }
	}
	re := p.regexp(b)
	return func(s *scope) bool { return re.MatchString(x(s)) }
}

// maxRegexp is the maximum number of instructions of a regular expression. In the worst case
// matching takes that many steps for each byte.
const maxRegexp = 4096

func (p *parser) regexp(n node) *regexp.Regexp {
	if !n.constant {
		p.fail(n.from, "", "matches needs a pattern in quotes, not %s", p.name(n))
	}
	// A short pattern can need much memory: (x{100}){10}. Parse refuses extreme ones.
	parsed, err := syntax.Parse(n.s, syntax.Perl)
	if err != nil {
		p.fail(n.from, "", "invalid pattern: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(prog.Inst) > maxRegexp {
		p.fail(n.from, "", "the pattern is too large")
	}
	return regexp.MustCompile(n.s)
}

// functions are the names of all functions.
var functions = []string{"all", "any", "glob", "len", "none"}

// call parses the call of a function, whose name was taken.
func (p *parser) call(name lexer.Token) node {
	if !slices.Contains(functions, name.Value) {
		p.fail(name.From, choose("functions", name.Value, slices.Clone(functions)), "unknown function %q", name.Value)
	}
	p.expect("(")
	n := node{kind: boolean}
	switch name.Value {
	case "glob":
		pattern := p.or()
		p.expect(",")
		n.boolean = p.glob(pattern, p.or())
	case "len":
		n.kind, n.number = number, p.len(p.or())
	default:
		all := p.or()
		p.expect(",")
		n.boolean = p.each(name, all)
	}
	p.accept(",")
	n.from, n.to = name.From, p.expect(")")
	return n
}

// glob matches as --sysctl does.
func (p *parser) glob(pattern, x node) func(*scope) bool {
	if pattern.kind != text || !pattern.constant {
		p.fail(pattern.from, `write glob("net.ipv4.*", sysctl.name)`, "the first argument of glob must be a pattern in quotes, not %s", p.name(pattern))
	}
	if _, err := path.Match(pattern.s, ""); err != nil {
		p.fail(pattern.from, "", "invalid pattern %s", p.name(pattern))
	}
	if x.kind != text {
		p.fail(x.from, "", "%s is %s, and glob needs a string", p.name(x), x.kind.a())
	}
	glob, get := pattern.s, x.text
	return func(s *scope) bool { return event.MatchSysctl(glob, get(s)) }
}

func (p *parser) len(n node) func(*scope) int64 {
	switch n.kind {
	case text:
		get := n.text
		return func(s *scope) int64 { return int64(utf8.RuneCountInString(get(s))) }
	case list, table:
		get := n.ref
		return func(s *scope) int64 { return int64(length(get(s))) }
	}
	p.fail(n.from, "", "%s is %s and has no length", p.name(n), n.kind.a())
	return nil
}

// each returns a function for any, all or none of a list.
func (p *parser) each(name lexer.Token, all node) func(*scope) bool {
	if p.element != nil {
		p.fail(name.From, "", "%s cannot be used inside any, all or none", name.Value)
	}
	if all.kind != list {
		p.fail(all.from, "", "%s is %s, and %s needs a list", p.name(all), all.kind.a(), name.Value)
	}
	element := refer(all.typ.Elem(), func(s *scope) reflect.Value { return s.element })
	p.element = &element
	braces := p.accept("{")
	holds := p.truth(p.or())
	if braces {
		p.expect("}")
	}
	p.element = nil
	get, until, otherwise := all.ref, name.Value != "all", name.Value != "any"
	return func(s *scope) bool {
		v := get(s)
		for i := range length(v) {
			s.element = v.Index(i)
			if holds(s) == until {
				return !otherwise
			}
		}
		return otherwise
	}
}
