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

// GroupOptions configures what a burst is, and how it is shown.
type GroupOptions struct {
	// Open shows each event of a burst below the burst's line, with its time since the
	// first event.
	Open bool
	// Gap is the maximum time between two events of a burst. 0 means DefaultGap.
	Gap time.Duration
	// Hold is how long the first event of a burst may wait for the others. 0 means no
	// limit and no timer, for the events of a history.
	Hold time.Duration
}

const (
	// DefaultGap is longer than the time between two writes of a program, and shorter than
	// the time between two commands that a person types.
	DefaultGap = 250 * time.Millisecond
	// DefaultHold is the maximum delay of a line.
	DefaultHold = time.Second
)

const (
	// minBurst is the minimum number of events of a burst. A burst's line is harder to
	// read than two ordinary lines.
	minBurst = 3
	// maxOpen is the maximum number of events of an open burst, which keeps them.
	maxOpen = 1000
)

// A Group is a sink that folds a burst into one line of a table. A burst is a sequence of
// events of one process without an event of another process between them. Its line says how
// many events of which types it had. Lines stay in the order of the events, and none is
// delayed for longer than Hold. An event with an alert, and an event about the trace itself,
// has a line of its own.
//
// A Group writes to its table from a goroutine when the time of a burst is over, so the
// caller must not use the table.
type Group struct {
	opts GroupOptions

	mu      sync.Mutex
	table   *Table
	current *burst // nil if there is none
	timer   *time.Timer
}

var _ Sink = (*Group)(nil)

// NewGroup returns a Group that writes to a table.
func NewGroup(t *Table, opts GroupOptions) *Group {
	if opts.Gap <= 0 {
		opts.Gap = DefaultGap
	}
	return &Group{opts: opts, table: t}
}

// Write adds an event to the current burst, or ends that burst.
func (g *Group) Write(ev *event.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, ok := burstKeyOf(ev)
	if g.current != nil && (!ok || key != g.current.key || ev.Time.Sub(g.current.last).Abs() > g.opts.Gap || g.full()) {
		if err := g.end(); err != nil {
			return err
		}
	}
	if !ok {
		return g.table.Write(ev)
	}
	if g.current == nil {
		g.current = &burst{key: key, started: time.Now()}
		if g.opts.Hold > 0 {
			g.startTimer(min(g.opts.Gap, g.opts.Hold))
		}
	}
	g.current.add(ev, g.opts.Open)
	return nil
}

// full reports whether the time or the room of the current burst is over.
func (g *Group) full() bool {
	return g.opts.Hold > 0 && time.Since(g.current.started) >= g.opts.Hold || g.opts.Open && len(g.current.kept) >= maxOpen
}

// Flush writes the buffer to the writer. It does not end the current burst.
func (g *Group) Flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Flush()
}

// Close ends the current burst and flushes. It does not close the table's writer.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.end(); err != nil {
		return err
	}
	return g.table.Close()
}

// startTimer ends the current burst after some time, or later if that has more events.
func (g *Group) startTimer(d time.Duration) {
	b := g.current
	g.timer = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.current != b {
			return
		}
		now := time.Now()
		if left := min(b.started.Add(g.opts.Hold).Sub(now), b.updated.Add(g.opts.Gap).Sub(now)); left > 0 {
			g.startTimer(left)
			return
		}
		// If this fails, the burst or the table's buffer keeps its lines, and the next call
		// returns the error.
		if g.end() == nil {
			_ = g.table.Flush()
		}
	})
}

// end writes the current burst, if there is one. If that fails, the burst continues.
func (g *Group) end() error {
	b := g.current
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
	g.current, g.timer = nil, nil
	return nil
}

// A burstKey is what the events of a burst have in common: the process; for namespaces that
// end, the process that had made them; or, for what happened while nstrace did not trace,
// the type and the time span.
type burstKey struct {
	host  string
	pid   uint32
	start int64
	typ   event.Type // empty if the key is a process
}

// burstKeyOf returns the key of an event. It reports false if the event has a line of its
// own.
func burstKeyOf(ev *event.Event) (burstKey, bool) {
	switch {
	case len(ev.Alert) > 0, ev.Sysctl != nil && ev.Sysctl.Expected != nil:
	case ev.Process != nil:
		return burstKey{host: ev.Host, pid: ev.Process.PID, start: ev.Process.StartTime.UnixNano()}, true
	case ev.Type == event.NamespaceDestroy && ev.Namespace != nil && ev.Namespace.Creator != nil:
		return burstKey{host: ev.Host, pid: ev.Namespace.Creator.PID, typ: ev.Type}, true
	case ev.Between != nil:
		return burstKey{host: ev.Host, start: ev.Between.From.UnixNano(), typ: ev.Type}, true
	}
	return burstKey{}, false
}

