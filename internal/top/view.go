// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/nstrace/nstrace/output"
)

// Attributes that every terminal has. Colours are those of output.
const (
	bold    = "\x1b[1m"
	faint   = "\x1b[2m"
	reverse = "\x1b[7m"
	plain   = "\x1b[0m"
)

// A layout says how many lines of the screen the parts of the main screen have.
type layout struct {
	title  int // 0 or 1
	header int // of the list, 0 or 1
	rows   int
	middle int // header of the stream, 0 or 1
	events int
	footer int // 0 or 1
}

// layout divides the screen. The list gets up to six tenths.
func (m *model) layout() layout {
	h := m.height
	var l layout
	take := func(n *int, from int) {
		if m.height >= from && h > 0 {
			*n = 1
			h--
		}
	}
	take(&l.title, 3)
	take(&l.footer, 2)
	take(&l.header, 4)
	take(&l.middle, 8)
	l.rows = h
	if m.height >= 5 {
		l.rows = min(max(h*6/10, 1), max(len(m.shown), 1))
	}
	l.events = h - l.rows
	return l
}

// View returns the screen.
func (m *model) View() tea.View {
	var lines []string
	if m.screen == screenMain {
		lines = m.viewMain()
	} else {
		lines = m.viewPage()
	}
	for i := range lines {
		lines[i] = ansi.TruncateWc(lines[i], m.width, "")
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	if m.typing && m.layout().footer > 0 {
		v.Cursor = tea.NewCursor(min(ansi.StringWidthWc(m.footer()), m.width-1), m.height-1)
	}
	return v
}

func (m *model) viewMain() []string {
	l := m.layout()
	lines := make([]string, 0, m.height)
	if l.title > 0 {
		lines = append(lines, bold+m.title()+plain)
	}
	widths := columnWidths(m.width, m.dated)
	if l.header > 0 {
		lines = append(lines, reverse+pad(m.header(widths), m.width)+plain)
	}
	lines = append(lines, m.viewRows(widths, l.rows)...)
	if l.middle > 0 {
		lines = append(lines, reverse+pad(m.lines.Header(m.width), m.width)+plain)
	}
	lines = append(lines, m.viewEvents(l.events)...)
	if l.footer > 0 {
		lines = append(lines, m.footer())
	}
	return lines
}

// title is the first line: the totals.
func (m *model) title() string {
	parts := []string{"nstrace top"}
	switch {
	case !m.read && len(m.rows) == 0:
		parts = append(parts, "reading namespaces")
	case m.query != "":
		parts = append(parts, fmt.Sprintf("%d of %d namespaces", len(m.shown), len(m.rows)))
	default:
		parts = append(parts, plural(uint64(len(m.rows)), "namespace"))
	}
	parts = append(parts, plural(m.eventsAll, "event"), formatRate(m.totalNow)+"/s")
	if m.lost > 0 {
		parts = append(parts, fmt.Sprintf("%d lost", m.lost))
	}
	if m.skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d not shown", m.skipped))
	}
	return strings.Join(parts, "  ")
}

// columnWidths returns the width of each column, 0 for those that have no room. Without dated, nothing
// says when and by whom namespaces were made.
func columnWidths(width int, dated bool) []int {
	widths := make([]int, len(columns))
	// The order in which columns are left out is from the end of this list.
	used := 0
	for _, i := range []int{columnType, columnID, columnRate, columnOwner, columnProcesses, columnOldest, columnAge, columnCreator} {
		if columns[i].dates && !dated {
			continue
		}
		n := columns[i].width
		if used > 0 {
			n += 2
		}
		if used > 0 && used+n > width {
			break
		}
		widths[i] = columns[i].width
		used += n
	}
	left := max(width-used, 0)
	shares := 0
	for i := range columns {
		if widths[i] > 0 {
			shares += columns[i].share
		}
	}
	for i := range columns {
		if widths[i] > 0 && shares > 0 {
			widths[i] += left * columns[i].share / shares
		}
	}
	return widths
}

// header is the titles of the columns. The one that rows are sorted by has an arrow.
func (m *model) header(widths []int) string {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
		if i == m.column {
			if c.descending != m.reverse {
				titles[i] += "↓"
			} else {
				titles[i] += "↑"
			}
		}
	}
	return joinCells(titles, widths)
}

