// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"time"

	"github.com/nstrace/nstrace/internal/inventory"
)

// Show returns the text that shows one namespace in full, for a terminal of some width. The text must be
// safe to print.
type Show func(ctx context.Context, inv *inventory.Inventory, ns *inventory.Namespace, width int) (string, error)

const (
	// pageTime is how long the view waits for a page.
	pageTime = 10 * time.Second
	// pageShare is how much longer than it took the view waits before it makes the same page again.
	pageShare = 100
)

// A pageRequest asks for the page of a namespace.
type pageRequest struct {
	ref   inventory.Ref
	inv   *inventory.Inventory
	ns    *inventory.Namespace
	width int
}

// A madePage is the answer.
type madePage struct {
	ref  inventory.Ref
	text string
	err  error
}

// pages makes pages, one at a time.
type pages struct {
	show Show
	wait time.Duration
	last chan pageRequest // the latest request that nobody has taken
}

func newPages(show Show) *pages {
	return &pages{show: show, wait: pageTime, last: make(chan pageRequest, 1)}
}

// ask asks for a page, instead of the one that was asked for before. It does not wait. One goroutine
// calls it.
func (p *pages) ask(r pageRequest) {
	select {
	case <-p.last:
	default:
	}
	p.last <- r
}

// run makes the pages that are asked for until ctx ends. It does not wait longer than that for a page.
func (p *pages) run(ctx context.Context, send func(madePage)) {
	var before inventory.Ref
	var next time.Time // when the same page may be made again
	for {
		var r pageRequest
		select {
		case r = <-p.last:
		case <-ctx.Done():
			return
		}
		if r.ref == before && time.Now().Before(next) {
			continue
		}
		begin := time.Now()
		done := make(chan madePage, 1)
		go func() {
			limited, cancel := context.WithTimeout(ctx, p.wait)
			defer cancel()
			text, err := p.show(limited, r.inv, r.ns, r.width)
			done <- madePage{r.ref, text, err}
		}()
		late := time.NewTimer(p.wait + p.wait/10) // it ends by itself, unless something is stuck
		var made madePage
		select {
		case made = <-done:
			late.Stop()
		case <-late.C:
			send(madePage{ref: r.ref, err: fmt.Errorf("it takes more than %v", p.wait)})
			select {
			case made = <-done:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			late.Stop()
			return
		}
		if ctx.Err() != nil {
			return
		}
		before, next = r.ref, time.Now().Add(pageShare*time.Since(begin))
		send(made)
	}
}
