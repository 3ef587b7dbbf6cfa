// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/olekukonko/ll"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/nstrace/nstrace/event"
)

const (
	// DefaultWidth is the default width of a table.
	DefaultWidth = 100
	// MinWidth is the minimum width of a table. A narrower terminal folds the lines.
	MinWidth = 40
	// stackedBelow is the width below which cells stand below each other.
	stackedBelow = 80
)

// TableOptions configures how a table looks.
type TableOptions struct {
	// Color allows colours; see ColorWanted.
	Color bool
	// Width is the maximum width of a line in columns. 0 means DefaultWidth, and less than
	// MinWidth means MinWidth. It has no effect on a wide table.
	Width int
	// WidthNow returns the width of the terminal, which can change; 0 if unknown. nil: it does not.
	WidthNow func() int
	// OneLine puts each event on one line, however long, as other programs want to read it.
	OneLine bool
	// Host adds a column with the host of each event.
	Host bool
	// Date writes the date before the first row, because the rows need not be of today.
	Date bool
	// Wide adds columns, and puts each event on one line without leaving anything out.
	Wide bool
	// Location is the time zone of the times. nil means the local one.
	Location *time.Location
	// HostNS has the ids of the host's own namespaces, as far as they are known: "from
	// host" says more than "from 4026531840".
	HostNS map[event.NSType]uint32
	// HostOf, if not nil, returns these ids for events of a boot, and HostNS is not used.
	HostOf func(bootID string) map[event.NSType]uint32
}

// Table is a sink that writes each event as a row of a table.
//
// Columns never move. A cell that does not fit into its column continues on the next line. The
// table shortens only the middle of a long chain of ancestors and values of more than a few lines,
// and marks that with an ellipsis.
//
// An alert, and a reason why the kernel refused something, has a line of its own below its event.
// trace.start and trace.stop have no row.
type Table struct {
	opts    TableOptions
	columns []column
	lines   lineBuffer
	out     bytes.Buffer // the lines of the row being written
	table   *tablewriter.Table
	render  *lineRenderer
	day     string // of the last row

	columnsFor func(width int) []column
	below      []column // whose cells stand below those of the others
	after      []word   // what follows on the line of the row being written

	burst  *burst // the burst of the row being written, nil if it is of none
	member bool   // the row is that of one event of the burst
}

// NewTable returns a sink that writes a table to w. The header is in the buffer from the
// start.
func NewTable(w io.Writer, opts TableOptions) *Table {
	return newTable(w, opts, columnsFor, wideColumns)
}

// newTable returns a table with the columns for its width, or with the wide ones.
func newTable(w io.Writer, opts TableOptions, columnsFor func(width int) []column, wideColumns []column) *Table {
	if opts.Width <= 0 {
		opts.Width = DefaultWidth
	}
	opts.Width = max(opts.Width, MinWidth)
	if opts.Location == nil {
		opts.Location = time.Local
	}
	t := &Table{opts: opts, lines: newLineBuffer(w), columnsFor: columnsFor}
	if opts.Host {
		t.columnsFor = func(width int) []column { return withHost(columnsFor, width) }
		wideColumns = slices.Insert(slices.Clone(wideColumns), hostColumn, column{title: "HOST", width: 24, words: (*Table).host})
	}
	if opts.Wide {
		t.columns = wideColumns
	}
	t.layOut()
	_ = t.lines.add(t.out.Bytes())
	return t
}

