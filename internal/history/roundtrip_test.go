// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// captured returns events of real runs.
func captured(t testing.TB) (events []*event.Event) {
	t.Helper()
	events, err := capturedIn("../../tracer/testdata")
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func capturedIn(dir string) (events []*event.Event, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no captured events: %w", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(text) {
			e := &event.Event{}
			if err := json.Unmarshal(line, e); err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			events = append(events, e)
		}
	}
	return events, nil
}

func lockThread() { runtime.LockOSThread() }

// line returns an event's line in the stream.
func line(e *event.Event) string { return string(new(event.Encoder).Append(nil, e)) }

// oneGoroutine skips a test under the race detector: it uses one goroutine and would take ten times
// as long.
func oneGoroutine(t *testing.T) {
	t.Helper()
	if raced {
		t.Skip("runs only without the race detector")
	}
}

func create(t testing.TB, o history.Options) *history.Recorder {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "history.db")
	}
	if o.Report == nil {
		o.Report = func(m string) { t.Log(m) }
	}
	r, err := history.Create(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func open(t testing.TB, path string) *history.DB {
	t.Helper()
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func find(t testing.TB, db *history.DB, q history.Query) (all []history.Stored) {
	t.Helper()
	for s, err := range db.Events(context.Background(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// unchecked is find without Check.
func unchecked(t testing.TB, db *history.DB, q history.Query) (all []history.Stored) {
	t.Helper()
	for s, err := range db.Unchecked(q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// checkStored records events and compares the lines of the stored events with theirs.
func checkStored(t *testing.T, events []*event.Event) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	var want []string
	for _, e := range events {
		want = append(want, line(e))
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	db := open(t, path)
	got := unchecked(t, db, history.Query{})
	if len(got) != len(want) {
		t.Fatalf("%d events came back, want %d", len(got), len(want))
	}
	for i, s := range got {
		if s.ID != int64(i+1) {
			t.Errorf("event %d has the id %d", i+1, s.ID)
		}
		if l := line(s.Event); l != want[i] {
			t.Errorf("event %d:\ngot  %s\nwant %s", s.ID, l, want[i])
		}
	}
	back := unchecked(t, db, history.Query{Reverse: true})
	slices.Reverse(back)
	if !reflect.DeepEqual(got, back) {
		t.Error("the reverse order has other events")
	}
}

func TestCapturedEventsComeBack(t *testing.T) { checkStored(t, captured(t)) }

// Every field of the event comes back, with any content. A field that is added later is included.
func TestEveryFieldComesBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var events []*event.Event
	for n := range 400 {
		e := &event.Event{}
		fill(reflect.ValueOf(e).Elem(), rng, n > 0)
		if n%2 == 1 { // like a tracer's events, which fit into columns
			e.V, e.Trace, e.Loss = event.SchemaVersion, nil, nil
			if e.Sysctl != nil {
				e.Namespace = nil
			}
		}
		events = append(events, e)
	}
	checkStored(t, events)
}

// fill sets fields of v to any content: all fields or, if some is true, about two thirds of them.
func fill(v reflect.Value, rng *rand.Rand, some bool) {
	if some && v.Kind() != reflect.Struct && rng.IntN(3) == 0 {
		return
	}
	texts := []string{"", "net", "a\x00b", "\xff\xfe", "\x1b[31m", "日本", `"'\`, "4096\t131072\t6291456"}
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(rng.Int64N(4e9)-1e9, rng.Int64N(1e9)).UTC()))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), rng, some)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), rng, some)
			}
		}
	case v.Kind() == reflect.Slice:
		n := 1 + rng.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), rng, some)
		}
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for i := range 1 + rng.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			key.SetString(fmt.Sprint("key", i))
			fill(value, rng, some)
			v.SetMapIndex(key, value)
		}
	case v.Kind() == reflect.String:
		v.SetString(texts[rng.IntN(len(texts))] + fmt.Sprint(rng.IntN(3)))
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(rng.Int64N(1 << 31))
	case v.CanUint():
		v.SetUint(rng.Uint64N(1 << 32))
	}
}
