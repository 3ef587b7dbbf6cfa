// SPDX-License-Identifier: Apache-2.0

package event

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Each member of an object is appended with a comma before it, and object then replaces the
// first comma by the brace. So keys are passed as they are written: `,"key":`.

// object completes the object whose members start at start.
func object(b []byte, start int) []byte {
	if len(b) == start {
		return append(b, "{}"...)
	}
	b[start] = '{'
	return append(b, '}')
}

// appendText appends a member, unless it is empty.
func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return AppendString(append(b, key...), s)
}

// appendNumber appends a member, unless it is zero.
func appendNumber(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), n, 10)
}

// appendTrue appends a member, unless it is false.
func appendTrue(b []byte, key string, v bool) []byte {
	if !v {
		return b
	}
	return append(append(b, key...), "true"...)
}

// appendValue appends a member, unless it is unknown.
func appendValue(b []byte, key string, s *string) []byte {
	if s == nil {
		return b
	}
	return AppendString(append(b, key...), *s)
}

// appendID appends a member, unless it is unknown.
func appendID(b []byte, key string, id *uint32) []byte {
	if id == nil {
		return b
	}
	return strconv.AppendUint(append(b, key...), uint64(*id), 10)
}

// appendInt appends a member, unless it is unknown.
func appendInt(b []byte, key string, n *int64) []byte {
	if n == nil {
		return b
	}
	return strconv.AppendInt(append(b, key...), *n, 10)
}

// appendTexts appends a member, unless it has no elements.
func appendTexts[S ~string](b []byte, key string, list []S) []byte {
	return appendList(b, key, list, func(b []byte, s *S) []byte { return AppendString(b, string(*s)) })
}

// appendList appends a member, unless it has no elements.
func appendList[T any](b []byte, key string, list []T, element func([]byte, *T) []byte) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, key...)
	for i := range list {
		if i == 0 {
			b = append(b, '[')
		} else {
			b = append(b, ',')
		}
		b = element(b, &list[i])
	}
	return append(b, ']')
}

// appendMap appends a map as an object. It sorts the keys, so that equal maps are equal text.
func appendMap[K ~string, V ~uint32 | ~uint64](b []byte, m map[K]V) []byte {
	if m == nil {
		return append(b, "null"...)
	}
	type entry struct {
		key   K
		value V
	}
	var room [16]entry // more than there are namespace types or event types
	entries := room[:0]
	for k, v := range m {
		entries = append(entries, entry{k, v})
	}
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Compare(x.key, y.key) })
	start := len(b)
	for _, e := range entries {
		b = AppendString(append(b, ','), string(e.key))
		b = strconv.AppendUint(append(b, ':'), uint64(e.value), 10)
	}
	return object(b, start)
}

// appendTextMap appends a map as an object, sorted by key.
func appendTextMap(b []byte, m map[string]string) []byte {
	start := len(b)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = AppendString(append(b, ','), k)
		b = AppendString(append(b, ':'), m[k])
	}
	return object(b, start)
}

// A timeEncoder appends times in UTC with nine digits of fraction. time.Time would keep the
// zone and drop trailing zeros, and ".1Z" sorts after ".15Z".
type timeEncoder struct {
	second int64
	text   []byte // text of that second, which the events of a storm share
}

func (e *timeEncoder) append(b []byte, t time.Time) []byte {
	if s := t.Unix(); s != e.second || e.text == nil {
		e.second = s
		e.text = t.UTC().AppendFormat(append(e.text[:0], '"'), time.RFC3339) // the fastest of all formats
		e.text = e.text[:len(e.text)-len("Z")]
	}
	b = append(b, e.text...)
	// The billion makes ten digits of every fraction. The point replaces the first.
	point := len(b)
	b = strconv.AppendUint(b, 1e9+uint64(t.Nanosecond()), 10)
	b[point] = '.'
	return append(b, `Z"`...)
}

// appendMember appends a member, unless it is the zero time.
func (e *timeEncoder) appendMember(b []byte, key string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return e.append(append(b, key...), t)
}