// joinCells puts cells into columns.
func joinCells(cells []string, widths []int) string {
	var b strings.Builder
	for i, text := range cells {
		if widths[i] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("  ")
		}
		text = ansi.TruncateWc(text, widths[i], "…")
		fill := strings.Repeat(" ", max(widths[i]-ansi.StringWidthWc(text), 0))
		if columns[i].right {
			b.WriteString(fill + text)
		} else {
			b.WriteString(text + fill)
		}
	}
	return b.String()
}

// pad fills a line with blanks.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-ansi.StringWidthWc(text), 0))
}

// viewRows returns n lines of the list, with the selected row among them.
func (m *model) viewRows(widths []int, n int) []string {
	at := m.index()
	m.first = min(max(m.first, at-n+1, 0), max(at, 0), max(len(m.shown)-n, 0))
	if at < 0 {
		m.first = 0
	}
	lines := make([]string, n)
	for i := range lines {
		switch r := m.first + i; {
		case r < len(m.shown):
			lines[i] = joinCells(m.shown[r].cells, widths)
			if r == at {
				lines[i] = reverse + pad(lines[i], m.width) + plain
			}
		case i == 0 && m.problem != "":
			lines[i] = "cannot read the namespaces: " + output.Escape(m.problem)
		case i == 0 && m.query != "":
			lines[i] = faint + "no namespace matches" + plain
		}
	}
	return lines
}

// viewEvents returns n lines of the stream, the last event last.
func (m *model) viewEvents(n int) []string {
	lines := make([]string, n)
	words := m.words()
	at := n
	for i := len(m.events) - 1; i >= 0 && at > 0; i-- {
		e := &m.events[i]
		switch {
		case e.ev == nil && len(words) == 0:
			at--
			lines[at] = faint + fmt.Sprintf("… %s not shown", plural(e.skipped, "event")) + plain
		case e.ev != nil && matches(e.text, words):
			at--
			lines[at] = m.lines.Format(e.ev, m.width)
		}
	}
	return append(lines[at:], lines[:at]...) // from the top
}

// footer is the last line: the filter, a message, or the keys.
func (m *model) footer() string {
	switch {
	case m.typing, m.query != "" && m.screen == screenMain:
		return "/" + output.Escape(m.query)
	case m.message != "":
		return output.Escape(m.message)
	}
	return faint + "? help  / filter  Enter details  < > r sort  q quit" + plain
}

// pageHeight is how many lines of details or help fit.
func (m *model) pageHeight() int { return max(m.height-2, 1) }

// pageLines returns the lines of details or help.
func (m *model) pageLines() []string {
	if m.screen == screenHelp {
		return helpLines
	}
	return m.details
}

func (m *model) viewPage() []string {
	title := "Help"
	if m.screen == screenDetails {
		title = fmt.Sprintf("%s %d", output.Escape(string(m.about.Type)), m.about.ID)
	}
	page := m.pageLines()
	from := min(m.scroll, max(len(page)-m.pageHeight(), 0))
	to := min(from+m.pageHeight(), len(page))
	var lines []string
	if m.height >= 2 {
		lines = append(lines, reverse+pad(title, m.width)+plain)
	}
	lines = append(lines, page[from:to]...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	if m.height >= 3 {
		state := fmt.Sprintf("lines %d-%d of %d", min(from+1, to), to, len(page))
		if m.screen == screenDetails && m.reading {
			state = "reading the rest"
		}
		lines = append(lines, faint+state+"  Esc back  ↑ ↓ PgUp PgDn scroll"+plain)
	}
	return lines
}

var helpLines = []string{
	"The upper part lists the namespaces of the host, the lower part the events.",
	"",
	"  ↑ ↓ j k              select a namespace",
	"  PgUp PgDn Space      move by a page",
	"  Home End g G         move to the first or the last one",
	"  Enter                show the namespace in full; Esc goes back",
	"",
	"  < >  ← →             sort by the column to the left or right",
	"  r                    reverse the order",
	"",
	"  /                    show only what has these words (type, number, owner,",
	"                       name, oldest process; all words of an event)",
	"                       Enter keeps the filter, Esc removes it",
	"",
	"  Ctrl-Z               stop nstrace; fg continues it",
	"  q  Ctrl-C            end nstrace",
	"",
	"EV/S is events per second about a namespace, over the last 5 seconds. PROCS",
	"counts the processes whose first thread is in it. AGE and CREATOR come from",
	"the history of nstrace record, and from events. In a storm, the lower part",
	"shows up to 2000 events a second, and says how many it does not show.",
}

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
