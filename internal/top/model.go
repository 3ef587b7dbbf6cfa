// SPDX-License-Identifier: Apache-2.0

package top

import (
	"slices"
	"strings"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/output"
)

// maxLines is how many events the view keeps.
const maxLines = 1000

// maxQuery is how many characters a filter can have.
const maxQuery = 100

// Describe returns the lines that show one namespace in full. They must be safe to print.
type Describe func(*inventory.Inventory, *inventory.Namespace) []string

// A row is a namespace in the list.
type row struct {
	ns    *inventory.Namespace
	since time.Time // when an event said that it exists; zero if an inventory has it
	rate  rate

	now   float64  // events per second, at the last update
	cells []string // by columns, safe to print
	text  string   // what the filter looks at: cells in lower case
}

// A line is an event in the stream, or a number of events that the stream does not show.
type line struct {
	ev      *event.Event
	text    string // what the filter looks at, in lower case
	skipped uint64 // if ev is nil
}

// screens
type screen int

const (
	screenMain screen = iota
	screenDetails
	screenHelp
)

// A model is the state of the view. Update changes it, and View shows it.
type model struct {
	describe Describe
	lines    *output.Lines
	now      func() time.Time
	outdated func() // asks for an inventory
	ask      func(pageRequest)

	width, height int

	inv     *inventory.Inventory // the last one; nil before the first
	read    bool                 // there was one
	problem string               // why there is no inventory
	rows    map[inventory.Ref]*row
	gone    map[inventory.Ref]time.Time // namespaces that an event said are gone
	shown   []*row                      // rows that the filter keeps, in order

	total     rate
	totalNow  float64
	lost      uint64
	skipped   uint64
	message   string
	ticking   bool
	events    []line
	eventsAll uint64

	dated    bool // some rows have the time when they were made
	column   int  // that rows are sorted by
	reverse  bool
	selected inventory.Ref // by the user; zero before that
	at       int           // index of the cursor when the row was last seen
	first    int           // index of the first row on the screen

	query  string
	typing bool

	screen  screen
	details []string
	scroll  int
	about   inventory.Ref // of details
	full    string        // the text that Show returned for about; "" before that
	reading bool          // Show has not answered

	suspended bool // the process is to stop until SIGCONT
	quit      bool // the view has ended
}

// Messages of the program.
type (
	batchMsg   struct{ *batch }
	takenMsg   taken
	pageMsg    madePage
	tickMsg    struct{}
	suspendMsg struct{}
	quitMsg    struct{}
)

func newModel(o *Options) *model {
	m := &model{
		describe: o.Describe, now: time.Now, outdated: func() {},
		lines: output.NewLines(output.TableOptions{Color: o.Color, HostNS: o.HostNS}),
		rows:  map[inventory.Ref]*row{}, gone: map[inventory.Ref]time.Time{},
		width: 80, height: 24, column: columnRate,
	}
	if m.describe == nil {
		m.describe = describe
	}
	return m
}

// Init starts the ticks of the rates.
func (m *model) Init() tea.Cmd {
	m.ticking = false
	return m.rates()
}

// Update takes a message.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
		m.wrapPage()
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		if m.typing {
			m.typed(msg.Content)
		}
	case batchMsg:
		return m, m.batch(msg.batch)
	case takenMsg:
		m.inventory(taken(msg))
	case pageMsg:
		m.page(madePage(msg))
	case tickMsg:
		m.ticking = false
		return m, m.rates()
	case suspendMsg:
		return m, m.suspend()
	case quitMsg:
		return m, m.end()
	case envelope:
		defer close(msg.done)
		return m.Update(msg.msg)
	}
	return m, nil
}

// suspend ends the program. It is not the end of the view.
func (m *model) suspend() tea.Cmd {
	m.suspended = true
	return tea.Quit
}

// end ends the view.
func (m *model) end() tea.Cmd {
	m.quit = true
	return tea.Quit
}

// batch takes in events.
func (m *model) batch(b *batch) tea.Cmd {
	m.lost += b.lost
	m.skipped += b.skipped
	m.eventsAll += b.total
	if b.message != "" {
		m.message = b.message
	}
	m.total.add(b.at, b.total)
	for _, c := range b.changes {
		m.change(&c, b.at)
	}
	for r, n := range b.counts {
		if row := m.rows[r]; row != nil {
			row.rate.add(b.at, n)
		}
	}
	for _, ev := range b.events {
		if text := m.lines.Text(ev); text != "" {
			m.events = append(m.events, line{ev: ev, text: strings.ToLower(text)})
		}
	}
	if b.skipped > 0 {
		m.events = append(m.events, line{skipped: b.skipped})
	}
	if n := len(m.events) - maxLines; n > 0 {
		m.events = slices.Delete(m.events, 0, n)
	}
	if b.moved || b.missed {
		m.outdated()
	}
	return m.rates()
}

