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
	err = inv.NameContainers(inv.Namespaces(), func(all []*event.Namespace) (err error) {
		if len(all) == 0 {
			return nil
		}
		if i.stage == nil {
			// The stage of the events cannot do it: its answers are for the events that wait.
			if i.stage, err = runtimes.New(i.Runtimes, runtimes.DefaultWait); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, runtimes.DefaultWait)
		defer cancel()
		i.stage.NameNamespaces(ctx, all)
		return nil
	})
	if err != nil {
		return nil, err
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
