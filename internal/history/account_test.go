// SPDX-License-Identifier: Apache-2.0

package history

import (
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestAccountOfWorker has events that threads of the kernel cause. The owner of the namespace pays for them.
func TestAccountOfWorker(t *testing.T) {
	ns := &event.Namespace{Type: event.NSTypeNet, ID: 7, Creator: &event.Actor{PID: 5, UID: 1000, Comm: "x"}}
	destroy := account(&event.Event{Type: event.NamespaceDestroy, Namespace: ns})
	vanish := account(&event.Event{Type: event.SysctlVanish, Sysctl: &event.Sysctl{Namespace: ns}})
	if destroy == "" || vanish != destroy {
		t.Errorf("the end of a namespace counts for %q, the end of its parameters for %q", destroy, vanish)
	}
	if a := account(&event.Event{Type: event.SysctlVanish, Sysctl: &event.Sysctl{}}); a != "" {
		t.Errorf("parameters of the host count for %q", a)
	}
}
