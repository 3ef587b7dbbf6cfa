// SPDX-License-Identifier: Apache-2.0

// Package schema holds the JSON Schema of nstrace's events, which is their
// documentation and what every line that a test produces is checked against.
package schema

import _ "embed"

// EventV1 is the JSON Schema (draft 2020-12) of one line of output.
//
//go:embed event.v1.json
var EventV1 []byte
