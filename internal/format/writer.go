// SPDX-License-Identifier: Apache-2.0

package format

import (
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A writer writes the members of a JSON object. It leaves out members without a value.
type writer struct{ b []byte }

func number[T ~uint32 | ~uint64](n T) string { return strconv.FormatUint(uint64(n), 10) }

// key writes the key of a member, whose value has to follow.
func (w *writer) key(key string) {
	if last := w.b[len(w.b)-1]; last != '{' && last != '[' {
		w.b = append(w.b, ',')
	}
	if key != "" {
		w.b = append(event.AppendString(w.b, key), ':')
	}
}

// text writes a string, unless it is empty.
func (w *writer) text(key, s string) {
	if s != "" {
		w.must(key, s)
	}
}

// must writes a string, also an empty one.
func (w *writer) must(key, s string) {
	w.key(key)
	w.b = event.AppendString(w.b, s)
}

// texts writes a list of strings, unless it is empty.
func (w *writer) texts(key string, list ...string) {
	if len(list) == 0 {
		return
	}
	w.list(key, func() {
		for _, s := range list {
			w.must("", s)
		}
	})
}

// positive writes a number, unless it is zero.
func (w *writer) positive(key string, n uint64) {
	if n > 0 {
		w.integer(key, int64(n))
	}
}

func (w *writer) integer(key string, n int64) {
	w.key(key)
	w.b = strconv.AppendInt(w.b, n, 10)
}

// millis writes a time as milliseconds since 1970, unless it is unknown.
func (w *writer) millis(key string, t time.Time) {
	if !t.IsZero() {
		w.integer(key, t.UnixMilli())
	}
}

// time writes a time as RFC 3339 has it, unless it is unknown.
func (w *writer) time(key string, t time.Time) {
	if !t.IsZero() {
		w.must(key, rfc3339(t))
	}
}

func rfc3339(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") }

// object writes an object whose members f writes, unless f writes none.
func (w *writer) object(key string, f func()) { w.nested(key, '{', '}', f) }

// list writes a list whose elements f writes with empty keys, unless f writes none.
func (w *writer) list(key string, f func()) { w.nested(key, '[', ']', f) }

func (w *writer) nested(key string, first, last byte, f func()) {
	start := len(w.b)
	w.key(key)
	w.b = append(w.b, first)
	empty := len(w.b)
	f()
	if len(w.b) == empty {
		w.b = w.b[:start]
		return
	}
	w.b = append(w.b, last)
}
