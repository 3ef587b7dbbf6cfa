// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"iter"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// History is what Date needs of a history.DB.
type History interface {
	Events(ctx context.Context, q history.Query) iter.Seq2[history.Stored, error]
}

// Date sets Created and Creator of namespaces from a history. It leaves them unset if the history does
// not have the creation, or has the end of a namespace with the same number after it.
func Date(ctx context.Context, db History, inv *Inventory, all []*Namespace) error {
	for _, n := range all {
		if n.Host {
			continue
		}
		q := history.Query{
			Types:     map[event.Type]bool{event.NamespaceCreate: true, event.NamespaceDestroy: true},
			Namespace: &history.NamespaceQuery{Type: n.Type, ID: n.ID, UID: inv.EventNamespace(n).UID, BootID: inv.Boot},
			Match: func(e *event.Event) bool {
				return e.Outcome == event.Success && e.Namespace != nil && e.Namespace.ID == n.ID
			},
			Limit:   1,
			Reverse: true,
		}
		for s, err := range db.Events(ctx, q) {
			if err != nil {
				return err
			}
			if s.Event.Type == event.NamespaceCreate {
				n.Created, n.Creator = s.Event.Time, s.Event.Process
			}
		}
	}
	return nil
}