// change applies what an event says about the existence of a namespace.
func (m *model) change(c *change, at time.Time) {
	old := m.rows[c.ref]
	if c.gone {
		delete(m.rows, c.ref)
		m.gone[c.ref] = at
		return
	}
	delete(m.gone, c.ref)
	ns := &inventory.Namespace{Ref: c.ref, UserNS: c.userNS, Name: c.name, Owner: c.owner, Created: c.created, Creator: c.creator}
	fresh := &row{ns: ns, since: at}
	if old != nil {
		fresh.rate = old.rate
	}
	fresh.layOut(m.now())
	m.rows[c.ref] = fresh
}

// inventory takes in an inventory.
func (m *model) inventory(t taken) {
	if t.err != nil {
		m.problem = t.err.Error()
		return
	}
	m.problem, m.inv, m.read = "", t.inv, true
	rows := make(map[inventory.Ref]*row, len(m.rows))
	for _, ns := range t.all {
		if at, ok := m.gone[ns.Ref]; ok && at.After(t.started) {
			continue
		}
		fresh := &row{ns: ns}
		if old := m.rows[ns.Ref]; old != nil {
			fresh.rate, fresh.now = old.rate, old.now
			if ns.Created.IsZero() {
				ns.Created, ns.Creator = old.ns.Created, old.ns.Creator
			}
		}
		fresh.layOut(m.now())
		rows[ns.Ref] = fresh
	}
	for r, old := range m.rows {
		if rows[r] == nil && old.since.After(t.started) {
			rows[r] = old
		}
	}
	for r, at := range m.gone {
		if !at.After(t.started) {
			delete(m.gone, r)
		}
	}
	m.rows = rows
	m.arrange()
	m.refreshDetails()
}

// rates computes the rates of now, and again every second until all are zero.
func (m *model) rates() tea.Cmd {
	now := m.now()
	busy := false
	for _, r := range m.rows {
		was := r.now
		r.now = r.rate.perSecond(now)
		if r.now != was {
			r.cells[columnRate] = formatRate(r.now)
		}
		busy = busy || r.now > 0
	}
	m.totalNow = m.total.perSecond(now)
	m.arrange()
	if (busy || m.totalNow > 0) && !m.ticking {
		m.ticking = true
		return tea.Tick(time.Second, func(time.Time) tea.Msg { return tickMsg{} })
	}
	return nil
}

// arrange filters and sorts the rows.
func (m *model) arrange() {
	m.shown = m.shown[:0]
	m.dated = false
	words := m.words()
	for _, r := range m.rows {
		m.dated = m.dated || !r.ns.Created.IsZero()
		if matches(r.text, words) {
			m.shown = append(m.shown, r)
		}
	}
	sortRows(m.shown, m.column, m.reverse)
	if i := m.find(m.selected); i >= 0 {
		m.at = i
	}
}

// words returns the words of the filter.
func (m *model) words() []string { return strings.Fields(strings.ToLower(m.query)) }

// matches reports whether a text has all words.
func matches(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// find returns the index of a namespace, -1 if it is not shown.
func (m *model) find(ref inventory.Ref) int {
	return slices.IndexFunc(m.shown, func(r *row) bool { return r.ns.Ref == ref })
}

// index returns the index of the row that the cursor is on, -1 if there are none. The cursor
// follows a namespace that the user selected. When it is gone, the cursor stays where it was.
func (m *model) index() int {
	if i := m.find(m.selected); i >= 0 {
		return i
	}
	return min(m.at, len(m.shown)-1)
}

// move selects the row that is n rows further down.
func (m *model) move(n int) {
	if len(m.shown) > 0 {
		m.at = min(max(m.index()+n, 0), len(m.shown)-1)
		m.selected = m.shown[m.at].ns.Ref
	}
}

// key takes a key.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	switch name {
	case "ctrl+c":
		return m.end()
	case "ctrl+z":
		return m.suspend()
	}
	if m.typing {
		m.keyTyping(k)
		return nil
	}
	if m.screen != screenMain {
		m.keyPage(name)
		return nil
	}
	page := max(m.layout().rows-1, 1)
	switch name {
	case "q":
		return m.end()
	case "esc":
		m.query = ""
		m.arrange()
	case "/":
		m.typing = true
	case "?", "h", "f1":
		m.open(screenHelp)
	case "enter":
		if i := m.index(); i >= 0 {
			m.about, m.full = m.shown[i].ns.Ref, ""
			m.open(screenDetails)
			m.refreshDetails()
		}
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup", "ctrl+b":
		m.move(-page)
	case "pgdown", "ctrl+f", "space":
		m.move(page)
	case "home", "g":
		m.move(-len(m.shown))
	case "end", "G":
		m.move(len(m.shown))
	case "<", "left":
		m.sortBy(-1)
	case ">", "right":
		m.sortBy(1)
	case "r":
		m.reverse = !m.reverse
		m.arrange()
	}
	return nil
}

