// SPDX-License-Identifier: Apache-2.0

package schematest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/schema"
)

// ExampleLines returns the lines of schema/examples by file, without newlines.
func ExampleLines(tb testing.TB) map[string][][]byte {
	tb.Helper()
	names, err := fs.Glob(schema.Examples, "examples/*.ndjson")
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string][][]byte{}
	for _, name := range names {
		b, err := fs.ReadFile(schema.Examples, name)
		if err != nil {
			tb.Fatal(err)
		}
		all[name] = bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	}
	return all
}

// Examples returns the events of schema/examples.
func Examples(tb testing.TB) (events []*event.Event) {
	tb.Helper()
	for name, lines := range ExampleLines(tb) {
		for _, line := range lines {
			ev := &event.Event{}
			if err := json.Unmarshal(line, ev); err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			events = append(events, ev)
		}
	}
	return events
}
