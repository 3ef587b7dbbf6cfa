// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
)

// An Explanation says why a parameter has its value.
type Explanation struct {
	Parameter string
	Namespace *event.Namespace // nil if it belongs to no network namespace
	Value     *DiffValue       // nil if it cannot be read
	Error     string           // why it cannot
	Gone      bool             // there is no such parameter
	Fresh     *DiffNew         // what a new network namespace has, nil if that is unknown
	Combined  *Combined        // for the IPv4 setting of a device, nil if only its own value counts
	Copied    string           // the setting for new devices, if this device's setting has the same value

	Rulings  []declared.Ruling // of each program
	Program  declared.Program  // whose rules count
	Differ   bool              // the programs would set different values
	Declared DeclaredState
	Problems []string // files that could not be read

	HasHistory bool
	Behind     bool             // the newest writes can be missing
	Unread     bool             // there was no time to read the history
	OtherBoot  string           // the boot of the writes if it is not the running one
	Since      time.Time        // of the first event since the boot, zero if there is none or it is unknown
	Writes     []ExplainedWrite // since the boot, the newest, oldest first
	More       bool             // there are older ones
	Applied    *ExplainedWrite  // the last one by a program that applies files, of the value that counts
	State      State            // "" if no write is recorded
	Appeared   *ExplainedWrite  // the event with which the parameter appeared after the boot, nil if none is recorded
	Skipped    *ExplainedWrite  // the last write by which a program applied another line of the file that counts, but not the one of this parameter

	Verdict string // one sentence
}

// An ExplainedWrite is a write, or a change without one.
type ExplainedWrite struct {
	ID    int64 // in the history
	Event *event.Event
	Cause *event.Event // the write that made the kernel change the parameter too
}

// Winner returns the declaration that counts, nil for none.
func (x *Explanation) Winner() *declared.Declaration {
	for i := range x.Rulings {
		if x.Rulings[i].Program == x.Program {
			return x.Rulings[i].Winner()
		}
	}
	return nil
}

// LastWrite returns the last write that is not known to have failed, nil for none.
func (x *Explanation) LastWrite() *ExplainedWrite {
	for i := len(x.Writes) - 1; i >= 0; i-- {
		if w := &x.Writes[i]; w.Event.Type == event.SysctlWrite && w.Event.Outcome != event.Failure {
			return w
		}
	}
	return nil
}

// DeclaredState says whether a parameter has its declared value.
type DeclaredState string

// States of a declared parameter.
const (
	AsDeclared    DeclaredState = "equal"
	OtherValue    DeclaredState = "different"
	NotComparable DeclaredState = "unclear" // cannot be read, or the kernel prints it in another form
	Missing       DeclaredState = "missing" // there is no such parameter
	Undeclared    DeclaredState = "undeclared"
)

// shortest is how many bytes of a value Short keeps.
const shortest = 64

// Short returns the beginning of a value on one line, for a sentence.
func Short(value string) string {
	value = strings.Join(strings.Fields(value), " ")
	if value == "" {
		return `""`
	}
	if len(value) > shortest {
		value = strings.ToValidUTF8(value[:shortest], "") + "..."
	}
	return value
}

