// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/baseline"
)

// Expected marks the events that move a parameter away from its expected value, or back to it.
type Expected struct {
	Next   Handler
	Marker *baseline.Marker // nil: nothing is expected
}

// Event marks e and hands it on.
func (x *Expected) Event(e *event.Event) error {
	if x.Marker != nil {
		x.Marker.Mark(e)
	}
	return x.Next.Event(e)
}

// Idle hands on the call.
func (x *Expected) Idle() error { return x.Next.Idle() }
