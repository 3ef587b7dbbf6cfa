// SPDX-License-Identifier: Apache-2.0

// Package schema contains the JSON Schema of nstrace's events. It documents them, and tests
// check every line of output against it.
package schema

import "embed"

// EventV1 is the JSON Schema (draft 2020-12) of one line of output.
//
//go:embed event.v1.json
var EventV1 []byte

// Examples has a file of lines from real runs for each type of event. Only tests read it, so no program contains it.
//
//go:embed examples/*.ndjson
var Examples embed.FS
