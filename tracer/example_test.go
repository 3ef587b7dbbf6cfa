// SPDX-License-Identifier: Apache-2.0

package tracer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// Print what happens on the host until ^C.
func ExampleTracer_Events() {
	t, err := tracer.New(tracer.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for e, err := range t.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Time, e.Type, e.Via)
	}
}

// Print failed attempts to enter network namespaces.
func ExampleNew() {
	t, err := tracer.New(tracer.Options{Filter: event.Filter{
		Types:   map[event.Type]bool{event.NamespaceEnter: true},
		NSTypes: map[event.NSType]bool{event.NSTypeNet: true},
		Failed:  true,
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	for e, err := range t.Events(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if e.Type == event.NamespaceEnter {
			fmt.Println(e.Process.Comm, e.Process.User, e.Error)
		}
	}
}

// printer is a Handler that writes events as JSON.
type printer struct {
	enc event.Encoder
	buf []byte
}

func (p *printer) Event(e *event.Event) error {
	p.buf = append(p.enc.Append(p.buf, e), '\n')
	return nil
}

func (p *printer) Idle() error {
	_, err := os.Stdout.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

// Write events as JSON, many with each system call in a storm.
func ExampleTracer_Run() {
	t, err := tracer.New(tracer.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := t.Run(ctx, new(printer)); err != nil {
		log.Fatal(err)
	}
}

// Trace one command and its descendants.
func ExampleTracer_Track() {
	t, err := tracer.New(tracer.Options{Follow: true})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	// All descendants of this process from here on.
	if err := t.Track(os.Getpid()); err != nil {
		log.Fatal(err)
	}
	ctx, done := context.WithCancel(context.Background())
	go func() {
		defer done()
		if err := exec.Command("unshare", "--net", "ip", "link").Run(); err != nil {
			log.Print(err)
		}
	}()
	for e, err := range t.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		for _, ns := range e.Namespaces() {
			if ns != nil {
				fmt.Println(e.Type, ns.Type, ns.ID)
			}
		}
	}
}