// WriteText writes the explanation as text.
func (x *Explanation) WriteText(w io.Writer, location *time.Location) error {
	var b strings.Builder
	value := "unknown: " + escape(x.Error)
	switch {
	case x.Gone:
		value = "does not exist"
	case x.Value != nil:
		value = escapeValue(*x.Value.Text)
	}
	fmt.Fprintf(&b, "%s = %s\n", escapeName(x.Parameter, ""), value)
	if ns := x.Namespace; ns != nil && ns.Host {
		fmt.Fprintf(&b, "  in the host's network namespace %d\n", ns.ID)
	} else if ns != nil {
		fmt.Fprintf(&b, "  in the network namespace %d %s\n", ns.ID, escape(ns.Name))
	}
	if f := x.Fresh; f != nil {
		from := map[DiffFrom]string{
			FromCreator: ", a copy of that of its creator", FromHost: ", a copy of the host's", FromDefault: ", the kernel's default",
		}
		fmt.Fprintf(&b, "  a new network namespace has %s%s\n", escapeValue(f.Value), from[f.From])
	}
	if c := x.Combined; c != nil && c.With != "" {
		fmt.Fprintf(&b, "  in effect %s: %s\n", escape(c.Effective), escape(c.Text()))
	} else if c != nil {
		fmt.Fprintf(&b, "  for each device, %s\n", c.Text())
	}
	for i, r := range x.Rulings {
		title := string(r.Program)
		switch same := reflect.DeepEqual(x.Rulings[0].Declarations, x.Rulings[len(x.Rulings)-1].Declarations); {
		case same && i > 0:
			continue
		case same:
			title += " and of " + string(x.Rulings[len(x.Rulings)-1].Program)
		}
		fmt.Fprintf(&b, "\nDeclared, by the rules of %s:\n", title)
		if len(r.Declarations) == 0 {
			b.WriteString("  nowhere\n")
		}
		for _, d := range r.Declarations {
			mark, value := " ", "(no value)"
			if d.Wins {
				mark = "*"
			}
			if d.Value != nil {
				value = escapeValue(*d.Value)
			}
			fmt.Fprintf(&b, "%s %s  %s", mark, value, escape(d.Where()))
			if d.Glob {
				fmt.Fprintf(&b, "  %s", escape(d.Key))
			}
			if d.Reason != "" {
				fmt.Fprintf(&b, "  (%s)", escape(d.Reason))
			}
			b.WriteByte('\n')
		}
	}
	for _, p := range x.Problems {
		fmt.Fprintf(&b, "? not read: %s\n", escape(p))
	}
	x.writeHistory(&b, location)
	fmt.Fprintf(&b, "\nVerdict: %s\n", escape(x.Verdict))
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *Explanation) writeHistory(b *strings.Builder, location *time.Location) {
	if x.OtherBoot != "" {
		fmt.Fprintf(b, "\nSet in boot %s:\n", escape(x.OtherBoot))
	} else {
		b.WriteString("\nSet since the boot:\n")
	}
	switch {
	case !x.HasHistory:
		b.WriteString("  unknown: there is no history\n")
	case x.Unread:
		b.WriteString("  unknown: the history could not be read in time\n")
	case len(x.Writes) == 0:
		b.WriteString("  no write is recorded\n")
		if !x.Since.IsZero() {
			fmt.Fprintf(b, "  unknown before %s, when the history of this boot begins: for example, what the initrd wrote\n", x.Since.In(location).Format(time.DateTime))
		}
	case x.More:
		b.WriteString("  ... (nstrace history --sysctl shows the older ones)\n")
	}
	for _, w := range x.Writes {
		indent := "  "
		if c := w.Cause; c != nil && c.Sysctl != nil {
			fmt.Fprintf(b, "  %s  %s %s  %s\n", c.Time.In(location).Format(time.DateTime), escapeName(c.Sysctl.Name, ""), change(c.Sysctl), writerOf(c))
			indent = "    along with it: "
		}
		fmt.Fprintf(b, "%s%s  %s  %s", indent, w.Event.Time.In(location).Format(time.DateTime), change(w.Event.Sysctl), writerOf(w.Event))
		if w.Event.Outcome == event.Failure {
			fmt.Fprintf(b, "  FAILED %s", escape(w.Event.Error))
		}
		b.WriteByte('\n')
	}
}

// change is the value before and after a write.
func change(s *event.Sysctl) string {
	text := func(v *string) string {
		if v == nil {
			return unknown
		}
		return escapeValue(*v)
	}
	to := s.After
	if to == nil {
		to = s.New
	}
	return text(s.Old) + " → " + text(to)
}

