// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"fmt"

	"github.com/nstrace/nstrace/internal/format"
)

// formatted is a destination of lines in another format. It encodes events when they are delivered: the queue and the
// spool have nstrace's own JSON.
type formatted struct {
	Destination
	format format.Func
}

// encode has the destination get lines in the format.
func (o *Options) encode() {
	if o.Format == nil {
		return
	}
	o.Destination, o.Events = &formatted{o.Destination, o.Format}, true
	o.Format = nil
}

// Deliver delivers lines in the format. An event that cannot be encoded is refused.
func (f *formatted) Deliver(ctx context.Context, items []Item) (int, error) {
	var refused *Refused
	lines := make([]Item, 0, len(items))
	for _, it := range items {
		with := *it.Event
		with.Skipped = it.skipped
		line, err := f.format(&with)
		if err != nil {
			refused = &Refused{1, fmt.Errorf("encode an event: %w", err)}
			break
		}
		it.Line = append(line, '\n')
		lines = append(lines, it)
	}
	if len(lines) == 0 {
		return 0, refused
	}
	n, err := f.Destination.Deliver(ctx, lines)
	if err == nil && n == len(lines) && refused != nil {
		return n, refused
	}
	return n, err
}
