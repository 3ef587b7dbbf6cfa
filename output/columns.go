// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// A column is one column of the table.
type column struct {
	title string
	width int // in a wide table, the minimum
	// below says that its cells stand below those of the columns before it, and so do those of the columns behind
	// it. label then stands before them.
	below bool
	label string
	// words returns an event's words for this column.
	words func(*Table, *event.Event) []word
	// fit lays out the same words within a number of lines, and may leave some out. If it
	// is nil, the words wrap.
	fit func(t *Table, ev *event.Event, width, lines int) [][]word
}

// changeColumn is the index of CHANGE in both kinds of table.
const changeColumn = 3

// columnsFor divides a line of some width into columns. TIME and EVENT have fixed widths.
// At 100 columns, TARGET has room for net.ipv4.tcp_keepalive_time. Most of what a line has
// beyond that goes to WHO, the longest cell.
func columnsFor(width int) []column {
	const timeWidth, eventWidth = len("15:04:05.000"), len("destroy")
	if width < stackedBelow {
		return []column{
			{title: "TIME", width: timeWidth, words: (*Table).timeOfDay},
			{title: "EVENT", width: eventWidth, words: (*Table).event},
			{title: "TARGET", width: width - timeWidth - eventWidth - 2*len(gap), words: (*Table).target},
			{title: "CHANGE", below: true, words: (*Table).change},
			{title: "WHO", words: (*Table).who},
		}
	}
	const fixed = timeWidth + eventWidth + 4*len(gap)
	target, change := 27, 16
	if width < DefaultWidth {
		target -= (DefaultWidth - width) / 4
		change -= (DefaultWidth - width) / 6
	} else if extra := width - DefaultWidth - 18; extra > 0 {
		target += min(extra/3, 17)
		change += min(extra/3, 24)
	}
	who := width - fixed - target - change
	return []column{
		{title: "TIME", width: timeWidth, words: (*Table).timeOfDay},
		{title: "EVENT", width: eventWidth, words: (*Table).event},
		{title: "TARGET", width: target, words: (*Table).target},
		{title: "CHANGE", width: change, words: (*Table).change},
		{title: "WHO", width: who, words: (*Table).who, fit: (*Table).fitWho},
	}
}

// wideColumns are the columns of a wide table: those of the narrow one, and the rest of the
// event. The columns whose length varies most are last.
var wideColumns = []column{
	{title: "TIME", width: 27, words: (*Table).fullTime},
	{title: "EVENT", width: 7, words: (*Table).event},
	{title: "TARGET", width: 50, words: (*Table).target},
	{title: "CHANGE", width: 30, words: (*Table).change},
	{title: "VIA", width: 7, words: (*Table).via},
	{title: "TID", width: 7, words: (*Table).tid},
	{title: "LOGIN", width: 8, words: (*Table).login},
	{title: "NS UID", width: 10, words: (*Table).nsUID},
	{title: "USER NS", width: 10, words: (*Table).userNS},
	{title: "WHO", width: 80, words: (*Table).who},
	{title: "CGROUP", width: 48, words: (*Table).cgroup},
	{title: "NAMESPACES", width: 124, words: (*Table).processNS},
	{title: "ALERT", width: 5, words: (*Table).alert},
	{title: "EXE", width: 20, words: (*Table).exe},
	{title: "ARGS", width: 4, words: (*Table).args},
}

// hostColumn is the index of HOST in tables that have it.
const hostColumn = 1

// withHost returns the columns for a line of some width with one for the host. If cells stand below each other, it is the first
// of those that do.
func withHost(columnsFor func(width int) []column, width int) []column {
	host := column{title: "HOST", width: min(24, max(12, width/8)), words: (*Table).host}
	rest := width - host.width - len(gap)
	if rest >= stackedBelow {
		return slices.Insert(columnsFor(rest), hostColumn, host)
	}
	host.below, host.label = true, "on"
	all := columnsFor(min(width, stackedBelow-1))
	return slices.Insert(all, slices.IndexFunc(all, func(c column) bool { return c.below }), host)
}

func (t *Table) host(ev *event.Event) []word { return cell(escapeName(ev.Host, "")) }

func (t *Table) timeOfDay(ev *event.Event) []word { return t.time(ev, "15:04:05.000") }

func (t *Table) fullTime(ev *event.Event) []word { return t.time(ev, "2006-01-02 15:04:05.000000") }

func (t *Table) time(ev *event.Event, layout string) []word {
	if t.member {
		return []word{t.burst.offset(ev, t.columns[0].width)}
	}
	return []word{newWord(ev.Time.In(t.opts.Location).Format(layout), faint)}
}

func (t *Table) via(ev *event.Event) []word { return cell(escape(ev.Via)) }

func (t *Table) tid(ev *event.Event) []word {
	if ev.Process == nil || ev.Process.TID == 0 {
		return nil
	}
	return cell(number(ev.Process.TID))
}

func (t *Table) login(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return cell(userName(ev.Process.LoginUser, ev.Process.LoginUID))
}

// subject returns the namespace that the columns NS UID and USER NS show, nil if it is
// unknown: the one that the event is about, or, of the two that a device moved between, the
// one that it moved to.
func subject(ev *event.Event) *event.Namespace {
	about := ev.Namespaces()
	if ev.Netdev != nil {
		return about[1]
	}
	return about[0]
}

func (t *Table) nsUID(ev *event.Event) []word {
	if ns := subject(ev); ns != nil {
		return cell(escape(ns.UID))
	}
	return nil
}

func (t *Table) userNS(ev *event.Event) []word {
	if ns := subject(ev); ns != nil && ns.UserNS != 0 {
		return cell(number(ns.UserNS))
	}
	return nil
}

func (t *Table) cgroup(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return cell(escape(ev.Process.Cgroup))
}

// processNS returns the namespaces of the process, sorted by type.
func (t *Table) processNS(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	var all []string
	for typ, id := range ev.Process.NS {
		all = append(all, escape(string(typ))+":"+number(id))
	}
	slices.Sort(all)
	return cell(strings.Join(all, ","))
}

func (t *Table) exe(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return cell(escape(ev.Process.Exe))
}

func (t *Table) args(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return cell(escapeArgs(ev.Process.Args))
}

// cell returns a cell of one word, or an empty one.
func cell(s string) []word {
	if s == "" {
		return nil
	}
	return []word{newWord(s, normal)}
}
