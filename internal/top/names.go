// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/runtimes"
	"github.com/nstrace/nstrace/internal/show"
)

// Inventories takes inventories whose namespaces have the names of their containers, and the times and
// creators that the history has. Close it.
type Inventories struct {
	// By opens the runtimes.
	By runtimes.Opener
	// Runtimes are the sockets of container runtimes; see runtimes.Open.
	Runtimes []string
	// History opens the history. It can return nil for none.
	History func(context.Context) (*history.DB, error)

	dates map[dateKey]dates // of the namespaces of the last inventory

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
			if i.stage, err = runtimes.NewBy(i.By, i.Runtimes, runtimes.DefaultWait); err != nil {
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
	i.date(ctx, inv)
	return inv, nil
}

// A dateKey identifies a namespace for as long as the host runs, if the kernel has ids.
type dateKey struct {
	inventory.Ref
	kernel uint64
}

type dates struct {
	created time.Time
	creator *event.Process
}

// date adds when namespaces were made. It asks the history only for those that it has not found there.
func (i *Inventories) date(ctx context.Context, inv *inventory.Inventory) {
	if i.History == nil {
		return
	}
	all := inv.Namespaces()
	known := make(map[dateKey]dates, len(i.dates))
	for _, n := range all {
		if d, ok := i.dates[dateKey{n.Ref, n.KernelID}]; ok && n.KernelID != 0 {
			n.Created, n.Creator = d.created, d.creator
		}
	}
	db, err := i.History(ctx)
	if err == nil && db != nil {
		err = errors.Join(show.Date(ctx, db, inv, all), db.Close())
	}
	if err != nil {
		inv.Incomplete = append(inv.Incomplete, "when namespaces were made: "+err.Error())
	}
	for _, n := range all {
		if !n.Created.IsZero() {
			known[dateKey{n.Ref, n.KernelID}] = dates{n.Created, n.Creator}
		}
	}
	i.dates = known
}

// Close ends the connections with the runtimes.
func (i *Inventories) Close() error {
	if i.stage == nil {
		return nil
	}
	return i.stage.Close()
}
