// SPDX-License-Identifier: Apache-2.0

package output

// For the tests of how sinks look from outside.
var Invisible = invisible
