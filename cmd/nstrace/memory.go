// SPDX-License-Identifier: Apache-2.0

package main

import "runtime/debug"

// startMemory is the heap size up to which the start runs without garbage collection. It is
// twice what the start needs.
const startMemory = 128 << 20

// withoutGC turns garbage collection off up to startMemory, until restore is called. The start
// allocates tens of megabytes that stay in use until its end, so collecting is wasted work.
func withoutGC() (restore func()) {
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(startMemory)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}
