// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

func page(id uint32) pageRequest {
	return pageRequest{ref: inventory.Ref{Type: event.NSTypeNet, ID: id}, width: 80}
}

// TestPages asks for pages faster than they are made: the last one that was asked for is made next, and
// the same one again only after a while.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var made []uint32
		p := newPages(func(context.Context, *inventory.Inventory, *inventory.Namespace, int) (string, error) {
			time.Sleep(100 * time.Millisecond)
			return "text", nil
		})
		go p.run(ctx, func(m madePage) { made = append(made, m.ref.ID) })
		check := func(want ...uint32) {
			t.Helper()
			synctest.Wait()
			if len(made) != len(want) || made[len(made)-1] != want[len(want)-1] {
				t.Fatalf("made %v, want %v", made, want)
			}
		}
		p.ask(page(1))
		synctest.Wait()
		p.ask(page(2))
		p.ask(page(3))
		time.Sleep(200 * time.Millisecond)
		check(1, 3)
		p.ask(page(3))
		time.Sleep(time.Second)
		check(1, 3)
		time.Sleep(pageShare * 100 * time.Millisecond)
		p.ask(page(3))
		time.Sleep(200 * time.Millisecond)
		check(1, 3, 3)
		cancel()
		synctest.Wait()
	})
}

// TestPageStuck makes a page that takes too long and then never ends. The view must say so, and must not
// start a second page.
func TestPageStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		held := make(chan struct{})
		started := 0
		var made []madePage
		p := newPages(func(ctx context.Context, _ *inventory.Inventory, _ *inventory.Namespace, _ int) (string, error) {
			started++
			<-ctx.Done()
			if started == 2 {
				<-held
			}
			return "", ctx.Err()
		})
		go p.run(ctx, func(m madePage) { made = append(made, m) })
		p.ask(page(1))
		time.Sleep(pageTime + time.Millisecond)
		if synctest.Wait(); len(made) != 1 || !errors.Is(made[0].err, context.DeadlineExceeded) {
			t.Fatalf("made %v", made)
		}
		p.ask(page(2))
		time.Sleep(2 * pageTime)
		if synctest.Wait(); len(made) != 2 || made[1].ref.ID != 2 || made[1].err == nil || !strings.Contains(made[1].err.Error(), "more than 10s") {
			t.Fatalf("made %v", made)
		}
		p.ask(page(3))
		time.Sleep(2 * pageTime)
		if synctest.Wait(); started != 2 {
			t.Errorf("%d pages are made at once", started-1)
		}
		cancel()
		close(held)
		synctest.Wait()
	})
}

// TestFullPage shows at once what the inventory has, and then the text of Show, whose long lines go on in
// the next line.
func TestFullPage(t *testing.T) {
	b := newBench(t, 20, 7)
	var asked []pageRequest
	take := func(all ...*inventory.Namespace) {
		b.send(takenMsg{inv: &inventory.Inventory{}, all: all, started: b.at})
	}
	b.m.ask = func(r pageRequest) { asked = append(asked, r) }
	take(some()...)
	b.keys("down", "down", "enter")
	b.want(`
net 1001
everything about 100




reading the rest  Es`)
	if len(asked) != 1 || asked[0].ref.ID != 1001 || asked[0].width != 20 || asked[0].inv == nil {
		t.Fatalf("asked for %+v", asked)
	}
	ref := asked[0].ref
	b.send(pageMsg{ref: inventory.Ref{Type: event.NSTypeNet, ID: 5}, text: "another\n"})
	b.send(pageMsg{ref: ref, text: "title\n  field of more than twenty\nlast\n"})
	b.want(`
net 1001
title
  field of more than
 twenty
last

lines 1-4 of 4  Esc`)
	b.send(tea.WindowSizeMsg{Width: 40, Height: 7})
	b.want(`
net 1001
title
  field of more than twenty
last


lines 1-3 of 3  Esc back  ↑ ↓ PgUp PgDn`)
	take(some()...)
	if len(asked) != 2 {
		t.Errorf("after an inventory: asked for %+v", asked)
	}
	b.send(pageMsg{ref: ref, err: errors.New("no")}) // what is there stays
	b.want(`
net 1001
title
  field of more than twenty
last


lines 1-3 of 3  Esc back  ↑ ↓ PgUp PgDn`)
	take(some()[:1]...)
	b.want(`
net 1001
This namespace does not exist any more.
title
  field of more than twenty
last

lines 1-4 of 4  Esc back  ↑ ↓ PgUp PgDn`)
	b.send(pageMsg{ref: ref, text: "late\n"})
	b.keys("esc")
	take(some()...)
	b.keys("enter")
	b.send(pageMsg{ref: b.m.about, err: errors.New("evil\x1b[2J")})
	if got := strings.Join(b.screen(), "\n"); !strings.Contains(got, `Cannot show more: evil\x1b[2J`) {
		t.Errorf("an error:\n%s", got)
	}
}

// TestDates shows ages and creators if they are known and there is room.
func TestDates(t *testing.T) {
	for _, c := range []struct {
		width        int
		age, creator bool
	}{{60, false, false}, {80, true, false}, {100, true, true}} {
		b := newBench(t, c.width, 24)
		b.take(some()...)
		if head := b.screen()[1]; strings.Contains(head, "AGE") {
			t.Errorf("without dates: %q", head)
		}
		b.keys("<<<<<") // to the last column
		if head := columns[b.m.column].title; head != "OLDEST PROCESS" {
			t.Errorf("without dates, rows are sorted by %s", head)
		}
		all := some()
		all[2].Created, all[2].Creator = b.at.Add(-3*time.Hour), &event.Process{PID: 77, Comm: "maker"}
		b.take(all...)
		shown := strings.Join(b.screen(), "\n")
		if strings.Contains(shown, " AGE") != c.age || strings.Contains(shown, "  3h") != c.age ||
			strings.Contains(shown, "CREATOR") != c.creator || strings.Contains(shown, "maker[77]") != c.creator {
			t.Errorf("%d columns:\n%s", c.width, shown)
		}
		for column, want := range map[int]uint32{columnAge: all[2].ID, columnCreator: all[2].ID} {
			for b.m.column != column {
				b.keys(">")
			}
			if got := b.ids()[0]; got != want {
				t.Errorf("sorted by %s: %d comes first, want %d", columns[column].title, got, want)
			}
		}
	}
}
