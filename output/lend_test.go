// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/nstrace/nstrace/event"
)

// lend calls f with a copy of ev, and then overwrites the copy, including the bytes of its strings.
// The copy shares its process with ev.
func lend(ev *event.Event, f func(*event.Event)) {
	var takeBack []func()
	var copied func(reflect.Value) reflect.Value
	copied = func(v reflect.Value) reflect.Value {
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		switch {
		case v.Type() == reflect.TypeFor[time.Time](), v.Type() == reflect.TypeFor[*event.Process]():
		case v.Kind() == reflect.String && v.Len() > 0:
			text := []byte(v.String())
			c.SetString(unsafe.String(&text[0], len(text)))
			takeBack = append(takeBack, func() { copy(text, bytes.Repeat([]byte("?"), len(text))) })
		case v.Kind() == reflect.Pointer && !v.IsNil():
			c.Set(reflect.New(v.Type().Elem()))
			c.Elem().Set(copied(v.Elem()))
			takeBack = append(takeBack, c.Elem().SetZero)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				c.Field(i).Set(copied(v.Field(i)))
			}
		case v.Kind() == reflect.Map && !v.IsNil():
			c.Set(reflect.MakeMap(v.Type()))
			for it := v.MapRange(); it.Next(); {
				c.SetMapIndex(copied(it.Key()), copied(it.Value()))
			}
			takeBack = append(takeBack, c.Clear)
		}
		return c
	}
	lent := copied(reflect.ValueOf(ev)).Interface().(*event.Event)
	f(lent)
	for _, f := range takeBack {
		f()
	}
}

// TestSinksKeepNothing checks that the memory of an event can be reused after Write.
func TestSinksKeepNothing(t *testing.T) {
	events := append(append(sample(), hostile()...), bare()...)
	for name, newSink := range sinks {
		var got bytes.Buffer
		sink := newSink(&got)
		for _, ev := range events {
			lend(ev, func(ev *event.Event) {
				if err := sink.Write(ev); err != nil {
					t.Fatal(err)
				}
			})
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		if want := write(t, newSink, events...); got.String() != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, &got, want)
		}
	}
}
