// SPDX-License-Identifier: Apache-2.0

package history

import "github.com/nstrace/nstrace/event"

// IsLastWrite reports whether a write to a parameter can be its last write: LastWrites leaves the others out.
func IsLastWrite(e *event.Event) bool {
	return e.Type == event.SysctlWrite && e.Sysctl != nil && e.Outcome != event.Failure && !hadNoEffect(e)
}
