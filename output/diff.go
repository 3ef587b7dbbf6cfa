// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// Diff is a parameter that differs between two namespaces, or a device that only one of them has.
type Diff struct {
	Type event.NSType // of the namespaces
	// Namespaces are the two. nil stands for a fresh one.
	Namespaces [2]*event.Namespace

	Parameter string // "" for a device
	Device    string // "" for a parameter
	State     DiffState
	In        int // for OnlyIn: the index of the namespace that has it

	// Values are those of a parameter. Both fields of one are zero where there is no such parameter.
	Values [2]DiffValue
	// Parameters is the number of parameters that a device has.
	Parameters int

	// New says what a new namespace gets, nil if that is unknown.
	New *DiffNew
}

// DiffState says how the two namespaces differ.
type DiffState string

// States of a Diff.
const (
	Different DiffState = "different"  // both have it, with different values
	OnlyIn    DiffState = "only"       // one does not have it
	NotRead   DiffState = "unreadable" // the value of at least one cannot be read
	Changing  DiffState = "changing"   // the value changed while it was read
)

// DiffValue is the value of a parameter in one of the namespaces.
type DiffValue struct {
	Text      *string
	Truncated bool   // Text is only the beginning
	Error     string // why the value cannot be read
}

// DiffNew is how a new namespace gets a parameter.
type DiffNew struct {
	Value string   // that a new namespace has
	From  DiffFrom // "" if that is unknown
	// Switch is the parameter that governs where the value comes from, "" for none, and
	// SwitchValue its value.
	Switch, SwitchValue string
}

// DiffFrom says where a new namespace has a value from.
type DiffFrom string

// Where a new namespace can have a value from.
const (
	FromCreator DiffFrom = "creator" // copied from the namespace of the process that makes it
	FromHost    DiffFrom = "host"    // copied from the host's first namespace
	FromDefault DiffFrom = "default" // the kernel's default
)

// DiffTable writes what differs as rows of a table, grouped by namespace type.
type DiffTable struct {
	*Table
	row     *Diff
	heading bool // the row is the heading of a group
	group   event.NSType
	fresh   bool // one of the namespaces is a fresh one, whose value has its own column

	// held are rows that may share one: parameters of one folder that only one namespace has.
	held []*Diff
}

// NewDiffTable returns a table that writes to w. names are how the user named the two namespaces.
func NewDiffTable(w io.Writer, names [2]string, opts TableOptions) *DiffTable {
	d := &DiffTable{}
	words := func(f func(*Diff) []word) func(*Table, *event.Event) []word {
		return func(*Table, *event.Event) []word { return f(d.row) }
	}
	value := func(i int) func(*Diff) []word { return func(row *Diff) []word { return d.value(row, i) } }
	columns := func(width int) []column {
		if width < stackedBelow {
			side := max(width/4, 10)
			return []column{
				{title: "PARAMETER", width: width - 2*side - 2*len(gap), words: words(d.parameter)},
				{title: shorten(escapeName(names[0], ""), side), width: side, words: words(value(0))},
				{title: shorten(escapeName(names[1], ""), side), width: side, words: words(value(1))},
				{title: "A NEW NAMESPACE GETS", below: true, label: "a new namespace gets", words: words(d.gets)},
			}
		}
		parameter, side := 36, 17
		if width < DefaultWidth {
			parameter -= (DefaultWidth - width) / 2
			side -= (DefaultWidth - width) / 5
		} else if extra := width - DefaultWidth - 10; extra > 0 {
			parameter += min(extra/3, 20)
			side += min(extra/4, 16)
		}
		rest := min(width-parameter-2*side-3*len(gap), 46)
		return []column{
			{title: "PARAMETER", width: parameter, words: words(d.parameter)},
			{title: shorten(escapeName(names[0], ""), side), width: side, words: words(value(0))},
			{title: shorten(escapeName(names[1], ""), side), width: side, words: words(value(1))},
			{title: "A NEW NAMESPACE GETS", width: rest, words: words(d.gets)},
		}
	}
	opts.Wide = false
	d.Table = newTable(w, opts, columns, nil)
	return d
}

