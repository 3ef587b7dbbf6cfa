// SPDX-License-Identifier: Apache-2.0

package schematest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/schema"
)

// types returns all types of events that the schema has.
func types(t *testing.T) []event.Type {
	var doc struct {
		Defs struct {
			Type struct{ Enum []event.Type } `json:"event_type"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(schema.EventV1, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Defs.Type.Enum) == 0 {
		t.Fatal("the schema has no types")
	}
	return doc.Defs.Type.Enum
}

// TestExamples checks schema/examples: each type of event has its lines there, which are valid, and stay the same when they are
// decoded and encoded again. With NSTRACE_EVENTS, it first takes new examples from that file; see
// schema/examples/collect.sh.
func TestExamples(t *testing.T) {
	if name := os.Getenv("NSTRACE_EVENTS"); name != "" {
		refresh(t, name)
		t.Skip("took new examples; run the test again")
	}
	lines := ExampleLines(t)
	for name, of := range lines {
		for _, line := range of {
			if err := Validate(line); err != nil {
				t.Errorf("%s: %v\n%s", name, err, line)
			}
			var ev event.Event
			if err := json.Unmarshal(line, &ev); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var enc event.Encoder
			if got := enc.Append(nil, &ev); !bytes.Equal(got, line) {
				t.Errorf("%s: encoded again:\n got %s\nwant %s", name, got, line)
			}
			if want := "examples/" + string(ev.Type) + ".ndjson"; name != want {
				t.Errorf("%s has a line of %s", name, ev.Type)
			}
		}
	}
	for _, typ := range types(t) {
		if len(lines["examples/"+string(typ)+".ndjson"]) == 0 {
			t.Errorf("there is no example of %s", typ)
		}
	}
}

// refresh replaces the examples of the types that a file has lines of: the first line of each type, outcome and cause.
func refresh(t *testing.T, name string) {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	files := map[string][]byte{}
	for line := range strings.Lines(string(b)) {
		var ev event.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		kind := strings.Join([]string{string(ev.Type), string(ev.Outcome), ev.Via}, " ")
		if !kinds[kind] {
			kinds[kind] = true
			name := "../examples/" + string(ev.Type) + ".ndjson"
			files[name] = append(files[name], line...)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
