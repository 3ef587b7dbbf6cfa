// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nstrace/nstrace/event"
	paramfile "github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// The event of parameters that appeared lists those that do not have the expected values. A goroutine reads the values
// while the event waits, and no other event waits with it. Without an answer the event has no list.

const (
	// unmetHold is how long an event waits for the goroutine.
	unmetHold = 100 * time.Millisecond
	unmetPoll = 2 * time.Millisecond
	// maxUnmetQueue is how many events can wait for the goroutine.
	maxUnmetQueue = 16
)

// UnmetFunc returns what is expected of a parameter of the host that appeared, nil if it has the expected value or
// if nothing is expected. It calls value only if it needs the value. Any goroutine can call it.
type UnmetFunc func(name string, value func() (text string, ok bool)) *event.Unmet

// An unmetRead is what one event waits for.
type unmetRead struct {
	names []string
	net   uint32 // the network namespace that the names below net belong to, 0 for none
	until time.Time

	// The goroutine sets found, and then done.
	found []event.Unmet
	done  atomic.Bool
}

// An unmetReader reads the values.
type unmetReader struct {
	unmet  UnmetFunc
	host   map[event.NSType]uint32
	wanted chan *unmetRead // nil: the goroutine does not run
}

// holds reports whether an event that is due has to wait for the values of its parameters.
func (u *unmetReader) holds(g *tableEvent, now time.Time) bool {
	if u == nil || g.vanish || g.urgent {
		return false
	}
	if g.unmet == nil {
		g.unmet = u.read(g)
		g.unmet.until = now.Add(unmetHold)
		g.sealed = true
	}
	if g.unmet.done.Load() || !now.Before(g.unmet.until) {
		return false
	}
	g.due = now.Add(unmetPoll)
	return true
}

// read has the goroutine read the values of the host's parameters.
func (u *unmetReader) read(g *tableEvent) *unmetRead {
	r := &unmetRead{}
	for i := range g.tables {
		t := &g.tables[i]
		net := strings.HasPrefix(t.Prefix+".", "net.")
		switch {
		case t.ns == nil && !net:
		case t.ns != nil && net && t.ns.typ == event.NSTypeNet && t.ns.id == u.host[event.NSTypeNet]:
			r.net = t.ns.id
		default:
			continue
		}
		for _, name := range t.Names {
			r.names = append(r.names, event.ParameterTable{Prefix: t.Prefix}.Join(name))
		}
	}
	if len(r.names) == 0 {
		r.done.Store(true)
		return r
	}
	if u.wanted == nil {
		u.wanted = make(chan *unmetRead, maxUnmetQueue)
		go u.readAll(u.wanted)
	}
	select {
	case u.wanted <- r:
	default:
		r.done.Store(true)
	}
	return r
}

// readAll is the goroutine.
func (u *unmetReader) readAll(wanted <-chan *unmetRead) {
	runtime.LockOSThread() // for root
	defer runtime.UnlockOSThread()
	own := procfs.NamespacesOf("thread-self")[event.NSTypeNet]
	root, err := paramfile.Open()
	if err == nil {
		defer root.Close()
	}
	for r := range wanted {
		if err == nil && (r.net == 0 || r.net == own) {
			u.readOne(root, r)
		}
		r.done.Store(true)
	}
}

func (u *unmetReader) readOne(root *paramfile.Root, r *unmetRead) {
	slices.Sort(r.names)
	for _, name := range slices.Compact(r.names) {
		found := u.unmet(name, func() (string, bool) {
			v, err := root.Read(event.SysctlPath(name))
			return v.Text, err == nil && !v.Cut
		})
		if found == nil {
			continue
		}
		if r.found = append(r.found, *found); len(r.found) == event.MaxUnmet {
			return
		}
	}
}

func (u *unmetReader) close() {
	if u != nil && u.wanted != nil {
		close(u.wanted)
	}
}