// layOut divides the width into columns, and writes the header to out.
func (t *Table) layOut() {
	if !t.opts.Wide {
		t.columns, t.below = t.columnsFor(t.opts.Width), nil
		if i := slices.IndexFunc(t.columns, func(c column) bool { return c.below }); i >= 0 && !t.opts.OneLine {
			t.columns, t.below = t.columns[:i], t.columns[i:]
		}
	}
	widths := tw.NewMapper[int, int]()
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		widths.Set(i, c.width)
		titles[i] = t.paint([]word{newWord(c.title, strong)})
	}
	// The cells are laid out already: tablewriter must not trim, wrap or capitalise them.
	cells := tw.CellConfig{
		Formatting: tw.CellFormatting{AutoFormat: tw.Off},
		Padding:    tw.CellPadding{Global: tw.PaddingNone},
	}
	t.render = &lineRenderer{}
	t.table = tablewriter.NewTable(&t.out,
		tablewriter.WithRenderer(t.render),
		tablewriter.WithConfig(tablewriter.Config{
			Header:   cells,
			Row:      cells,
			Widths:   tw.CellWidth{PerColumn: widths},
			Behavior: tw.Behavior{TrimSpace: tw.Off, TrimTab: tw.Off},
			Stream:   tw.StreamConfig{Enable: true, StrictColumns: true},
		})).Configure(func(cfg *tablewriter.Config) {
		// WithConfig ignores WrapNone, because it is zero.
		cfg.Header.Formatting.AutoWrap = tw.WrapNone
		cfg.Row.Formatting.AutoWrap = tw.WrapNone
	})
	// Neither can fail: the renderer streams, and its writer is memory.
	_ = t.table.Start()
	t.table.Header(titles)
}

// resize lays out the table again if the width of the terminal changed.
func (t *Table) resize() {
	if t.opts.WidthNow == nil || t.opts.Wide || t.opts.OneLine {
		return
	}
	if width := t.opts.WidthNow(); width > 0 && max(width, MinWidth) != t.opts.Width {
		width = max(width, MinWidth)
		t.opts.Width = width
		t.layOut()
	}
}

// writeBurst writes a row for a burst and, if open, one for each of its events.
func (t *Table) writeBurst(b *burst, open bool) error {
	t.burst = b
	defer func() { t.burst, t.member = nil, false }()
	if err := t.Write(b.first); err != nil || !open {
		return err
	}
	t.member = true
	for _, ev := range b.kept {
		if err := t.Write(ev); err != nil {
			return err
		}
	}
	return nil
}