// Add writes a row to the buffer.
func (d *DiffTable) Add(row *Diff) error {
	if len(d.held) > 0 && !foldable(d.held[0], row) {
		if err := d.release(); err != nil {
			return err
		}
	}
	if row.State == OnlyIn && row.Device == "" {
		d.held = append(d.held, row)
		return nil
	}
	return d.write(row)
}

// Flush writes the buffer to the writer.
func (d *DiffTable) Flush() error {
	if err := d.release(); err != nil {
		return err
	}
	return d.Table.Flush()
}

// folder is the name of a parameter without its last part.
func folder(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return ""
}

// foldable reports whether two rows may share one.
func foldable(a, b *Diff) bool {
	return b.State == OnlyIn && b.Device == "" && a.Type == b.Type && a.In == b.In && folder(a.Parameter) == folder(b.Parameter)
}

// minFold is how many rows share one.
const minFold = 3

// release writes the held rows.
func (d *DiffTable) release() error {
	held := d.held
	d.held = nil
	if len(held) >= minFold {
		row := *held[0]
		row.Parameter, row.Parameters = folder(row.Parameter)+".*", len(held)
		held = []*Diff{&row}
	}
	for _, row := range held {
		if err := d.write(row); err != nil {
			return err
		}
	}
	return nil
}

func (d *DiffTable) write(row *Diff) error {
	d.row = row
	d.fresh = row.Namespaces[0] == nil || row.Namespaces[1] == nil
	d.out.Reset()
	if d.group != row.Type {
		d.group, d.heading = row.Type, true
		err := d.table.Append(d.cells(&event.Event{}))
		d.heading = false
		if err != nil {
			return err
		}
	}
	if err := d.table.Append(d.cells(&event.Event{})); err != nil {
		return err
	}
	d.writeStacked(&event.Event{})
	return d.lines.add(d.out.Bytes())
}

func (d *DiffTable) parameter(row *Diff) []word {
	switch {
	case d.heading:
		return []word{newWord(string(row.Type)+" namespaces", faint)}
	case row.Device != "":
		return []word{newWord("device", normal), joinedWord(escapeName(row.Device, `" `), strong)}
	}
	return []word{newWord(escapeName(row.Parameter, ""), strong)}
}

func (d *DiffTable) value(row *Diff, i int) []word {
	if d.heading {
		ns := row.Namespaces[i]
		if ns == nil {
			return []word{newWord("(fresh)", faint)}
		}
		words := []word{newWord(number(ns.ID), faint)}
		if d.isHost(ns) {
			words = append(words, joinedWord("(host)", faint))
		}
		return words
	}
	v := row.Values[i]
	var words []word
	switch {
	case row.State == OnlyIn && row.In != i:
		return []word{newWord("absent", faint)}
	case row.State == OnlyIn && row.Parameters > 0:
		return []word{newWord("only here", normal), joinedWord("("+number(uint64(row.Parameters))+")", faint)}
	case v.Error != "":
		return []word{newWord("unreadable:", doubtful), newWord(escape(v.Error), normal)}
	case v.Text == nil:
		return []word{newWord("absent", faint)}
	case strings.TrimSpace(*v.Text) == "":
		words = []word{newWord(`""`, faint)}
	default:
		words = d.Table.value(*v.Text, "", normal)
	}
	if v.Truncated {
		words = append(words, newWord("(truncated)", doubtful))
	}
	if row.State == Changing {
		words = append(words, newWord("(changing)", doubtful))
	}
	return words
}

