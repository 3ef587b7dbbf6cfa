// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/inventory"
)

// dateTime bounds the search of the history.
const dateTime = time.Second

// Date adds from the history when namespaces were made, and by whom. It leaves out those that have that
// already.
func Date(ctx context.Context, db *history.DB, inv *inventory.Inventory, all []*inventory.Namespace) error {
	ctx, cancel := context.WithTimeout(ctx, dateTime)
	defer cancel()
	for _, n := range all {
		if n.Host || !n.Created.IsZero() {
			continue
		}
		e, err := db.Creation(ctx, inv.EventNamespace(n), inv.Boot)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			inv.Incomplete = append(inv.Incomplete, "when some namespaces were made: the history takes too long")
			return nil
		case err != nil:
			return fmt.Errorf("read the history: %w", err)
		case e != nil:
			n.Created, n.Creator = e.Time, e.Process
		}
	}
	return nil
}
