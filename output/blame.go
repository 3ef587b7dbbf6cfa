// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
)

// Blame is a parameter and its last write.
type Blame struct {
	Parameter string           `json:"parameter"`
	Namespace *event.Namespace `json:"namespace,omitempty"` // nil if the parameter belongs to no namespace
	// Value is the current value, nil if it cannot be read.
	Value *string `json:"value,omitempty"`
	// ValueTruncated reports whether Value is only the beginning of the value.
	ValueTruncated bool  `json:"value_truncated,omitempty"`
	State          State `json:"state"`
	// Recorded is the value after the last write, nil if unknown.
	Recorded *string `json:"recorded,omitempty"`
	// Between has the times between which the value changed to the current one, as a sysctl.drift says; nil if
	// unknown.
	Between *event.Between `json:"between,omitempty"`
	// Writes is the number of recorded writes.
	Writes uint64 `json:"writes"`
	ID     int64  `json:"id,omitempty"` // id of the last write in the history

	// Last is the last write, nil if none is recorded. BlameJSON writes it as the member
	// event.
	Last *event.Event `json:"-"`
}

// State compares the current value of a parameter with the recorded one.
type State string

// States of a parameter.
const (
	AsRecorded State = "recorded"   // the value is that of the last recorded write
	Drifted    State = "drifted"    // the value changed since, while nstrace did not trace
	Rebooted   State = "rebooted"   // the host rebooted since the last write
	Reset      State = "reset"      // the host rebooted since, and the value is the one before the first recorded write of that boot
	Unchanged  State = "unchanged"  // no write is recorded
	Unknown    State = "unknown"    // the value is another one, but the history can lack the newest writes, or another device can have the name now; or, without Recorded, what the last write made of it is unknown
	Unreadable State = "unreadable" // the value cannot be read, by this user or at all, or it is unknown whether the namespace exists
	Gone       State = "gone"       // the parameter or its namespace is gone
	Stored     State = "stored"     // the value is unknown: the last write comes from a log store of other hosts
)

// BlameTable writes parameters and their last writes as rows of a table.
type BlameTable struct {
	*Table
	row   *Blame
	burst *blameBurst // the burst of the row being written, nil if it is of none
	fold  bool        // the row is that of the whole burst
}

// NewBlameTable returns a table that writes to w.
func NewBlameTable(w io.Writer, opts TableOptions) *BlameTable {
	b := &BlameTable{}
	words := func(f func(*Blame) []word) func(*Table, *event.Event) []word {
		return func(*Table, *event.Event) []word { return f(b.row) }
	}
	who := column{title: "WHO", words: words(b.who), fit: b.fitWho}
	now := column{title: "NOW", words: words(b.now)}
	if opts.Host { // a store of events does not know the current value
		now = column{title: "SET TO", words: words(b.setTo)}
	}
	columns := []column{
		{title: "PARAMETER", words: words(b.parameter)},
		now,
		{title: "WAS", words: words(b.was)},
		{title: "SET", words: words(b.set)},
		{title: "N", words: words(b.writes)},
		who,
	}
	of := func(widths ...int) []column {
		all := append([]column(nil), columns...)
		for i, width := range widths {
			all[i].width = width
		}
		return all
	}
	narrow := func(width int) []column {
		if width < stackedBelow {
			all := of(width-10-len(gap), 10)
			all[2].below, all[2].label, all[3].label, all[4].label = true, "was", "set", "writes:"
			all[5].fit = nil
			return all
		}
		parameter, value, at, count := 26, 11, len("2006-01-02 15:04"), 3
		if width < DefaultWidth {
			parameter -= (DefaultWidth - width) * 2 / 5
			value, count = value-2, count-1
		} else if extra := width - DefaultWidth - 12; extra > 0 {
			parameter += min(extra/3, 14)
			value += min(extra/4, 12)
		}
		if width >= DefaultWidth+20 {
			at = len("2006-01-02 15:04:05")
		}
		return of(parameter, value, value, at, count, width-parameter-2*value-at-count-5*len(gap))
	}
	wide := of(40, 16, 16, 19, 5, 40)
	wide[5].fit = nil
	b.Table = newTable(w, opts, narrow, wide)
	return b
}

