// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/nstrace/nstrace/event"
)

// checkReference checks that an Encoder writes events as encoding/json would, byte for
// byte.
func checkReference(t *testing.T, events ...*event.Event) {
	t.Helper()
	lines := func(s string) []string {
		// For a byte that is not UTF-8, one version of encoding/json writes an escape and
		// the next a character. TestEncoderStrings checks what Encoder writes.
		return strings.SplitAfter(strings.ReplaceAll(s, `\ufffd`, "\ufffd"), "\n")
	}
	got, want := lines(encode(events...)), lines(reference(t, events...))
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got)-1, len(want)-1)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("line %d: got\n%swant\n%s", i+1, got[i], want[i])
		}
	}
}

// reference writes events with encoding/json. That is far slower, but needs no change for
// a new field.
func reference(t *testing.T, events ...*event.Event) string {
	t.Helper()
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	// Arguments and values have many <, > and &.
	enc.SetEscapeHTML(false)
	for _, ev := range events {
		if err := enc.Encode(newReferenceEvent(ev)); err != nil {
			t.Fatal(err)
		}
	}
	// encoding/json escapes only C0 controls, U+2028 and U+2029.
	var b strings.Builder
	for _, r := range lines.String() {
		if r < 0x7f || !event.Invisible(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// A stamp is a time that is written with nine digits of fraction, in UTC.
type stamp time.Time

func (s stamp) IsZero() bool { return time.Time(s).IsZero() }

func (s stamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(s).UTC().Format(`"2006-01-02T15:04:05.000000000Z"`)), nil
}

// referenceEvent and its parts are event's types with a stamp in place of each time.Time:
// the outer field of a name hides the embedded one. All other fields are those of the
// embedded type.
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
	// The encoder writes these after the process.
	Container *event.Container `json:"container,omitempty"`
	Pod       *event.Pod       `json:"pod,omitempty"`
	Unit      string           `json:"unit,omitempty"`

	Loss    *referenceLoss     `json:"loss,omitempty"`
	Tamper  *event.Tamper      `json:"tamper,omitempty"`
	Between *referenceBetween  `json:"between,omitempty"`
	Refusal []referenceRefusal `json:"refusal,omitempty"`
	Request *event.Request     `json:"request,omitempty"`
	Bytes   map[string]string  `json:"bytes,omitempty"`
}

type referenceRefusal struct {
	event.Refusal
	SetBy *referenceWriter `json:"set_by,omitempty"`
}

type referenceWriter struct {
	*event.Writer
	Time stamp `json:"time"`
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
		Request:   ev.Request,
		Bytes:     ev.Bytes,
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
	for _, r := range ev.Refusal {
		ref := referenceRefusal{Refusal: r}
		if w := r.SetBy; w != nil {
			ref.SetBy = &referenceWriter{Writer: w, Time: stamp(w.Time)}
		}
		e.Refusal = append(e.Refusal, ref)
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
