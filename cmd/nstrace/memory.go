// SPDX-License-Identifier: Apache-2.0

package main

import "runtime/debug"

// startMemory is up to how much memory the start runs without garbage collection. It is twice what
// the start needs.
const startMemory = 128 << 20

// listMemory is the same for a list of what exists. It is enough for some 10,000 processes and
// namespaces.
const listMemory = 32 << 20

// withoutGC turns garbage collection off up to a limit of memory, until restore is called. The start
// allocates tens of megabytes that stay in use until its end, so collecting is wasted work.
func withoutGC(limit int64) (restore func()) {
	percent, before := debug.SetGCPercent(-1), debug.SetMemoryLimit(limit)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(before)
	}
}