// Add writes a row to the buffer.
func (b *BlameTable) Add(row *Blame) error {
	b.row = row
	ev := row.Last
	if ev == nil {
		ev = &event.Event{}
	}
	b.out.Reset()
	if err := b.table.Append(b.cells(ev)); err != nil {
		return err
	}
	b.writeStacked(ev)
	return b.lines.add(b.out.Bytes())
}

// addBurst writes a row for a burst and, if open, one for each of its parameters.
func (b *BlameTable) addBurst(burst *blameBurst, open bool) error {
	b.burst, b.fold = burst, true
	defer func() { b.burst = nil }()
	err := b.Add(burst.rows[0])
	b.fold = false
	if err != nil || !open {
		return err
	}
	for _, row := range burst.rows {
		if err := b.Add(row); err != nil {
			return err
		}
	}
	return nil
}

func (b *BlameTable) parameter(row *Blame) []word {
	words := []word{newWord(escapeName(row.Parameter, ""), strong)}
	ns := row.Namespace
	switch {
	case b.fold:
		n := uint64(len(b.burst.rows))
		words = []word{newWord(number(n), strong), joinedWord(plural(n, "parameter", "parameters"), strong)}
		words = append(words, b.burst.part.words()...)
		if !b.burst.oneNS {
			ns = nil
		}
	case b.burst != nil:
		words[0].text = gap + words[0].text
		if b.burst.oneNS { // the row of the burst has it
			ns = nil
		}
	}
	if ns != nil && !b.isHost(ns) {
		words = append(words, inWords(b.namespace(ns))...)
	}
	return words
}

func (b *BlameTable) now(row *Blame) []word {
	var words []word
	if value := b.shared(row, func(r *Blame) *string { return r.Value }); value != nil {
		words = b.text(*value, normal)
		if row.ValueTruncated {
			words = append(words, newWord("(truncated)", doubtful))
		}
	}
	switch row.State {
	case Drifted:
		words = append(words, newWord("drifted:", alarm), newWord("recorded", doubtful))
		words = append(words, b.recorded(row)...)
		words = append(words, b.untraced(&event.Event{Between: row.Between})...)
	case Rebooted:
		if !b.fold && row.Value != nil && row.Recorded != nil && !event.SameValue(*row.Value, *row.Recorded) {
			words = append(words, newWord("before boot", doubtful))
			words = append(words, b.recorded(row)...)
		} else {
			words = append(words, newWord("before boot", doubtful))
		}
	case Reset:
		words = append(words, newWord("reset by reboot", faint))
	case Unknown:
		if row.Recorded == nil {
			words = append(words, newWord("(result unknown)", doubtful))
			break
		}
		words = append(words, newWord("recorded", doubtful))
		words = append(words, b.recorded(row)...)
		words = append(words, newWord("(unknown why)", doubtful))
	case Unreadable:
		words = append(words, newWord(unknown, doubtful))
	case Gone:
		words = append(words, newWord("gone", faint))
	}
	return words
}

// setTo is the value after the last write.
func (b *BlameTable) setTo(row *Blame) []word {
	value := b.shared(row, func(r *Blame) *string { return r.Recorded })
	if value == nil {
		return []word{newWord(unknown, doubtful)}
	}
	words := b.text(*value, normal)
	if row.Last.Sysctl.After == nil && row.Last.Outcome == "" {
		words = append(words, newWord("(result unknown)", doubtful))
	}
	return words
}

// shared returns a value of a row, and for a burst the one that all its rows have, as the parameters have that the
// kernel changes along with another one. It returns nil if they differ.
func (b *BlameTable) shared(row *Blame, value func(*Blame) *string) *string {
	v := value(row)
	if !b.fold || v == nil {
		return v
	}
	for _, other := range b.burst.rows {
		if o := value(other); o == nil || !event.SameValue(*o, *v) {
			return nil
		}
	}
	return v
}

func (b *BlameTable) recorded(row *Blame) []word {
	if row.Recorded == nil {
		return []word{newWord(unknown, doubtful)}
	}
	return b.text(*row.Recorded, doubtful)
}

// text returns the words of a value: two quotes if it is empty.
func (b *BlameTable) text(v string, st style) []word {
	if strings.TrimSpace(v) == "" {
		return []word{newWord(`""`, faint)}
	}
	return b.value(v, "", st)
}

func (b *BlameTable) was(row *Blame) []word {
	old := b.shared(row, func(r *Blame) *string {
		if r.Last == nil || r.Last.Sysctl == nil {
			return nil
		}
		return r.Last.Sysctl.Old
	})
	if old == nil {
		return nil
	}
	return b.text(*old, faint)
}

