// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/inventory"
)

// start is when the tests begin.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A bench is a model with a clock of its own.
type bench struct {
	*testing.T
	m        *model
	at       time.Time
	outdated int
}

func newBench(t *testing.T, width, height int) *bench {
	b := &bench{T: t, at: start, m: newModel(&Options{HostNS: map[event.NSType]uint32{event.NSTypeNet: 1000}})}
	b.m.now = func() time.Time { return b.at }
	b.m.outdated = func() { b.outdated++ }
	b.m.describe = func(_ *inventory.Inventory, ns *inventory.Namespace) []string {
		return []string{fmt.Sprintf("everything about %d", ns.ID)}
	}
	b.send(tea.WindowSizeMsg{Width: width, Height: height})
	return b
}

func (b *bench) send(msg tea.Msg) tea.Cmd {
	_, cmd := b.m.Update(msg)
	return cmd
}

// keys presses keys: named ones such as "enter", or each letter of a text.
func (b *bench) keys(names ...string) (cmd tea.Cmd) {
	named := map[string]rune{
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown, "home": tea.KeyHome, "end": tea.KeyEnd,
		"pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp, "backspace": tea.KeyBackspace,
	}
	for _, name := range names {
		if code, ok := named[name]; ok {
			cmd = b.send(tea.KeyPressMsg{Code: code})
			continue
		}
		if letter, ok := strings.CutPrefix(name, "ctrl+"); ok {
			cmd = b.send(tea.KeyPressMsg{Code: rune(letter[0]), Mod: tea.ModCtrl})
			continue
		}
		for _, r := range name {
			cmd = b.send(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
	return cmd
}

// feed sends events as a Feed does.
func (b *bench) feed(events ...*event.Event) {
	b.Helper()
	f := NewFeed()
	for _, ev := range events {
		if err := f.Write(ev); err != nil {
			b.Fatal(err)
		}
	}
	batch := f.take()
	batch.at = b.at
	b.send(batchMsg{batch})
}

// take sends an inventory that was started at the time of now.
func (b *bench) take(all ...*inventory.Namespace) { b.send(takenMsg{all: all, started: b.at}) }

// screen returns the lines of the screen without attributes, after it checked that they fit.
func (b *bench) screen() []string {
	b.Helper()
	v := b.m.View()
	lines := strings.Split(v.Content, "\n")
	if len(lines) != b.m.height {
		b.Errorf("%d lines on a screen of %d:\n%s", len(lines), b.m.height, v.Content)
	}
	for i, l := range lines {
		if w := ansi.StringWidthWc(l); w > b.m.width {
			b.Errorf("line %d has %d columns on a screen of %d: %q", i, w, b.m.width, l)
		}
		lines[i] = strings.TrimRight(ansi.Strip(l), " ")
	}
	if !v.AltScreen {
		b.Error("not on the alternate screen")
	}
	if c := v.Cursor; c != nil && (c.X >= b.m.width || c.Y >= b.m.height) {
		b.Errorf("the cursor is at %v", c.Position)
	}
	return lines
}

// want checks the whole screen.
func (b *bench) want(want string) {
	b.Helper()
	got := strings.Join(b.screen(), "\n")
	if want = strings.TrimPrefix(want, "\n"); got != want {
		b.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// cursor returns the line that is in reverse video below the header, "" for none.
func (b *bench) cursor() string {
	for i, l := range strings.Split(b.m.View().Content, "\n") {
		if i > 1 && strings.HasPrefix(l, reverse) && !strings.Contains(l, "TARGET") {
			return strings.TrimRight(ansi.Strip(l), " ")
		}
	}
	return ""
}

// ids returns the numbers of the namespaces in the list.
func (b *bench) ids() (ids []uint32) {
	for _, r := range b.m.shown {
		ids = append(ids, r.ns.ID)
	}
	return ids
}

func process(pid uint32, comm string, started uint64) *inventory.Process {
	return &inventory.Process{PID: pid, Comm: comm, Start: started}
}

func namespace(t event.NSType, id uint32, processes int, oldest *inventory.Process) *inventory.Namespace {
	return &inventory.Namespace{Ref: inventory.Ref{Type: t, ID: id}, Processes: processes, Oldest: oldest}
}

// some is a small host.
func some() []*inventory.Namespace {
	host := namespace(event.NSTypeNet, 1000, 120, process(1, "systemd", 1))
	host.Host = true
	web := namespace(event.NSTypeNet, 1001, 3, process(700, "nginx", 700))
	web.Owner = &event.Owner{Container: &event.Container{ID: strings.Repeat("a", 64), Name: "web"}}
	idle := namespace(event.NSTypeNet, 1002, 0, nil)
	idle.Name = "blue"
	return []*inventory.Namespace{namespace(event.NSTypeMnt, 900, 2, process(800, "bwrap", 800)), host, web, idle}
}

func create(id uint32, at time.Time) *event.Event {
	return &event.Event{
		Type: event.NamespaceCreate, Time: at, Outcome: event.Success, Via: event.ViaUnshare, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: id},
		Process: &event.Process{PID: 4712, Comm: "unshare"},
	}
}

func destroy(id uint32, at time.Time) *event.Event {
	return &event.Event{Type: event.NamespaceDestroy, Time: at, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: id}}
}

func write(id uint32, value string) *event.Event {
	return &event.Event{
		Type: event.SysctlWrite, Time: start, Outcome: event.Success,
		Sysctl:  &event.Sysctl{Name: "net.ipv4.ip_forward", Old: eventtest.Ptr("0"), New: &value, Namespace: &event.Namespace{Type: event.NSTypeNet, ID: id}},
		Process: &event.Process{PID: 4713, Comm: "sysctl"},
	}
}

// TestScreens compares whole screens of three sizes.
func TestScreens(t *testing.T) {
	time.Local = time.UTC
	for _, size := range []struct {
		width, height int
		want          string
	}{
		{80, 24, screen80},
		{20, 5, screen20},
		{200, 60, screen200},
	} {
		t.Run(fmt.Sprintf("%dx%d", size.width, size.height), func(t *testing.T) {
			b := newBench(t, size.width, size.height)
			b.take(some()...)
			b.feed(write(1001, "1"), create(1003, start), destroy(1003, start.Add(time.Second)))
			b.want(size.want)
		})
	}
}

const screen80 = `
nstrace top  4 namespaces  3 events  0.6/s
TYPE            ID  OWNER                  PROCS    EV/S↓  OLDEST PROCESS
net           1001  web                        3      0.2  nginx[700]
mnt            900                             2        0  bwrap[800]
net           1000  (host)                   120        0  systemd[1]
net           1002  blue                       0        0
TIME          EVENT    TARGET                  CHANGE         WHO
12:00:00.000  sysctl   net.ipv4.ip_forward i…  0 → 1          sysctl[4713]
12:00:00.000  create   net 1003                unshare        unshare[4712]
12:00:01.000  destroy  net 1003













? help  / filter  Enter details  < > r sort  q quit`

const screen20 = `
nstrace top  4 names
TYPE            ID
net           1001
12:00:01.000  destro
? help  / filter  En`

const screen200 = `
nstrace top  4 namespaces  3 events  0.6/s
TYPE            ID  OWNER                                                                                          PROCS    EV/S↓  OLDEST PROCESS
net           1001  web                                                                                                3      0.2  nginx[700]
mnt            900                                                                                                     2        0  bwrap[800]
net           1000  (host)                                                                                           120        0  systemd[1]
net           1002  blue                                                                                               0        0
TIME          EVENT    TARGET                                        CHANGE                                    WHO
12:00:00.000  sysctl   net.ipv4.ip_forward in net 1001               0 → 1                                     sysctl[4713]
12:00:00.000  create   net 1003                                      unshare                                   unshare[4712]
12:00:01.000  destroy  net 1003

















































? help  / filter  Enter details  < > r sort  q quit`

// TestSizes shows every screen in many sizes from 1x1 on.
func TestSizes(t *testing.T) {
	for _, width := range []int{1, 2, 5, 13, 20, 45, 60, 79, 80, 130} {
		for _, height := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 24} {
			b := newBench(t, width, height)
			for range 2 { // before and after there is something
				for _, keys := range [][]string{{}, {"?"}, {"?", "/", "a"}, {"esc", "enter"}, {"q", "/", "nothing has this"}, {"enter", "down", "enter"}} {
					b.keys(keys...)
					b.screen()
				}
				b.keys("esc", "esc")
				b.take(some()...)
				b.feed(append(append(eventtest.Sample(), eventtest.Hostile()...), eventtest.Bare()...)...)
			}
			if t.Failed() {
				t.Fatalf("%dx%d", width, height)
			}
		}
	}
}

// TestHostile checks that no name and no value reaches the terminal as it is.
func TestHostile(t *testing.T) {
	const evil = "a\x1b]0;b\x07\u202e\n\xff\u009b31m"
	b := newBench(t, 200, 60)
	b.m.describe = describe
	ns := namespace(event.NSTypeNet, 1000, 1, process(7, evil, 7))
	ns.Name = evil
	ns.Creator = &event.Process{PID: 8, Comm: evil}
	ns.Mounts = []inventory.Mount{{Path: "/" + evil}}
	ns.Descriptors = []inventory.Descriptor{{PID: 9, Comm: evil}}
	b.take(ns)
	b.feed(eventtest.Hostile()...)
	b.send(batchMsg{&batch{message: evil, at: b.at}})
	b.keys("/")
	b.send(tea.PasteMsg{Content: evil})
	b.keys("ctrl+u", "enter")
	shown := b.m.View().Content
	b.keys("enter")
	shown += b.m.View().Content
	b.send(takenMsg{err: errors.New(evil), started: b.at})
	b.m.rows = nil
	b.keys("esc")
	b.m.arrange()
	shown += b.m.View().Content
	for _, attribute := range []string{bold, faint, reverse, plain} {
		shown = strings.ReplaceAll(shown, attribute, "")
	}
	for _, r := range shown {
		if r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == '\ufffd' {
			t.Fatalf("%q on the screen:\n%q", r, shown)
		}
	}
	if strings.Count(shown, `a\x1b]0;b\x07`) < 5 {
		t.Errorf("the names are not on the screen:\n%s", shown)
	}
}

// TestExistence follows a namespace that is created and destroyed between inventories, and that a
// late inventory still has or does not have yet.
func TestExistence(t *testing.T) {
	b := newBench(t, 80, 24)
	b.take(some()...)
	early := b.at
	b.at = b.at.Add(time.Second)
	b.feed(create(1003, b.at))
	if want := []uint32{900, 1000, 1001, 1002, 1003}; len(b.ids()) != len(want) {
		t.Errorf("after its creation: %v", b.ids())
	}
	if b.outdated != 1 {
		t.Errorf("asked %d times for an inventory", b.outdated)
	}
	b.send(takenMsg{all: some(), started: early}) // started before it was created
	if len(b.ids()) != 5 {
		t.Errorf("after an older inventory: %v", b.ids())
	}
	b.at = b.at.Add(time.Second)
	b.take(append(some(), namespace(event.NSTypeNet, 1003, 1, process(4712, "unshare", 4712)))...)
	if r := b.m.rows[inventory.Ref{Type: event.NSTypeNet, ID: 1003}]; r == nil || r.ns.Creator == nil || !r.ns.Created.Equal(start.Add(time.Second)) {
		t.Errorf("the creator is lost: %+v", r)
	}
	late := b.at
	b.at = b.at.Add(time.Second)
	b.feed(destroy(1003, b.at))
	if len(b.ids()) != 4 {
		t.Errorf("after its end: %v", b.ids())
	}
	b.send(takenMsg{all: append(some(), namespace(event.NSTypeNet, 1003, 0, nil)), started: late})
	if len(b.ids()) != 4 {
		t.Errorf("after an inventory from before its end: %v", b.ids())
	}
	// The number can be used again.
	b.feed(create(1003, b.at))
	if len(b.ids()) != 5 {
		t.Errorf("after the number was used again: %v", b.ids())
	}
	b.at = b.at.Add(time.Second)
	b.take(some()...)
	if len(b.ids()) != 4 {
		t.Errorf("after an inventory that does not have it: %v", b.ids())
	}
	if len(b.m.gone) != 0 {
		t.Errorf("remembers %v", b.m.gone)
	}
	failed := create(1004, b.at)
	failed.Outcome = event.Failure
	b.feed(failed)
	if len(b.ids()) != 4 {
		t.Errorf("after a creation that failed: %v", b.ids())
	}
}

// TestSort sorts by every column, in both directions.
func TestSort(t *testing.T) {
	b := newBench(t, 80, 24)
	b.take(some()...)
	b.feed(write(1002, "1"))
	for _, step := range []struct {
		key  string
		want []uint32
	}{
		{"", []uint32{1002, 900, 1000, 1001}},  // by rate
		{">", []uint32{1000, 1001, 900, 1002}}, // oldest process
		{"r", []uint32{1002, 900, 1001, 1000}},
		{">", []uint32{900, 1000, 1001, 1002}}, // type
		{"r", []uint32{1000, 1001, 1002, 900}},
		{">", []uint32{900, 1000, 1001, 1002}}, // number
		{"r", []uint32{1002, 1001, 1000, 900}},
		{">", []uint32{1000, 1002, 1001, 900}}, // owner
		{">", []uint32{1000, 1001, 900, 1002}}, // processes
		{"<", []uint32{1000, 1002, 1001, 900}},
	} {
		b.keys(step.key)
		if got := b.ids(); fmt.Sprint(got) != fmt.Sprint(step.want) {
			t.Errorf("after %q by %s: %v, want %v", step.key, columns[b.m.column].title, got, step.want)
		}
		if got := b.screen()[1]; !strings.Contains(got, columns[b.m.column].title+"↑") && !strings.Contains(got, columns[b.m.column].title+"↓") {
			t.Errorf("the header does not show the order: %q", got)
		}
	}
}

// TestFilter types a filter, which applies to both parts with each key.
func TestFilter(t *testing.T) {
	b := newBench(t, 100, 24)
	b.take(some()...)
	b.feed(write(1001, "1"), create(1003, start))
	b.keys("/", "NGI")
	if got := b.ids(); fmt.Sprint(got) != "[1001]" {
		t.Errorf("while typing: %v", got)
	}
	all := b.screen()
	if got := all[len(all)-1]; got != "/NGI" {
		t.Errorf("the last line is %q", got)
	}
	if c := b.m.View().Cursor; c == nil || c.X != 4 || c.Y != 23 {
		t.Errorf("the cursor is at %v", c)
	}
	b.keys("backspace", "backspace", "backspace", "net 1003", "enter")
	if got := b.ids(); fmt.Sprint(got) != "[1003]" {
		t.Errorf("with two words: %v", got)
	}
	if text := strings.Join(b.screen(), "\n"); strings.Contains(text, "ip_forward") || !strings.Contains(text, "unshare[4712]") {
		t.Errorf("events:\n%s", text)
	}
	b.keys("q") // ends the program, the filter does not take it
	b.keys("esc")
	if len(b.ids()) != 5 || b.m.query != "" {
		t.Errorf("after Esc: %v, filter %q", b.ids(), b.m.query)
	}
	b.keys("/", strings.Repeat("x", 300))
	if n := len(b.m.query); n != maxQuery {
		t.Errorf("the filter has %d characters", n)
	}
	b.keys("esc")
	if b.m.typing || len(b.ids()) != 5 {
		t.Errorf("after Esc: typing %v, %v", b.m.typing, b.ids())
	}
}

// TestCursor checks that the cursor follows the namespace that was selected.
func TestCursor(t *testing.T) {
	b := newBench(t, 80, 10)
	var many []*inventory.Namespace
	for id := range uint32(100) {
		many = append(many, namespace(event.NSTypeNet, 1000+id, 1, process(id+1, "p", uint64(id))))
	}
	b.take(many...)
	at := func(id uint32) {
		t.Helper()
		if got := b.cursor(); !strings.Contains(got, fmt.Sprint(id)) {
			t.Errorf("the cursor is on %q, want %d", got, id)
		}
	}
	at(1000)
	b.feed(write(1050, "1"))
	at(1050) // nothing was selected: the first row
	b.keys("down", "down")
	at(1001)
	b.feed(write(1001, "1"))
	at(1001)
	b.keys("end")
	at(1099)
	b.keys("pgup")
	b.keys("home")
	at(1001)
	b.keys("down")
	at(1050)
	b.take(many[:50]...) // without it
	if got := b.cursor(); got == "" {
		t.Error("no cursor")
	}
	b.take()
	b.keys("down", "up", "enter", "end")
	b.screen()
}

// TestDetails opens the details of a namespace, which then ends.
func TestDetails(t *testing.T) {
	b := newBench(t, 80, 6)
	b.take(some()...)
	b.keys("down", "down", "enter")
	b.want(`
net 1001
everything about 1001



lines 1-1 of 1  Esc back  ↑ ↓ PgUp PgDn scroll`)
	b.take(some()[:1]...)
	b.take(some()[:1]...)
	b.want(`
net 1001
This namespace does not exist any more.
everything about 1001


lines 1-2 of 2  Esc back  ↑ ↓ PgUp PgDn scroll`)
	b.m.describe = func(*inventory.Inventory, *inventory.Namespace) (lines []string) {
		for i := range 50 {
			lines = append(lines, fmt.Sprint("line ", i))
		}
		return lines
	}
	b.take(some()...)
	for _, step := range []struct{ key, first string }{
		{"down", "line 1"}, {"pgdown", "line 4"}, {"end", "line 46"}, {"down", "line 46"}, {"up", "line 45"}, {"home", "line 0"}, {"up", "line 0"},
	} {
		b.keys(step.key)
		if got := b.screen()[1]; got != step.first {
			t.Errorf("after %s: %q, want %q", step.key, got, step.first)
		}
	}
	b.keys("end")
	b.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	if got := b.screen()[1]; got != "line 28" {
		t.Errorf("after a resize: %q", got)
	}
	b.keys("q")
	if b.m.screen != screenMain {
		t.Error("q does not go back")
	}
}

// TestRates lets the time pass after some events.
func TestRates(t *testing.T) {
	b := newBench(t, 80, 24)
	b.take(some()...)
	folded := write(1001, "1")
	folded.Count = 97
	b.feed(write(1001, "1"), write(1001, "1"), write(1001, "1"), folded)
	rate := func() string { return b.m.rows[inventory.Ref{Type: event.NSTypeNet, ID: 1001}].cells[columnRate] }
	for _, want := range []string{"20", "20", "20", "20", "20", "0", "0"} {
		if got := rate(); got != want {
			t.Errorf("at %v: %s a second, want %s", b.at.Sub(start), got, want)
		}
		b.at = b.at.Add(time.Second)
		cmd := b.send(tickMsg{})
		if (cmd != nil) != (rate() != "0") {
			t.Errorf("at %v: %s a second, and more ticks: %v", b.at.Sub(start), rate(), cmd != nil)
		}
	}
	if got := b.screen()[0]; got != "nstrace top  4 namespaces  100 events  0/s" {
		t.Errorf("title %q", got)
	}
}

// TestQuit checks which keys and messages end the program.
func TestQuit(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*bench) tea.Cmd
		want bool
	}{
		{"q", func(b *bench) tea.Cmd { return b.keys("q") }, true},
		{"Esc", func(b *bench) tea.Cmd { return b.keys("esc") }, false},
		{"Ctrl-C", func(b *bench) tea.Cmd { return b.keys("ctrl+c") }, true},
		{"q in help", func(b *bench) tea.Cmd { return b.keys("?", "q") }, false},
		{"Ctrl-C in help", func(b *bench) tea.Cmd { return b.keys("?", "ctrl+c") }, true},
		{"q in a filter", func(b *bench) tea.Cmd { return b.keys("/q") }, false},
		{"Ctrl-C in a filter", func(b *bench) tea.Cmd { return b.keys("/", "ctrl+c") }, true},
		{"the end of the tracer", func(b *bench) tea.Cmd { return b.send(quitMsg{}) }, true},
	} {
		b := newBench(t, 80, 24)
		cmd := c.do(b)
		got := false
		if cmd != nil {
			_, got = cmd().(tea.QuitMsg)
		}
		if got != c.want {
			t.Errorf("%s ends: %v, want %v", c.name, got, c.want)
		}
	}
}
