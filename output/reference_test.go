// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// checkReference says that the JSON sink writes events the way encoding/json
// would, byte for byte.
func checkReference(t *testing.T, events ...*event.Event) {
	t.Helper()
	lines := func(s string) []string {
		// A byte that is not UTF-8 is an escape to one version of encoding/json
		// and a character to the next; TestJSONStrings says what it is here.
		return strings.SplitAfter(strings.ReplaceAll(s, `\ufffd`, "\ufffd"), "\n")
	}
	got, want := lines(write(t, jsonSink, events...)), lines(reference(t, events...))
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got)-1, len(want)-1)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("line %d: got\n%swant\n%s", i+1, got[i], want[i])
		}
	}
}

// reference writes events with encoding/json: far slower, but a field that the
// tracer's types gain is there without a change.
func reference(t *testing.T, events ...*event.Event) string {
	t.Helper()
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	// Arguments and values are full of <, > and &; they are not going into HTML.
	enc.SetEscapeHTML(false)
	for _, ev := range events {
		if err := enc.Encode(newReferenceEvent(ev)); err != nil {
			t.Fatal(err)
		}
	}
	// What is left of what a terminal would not show as it is: encoding/json
	// escapes C0 controls and U+2028/U+2029 only.
	var b strings.Builder
	for _, r := range lines.String() {
		if r < 0x7f || !output.Invisible(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// stamp is a time as the stream writes it.
type stamp time.Time

func (s stamp) IsZero() bool { return time.Time(s).IsZero() }

func (s stamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(s).UTC().Format(`"2006-01-02T15:04:05.000000000Z"`)), nil
}

// referenceEvent and its parts are the tracer's types with every time.Time
// hidden behind a stamp of the same name, which lies less deep and so wins. All
// other fields are those of the embedded type.
type referenceEvent struct {
	V        int   `json:"v"`
	Time     stamp `json:"time"`
	LastTime stamp `json:"last_time,omitzero"`
	*event.Event
	Trace     *referenceTrace     `json:"trace,omitempty"`
	Namespace *referenceNamespace `json:"namespace,omitempty"`
	Sysctl    *referenceSysctl    `json:"sysctl,omitempty"`
	Netdev    *referenceNetdev    `json:"netdev,omitempty"`
	Process   *referenceProcess   `json:"process,omitempty"`
	// Who acted stands together.
	Container *event.Container `json:"container,omitempty"`
	Pod       *event.Pod       `json:"pod,omitempty"`
	Unit      string           `json:"unit,omitempty"`

	Loss    *referenceLoss    `json:"loss,omitempty"`
	Tamper  *event.Tamper     `json:"tamper,omitempty"`
	Between *referenceBetween `json:"between,omitempty"`
}

type referenceNamespace struct {
	*event.Namespace
	Created stamp `json:"created,omitzero"`
}

type referenceSysctl struct {
	*event.Sysctl
	Namespace *referenceNamespace `json:"namespace,omitempty"`
}

type referenceNetdev struct {
	*event.Netdev
	From *referenceNamespace `json:"from,omitempty"`
	To   *referenceNamespace `json:"to,omitempty"`
}

type referenceProcess struct {
	*event.Process
	StartTime stamp `json:"start_time,omitzero"`
}

type referenceLoss struct {
	*event.Loss
	From stamp `json:"from,omitzero"`
	To   stamp `json:"to,omitzero"`
}

type referenceBetween struct {
	*event.Between
	From stamp `json:"from"`
	To   stamp `json:"to"`
}

type referenceTrace struct {
	*event.Trace
	From stamp `json:"from,omitzero"`
	To   stamp `json:"to,omitzero"`
}

func newReferenceEvent(ev *event.Event) *referenceEvent {
	e := &referenceEvent{
		V:         ev.V,
		Time:      stamp(ev.Time),
		LastTime:  stamp(ev.LastTime),
		Event:     ev,
		Namespace: newReferenceNamespace(ev.Namespace),
		Container: ev.Container,
		Pod:       ev.Pod,
		Unit:      ev.Unit,
		Tamper:    ev.Tamper,
	}
	if s := ev.Sysctl; s != nil {
		e.Sysctl = &referenceSysctl{Sysctl: s, Namespace: newReferenceNamespace(s.Namespace)}
	}
	if d := ev.Netdev; d != nil {
		e.Netdev = &referenceNetdev{Netdev: d, From: newReferenceNamespace(d.From), To: newReferenceNamespace(d.To)}
	}
	if p := ev.Process; p != nil {
		e.Process = &referenceProcess{Process: p, StartTime: stamp(p.StartTime)}
	}
	if l := ev.Loss; l != nil {
		e.Loss = &referenceLoss{Loss: l, From: stamp(l.From), To: stamp(l.To)}
	}
	if b := ev.Between; b != nil {
		e.Between = &referenceBetween{Between: b, From: stamp(b.From), To: stamp(b.To)}
	}
	if tr := ev.Trace; tr != nil {
		e.Trace = &referenceTrace{Trace: tr, From: stamp(tr.From), To: stamp(tr.To)}
	}
	return e
}

func newReferenceNamespace(ns *event.Namespace) *referenceNamespace {
	if ns == nil {
		return nil
	}
	return &referenceNamespace{Namespace: ns, Created: stamp(ns.Created)}
}
