// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// TestOwnerOf has namespaces that could be called by several names.
func TestOwnerOf(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	web := &event.Container{ID: id, Name: "web"}
	for _, row := range []struct {
		want  string
		name  string
		owner *event.Owner
	}{
		{"web", "1f0e6d5c4b3a", &event.Owner{Container: web, Unit: "docker-" + id + ".scope"}},
		{"shop/web-0", "cni-8fbb1b12", &event.Owner{Pod: &event.Pod{Name: "web-0", Namespace: "shop"}}},
		{"web-0", "", &event.Owner{Pod: &event.Pod{Name: "web-0"}}}, // Podman's
		{"web", "", &event.Owner{Container: web, Pod: &event.Pod{Name: "web-0", Namespace: "shop"}}},
		{"blue", "blue", &event.Owner{Unit: "router.service"}},
		{"blue", "blue", &event.Owner{Container: &event.Container{ID: id}}},
		{"blue", "blue", nil},
		{"0123456789ab", "", &event.Owner{Container: &event.Container{ID: id}}},
		{"pod 0123456789ab", "", &event.Owner{Pod: &event.Pod{UID: id}}},
		{"pod 8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10", "", &event.Owner{Pod: &event.Pod{UID: "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"}}},
		{"a-long-name-of-a-machine", "", &event.Owner{Container: &event.Container{ID: "a-long-name-of-a-machine"}}},
		{"router.service", "", &event.Owner{Unit: "router.service"}},
		{`"(host)"`, "(host)", nil},
		{"", "", nil},
	} {
		if got := OwnerOf(&inventory.Namespace{Name: row.name, Owner: row.owner}); got != row.want {
			t.Errorf("%q %+v: %s, want %s", row.name, row.owner, got, row.want)
		}
	}
	if got := OwnerOf(&inventory.Namespace{Name: "blue", Host: true}); got != "(host)" {
		t.Errorf("the host: %s", got)
	}
}
