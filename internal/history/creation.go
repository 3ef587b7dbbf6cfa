// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"

	"github.com/nstrace/nstrace/event"
)

// Creation returns the recorded creation of a namespace that exists in a boot; nil if the history does
// not have it, or has the end of a namespace with the same number after it. ns needs Type and ID; a
// UID makes the answer certain.
func (db *DB) Creation(ctx context.Context, ns *event.Namespace, bootID string) (*event.Event, error) {
	q := Query{
		Types:     map[event.Type]bool{event.NamespaceCreate: true, event.NamespaceDestroy: true},
		Namespace: &NamespaceQuery{Type: ns.Type, ID: ns.ID, UID: ns.UID, BootID: bootID},
		Match: func(e *event.Event) bool {
			return e.Outcome == event.Success && e.Namespace != nil && e.Namespace.ID == ns.ID
		},
		Limit:   1,
		Reverse: true,
	}
	for s, err := range db.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		if s.Event.Type == event.NamespaceCreate {
			return s.Event, nil
		}
	}
	return nil, nil
}
