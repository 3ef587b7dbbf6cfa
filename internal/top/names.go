// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/runtimes"
)

// Inventories takes inventories whose namespaces have the names of their containers. Close it.
type Inventories struct {
	// Runtimes are the sockets of container runtimes; see runtimes.Open.
	Runtimes []string

	stage *runtimes.Stage // nil before the first container
}

// Take takes an inventory. The names of containers that no runtime tells within
// runtimes.DefaultWait are missing; a later one can have them.
func (i *Inventories) Take(ctx context.Context) (*inventory.Inventory, error) {
	inv, err := inventory.Take(ctx, inventory.Options{})
	if err != nil {
		return nil, err
	}
	var events []*event.Namespace
	var named []*inventory.Namespace
	for _, n := range inv.Namespaces() {
		if n.Owner != nil && n.Owner.Container != nil {
			named, events = append(named, n), append(events, inv.EventNamespace(n))
		}
	}
	if len(events) == 0 {
		return inv, nil
	}
	if i.stage == nil {
		// The stage of the events cannot do it: its answers are for the events that wait.
		if i.stage, err = runtimes.New(i.Runtimes, runtimes.DefaultWait); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, runtimes.DefaultWait)
	defer cancel()
	i.stage.NameNamespaces(ctx, events)
	for j, n := range named {
		n.Owner, n.Name = events[j].Owner, events[j].Name
	}
	return inv, nil
}

// Close ends the connections with the runtimes.
func (i *Inventories) Close() error {
	if i.stage == nil {
		return nil
	}
	return i.stage.Close()
}
