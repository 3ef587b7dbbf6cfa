// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// fill sets every field of a value to something other than zero, including the fields
// that are added later. Times have a zone, and their fraction ends in zeros.
func fill(t *testing.T, v reflect.Value) {
	n := 0
	walk(t, v, func(v reflect.Value) int {
		n++
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 0, 0, n, 500000000, time.FixedZone("", 3600))))
		case v.Kind() == reflect.String:
			v.SetString(fmt.Sprintf("s%d", n))
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.CanInt():
			v.SetInt(int64(n))
		case v.CanUint():
			v.SetUint(uint64(n))
		}
		return 2
	})
}

// The pieces of the strings of random events.
var (
	validPieces = []string{
		"", "a", "net", "1024", "sysctl", "-w", "/proc/sys/", "namespace", `"`, `\`, "<&>", " ", "\t", "\n", "\x00", "\x1b[", "\x7f",
		"é", "日本", "\u009b", "\u00ad", "\u2028", "\u202e", "\u2800", "\ufeff", "\ufffd", "😀", "\U000e0041",
	}
	anyPieces = append([]string{"\x80", "\xff", "\xc3", "\xed\xa0\x80"}, validPieces...)
)

// The first and the last second that RFC 3339 can write.
var (
	firstSecond = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	lastSecond  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
)

// randomEvent returns an event of which each field is empty, common or awkward.
func randomEvent(t *testing.T, rng *rand.Rand, pieces []string) *event.Event {
	ev := &event.Event{}
	walk(t, reflect.ValueOf(ev).Elem(), func(v reflect.Value) int {
		if v.Kind() != reflect.Struct && rng.IntN(4) == 0 {
			return 0
		}
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(time.Unix(firstSecond+rng.Int64N(lastSecond-firstSecond+1), rng.Int64N(1e9)>>rng.IntN(30))))
		case v.Kind() == reflect.String:
			s := ""
			for range rng.IntN(12) {
				s += pieces[rng.IntN(len(pieces))]
			}
			v.SetString(s)
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.CanInt():
			v.SetInt(int64(rng.Uint64() >> rng.IntN(64)))
		case v.CanUint():
			v.SetUint(rng.Uint64() >> rng.IntN(64))
		}
		return 1 + rng.IntN(20)
	})
	return ev
}

// walk calls set for every value inside v. set returns how many elements a list or a map
// gets; walk follows a pointer if that is more than 0.
func walk(t *testing.T, v reflect.Value, set func(reflect.Value) int) {
	t.Helper()
	n := set(v)
	if v.Type() == reflect.TypeFor[time.Time]() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if n > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			walk(t, v.Elem(), set)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			walk(t, v.Field(i), set)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			walk(t, v.Index(i), set)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			walk(t, key, set)
			walk(t, elem, set)
			v.SetMapIndex(key, elem)
		}
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
	default:
		t.Fatalf("cannot fill a %s", v.Type())
	}
}
