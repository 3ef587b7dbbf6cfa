// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"maps"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A State is what a Tracer knows of itself at one moment.
type State struct {
	Totals event.Totals // see Totals
	// Proven is when the hooks were last known to see what happens: nstrace made calls, or others did, and all of them
	// came back through the ring. ProveEvery is how often that is tried, 0 for only at the start and the end.
	Proven     time.Time
	ProveEvery time.Duration
	// Namespaces is how many namespaces are known to be alive.
	Namespaces map[event.NSType]int
}

// State returns the state of the run. A Handler can call it; other goroutines cannot while Run runs.
func (t *Tracer) State() (State, error) {
	totals, err := t.Totals()
	return State{
		Totals: totals, Proven: t.proof.proven, ProveEvery: t.proof.every,
		Namespaces: maps.Clone(t.interpreter.registry.count),
	}, err
}

// Ring returns how many bytes of the ring are in use, and how many it has. It is safe for concurrent use until Close.
func (t *Tracer) Ring() (used, size int) {
	return t.attached.ring.AvailableBytes(), t.attached.ring.BufferSize()
}