// A burst is several events that have one line.
type burst struct {
	key    burstKey
	events uint64
	failed uint64
	more   uint64      // Cascaded of all events
	parts  []burstPart // by type, in the order of their first events
	oneNS  bool        // all events are about the namespaces of the first

	first *event.Event
	kept  []*event.Event // all events if the burst is open, otherwise fewer than minBurst
	last  time.Time      // when the last event happened

	started, updated time.Time // when the first and the last event arrived
}

// A burstPart is the events of one type.
type burstPart struct {
	typ    event.Type
	events uint64
	topics []burstTopic
}

// A burstTopic is what events of a part are about: a type of namespace, or what the names of
// parameters have in common.
type burstTopic struct {
	top, name string // top is the name up to the first dot
	events    uint64
}

// maxTopics limits the memory of a part. There are far fewer namespace types and top
// directories of parameters.
const maxTopics = 32

// add adds an event. keep keeps it for a row of its own.
func (b *burst) add(ev *event.Event, keep bool) {
	b.updated, b.last = time.Now(), ev.Time
	if !ev.LastTime.IsZero() {
		b.last = ev.LastTime
	}
	n := max(1, ev.Count)
	if keep || len(b.kept) < minBurst-1 {
		b.kept = append(b.kept, ev.Clone())
	}
	if b.first == nil {
		b.first, b.oneNS = b.kept[0], true
	} else if b.oneNS {
		first, about := b.first.Namespaces(), ev.Namespaces()
		b.oneNS = sameNamespace(first[0], about[0]) && sameNamespace(first[1], about[1])
	}
	b.events += n
	b.more += ev.Cascaded
	if ev.Outcome == event.Failure {
		b.failed += n
	}
	i := slices.IndexFunc(b.parts, func(p burstPart) bool { return p.typ == ev.Type })
	if i < 0 {
		i = len(b.parts)
		b.parts = append(b.parts, burstPart{typ: ev.Type})
	}
	topic := ""
	if k := kindOf(ev); k.topic != nil {
		topic = k.topic(ev)
	}
	b.parts[i].add(topic, n)
}

// add adds n events about a topic, which may be empty.
func (p *burstPart) add(name string, n uint64) {
	p.events += n
	top, _, _ := strings.Cut(name, ".")
	for i := range p.topics {
		if t := &p.topics[i]; t.top == top {
			t.name, t.events = commonName(t.name, name), t.events+n
			return
		}
	}
	if len(p.topics) < maxTopics {
		p.topics = append(p.topics, burstTopic{strings.Clone(top), strings.Clone(name), n})
	}
}

// words returns the topics, each with its number of events if that is not the part's.
func (p *burstPart) words() []word {
	var words []word
	for _, t := range p.topics {
		if t.name == "" {
			continue
		}
		words = append(words, newWord(escapeName(t.name, ""), normal))
		if t.events > 1 && len(p.topics) > 1 && t.events != p.events {
			words = append(words, joinedWord("×"+number(t.events), faint))
		}
	}
	return words
}

// commonName returns what two names of parameters have in common: net.ipv4.conf.* for
// net.ipv4.conf.all.rp_filter and net.ipv4.conf.lo.rp_filter. Each of the two may be such a
// result.
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

// target is how many events of which types a burst has, and what they are about.
func (b *burst) target(t *Table) []word {
	var words []word
	for i, p := range b.parts {
		happened := escapeName(string(p.typ), "")
		if k := kinds[p.typ]; k != nil && k.happened[0] != "" {
			happened = plural(p.events, k.happened[0], k.happened[1])
		}
		words = append(words, newWord(number(p.events), strong), joinedWord(happened, strong))
		words = append(words, p.words()...)
		if i < len(b.parts)-1 {
			words[len(words)-1].text += ","
		}
	}
	if b.more > 0 {
		words[len(words)-1].text += ","
		words = append(words, newWord("and "+number(b.more)+" more", strong))
	}
	if s := b.first.Sysctl; b.oneNS && s != nil && s.Namespace != nil && !t.isHost(s.Namespace) {
		words = append(words, inWords(t.namespace(s.Namespace))...)
	}
	return words
}

// change is how long a burst took, and how many of its events failed.
func (b *burst) change() []word {
	var words []word
	if len(b.parts) > 1 {
		words = append(words, newWord("×"+number(b.events), strong))
	}
	if d := b.last.Sub(b.first.Time).Abs(); d >= time.Millisecond { // a history has the newest event first
		words = append(words, newWord("in "+duration(d), normal))
	}
	if b.failed > 0 {
		words = append(words, newWord(number(b.failed), failed), joinedWord("FAILED", failed))
	}
	return words
}

// offset is the time of an event since the first event of the burst.
func (b *burst) offset(ev *event.Event, width int) word {
	return newWord(fmt.Sprintf("%*s", width, offset(ev.Time.Sub(b.first.Time))), faint)
}
