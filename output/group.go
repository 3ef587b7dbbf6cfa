// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// GroupOptions says what a burst is and how it is shown.
type GroupOptions struct {
	// Open has each event of a burst below the burst's line, with its time from the
	// first on.
	Open bool
	// Gap is how long there may be nothing between two events of a burst; 0 means
	// DefaultGap.
	Gap time.Duration
	// Hold is how long the first event of a burst may wait for the others. 0 means for
	// as long as it takes, and without a look at the clock: for events of the past, which
	// are all there.
	Hold time.Duration
}

const (
	// DefaultGap is longer than a program takes from one write to the next, and shorter
	// than a person from one command to the next.
	DefaultGap = 250 * time.Millisecond
	// DefaultHold is how long a line may be late.
	DefaultHold = time.Second
)

const (
	// minBurst is how many events are a burst: two lines are not worth one of another
	// kind.
	minBurst = 3
	// maxOpen is how many events an open burst has at most, since it keeps them.
	maxOpen = 1000
)

// A Group is a sink that makes one line of a table out of a burst: events of one process
// that come one behind the other, with no event of another process between them. How many
// there were and of what is said in that line. The order of lines is that of events, and
// none is later than Hold. What met a rule (Event.Alert) or tells of losses is never part
// of a burst.
//
// It writes to its table from a goroutine of its own when a burst's time is over; the
// table is not to be used by others any more.
type Group struct {
	opts GroupOptions

	mu    sync.Mutex
	table *Table
	now   *burst // under way, nil for none
	timer *time.Timer
}

var _ Sink = (*Group)(nil)

// NewGroup makes a Group in front of a table.
func NewGroup(t *Table, opts GroupOptions) *Group {
	if opts.Gap <= 0 {
		opts.Gap = DefaultGap
	}
	return &Group{opts: opts, table: t}
}

// Write takes one event.
func (g *Group) Write(ev *event.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	who, ok := whoseBurst(ev)
	if g.now != nil && (!ok || who != g.now.who || ev.Time.Sub(g.now.last).Abs() > g.opts.Gap || g.full()) {
		if err := g.end(); err != nil {
			return err
		}
	}
	if !ok {
		return g.table.Write(ev)
	}
	if g.now == nil {
		g.now = &burst{who: who, began: time.Now()}
		if g.opts.Hold > 0 {
			g.arm(min(g.opts.Gap, g.opts.Hold))
		}
	}
	g.now.add(ev, g.opts.Open)
	return nil
}

// full says whether a burst has had its time or room.
func (g *Group) full() bool {
	return g.opts.Hold > 0 && time.Since(g.now.began) >= g.opts.Hold || g.opts.Open && len(g.now.kept) >= maxOpen
}

// Flush hands everything taken so far to the operating system, but for a burst that may
// go on.
func (g *Group) Flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Flush()
}

// Close ends the burst under way, and flushes. It does not close the table's writer.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.end(); err != nil {
		return err
	}
	return g.table.Close()
}

// arm has the burst under way looked at after a time.
func (g *Group) arm(d time.Duration) {
	b := g.now
	g.timer = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.now != b {
			return
		}
		now := time.Now()
		if left := min(b.began.Add(g.opts.Hold).Sub(now), b.came.Add(g.opts.Gap).Sub(now)); left > 0 {
			g.arm(left)
			return
		}
		// What cannot be written stays in the table's buffer, or here, and the next
		// call says so.
		if g.end() == nil {
			_ = g.table.Flush()
		}
	})
}

