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

// SetSync replaces the function by which d writes the history.
func (d *Drift) SetSync(sync func() error) { d.syncHistory = sync }
