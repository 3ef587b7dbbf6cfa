// SPDX-License-Identifier: Apache-2.0

package output

import (
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestEveryTypeHasKind checks that no type that can be selected is shown like one of a newer
// version, and that each name fits into its column.
func TestEveryTypeHasKind(t *testing.T) {
	types := []event.Type{event.TraceStart, event.TraceAttach, event.TraceLoss, event.TraceTamper, event.TraceGap, event.TraceStop}
	for _, family := range event.Families() {
		types = append(types, family.Types...)
	}
	if len(kinds) != len(types) {
		t.Errorf("%d kinds for %d types", len(kinds), len(types))
	}
	width := columnsFor(DefaultWidth)[1].width
	for _, typ := range types {
		switch k := kinds[typ]; {
		case k == nil:
			t.Errorf("%s has no entry in kinds", typ)
		case !k.hidden && (k.name == "" || len(k.name) > width):
			t.Errorf("%s: the name %q is not 1 to %d characters", typ, k.name, width)
		case !k.hidden && k.target == nil:
			t.Errorf("%s has no target", typ)
		}
	}
}