// end writes the burst under way, if there is one. When that fails it goes on.
func (g *Group) end() error {
	b := g.now
	if b == nil {
		return nil
	}
	if b.events < minBurst {
		for len(b.kept) > 0 {
			if err := g.table.Write(b.kept[0]); err != nil {
				return err
			}
			b.kept = b.kept[1:]
		}
	} else if err := g.table.writeBurst(b, g.opts.Open); err != nil {
		return err
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	g.now, g.timer = nil, nil
	return nil
}

// An agent is who is behind a burst: a process, the one that had made namespaces that end,
// or, for what nobody watched, the type of event alone.
type agent struct {
	pid   uint32
	start int64
	typ   event.Type // empty for what a process does
}

// whoseBurst says who is behind an event; it is not ok where that is to have a line of
// its own.
func whoseBurst(ev *event.Event) (agent, bool) {
	switch {
	case len(ev.Alert) > 0:
	case ev.Process != nil:
		return agent{pid: ev.Process.PID, start: ev.Process.StartTime.UnixNano()}, true
	case ev.Type == event.NamespaceDestroy && ev.Namespace != nil && ev.Namespace.Creator != nil:
		return agent{pid: ev.Namespace.Creator.PID, typ: ev.Type}, true
	case ev.Between != nil:
		return agent{start: ev.Between.From.UnixNano(), typ: ev.Type}, true
	}
	return agent{}, false
}

// A burst is what a line of a table says of several events.
type burst struct {
	who    agent
	events uint64
	failed uint64
	parts  []burstPart // by type, in order of their first events
	ns     *event.Namespace
	oneNS  bool // all are about ns, which may be none

	first       *event.Event
	kept        []*event.Event // all, or as many as are no burst yet
	last        time.Time      // of the last event
	began, came time.Time      // by the clock: the first and the last
}

// A burstPart is the events of one type.
type burstPart struct {
	typ    event.Type
	events uint64
	of     []burstName
}

// A burstName is a type of namespace, or what the names of parameters have in common.
type burstName struct {
	top, name string
	events    uint64
}

// maxNames is how many of them a burst knows, far more than there are.
const maxNames = 32

func (b *burst) add(ev *event.Event, all bool) {
	b.came, b.last = time.Now(), ev.Time
	if !ev.LastTime.IsZero() {
		b.last = ev.LastTime
	}
	n := max(1, ev.Count)
	if all || len(b.kept) < minBurst-1 {
		b.kept = append(b.kept, ev.Clone())
	}
	ns := ev.Namespace
	if ev.Sysctl != nil {
		ns = ev.Sysctl.Namespace
	}
	if b.first == nil {
		b.first, b.ns, b.oneNS = b.kept[0], ns, true
		if b.ns != nil {
			c := *b.ns
			b.ns = &c
		}
	} else if (ns == nil) != (b.ns == nil) || ns != nil && (ns.ID != b.ns.ID || ns.UID != b.ns.UID) {
		b.oneNS = false
	}
	b.events += n
	if ev.Outcome == event.Failure {
		b.failed += n
	}
	i := slices.IndexFunc(b.parts, func(p burstPart) bool { return p.typ == ev.Type })
	if i < 0 {
		i = len(b.parts)
		b.parts = append(b.parts, burstPart{typ: ev.Type})
	}
	b.parts[i].events += n
	switch {
	case ev.Sysctl != nil:
		b.parts[i].addName(ev.Sysctl.Name, n)
	case ev.Namespace != nil:
		b.parts[i].addName(string(ev.Namespace.Type), n)
	}
}

func (p *burstPart) addName(name string, n uint64) {
	top, _, _ := strings.Cut(name, ".")
	for i := range p.of {
		if of := &p.of[i]; of.top == top {
			of.name, of.events = commonName(of.name, name), of.events+n
			return
		}
	}
	if len(p.of) < maxNames {
		p.of = append(p.of, burstName{strings.Clone(top), strings.Clone(name), n})
	}
}

// names are what a part's events were about, each with how many of them.
func (p *burstPart) names() []word {
	var words []word
	for _, of := range p.of {
		if of.name == "" {
			continue
		}
		words = append(words, say(escapeName(of.name, ""), normal))
		if of.events > 1 && len(p.of) > 1 && of.events != p.events {
			words = append(words, add("×"+number(of.events), faint))
		}
	}
	return words
}

// commonName is what two parameters' names, or what others have in common and a name,
// have in common: net.ipv4.conf.* of net.ipv4.conf.all.rp_filter and net.ipv4.conf.lo.rp_filter.
func commonName(a, b string) string {
	if a == b {
		return a
	}
	end := 0
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == '.' {
			end = i + 1
		}
	}
	return a[:end] + "*"
}

// verbs say what happened so often.
var verbs = map[event.Type][2]string{
	event.SysctlWrite:       {"write", "writes"},
	event.SysctlDrift:       {"changed", "changed"},
	event.NamespaceCreate:   {"created", "created"},
	event.NamespaceEnter:    {"entered", "entered"},
	event.NamespaceDestroy:  {"destroyed", "destroyed"},
	event.NamespaceAppeared: {"appeared", "appeared"},
	event.NamespaceGone:     {"gone", "gone"},
}

// target is how many events of what a burst has.
func (b *burst) target(t *Table) []word {
	var words []word
	for i, p := range b.parts {
		verb, ok := verbs[p.typ]
		if !ok {
			verb = [2]string{escapeName(string(p.typ), ""), escapeName(string(p.typ), "")}
		}
		words = append(words, say(number(p.events), strong), add(plural(p.events, verb[0], verb[1]), strong))
		words = append(words, p.names()...)
		if i < len(b.parts)-1 {
			words[len(words)-1].text += ","
		}
	}
	if b.oneNS && b.ns != nil && b.first.Sysctl != nil && !t.isHost(b.ns) {
		w := t.namespace(b.ns)
		w[0].text = "in " + w[0].text
		words = append(words, w...)
	}
	return words
}

// change is how long a burst took and how much of it failed.
func (b *burst) change() []word {
	var words []word
	if len(b.parts) > 1 {
		words = append(words, say("×"+number(b.events), strong))
	}
	if d := b.last.Sub(b.first.Time).Abs(); d >= time.Millisecond { // newest first, in a history
		words = append(words, say("in "+duration(d), normal))
	}
	if b.failed > 0 {
		words = append(words, say(number(b.failed), failed), add("FAILED", failed))
	}
	return words
}

// offset is when an event of an open burst was, from the first on.
func (b *burst) offset(ev *event.Event, width int) word {
	return say(fmt.Sprintf("%*s", width, offset(ev.Time.Sub(b.first.Time))), faint)
}

func offset(d time.Duration) string { return fmt.Sprintf("%+.3fs", d.Seconds()) }