// gets is what a new namespace gets, and where from.
func (d *DiffTable) gets(row *Diff) []word {
	n := row.New
	if n == nil || d.heading {
		return nil
	}
	var words []word
	if !d.fresh {
		if strings.TrimSpace(n.Value) == "" {
			words = []word{newWord(`""`, faint)}
		} else {
			words = d.Table.value(n.Value, "", normal)
		}
	}
	switch n.From {
	case FromCreator:
		words = append(words, newWord("copied from its creator", normal))
	case FromHost:
		words = append(words, newWord("copied from the host", normal))
	case FromDefault:
		words = append(words, newWord("kernel default", normal))
	}
	if n.Switch != "" {
		words = append(words, newWord("governed by", faint), newWord(escape(n.Switch)+"="+escape(n.SwitchValue), normal))
	}
	return words
}

// DiffJSON writes each parameter or device that differs as a line of JSON.
type DiffJSON struct {
	lines lineBuffer
	enc   event.Encoder
}

// NewDiffJSON returns a DiffJSON that writes to w.
func NewDiffJSON(w io.Writer) *DiffJSON { return &DiffJSON{lines: newLineBuffer(w)} }

// The lines of DiffJSON. Their strings are encoded already, because event.AppendString escapes more
// than encoding/json does.
type (
	diffLine struct {
		Type       json.RawMessage `json:"type"`
		Parameter  json.RawMessage `json:"parameter,omitempty"`
		Device     json.RawMessage `json:"device,omitempty"`
		Parameters int             `json:"parameters,omitempty"`
		State      json.RawMessage `json:"state"`
		A          diffSide        `json:"a"`
		B          diffSide        `json:"b"`
		New        *diffNew        `json:"new,omitempty"`
	}
	diffSide struct {
		Namespace json.RawMessage `json:"namespace,omitempty"`
		Fresh     bool            `json:"fresh,omitempty"`
		Value     json.RawMessage `json:"value,omitempty"`
		Truncated bool            `json:"value_truncated,omitempty"`
		Absent    bool            `json:"absent,omitempty"`
		Error     json.RawMessage `json:"error,omitempty"`
	}
	diffNew struct {
		Value      json.RawMessage `json:"value"`
		From       json.RawMessage `json:"from,omitempty"`
		GovernedBy json.RawMessage `json:"governed_by,omitempty"`
		Setting    json.RawMessage `json:"setting,omitempty"`
	}
)

// notEmpty returns a JSON string, or nil for an empty one.
func notEmpty[T ~string](s T) json.RawMessage {
	if s == "" {
		return nil
	}
	return event.AppendString(nil, string(s))
}

// Add writes a line to the buffer.
func (d *DiffJSON) Add(row *Diff) error {
	line, err := diffObject(&d.enc, row)
	if err != nil {
		return err
	}
	return d.lines.add(line)
}

// diffObject returns a row as an object of JSON and a newline.
func diffObject(enc *event.Encoder, row *Diff) ([]byte, error) {
	line := diffLine{
		Type: notEmpty(row.Type), Parameter: notEmpty(row.Parameter), Device: notEmpty(row.Device), Parameters: row.Parameters, State: notEmpty(row.State),
	}
	for i, side := range []*diffSide{&line.A, &line.B} {
		if ns := row.Namespaces[i]; ns != nil {
			side.Namespace = enc.AppendNamespace(nil, ns)
		} else {
			side.Fresh = true
		}
		v := row.Values[i]
		side.Value, side.Truncated, side.Error = rawText(v.Text), v.Truncated, notEmpty(v.Error)
		side.Absent = row.State == OnlyIn && row.In != i
	}
	if n := row.New; n != nil {
		line.New = &diffNew{Value: rawText(&n.Value), From: notEmpty(n.From), GovernedBy: notEmpty(n.Switch), Setting: notEmpty(n.SwitchValue)}
	}
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false)
	if err := to.Encode(line); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// Flush writes the buffer to the writer.
func (d *DiffJSON) Flush() error { return d.lines.flush() }