func (m *model) open(s screen) { m.screen, m.scroll = s, 0 }

// sortBy sorts by the column that is n columns further right.
func (m *model) sortBy(n int) {
	m.column = (m.column + n + len(columns)) % len(columns)
	for columns[m.column].dates && !m.dated {
		m.column = (m.column + n + len(columns)) % len(columns)
	}
	m.reverse = false
	m.arrange()
}

// keyTyping takes a key while the filter is typed.
func (m *model) keyTyping(k tea.KeyPressMsg) {
	switch k.String() {
	case "enter":
		m.typing = false
	case "esc":
		m.typing = false
		m.query = ""
	case "backspace", "ctrl+h":
		if all := []rune(m.query); len(all) > 0 {
			m.query = string(all[:len(all)-1])
		}
	case "ctrl+u":
		m.query = ""
	case "up":
		m.move(-1)
	case "down":
		m.move(1)
	default:
		m.typed(k.Text)
		return
	}
	m.arrange()
}

// typed adds to the filter what is printable.
func (m *model) typed(text string) {
	n := len([]rune(m.query))
	for _, r := range text {
		if n < maxQuery && r != unicode.ReplacementChar && unicode.IsPrint(r) {
			m.query += string(r)
			n++
		}
	}
	m.arrange()
}

// keyPage takes a key while details or help are shown.
func (m *model) keyPage(name string) {
	page := max(m.pageHeight()-1, 1)
	switch name {
	case "q", "esc", "backspace":
		m.screen, m.details, m.full = screenMain, nil, ""
		return
	case "enter", "?":
		if m.screen == screenHelp || name == "enter" {
			m.screen, m.details, m.full = screenMain, nil, ""
			return
		}
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup", "ctrl+b":
		m.scroll -= page
	case "pgdown", "ctrl+f", "space":
		m.scroll += page
	case "home", "g":
		m.scroll = 0
	case "end", "G":
		m.scroll = len(m.pageLines())
	}
	m.scroll = min(max(m.scroll, 0), max(len(m.pageLines())-m.pageHeight(), 0))
}

// refreshDetails updates the description of the namespace that the details show.
func (m *model) refreshDetails() {
	if m.screen != screenDetails {
		return
	}
	r := m.rows[m.about]
	switch {
	case r == nil && len(m.details) > 0 && m.details[0] == goneLine:
	case r == nil:
		m.details = slices.Insert(m.details, 0, goneLine)
		m.reading = false
	default:
		if m.full == "" {
			m.details = m.describe(m.inv, r.ns)
		} else {
			m.wrapPage() // without goneLine
		}
		if m.ask != nil && m.inv != nil {
			m.reading = m.full == ""
			m.ask(pageRequest{r.ns.Ref, m.inv, r.ns, m.width})
		}
	}
}

// page takes in what Show returned.
func (m *model) page(p madePage) {
	if m.screen != screenDetails || p.ref != m.about || m.rows[m.about] == nil {
		return
	}
	m.reading = false
	if p.err != nil {
		if m.full == "" {
			m.details = append(m.describe(m.inv, m.rows[m.about].ns), "", "Cannot show more: "+output.Escape(p.err.Error()))
		}
		return
	}
	m.full = p.text
	m.wrapPage()
}

// wrapPage breaks the lines of the full page that are longer than the screen is wide.
func (m *model) wrapPage() {
	if m.screen != screenDetails || m.full == "" {
		return
	}
	gone := len(m.details) > 0 && m.details[0] == goneLine && m.rows[m.about] == nil
	m.details = strings.Split(strings.TrimSuffix(ansi.HardwrapWc(m.full, m.width, true), "\n"), "\n")
	if gone {
		m.details = slices.Insert(m.details, 0, goneLine)
	}
	m.scroll = min(m.scroll, max(len(m.details)-m.pageHeight(), 0))
}

const goneLine = "This namespace does not exist any more."
