// SPDX-License-Identifier: Apache-2.0

package pipeline

import "github.com/nstrace/nstrace/event"

// Label gives each event the labels of the run, so that expressions and rules can use them.
type Label struct {
	Next   Handler
	Labels map[string]string // never changes
}

// Event labels e and hands it on.
func (l *Label) Event(e *event.Event) error {
	e.Labels = l.Labels
	return l.Next.Event(e)
}

// Idle hands on the call.
func (l *Label) Idle() error { return l.Next.Idle() }
