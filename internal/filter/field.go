// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

var (
	eventType  = reflect.TypeFor[event.Event]()
	timeType   = reflect.TypeFor[time.Time]()
	nsTypeType = reflect.TypeFor[event.NSType]()
)

// kindOf returns the kind of a Go type, for a pointer that of its target.
func kindOf(t reflect.Type) kind {
	t = pointee(t)
	switch t.Kind() {
	case reflect.Bool:
		return boolean
	case reflect.String:
		return text
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number
	case reflect.Slice:
		return list
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return table
		}
	case reflect.Struct:
		if t == timeType {
			return moment
		}
		return object
	}
	return nothing
}

func pointee(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// follow returns what v points to, an invalid value for nil.
func follow(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return v
}

// A field is a member of an object.
type field struct {
	name  string // in JSON
	index int
	typ   reflect.Type
	omit  bool // not in the JSON if zero
}

// fieldsOf returns the fields of t that the JSON has.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields = append(fields, field{name: name, index: i, typ: f.Type, omit: strings.Contains(opts, "omit")})
	}
	return fields
}

// refer returns a node for a value of type t, which ref looks up. The value can be a pointer
// and can be absent.
func refer(t reflect.Type, ref func(*scope) reflect.Value) node {
	n := node{kind: kindOf(t), typ: pointee(t), ref: func(s *scope) reflect.Value { return follow(ref(s)) }}
	get := n.ref
	n.there = func(s *scope) bool { return get(s).IsValid() }
	switch n.kind {
	case boolean:
		n.boolean = func(s *scope) bool { v := get(s); return v.IsValid() && v.Bool() }
	case text:
		n.text = func(s *scope) string {
			if v := get(s); v.IsValid() {
				return v.String()
			}
			return ""
		}
	case number:
		n.number = func(s *scope) int64 { return integer(get(s)) }
	case moment:
		n.moment = func(s *scope) time.Time {
			switch v := get(s); {
			case !v.IsValid():
				return time.Time{}
			case v.CanAddr(): // avoid the allocation of a copy in an interface
				return *v.Addr().Interface().(*time.Time)
			default:
				return v.Interface().(time.Time)
			}
		}
	}
	return n
}

// integer returns the value of a number, 0 if it is absent. A number too large for int64, which
// no event has, becomes the largest int64.
func integer(v reflect.Value) int64 {
	switch {
	case !v.IsValid():
		return 0
	case v.CanInt():
		return v.Int()
	}
	return int64(min(v.Uint(), math.MaxInt64))
}

// member returns the node for a field of an object.
func (n node) member(f field) node {
	of := n.ref
	m := refer(f.typ, func(s *scope) reflect.Value {
		if v := of(s); v.IsValid() {
			return v.Field(f.index)
		}
		return reflect.Value{}
	})
	if f.omit && f.typ.Kind() != reflect.Pointer {
		get, empty := m.ref, reflect.Value.IsZero
		if m.kind == list || m.kind == table {
			empty = func(v reflect.Value) bool { return v.Len() == 0 }
		}
		m.there = func(s *scope) bool { v := get(s); return v.IsValid() && !empty(v) }
	}
	return m
}

// at returns the node for an element of a list. Negative indexes count from the end.
func (n node) at(i int) node {
	of := n.ref
	return refer(n.typ.Elem(), func(s *scope) reflect.Value {
		v := of(s)
		if !v.IsValid() {
			return reflect.Value{}
		}
		i := i
		if i < 0 {
			i += v.Len()
		}
		if i < 0 || i >= v.Len() {
			return reflect.Value{}
		}
		return v.Index(i)
	})
}

// under returns the node for an element of a map.
func (n node) under(name string) node {
	of, key := n.ref, reflect.ValueOf(name).Convert(n.typ.Key())
	m := refer(n.typ.Elem(), func(s *scope) reflect.Value {
		if v := of(s); v.IsValid() {
			return v.MapIndex(key)
		}
		return reflect.Value{}
	})
	if reflect.TypeFor[map[event.NSType]uint32]() == n.typ { // MapIndex allocates
		m.number = func(s *scope) int64 {
			if v := of(s); v.IsValid() {
				return int64(v.Interface().(map[event.NSType]uint32)[event.NSType(name)])
			}
			return 0
		}
	}
	return m
}

// keys returns the keys that a map can have, nil if they are not known.
func keys(t reflect.Type) []string {
	if t.Key() != nsTypeType {
		return nil
	}
	var names []string
	for _, typ := range event.NSTypes() {
		names = append(names, string(typ))
	}
	return names
}

// Fields returns the fields that an expression can use, each with its type, sorted.
func Fields() []string {
	var paths, types []string
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for _, f := range fieldsOf(t) {
			if kindOf(f.typ) == object {
				walk(prefix+f.name+".", pointee(f.typ))
				continue
			}
			paths, types = append(paths, prefix+f.name), append(types, describe(f.typ))
		}
	}
	walk("", eventType)
	width := 0
	for _, path := range paths {
		width = max(width, len(path))
	}
	for i := range paths {
		paths[i] = fmt.Sprintf("%-*s  %s", width, paths[i], types[i])
	}
	slices.Sort(paths)
	return paths
}

// describe returns the type t in words.
func describe(t reflect.Type) string {
	t = pointee(t)
	switch k := kindOf(t); k {
	case list:
		return "list of " + plural(t.Elem())
	case table:
		s := "map of " + plural(t.Elem())
		if names := keys(t); names != nil {
			s += " by " + strings.Join(names, ", ")
		}
		return s
	default:
		return k.String()
	}
}

func plural(t reflect.Type) string {
	t = pointee(t)
	if kindOf(t) != object {
		return kindOf(t).String() + "s"
	}
	var members []string
	for _, f := range fieldsOf(t) {
		members = append(members, f.name+" "+describe(f.typ))
	}
	return "{" + strings.Join(members, ", ") + "}"
}
