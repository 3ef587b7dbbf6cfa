// SPDX-License-Identifier: Apache-2.0

package history

// SetCache sets how many KiB of a database a recorder keeps in memory, and returns how many
// they were.
func SetCache(kib int) int {
	before := cacheKiB
	cacheKiB = kib
	return before
}

// Waiting is how many events r has in memory.
func (r *Recorder) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}