func (b *BlameTable) set(row *Blame) []word {
	if row.Last == nil {
		return nil
	}
	at := lastTime(row.Last)
	switch {
	case b.fold:
		at = b.burst.last
	case b.burst != nil:
		return []word{newWord(offset(at.Sub(b.burst.first)), faint)}
	}
	at = at.In(b.opts.Location)
	clock := time.TimeOnly
	if slices.ContainsFunc(b.columns, func(c column) bool { return c.title == "SET" && c.width == len("2006-01-02 15:04") }) {
		clock = "15:04"
	}
	return []word{newWord(at.Format(time.DateOnly), normal), joinedWord(at.Format(clock), faint)}
}

func (b *BlameTable) writes(row *Blame) []word {
	n := row.Writes
	if b.fold {
		n = b.burst.writes
	}
	if n == 0 {
		return nil
	}
	return []word{newWord(number(n), normal)}
}

func (b *BlameTable) who(row *Blame) []word {
	if row.Last == nil {
		return []word{newWord("no write is recorded", faint)}
	}
	return b.Table.who(row.Last)
}

func (b *BlameTable) fitWho(t *Table, ev *event.Event, width, lines int) [][]word {
	if b.row.Last == nil {
		return wrap(b.who(b.row), width)
	}
	return t.fitWho(ev, width, lines)
}

// BlameJSON writes each parameter and its last write as a line of JSON. The member event is
// the write as the stream has it.
type BlameJSON struct {
	lines lineBuffer
	enc   event.Encoder
}

// NewBlameJSON returns a BlameJSON that writes to w.
func NewBlameJSON(w io.Writer) *BlameJSON {
	return &BlameJSON{lines: newLineBuffer(w)}
}

// A blameLine is a line of BlameJSON. Its strings are encoded already, because
// event.AppendString escapes more than encoding/json does.
type blameLine struct {
	Parameter json.RawMessage `json:"parameter"`
	Namespace json.RawMessage `json:"namespace,omitempty"`
	Value     json.RawMessage `json:"value,omitempty"`
	State     json.RawMessage `json:"state,omitempty"`
	Recorded  json.RawMessage `json:"recorded,omitempty"`
	Between   *blameBetween   `json:"between,omitempty"`
	Writes    uint64          `json:"writes"`
	ID        int64           `json:"id,omitempty"`
	Event     json.RawMessage `json:"event,omitempty"`
	// The strings above that are not UTF-8, as event.EscapeBytes writes them.
	Bytes map[string]json.RawMessage `json:"bytes,omitempty"`
}

// A blameBetween says when a value changed without a traced write.
type blameBetween struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Recording bool      `json:"recording,omitempty"`
}

// escapedText returns those of the strings that are not UTF-8, as event.EscapeBytes writes them.
func escapedText(all map[string]*string) map[string]json.RawMessage {
	escaped := map[string]json.RawMessage{}
	for name, s := range all {
		if s != nil && !utf8.ValidString(*s) {
			escaped[name] = event.AppendString(nil, event.EscapeBytes(*s))
		}
	}
	return escaped
}

// rawText returns a JSON string, or nil for nil.
func rawText(s *string) json.RawMessage {
	if s == nil {
		return nil
	}
	return event.AppendString(nil, *s)
}

// Add writes a line to the buffer.
func (b *BlameJSON) Add(row *Blame) error {
	line := blameLine{Parameter: rawText(&row.Parameter), Value: rawText(row.Value), Recorded: rawText(row.Recorded), Writes: row.Writes, ID: row.ID}
	if row.Namespace != nil {
		line.Namespace = b.enc.AppendNamespace(nil, row.Namespace)
	}
	if state := string(row.State); state != "" {
		line.State = rawText(&state)
	}
	if b := row.Between; b != nil {
		line.Between = &blameBetween{b.From, b.To, b.Recording}
	}
	line.Bytes = escapedText(map[string]*string{"parameter": &row.Parameter, "value": row.Value, "recorded": row.Recorded})
	if row.Last != nil {
		line.Event = b.enc.Append(nil, row.Last)
	}
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false)
	if err := to.Encode(line); err != nil {
		return err
	}
	return b.lines.add(text.Bytes())
}

// Flush writes the buffer to the writer.
func (b *BlameJSON) Flush() error { return b.lines.flush() }
