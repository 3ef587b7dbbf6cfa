// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// freshFor is how long an answer of a Monitor is good for later questions: nobody can make a run do more than that.
const freshFor = 500 * time.Millisecond

// A Monitor asks a run how it is, for other goroutines. It stands before all other steps. Only Run's own goroutine can
// know that: it answers between events. So an answer also shows that the run does not hang.
type Monitor[T any] struct {
	Handler
	look func() (T, error) // for the goroutine of Run
	wake func()

	wanted atomic.Bool // the next Idle looks
	mu     sync.Mutex
	asked  *answer[T] // under way, nil for none
	last   *answer[T] // nil for none
}

type answer[T any] struct {
	done chan struct{}
	at   time.Time
	is   T
	err  error
}

// NewMonitor returns a Monitor in front of next. wake makes Run call Idle.
func NewMonitor[T any](next Handler, look func() (T, error), wake func()) *Monitor[T] {
	return &Monitor[T]{Handler: next, look: look, wake: wake}
}

// Ask returns how the run is, or was a moment ago. The error is that of ctx if the run does not answer.
func (m *Monitor[T]) Ask(ctx context.Context) (T, error) {
	m.mu.Lock()
	a := m.last
	if a == nil || time.Since(a.at) > freshFor {
		if m.asked == nil {
			m.asked = &answer[T]{done: make(chan struct{})}
			m.wanted.Store(true)
		}
		a = m.asked
	}
	m.mu.Unlock()
	select {
	case <-a.done:
		return a.is, a.err
	default:
	}
	m.wake() // again, if an earlier wake-up came before Run
	select {
	case <-a.done:
		return a.is, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// Idle hands on the call, and answers.
func (m *Monitor[T]) Idle() error {
	if err := m.Handler.Idle(); err != nil {
		return err
	}
	if !m.wanted.CompareAndSwap(true, false) {
		return nil
	}
	is, err := m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.asked
	a.at, a.is, a.err = time.Now(), is, err
	m.last, m.asked = a, nil
	close(a.done)
	return nil
}
