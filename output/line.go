// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// Lines formats events as lines with the columns of a Table. A cell that does not fit into its
// column is shortened, and ends in an ellipsis.
type Lines struct {
	table Table
}

// NewLines returns the lines for these options, of which Width and Wide have no effect.
func NewLines(opts TableOptions) *Lines {
	if opts.Location == nil {
		opts.Location = time.Local
	}
	opts.Wide = false
	return &Lines{table: Table{opts: opts}}
}

// Header returns the titles of the columns of a line of width columns.
func (l *Lines) Header(width int) string {
	columns := columnsFor(max(width, stackedBelow))
	cells := make([][]word, len(columns))
	for i := range columns {
		cells[i] = []word{newWord(columns[i].title, normal)}
	}
	return l.join(columns, cells)
}

// Format returns the line of an event, "" if events of its type have none. The line is at most
// width columns wide, or 80 columns if that is more.
func (l *Lines) Format(ev *event.Event, width int) string {
	k := kindOf(ev)
	if k.hidden {
		return ""
	}
	columns := columnsFor(max(width, stackedBelow))
	l.table.columns = columns
	cells := make([][]word, len(columns))
	for i, c := range columns {
		words := c.words(&l.table, ev)
		if c.fit != nil {
			words = l.who(ev, c.width)
		}
		cells[i] = fitWords(words, c.width)
		if k.alarm || isCritical(ev) {
			for j := range cells[i] {
				cells[i][j].style = alarm
			}
		}
	}
	return l.join(columns, cells)
}

// Text returns all words of an event on one line, without colours and however wide: what a
// search looks at. It is "" if events of its type have no line.
func (l *Lines) Text(ev *event.Event) string {
	if kindOf(ev).hidden {
		return ""
	}
	var b strings.Builder
	l.table.columns = columnsFor(DefaultWidth)
	for _, c := range l.table.columns {
		for _, w := range c.words(&l.table, ev) {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(w.text)
		}
	}
	for i := range ev.Alert {
		b.WriteByte(' ')
		b.WriteString(escape(ev.Alert[i].Name))
	}
	return b.String()
}

// who returns the alerts and the process, with as many of its ancestors as fit.
func (l *Lines) who(ev *event.Event, width int) []word {
	var alerts []word
	for i := range ev.Alert {
		alerts = append(alerts, newWord("!"+escapeName(ev.Alert[i].Name, ""), failed))
	}
	if words := l.table.whoOfKind(ev); len(words) > 0 || ev.Process == nil {
		return concat(alerts, words)
	}
	chain, last := l.table.ancestors(ev.Process), l.table.self(ev)
	width -= lineWidth(alerts) + min(len(alerts), 1)
	for drop := range len(chain) + 1 {
		var words []word
		if drop > 0 {
			words = append(words, newWord(ellipsis, faint))
		}
		words = append(words, chain[drop:]...)
		if words = append(words, last...); lineWidth(words) <= width {
			return concat(alerts, words)
		}
	}
	return concat(alerts, last)
}

// fitWords shortens words to one line of width columns.
func fitWords(words []word, width int) []word {
	used := 0
	for i, w := range words {
		if i > 0 {
			used++
		}
		n := textWidth(w.text)
		rest := 0 // columns that an ellipsis needs if this is not the last word
		if i < len(words)-1 {
			rest = 1 + textWidth(ellipsis)
		}
		if used+n+rest <= width || used+n <= width && used+n+1+lineWidth(words[i+1:]) <= width {
			used += n
			continue
		}
		kept := append([]word(nil), words[:i]...)
		if width-used > 1 {
			text := shorten(w.text, width-used)
			if text == w.text { // it fits, but nothing after it
				text = shorten(w.text+" "+ellipsis, width-used)
			}
			kept = append(kept, newWord(text, w.style))
		} else if i > 0 && width-used == 1 {
			kept = append(kept, newWord(ellipsis, w.style))
		}
		return kept
	}
	return words
}

// join pads the cells to their columns.
func (l *Lines) join(columns []column, cells [][]word) string {
	var b strings.Builder
	pending := 0
	for i, words := range cells {
		if i > 0 {
			pending += len(gap)
		}
		used := lineWidth(words)
		if used > 0 {
			b.WriteString(strings.Repeat(" ", pending))
			b.WriteString(l.table.paintLine(words))
			pending = 0
		}
		pending += max(columns[i].width-used, 0)
	}
	return b.String()
}

// paintLine joins words to one line. Unlike paint it also paints an alarm, word by word.
func (t *Table) paintLine(words []word) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if !t.opts.Color || w.style == normal {
			b.WriteString(w.text)
			continue
		}
		b.WriteString(styles[w.style] + w.text + resetStyle)
	}
	return b.String()
}

// OwnerOf returns who a namespace belongs to, as the column OWNER of a Listing shows it.
func OwnerOf(n *inventory.Namespace) string {
	text, _ := (*Listing)(nil).owner(n)
	return text
}
