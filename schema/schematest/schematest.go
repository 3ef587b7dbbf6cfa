// SPDX-License-Identifier: Apache-2.0

// Package schematest checks lines of output against the schema. It is for tests, and apart
// from package schema so that no program contains the validator.
package schematest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nstrace/nstrace/schema"
)

// compiled returns the schema, which also checks formats. Compiling is slow, so it happens
// once.
var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	const url = "event.v1.json"
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.EventV1))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(url, doc); err != nil {
		return nil, err
	}
	return c.Compile(url)
})

// Validate checks one line of output, with or without its newline. It must be valid UTF-8 and
// one JSON object that is an event of version 1.
func Validate(line []byte) error {
	sch, err := compiled()
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	if !utf8.Valid(line) {
		return errors.New("not valid UTF-8")
	}
	if bytes.ContainsAny(line, "\r\n") {
		return errors.New("more than one line")
	}
	// This also rejects anything after the first value.
	event, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return err
	}
	return sch.Validate(event)
}

// Lines reports each line that is not a valid event as an error of the test. It returns the
// number of lines.
func Lines(tb testing.TB, out []byte) int {
	tb.Helper()
	n := 0
	for line := range bytes.Lines(out) {
		n++
		if !bytes.HasSuffix(line, []byte("\n")) {
			tb.Errorf("line %d has no newline: %q", n, line)
		}
		if err := Validate(line); err != nil {
			tb.Errorf("line %d: %v\n%s", n, err, line)
		}
	}
	return n
}