// writerOf is the process of a write.
func writerOf(e *event.Event) string {
	switch {
	case e.Type == event.SysctlDrift:
		return "by an unknown process (drift)"
	case e.Process == nil:
		return "by an unknown process"
	}
	return fmt.Sprintf("%s[%d]", escapeComm(e.Process.Comm), e.Process.PID)
}

// An explainedLine is the JSON of an Explanation.
type explainedLine struct {
	Parameter      json.RawMessage   `json:"parameter"`
	Namespace      json.RawMessage   `json:"namespace,omitempty"`
	Value          json.RawMessage   `json:"value,omitempty"`
	ValueTruncated bool              `json:"value_truncated,omitempty"`
	Error          string            `json:"error,omitempty"`
	Fresh          *freshLine        `json:"fresh,omitempty"`
	Combined       *Combined         `json:"combined,omitempty"`
	Copied         string            `json:"copied_from,omitempty"`
	Program        declared.Program  `json:"program"`
	Rulings        []declared.Ruling `json:"rulings"`
	ProgramsDiffer bool              `json:"programs_differ"`
	State          DeclaredState     `json:"state"`
	NotRead        []string          `json:"not_read,omitempty"`
	History        bool              `json:"history"`
	HistoryBehind  bool              `json:"history_behind,omitempty"`
	HistoryUnread  bool              `json:"history_unread,omitempty"`
	HistorySince   time.Time         `json:"history_since,omitzero"`
	Boot           string            `json:"boot_id,omitempty"`
	Writes         []writeLine       `json:"writes,omitempty"`
	MoreWrites     bool              `json:"more_writes,omitempty"`
	Applied        json.RawMessage   `json:"applied,omitempty"`
	Skipped        json.RawMessage   `json:"skipped,omitempty"`
	Appeared       json.RawMessage   `json:"appeared,omitempty"`
	Verdict        json.RawMessage   `json:"verdict"`
}

type freshLine struct {
	Value json.RawMessage `json:"value"`
	From  DiffFrom        `json:"from,omitempty"`
}

type writeLine struct {
	ID    int64           `json:"id"`
	Event json.RawMessage `json:"event"`
	Cause json.RawMessage `json:"cause,omitempty"`
}

// WriteJSON writes the explanation as a line of JSON.
func (x *Explanation) WriteJSON(w io.Writer) error {
	var enc event.Encoder
	line := explainedLine{
		Parameter: rawText(&x.Parameter), Error: x.Error, Program: x.Program, Rulings: x.Rulings, ProgramsDiffer: x.Differ, State: x.Declared,
		NotRead: x.Problems, History: x.HasHistory, HistoryUnread: x.Unread, HistorySince: x.Since, Boot: x.OtherBoot, HistoryBehind: x.Behind, MoreWrites: x.More, Verdict: rawText(&x.Verdict),
		Combined: x.Combined, Copied: x.Copied,
	}
	if x.Namespace != nil {
		line.Namespace = enc.AppendNamespace(nil, x.Namespace)
	}
	if x.Value != nil {
		line.Value, line.ValueTruncated = rawText(x.Value.Text), x.Value.Truncated
	}
	if x.Fresh != nil {
		line.Fresh = &freshLine{rawText(&x.Fresh.Value), x.Fresh.From}
	}
	for _, e := range x.Writes {
		l := writeLine{ID: e.ID, Event: enc.Append(nil, e.Event)}
		if e.Cause != nil {
			l.Cause = enc.Append(nil, e.Cause)
		}
		line.Writes = append(line.Writes, l)
	}
	if x.Applied != nil {
		line.Applied = enc.Append(nil, x.Applied.Event)
	}
	if x.Skipped != nil {
		line.Skipped = enc.Append(nil, x.Skipped.Event)
	}
	if x.Appeared != nil {
		line.Appeared = enc.Append(nil, x.Appeared.Event)
	}
	return writeLineOfJSON(w, line)
}

func writeLineOfJSON(w io.Writer, line any) error {
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false)
	if err := to.Encode(line); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}
