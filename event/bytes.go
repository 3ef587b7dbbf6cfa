// SPDX-License-Identifier: Apache-2.0

package event

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A BytesFinder sets Event.Bytes. The zero value is ready to use. It is not safe for concurrent use.
type BytesFinder struct {
	// Recent processes, by thread id: the events of a process share it, and it never changes.
	processes [256]struct {
		process *Process
		valid   bool
	}
}

// Set sets e.Bytes to the strings of e that are not UTF-8, nil if there are none.
func (f *BytesFinder) Set(e *Event) {
	e.Bytes = nil
	if !f.valid(e) {
		e.findBytes()
	}
}

// valid reports whether all strings of e that others choose are UTF-8. It does not allocate.
func (f *BytesFinder) valid(e *Event) bool {
	if p := e.Process; p != nil {
		known := &f.processes[p.TID%uint32(len(f.processes))]
		if known.process != p {
			known.process, known.valid = p, p.valid()
		}
		if !known.valid {
			return false
		}
	}
	if s := e.Sysctl; s != nil {
		for _, v := range [...]*string{s.Old, s.New, s.After} {
			if v != nil && !utf8.ValidString(*v) {
				return false
			}
		}
		if p := s.Parameters; p != nil && !p.valid() {
			return false
		}
		if !valid(s.Name, s.Path) || !s.Namespace.valid() || s.Cause != nil && !valid(s.Cause.Name) {
			return false
		}
	}
	if d := e.Netdev; d != nil && !(valid(d.Name, d.NewName, d.Kind) && d.From.valid() && d.To.valid()) {
		return false
	}
	for i := range e.Refusal {
		r := &e.Refusal[i]
		if w := r.SetBy; w != nil && !valid(w.Comm, w.User, w.LoginUser, w.Container, w.Unit) || !valid(r.User) {
			return false
		}
	}
	if e.Request != nil && !valid(e.Request.Path) {
		return false
	}
	return e.Namespace.valid() && e.Container.valid() && e.Pod.valid() && valid(e.Unit, e.Host)
}

func (p *Parameters) valid() bool {
	for i := range p.Tables {
		if !valid(p.Tables[i].Prefix) || !valid(p.Tables[i].Names...) {
			return false
		}
	}
	return true
}

func (p *Process) valid() bool {
	for i := range p.Ancestors {
		if !valid(p.Ancestors[i].Comm) {
			return false
		}
	}
	return valid(p.Args...) && valid(p.Comm, p.LeaderComm, p.Exe, p.User, p.LoginUser, p.SudoUser, p.TTY, p.Cgroup)
}

func (ns *Namespace) valid() bool {
	if ns == nil {
		return true
	}
	if o := ns.Owner; o != nil && !(o.Container.valid() && o.Pod.valid() && valid(o.Unit)) {
		return false
	}
	return valid(ns.Name, ns.Path) && (ns.Creator == nil || valid(ns.Creator.Comm))
}

func (c *Container) valid() bool { return c == nil || valid(c.ID, c.Name, c.Image, c.Runtime) }

func (p *Pod) valid() bool { return p == nil || valid(p.Name, p.Namespace, p.UID) }

func valid(all ...string) bool {
	for _, s := range all {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// findBytes adds all strings that are not UTF-8 to e.Bytes.
func (e *Event) findBytes() {
	eachString("", reflect.ValueOf(e).Elem(), func(path string, v reflect.Value) {
		if s := v.String(); !utf8.ValidString(s) {
			if e.Bytes == nil {
				e.Bytes = map[string]string{}
			}
			e.Bytes[path] = EscapeBytes(s)
		}
	})
}

// RestoreBytes sets the strings of an event that was decoded from JSON to the bytes that the kernel held,
// as Bytes has them.
func (e *Event) RestoreBytes() {
	if len(e.Bytes) == 0 {
		return
	}
	eachString("", reflect.ValueOf(e).Elem(), func(path string, v reflect.Value) {
		s, ok := unescapeBytes(e.Bytes[path])
		if ok && string([]rune(s)) == v.String() { // else somebody made it up
			v.SetString(s)
		}
	})
}

// eachString calls f for each string below v. Its path consists of the names in the JSON and the indexes of
// lists, with dots between them.
func eachString(path string, v reflect.Value, f func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.String:
		f(path, v)
	case reflect.Pointer:
		if !v.IsNil() {
			eachString(path, v.Elem(), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachString(path+"."+strconv.Itoa(i), v.Index(i), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !field.IsExported() || name == "-" || name == "" {
				continue
			}
			if path != "" {
				name = path + "." + name
			}
			eachString(name, v.Field(i), f)
		}
	}
}

// EscapeBytes returns s with \xNN for each byte that is not UTF-8, and \\ for each backslash.
func EscapeBytes(s string) string {
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = AppendHex(append(b, `\x`...), rune(s[i]), 2)
		case r == '\\':
			b = append(b, `\\`...)
		default:
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return string(b)
}

// unescapeBytes returns the string of which EscapeBytes made s. ok is false if it made s of none.
func unescapeBytes(s string) (_ string, ok bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case strings.HasPrefix(s[i:], `\\`):
			b = append(b, '\\')
			i++
		case strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4:
			c, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				return "", false
			}
			b = append(b, byte(c))
			i += 3
		default:
			return "", false
		}
	}
	return string(b), s == EscapeBytes(string(b))
}
