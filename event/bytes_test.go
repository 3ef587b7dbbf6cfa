// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/schema/schematest"
)

// stringsOf returns the strings of an event, by path.
func stringsOf(e *event.Event) map[string]string {
	all := map[string]string{}
	event.EachString("", reflect.ValueOf(e).Elem(), func(path string, v reflect.Value) {
		if v.String() != "" {
			all[path] = v.String()
		}
	})
	return all
}

// TestBytesRestored encodes random events with strings that are not UTF-8. A decoded event has the same
// strings, and its line is the same.
func TestBytesRestored(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		e := randomEvent(t, rng, validPieces)
		event.EachString("", reflect.ValueOf(e).Elem(), func(_ string, v reflect.Value) {
			v.SetString(v.String() + anyPieces[rng.IntN(len(anyPieces))])
		})
		e.Unit = "\xff" // so that Set looks at all strings
		new(event.BytesFinder).Set(e)
		line := encode(e)
		got := decode(t, line)
		got.RestoreBytes()
		if again := encode(got); again != line {
			t.Fatalf("got %swant %s", again, line)
		}
		if got, want := stringsOf(got), stringsOf(e); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %q\nwant %q", got, want)
		}
	}
}

// TestBytesFields makes one string after the other of an event invalid. Bytes has each one, except those that
// nstrace itself chooses.
func TestBytesFields(t *testing.T) {
	own := regexp.MustCompile(`^(run_id|boot_id|type|outcome|error|via|alert\..*|loss\..*|tamper\..*|between\..*|trace\..*)$|` +
		`(^|\.)(source|detected|role)$|(namespace|from|to)\.(type|uid)$|^request\.types\.\d+$|^refusal\.\d+\.(reason|type|sysctl|capability)$|^sysctl\.(expected|parameters\.unmet\.\d+)\.`)
	var full event.Event
	fill(t, reflect.ValueOf(&full).Elem())
	event.EachString("", reflect.ValueOf(&full).Elem(), func(path string, v reflect.Value) {
		was := v.String()
		v.SetString("caf\xe9\\")
		defer v.SetString(was)
		new(event.BytesFinder).Set(&full)
		switch want := map[string]string{path: `caf\xe9\\`}; {
		case own.MatchString(path):
			if full.Bytes != nil {
				t.Errorf("%s is one of others", path)
			}
		case !reflect.DeepEqual(full.Bytes, want):
			t.Errorf("%s: got %q", path, full.Bytes)
		}
	})
}

func TestBytesLine(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"plain\\", ""},
		{"\ufffd", ""},
		{"caf\xe9", `caf\xe9`},
		{"caf\xc3", `caf\xc3`},
		{"é\xff\\x41", `é\xff\\x41`},
		{"\xed\xa0\x80", `\xed\xa0\x80`},
	} {
		e := eventtest.Sample()[1]
		e.Sysctl.New = &row.in
		new(event.BytesFinder).Set(e)
		if got := e.Bytes["sysctl.new"]; got != row.want || (row.want == "") != (e.Bytes == nil) {
			t.Errorf("%q: got %q, want %q", row.in, e.Bytes, row.want)
		}
		line := encode(e)
		if row.want != "" && !strings.Contains(line, `"bytes":{"sysctl.new":"`+strings.ReplaceAll(row.want, `\`, `\\`)+`"}}`) {
			t.Errorf("%s", line)
		}
		schematest.Lines(t, []byte(line))
	}
}

// TestBytesMadeUp restores nothing from bytes that contradict the field, are no escapes, or are of no field.
func TestBytesMadeUp(t *testing.T) {
	for _, made := range []map[string]string{
		{"process.comm": `ssh\xff`}, {"process.comm": `sysctl`}, {"process.comm": `\xfg`}, {"process.comm": `\x4`}, {"process.comm": `\`},
		{"process.comm": `\x73ysctl`}, {"process.pid": `1`}, {"process": "x"}, {"process.args.99": "x"}, {"": ""}, {"process.args": "x"},
	} {
		e := eventtest.Sample()[1]
		want := stringsOf(e)
		e.Bytes = made
		line := encode(e)
		e.RestoreBytes()
		if got := stringsOf(e); !reflect.DeepEqual(got, want) || encode(e) != line {
			t.Errorf("%q: got %q", made, got)
		}
	}
}

// TestBytesOfOne finds the strings of events that share a process.
func TestBytesOfOne(t *testing.T) {
	var f event.BytesFinder
	good, bad := eventtest.Storm()[0], eventtest.Storm()[0]
	bad.Process.Args = []string{"a", "\xff"}
	for range 2 {
		for _, e := range []*event.Event{good, bad} {
			f.Set(e)
			if got := e.Bytes["process.args.1"]; (got == `\xff`) != (e == bad) {
				t.Errorf("got %q", e.Bytes)
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() { f.Set(good) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
