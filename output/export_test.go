// SPDX-License-Identifier: Apache-2.0

package output

import "github.com/nstrace/nstrace/event"

// For the tests of how sinks look from outside.
var Invisible = event.Invisible