// Write writes the row of an event, and its alerts, to the buffer.
func (t *Table) Write(ev *event.Event) error {
	k := kindOf(ev)
	if k.hidden {
		return nil
	}
	t.out.Reset()
	t.resize()
	day := t.day
	if !t.opts.Wide {
		if err := t.writeDay(ev); err != nil {
			return err
		}
	}
	if t.opts.Color && (k.alarm || t.opts.Wide && isCritical(ev)) {
		t.render.style = alarm
	}
	if t.opts.OneLine && !t.opts.Wide {
		t.after = t.rest(ev)
	}
	err := t.table.Append(t.cells(ev))
	t.render.style, t.after = normal, nil
	if !t.opts.Wide && !t.opts.OneLine {
		t.writeStacked(ev)
		t.writeRefusals(ev)
		t.writeUnmet(ev)
		t.writeAlerts(ev)
	}
	if err == nil {
		err = t.lines.add(t.out.Bytes())
	}
	if err != nil {
		t.day = day
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// Flush writes the buffer to the writer.
func (t *Table) Flush() error { return t.lines.flush() }

// Close flushes. It does not close the writer.
func (t *Table) Close() error { return t.lines.flush() }

// writeDay writes a row with the date if that differs from the date of the previous row,
// because rows show the time of day only.
func (t *Table) writeDay(ev *event.Event) error {
	day := ev.Time.In(t.opts.Location).Format(time.DateOnly)
	if day == t.day {
		return nil
	}
	first := t.day == ""
	t.day = day
	if first && !t.opts.Date {
		return nil
	}
	row := make([]string, len(t.columns))
	row[0] = t.paint([]word{newWord(day, strong)})
	return t.table.Append(row)
}

// rest returns what would otherwise stand on lines below an event.
func (t *Table) rest(ev *event.Event) (words []word) {
	if !t.isBurst() {
		for i := range ev.Refusal {
			words = append(words, newWord(" because:", faint))
			words = append(words, t.refusal(&ev.Refusal[i])...)
		}
	}
	for i := range unmetOf(ev) {
		words = append(words, newWord(" unmet:", faint))
		words = append(words, t.unmet(&unmetOf(ev)[i])...)
	}
	for i := range ev.Alert {
		alert := alertWords(&ev.Alert[i])
		alert[0].text = " " + alert[0].text
		words = append(words, alert...)
	}
	return words
}

// stackedIndent stands before a cell below those of its row.
const stackedIndent = "  "

// writeStacked writes the cells that stand below the others, where a line has no room for all.
func (t *Table) writeStacked(ev *event.Event) {
	for _, c := range t.below {
		words := c.words(t, ev)
		if len(words) > 0 && c.label != "" {
			words = append([]word{newWord(c.label, faint)}, words...)
		}
		for i, line := range wrap(words, t.opts.Width-2*len(stackedIndent)) {
			t.out.WriteString(stackedIndent)
			if i > 0 {
				t.out.WriteString(stackedIndent)
			}
			t.out.WriteString(t.paint(line))
			t.out.WriteByte('\n')
		}
	}
}

// changeWidth returns the columns that CHANGE has, or the like in other tables.
func (t *Table) changeWidth() int {
	at := changeColumn
	if t.opts.Host {
		at++
	}
	if len(t.columns) <= at {
		return t.opts.Width - 2*len(stackedIndent)
	}
	return t.columns[at].width
}

// writeAlerts writes the alerts of an event, each on a line below it.
func (t *Table) writeAlerts(ev *event.Event) {
	for i := range ev.Alert {
		t.writeBelow(alertWords(&ev.Alert[i]), t.paintAll)
	}
}

// writeRefusals writes why the kernel refused what an event reports, each reason on a line below
// it. The row of a burst has none.
func (t *Table) writeRefusals(ev *event.Event) {
	if t.isBurst() {
		return
	}
	for i := range ev.Refusal {
		t.writeBelow(append([]word{newWord("because:", faint)}, t.refusal(&ev.Refusal[i])...), t.paint)
	}
}

// writeUnmet writes which parameters appeared without the expected values, each on a line below the event.
func (t *Table) writeUnmet(ev *event.Event) {
	for i := range unmetOf(ev) {
		t.writeBelow(append([]word{newWord("unmet:", faint)}, t.unmet(&unmetOf(ev)[i])...), t.paint)
	}
}

// writeBelow writes words, painted line by line, below the row of an event, indented to the second column.
func (t *Table) writeBelow(words []word, paint func([]word) string) {
	indent := t.columns[0].width + len(gap)
	if t.below != nil {
		indent = len(stackedIndent)
	}
	for j, line := range wrap(words, t.opts.Width-indent-len(gap)) {
		t.out.WriteString(strings.Repeat(" ", indent))
		if j > 0 {
			t.out.WriteString(gap)
		}
		t.out.WriteString(paint(line))
		t.out.WriteByte('\n')
	}
}

// paintAll paints words of one style together with the blanks between them.
func (t *Table) paintAll(words []word) string {
	st := words[0].style
	plain := slices.Clone(words)
	for i := range plain {
		plain[i].style = normal
	}
	text := t.paint(plain)
	if !t.opts.Color || st == normal {
		return text
	}
	return styles[st] + text + resetStyle
}

// cells lays out an event. It returns a string of one or more lines for each column.
func (t *Table) cells(ev *event.Event) []string {
	row := make([]string, len(t.columns))
	height := 1
	for i, c := range t.columns {
		switch {
		case t.opts.OneLine && !t.opts.Wide:
			words := c.words(t, ev)
			if i == len(t.columns)-1 {
				words = append(words, t.after...)
			}
			row[i] = t.paint(words)
		case t.opts.Wide:
			words := c.words(t, ev)
			if len(words) == 0 {
				words = []word{newWord("-", faint)}
			}
			row[i] = t.paint(words)
		case c.fit == nil:
			lines := wrap(c.words(t, ev), c.width)
			height = max(height, len(lines))
			row[i] = t.paintLines(lines)
		}
	}
	// Cells that can be shortened use all lines of the tallest other cell.
	for i, c := range t.columns {
		if !t.opts.Wide && !t.opts.OneLine && c.fit != nil {
			row[i] = t.paintLines(c.fit(t, ev, c.width, height))
		}
	}
	return row
}

func (t *Table) paintLines(lines [][]word) string {
	painted := make([]string, len(lines))
	for i, l := range lines {
		painted[i] = t.paint(l)
	}
	return strings.Join(painted, "\n")
}

// paint joins words to one line, in colours if they are wanted. It never returns a string of
// the event itself, because tablewriter keeps a row until the next one.
func (t *Table) paint(words []word) string {
	if len(words) == 1 && (!t.opts.Color || words[0].style == normal) {
		return strings.Clone(words[0].text)
	}
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		// The reset after a word would end the colour of a row that is painted as a whole.
		if !t.opts.Color || w.style == normal || w.style == alarm {
			b.WriteString(w.text)
			continue
		}
		b.WriteString(styles[w.style])
		b.WriteString(w.text)
		b.WriteString(resetStyle)
	}
	return b.String()
}

// gap separates columns.
const gap = "  "

// A lineRenderer writes the lines that tablewriter has laid out. tablewriter's own renderer
// pads the last column, silently cuts cells that do not fit, which a wide table must not,
// and drops the errors of its writer.
type lineRenderer struct {
	w     io.Writer
	style style // of the whole line
	line  bytes.Buffer
}

var _ tw.Renderer = (*lineRenderer)(nil)

func (r *lineRenderer) Start(w io.Writer) error {
	r.w = w
	return nil
}

func (r *lineRenderer) Header(_ [][]string, ctx tw.Formatting) { r.write(ctx) }

func (r *lineRenderer) Row(_ []string, ctx tw.Formatting) { r.write(ctx) }

// Footer does nothing: a stream has no footer.
func (r *lineRenderer) Footer([][]string, tw.Formatting) {}

// Line does nothing: there are no borders.
func (r *lineRenderer) Line(tw.Formatting) {}

func (r *lineRenderer) Config() tw.Rendition {
	return tw.Rendition{
		Borders:   tw.BorderNone,
		Settings:  tw.Settings{Lines: tw.LinesNone, Separators: tw.SeparatorsNone},
		Symbols:   tw.NewSymbols(tw.StyleNone),
		Streaming: true,
	}
}

func (r *lineRenderer) Close() error { return nil }

func (r *lineRenderer) Logger(*ll.Logger) {}

// write writes one line, each cell padded to the width of its column. In a wide table, a
// wider cell moves the rest of the line.
func (r *lineRenderer) write(ctx tw.Formatting) {
	r.line.Reset()
	pending := 0 // blanks before the next cell: no line ends in blanks
	for i := range ctx.Row.Widths.Len() {
		if i > 0 {
			pending += len(gap)
		}
		cell := ctx.Row.Current[i].Data
		used := twwidth.WidthNoCache(cell)
		if used > 0 {
			for ; pending > 0; pending-- {
				r.line.WriteByte(' ')
			}
			r.line.WriteString(cell)
		}
		pending += max(ctx.Row.Widths.Get(i)-used, 0)
	}
	if r.style != normal {
		line := r.line.String()
		r.line.Reset()
		r.line.WriteString(styles[r.style])
		r.line.WriteString(line)
		r.line.WriteString(resetStyle)
	}
	r.line.WriteByte('\n')
	// The writer is memory; see NewTable.
	_, _ = r.w.Write(r.line.Bytes())
}
