// SPDX-License-Identifier: Apache-2.0

// Package top is a live view of a host's namespaces and events on a terminal.
//
// Two processes take part. Guard, in the process that the user started, keeps the state of the
// terminal. It starts the same program again, which traces and draws. However that one ends, by a
// panic in any goroutine or by SIGKILL, Guard restores the terminal. A deferred call in the
// process itself could not: a panic of another goroutine does not run it.
//
// Within the second process, events go from the tracer's goroutine into a Feed, which never waits.
// The view takes them from there a few times a second. It takes inventories in another goroutine.
package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// Options configure Run.
type Options struct {
	// In and Out are the terminal.
	In, Out *os.File
	// Color allows colours; see output.ColorWanted.
	Color bool
	// Feed gets the events.
	Feed *Feed
	// Trace traces into Feed until its context ends.
	Trace func(context.Context) error
	// Take takes an inventory.
	Take func(context.Context) (*inventory.Inventory, error)
	// Describe shows one namespace in full; nil for what the inventory has.
	Describe Describe
	// HostNS has the ids of the host's own namespaces, as far as they are known.
	HostNS map[event.NSType]uint32
	// Guarded is the connection with Guard; nil without one.
	Guarded *Guarded
}

// frames is how often a second the screen is drawn at most.
const frames = 10

// CheckTerminal returns an error if one of the files is not a terminal.
func CheckTerminal(in, out *os.File) error {
	for _, f := range []struct {
		name string
		file *os.File
	}{{"standard input", in}, {"standard output", out}} {
		if !term.IsTerminal(int(f.file.Fd())) {
			return fmt.Errorf("%s is not a terminal: want a terminal for both input and output", f.name)
		}
	}
	return nil
}

// Run shows the view until the user ends it, ctx ends, a signal asks for the end (SIGTERM, SIGINT,
// SIGHUP) or Trace returns. It returns once Trace has returned and the terminal is as before.
func Run(ctx context.Context, o Options) error {
	// Nothing is deferred that ends the run: after a panic, what follows from that could panic
	// too, and hide the first one.
	ctx, cancel := context.WithCancel(ctx)
	m := newModel(&o)
	take := newRefresher(o.Take)
	m.outdated = take.outdated
	m.suspend = func() tea.Cmd { return tea.Exec(&stopper{o.Guarded}, nil) }
	// A panic must reach Guard, which shows it: WithoutCatchPanics.
	p := tea.NewProgram(m, tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithFPS(frames),
		tea.WithoutSignalHandler(), tea.WithoutCatchPanics())

	// Before the tracer starts: a signal must find the handler.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGTSTP)
	defer signal.Stop(signals)

	var wg, tracing sync.WaitGroup
	var traceErr error
	var asked atomic.Bool // the end was asked for: errors of the terminal do not matter
	quit := func() { asked.Store(true); p.Quit() }
	tracing.Go(func() {
		traceErr = o.Trace(ctx)
		p.Send(endedMsg{traceErr})
	})
	wg.Go(func() { take.run(ctx, func(t taken) { p.Send(takenMsg(t)) }) })
	wg.Go(func() { o.Feed.pump(func(b *batch) { p.Send(batchMsg{b}) }, ctx.Done()) })
	wg.Go(func() {
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGTSTP {
					p.Send(suspendMsg{})
				} else {
					quit()
				}
			case <-o.Guarded.gone():
				quit()
				return
			case <-ctx.Done():
				quit()
				return
			}
		}
	})
	o.Guarded.note(noteScreen)
	_, err := p.Run()
	o.Guarded.note(noteReleased)
	if err != nil && !asked.Load() {
		err = fmt.Errorf("use the terminal: %w", err)
	} else {
		err = nil
	}
	cancel()
	tracing.Wait()
	wg.Wait()
	return errors.Join(err, traceErr)
}
