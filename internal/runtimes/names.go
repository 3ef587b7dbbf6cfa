// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"time"

	"github.com/nstrace/nstrace/event"
)

// AwaitList waits until the runtimes that were there at first have listed their containers, or failed to,
// or until ctx ends.
func (s *Stage) AwaitList(ctx context.Context) {
	select {
	case <-s.listed:
	case <-ctx.Done():
	}
}

// NameNamespaces adds what the runtimes know to the owners of namespaces, and the name of its
// container or pod to a network namespace without a name. It waits for pending answers until ctx ends,
// and reports whether all of them came.
func (s *Stage) NameNamespaces(ctx context.Context, all []*event.Namespace) bool {
	for listed := s.listed; ; {
		pending := false
		s.cache.mu.Lock()
		for _, ns := range all {
			pending = !s.nameNS(ns, time.Now()) || pending
			// Nothing but the list of all containers names the pod of a namespace that several share.
			if o := ns.Owner; listed != nil && o != nil && o.Container == nil && o.Pod != nil && o.Pod.Name == "" {
				pending = true
			}
		}
		s.cache.mu.Unlock()
		if !pending {
			return true
		}
		select {
		case <-s.woken:
		case <-listed:
			listed = nil
		case <-ctx.Done():
			return false
		}
	}
}
