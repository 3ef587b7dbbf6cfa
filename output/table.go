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
	// DefaultWidth is how wide a table is where nobody says.
	DefaultWidth = 100
	// MinWidth is the narrowest table there is; a narrower terminal folds it.
	MinWidth = 80
)

// TableOptions says how a table looks.
type TableOptions struct {
	// Color allows colours; see ColorWanted.
	Color bool
	// Width is how many columns a line may take; 0 means DefaultWidth, less
	// than MinWidth means MinWidth. It does not matter to a wide table.
	Width int
	// Wide adds columns, keeps every event on one line and leaves nothing out,
	// however long the line gets.
	Wide bool
	// Location is the time zone that times are shown in, the local one if nil.
	Location *time.Location
	// HostNS holds the ids of the host's own namespaces, as far as they are
	// known: "from host" says more than "from 4026531840".
	HostNS map[event.NSType]uint32
}

// Table writes events for people to read: one row an event, as it comes, in
// columns that stay where they are. What does not fit into its column goes on
// below it; only the middle of a chain of ancestors, and values of more than a
// few lines, are shortened, with an ellipsis in their place.
//
// An alert has a line of its own below the event that it is about.
//
// Events about the trace itself are not rows, but for lost records, which are
// a row that nobody overlooks.
type Table struct {
	opts    TableOptions
	columns []column
	lines   lineBuffer
	out     bytes.Buffer // the lines of the row being written
	table   *tablewriter.Table
	render  *lineRenderer
	day     string // of the last row

	burst  *burst // that the row being written is for
	member bool   // and the row is one of its events
}

// NewTable makes a sink that writes a table to w. The header is in the buffer
// from the start.
func NewTable(w io.Writer, opts TableOptions) *Table {
	return newTable(w, opts, columnsFor, wideColumns)
}

// newTable makes a table of some columns: those for a width, or wide ones.
func newTable(w io.Writer, opts TableOptions, columnsFor func(width int) []column, wideColumns []column) *Table {
	if opts.Width <= 0 {
		opts.Width = DefaultWidth
	}
	opts.Width = max(opts.Width, MinWidth)
	if opts.Location == nil {
		opts.Location = time.Local
	}
	t := &Table{opts: opts, lines: newLineBuffer(w)}
	if opts.Wide {
		t.columns = wideColumns
	} else {
		t.columns = columnsFor(opts.Width)
	}

	widths := tw.NewMapper[int, int]()
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		widths.Set(i, c.width)
		titles[i] = t.paint([]word{say(c.title, strong)})
	}
	// Cells arrive laid out and must come out as they went in: no trimming, no
	// title case for the header, no wrapping.
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
		// WithConfig takes WrapNone, which is zero, for not set.
		cfg.Header.Formatting.AutoWrap = tw.WrapNone
		cfg.Row.Formatting.AutoWrap = tw.WrapNone
	})
	// Neither can fail: the renderer can stream, and its writer is memory.
	_ = t.table.Start()
	t.table.Header(titles)
	_ = t.lines.add(t.out.Bytes())
	return t
}

// writeBurst writes a row for a burst, and, if it is to be open, one for each of its
// events.
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

// Write takes one event.
func (t *Table) Write(ev *event.Event) error {
	if ev.Type == event.TraceStart || ev.Type == event.TraceStop {
		return nil
	}
	t.out.Reset()
	day := t.day
	if !t.opts.Wide {
		if err := t.writeDay(ev); err != nil {
			return err
		}
	}
	if t.opts.Color && (ev.Type == event.TraceLoss || ev.Type == event.TraceTamper || t.opts.Wide && critical(ev)) {
		t.render.style = alarm
	}
	err := t.table.Append(t.cells(ev))
	t.render.style = normal
	if !t.opts.Wide {
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

// Flush hands everything taken so far to the operating system.
func (t *Table) Flush() error { return t.lines.flush() }

// Close flushes. It does not close the writer.
func (t *Table) Close() error { return t.lines.flush() }

// writeDay writes the date on a row of its own when it is not that of the row
// before: rows show the time of day only.
func (t *Table) writeDay(ev *event.Event) error {
	day := ev.Time.In(t.opts.Location).Format(time.DateOnly)
	// Events of two processors can come a little out of order at midnight.
	if day <= t.day {
		return nil
	}
	first := t.day == ""
	t.day = day
	if first {
		return nil
	}
	row := make([]string, len(t.columns))
	row[0] = t.paint([]word{say(day, strong)})
	return t.table.Append(row)
}

// writeAlerts writes the alerts of an event, from the second column on.
func (t *Table) writeAlerts(ev *event.Event) {
	indent := t.columns[0].width + len(gap)
	for i := range ev.Alert {
		for j, line := range wrap(alertWords(&ev.Alert[i]), t.opts.Width-indent-len(gap)) {
			t.out.WriteString(strings.Repeat(" ", indent))
			if j > 0 {
				t.out.WriteString(gap)
			}
			t.out.WriteString(t.paintAll(line))
			t.out.WriteByte('\n')
		}
	}
}

// paintAll is paint for words of one style, blanks and all.
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

// cells lays an event out: a string for each column, of one or more lines.
func (t *Table) cells(ev *event.Event) []string {
	row := make([]string, len(t.columns))
	height := 1
	for i, c := range t.columns {
		switch {
		case t.opts.Wide:
			words := c.words(t, ev)
			if len(words) == 0 {
				words = []word{say("-", faint)}
			}
			row[i] = t.paint(words)
		case c.fit == nil:
			lines := wrap(c.words(t, ev), c.width)
			height = max(height, len(lines))
			row[i] = t.paintLines(lines)
		}
	}
	// The lines that a long name or value takes are there to be used.
	for i, c := range t.columns {
		if !t.opts.Wide && c.fit != nil {
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

// paint puts words on one line, with colours if they are wanted. The line is
// never a string of the event: tablewriter keeps a row until the next one.
func (t *Table) paint(words []word) string {
	if len(words) == 1 && (!t.opts.Color || words[0].style == normal) {
		return strings.Clone(words[0].text)
	}
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		// A row painted as a whole would end at the first word's reset.
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

// gap stands between columns.
const gap = "  "

// lineRenderer is what tablewriter hands each laid-out line to. Its own
// renderer without borders would do for the narrow table, but pads the last
// column, cuts what does not fit without a sign, which a wide table must not,
// and drops the errors of its writer.
type lineRenderer struct {
	w     io.Writer
	style style // of whole lines
	line  bytes.Buffer
}

var _ tw.Renderer = (*lineRenderer)(nil)

func (r *lineRenderer) Start(w io.Writer) error {
	r.w = w
	return nil
}

func (r *lineRenderer) Header(_ [][]string, ctx tw.Formatting) { r.write(ctx) }

func (r *lineRenderer) Row(_ []string, ctx tw.Formatting) { r.write(ctx) }

// Footer does nothing: a stream has none.
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

// write writes one line: each cell padded to the width of its column, and what
// is wider, in a wide table, pushes the rest of the line on.
func (r *lineRenderer) write(ctx tw.Formatting) {
	r.line.Reset()
	pending := 0 // blanks owed, so that no line ends in them
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
