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
	// Describe shows at once what is known of one namespace; nil for what the inventory has.
	Describe Describe
	// Show shows all of it, which can take a while; nil for nothing more.
	Show Show
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
	page := newPages(o.Show)
	if o.Show != nil {
		m.ask = page.ask
	}
	s := newStage(m, &o)

	// Before the tracer starts: a signal must find the handler.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGTSTP)
	defer signal.Stop(signals)

	var wg, tracing sync.WaitGroup
	var traceErr error
	var asked atomic.Bool // the end was asked for: errors of the terminal do not matter
	tracing.Go(func() {
		traceErr = o.Trace(ctx)
		s.send(quitMsg{})
	})
	wg.Go(func() { take.run(ctx, func(t taken) { s.send(takenMsg(t)) }) })
	wg.Go(func() { page.run(ctx, func(p madePage) { s.send(pageMsg(p)) }) })
	wg.Go(func() { o.Feed.pump(func(b *batch) { s.send(batchMsg{b}) }, ctx.Done()) })
	wg.Go(func() {
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGTSTP {
					s.send(suspendMsg{})
					continue
				}
			case <-o.Guarded.gone():
			case <-ctx.Done():
			}
			asked.Store(true)
			s.send(quitMsg{})
			return
		}
	})
	err := s.run()
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

// A stage runs the model: as a new tea.Program after each stop. A Program that was released and
// restored can stay without frames: the end of its old renderer can stop the new one's ticker.
type stage struct {
	m       *model
	o       *Options
	changed *sync.Cond // of what follows
	p       *tea.Program
	over    chan struct{} // closed when p has ended
	ended   bool
}

// An envelope is a message for the model. done is closed once the model has it.
type envelope struct {
	msg  tea.Msg
	done chan struct{}
}

func newStage(m *model, o *Options) *stage {
	s := &stage{m: m, o: o, changed: sync.NewCond(new(sync.Mutex))}
	s.start()
	return s
}

// start makes the next program.
func (s *stage) start() {
	s.over = make(chan struct{})
	// A panic must reach Guard, which shows it: WithoutCatchPanics.
	s.p = tea.NewProgram(s.m, tea.WithInput(s.o.In), tea.WithOutput(s.o.Out), tea.WithFPS(frames),
		tea.WithoutSignalHandler(), tea.WithoutCatchPanics())
}

// run shows the model until it ends, and stops the process when it asks for that.
func (s *stage) run() error {
	for {
		s.m.suspended = false
		s.o.Guarded.note(noteScreen)
		_, err := s.p.Run()
		close(s.over)
		s.o.Guarded.note(noteReleased)
		again := err == nil && s.m.suspended && !s.m.quit
		if again {
			err = stopProcess()
		}
		s.changed.L.Lock()
		if again && err == nil {
			s.start()
		} else {
			s.ended = true
		}
		s.changed.L.Unlock()
		s.changed.Broadcast()
		if s.ended {
			return err
		}
	}
}

// send hands a message to the model. While the process is about to stop, it waits. It drops the
// message if the model has ended.
func (s *stage) send(msg tea.Msg) {
	s.changed.L.Lock()
	defer s.changed.L.Unlock()
	for !s.ended {
		p, over := s.p, s.over
		s.changed.L.Unlock()
		e := envelope{msg, make(chan struct{})}
		p.Send(e)
		select {
		case <-e.done:
			s.changed.L.Lock()
			return
		case <-over:
		}
		s.changed.L.Lock()
		for s.p == p && !s.ended {
			s.changed.Wait()
		}
	}
}
