// SPDX-License-Identifier: Apache-2.0

package pipeline

import "time"

// SetEndTimes sets how long Drift waits at the end of a run, and how much of that a snapshot may take. It
// returns a function that restores the times before.
func SetEndTimes(end, last time.Duration) (restore func()) {
	endBefore, lastBefore := endTime, lastTime
	endTime, lastTime = end, last
	return func() { endTime, lastTime = endBefore, lastBefore }
}

// SetSnapshotEvery sets how often Drift takes a snapshot, however long one takes. It returns a function that
// restores what was before.
func SetSnapshotEvery(every time.Duration) (restore func()) {
	before, rest := snapshotEvery, snapshotRest
	snapshotEvery, snapshotRest = every, 0
	return func() { snapshotEvery, snapshotRest = before, rest }
}

// SetSync replaces the function by which d writes the history.
func (d *Drift) SetSync(sync func() error) { d.syncHistory = sync }
