// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"time"

	"github.com/nstrace/nstrace/internal/inventory"
)

// How often an inventory is taken. An inventory that takes long is taken less often: at rest they
// cost half a percent of a processor, and while namespaces come and go one percent.
const (
	refreshRest  = 5 * time.Second
	refreshMoved = time.Second
	restShare    = 200
	movedShare   = 100
)

// A taken inventory is what Take returned.
type taken struct {
	inv     *inventory.Inventory
	all     []*inventory.Namespace // of inv
	err     error
	started time.Time
}

// A refresher takes inventories.
type refresher struct {
	take  func(context.Context) (*inventory.Inventory, error)
	moved chan struct{} // has an element if the last inventory is out of date
}

func newRefresher(take func(context.Context) (*inventory.Inventory, error)) *refresher {
	return &refresher{take: take, moved: make(chan struct{}, 1)}
}

// outdated makes run take an inventory soon. It does not wait.
func (r *refresher) outdated() {
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// run takes inventories until ctx ends.
func (r *refresher) run(ctx context.Context, send func(taken)) {
	for ctx.Err() == nil {
		t := taken{started: time.Now()}
		if t.inv, t.err = r.take(ctx); t.err == nil {
			t.all = t.inv.Namespaces()
		}
		cost := time.Since(t.started)
		if ctx.Err() != nil {
			return
		}
		send(t)
		soonest, latest := intervals(cost)
		if !wait(ctx, soonest, nil) || !wait(ctx, latest-soonest, r.moved) {
			return
		}
	}
}

// intervals returns the times between the end of an inventory, which took cost, and the start of
// the next one: if it is out of date, and at rest.
func intervals(cost time.Duration) (moved, rest time.Duration) {
	moved = max(refreshMoved, movedShare*cost)
	return moved, max(refreshRest, restShare*cost)
}

// wait waits for a time or until there is an element in early. It returns false if ctx ends.
func wait(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-early:
	case <-ctx.Done():
		return false
	}
	return true
}
