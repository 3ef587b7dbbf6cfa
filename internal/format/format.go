// SPDX-License-Identifier: Apache-2.0

// Package format encodes events as others expect them: in the Elastic Common Schema (ECS) and in the Open
// Cybersecurity Schema Framework (OCSF). docs/formats.md has the mappings.
//
// Each format has a place for what it has no field for: "nstrace" in ECS, "unmapped" in OCSF. There the rest of the
// event is, with the names of nstrace's own JSON. So no format loses anything.
package format

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/output"
)

// A Func returns an event as one line of text, without a newline. It is safe for concurrent use. It changes nothing of
// the event, and keeps nothing of it except its process, which never changes.
type Func func(*event.Event) ([]byte, error)

// formats are all formats besides nstrace's own.
var formats = []struct {
	name   string
	encode Func
}{
	{"ecs", pooled((*encoder).ecs)},
	{"ocsf", pooled((*encoder).ocsf)},
	{"otel", otel},
}

// otel returns the log record of OpenTelemetry in its JSON encoding, as the lines of an OTLP file have it.
func otel(e *event.Event) ([]byte, error) {
	var enc event.Encoder
	b, err := new(otelmap.Mapper).AppendJSON(nil, otelmap.Item{Event: e, Line: enc.Append(nil, e)})
	return bytes.TrimSuffix(b, []byte("\n")), err
}

// Names returns the names of all formats.
func Names() []string {
	var names []string
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

// ByName returns the format of this name, nil if there is none.
func ByName(name string) Func {
	for _, f := range formats {
		if f.name == name {
			return f.encode
		}
	}
	return nil
}

// An encoder has what the formats share. It is not safe for concurrent use.
type encoder struct {
	writer
	own   event.Encoder
	lines *output.Lines
}

// pooled returns a Func that gives each call an encoder of its own.
func pooled(encode func(*encoder, *event.Event)) Func {
	pool := sync.Pool{New: func() any {
		return &encoder{lines: output.NewLines(output.TableOptions{Location: time.UTC})}
	}}
	return func(ev *event.Event) ([]byte, error) {
		e := pool.Get().(*encoder)
		defer pool.Put(e)
		e.b = append(e.b[:0], '{')
		encode(e, ev)
		return append(slices.Clip(slices.Clone(e.b)), '}'), nil
	}
}

// message returns a line for people: what a table has behind the time.
func (e *encoder) message(ev *event.Event) string {
	_, text, _ := strings.Cut(e.lines.Text(ev), " ")
	if text == "" {
		return string(ev.Type)
	}
	return text
}

// rest writes a copy of the event from which clear removed what has another place.
func (e *encoder) rest(key string, ev *event.Event, clear func(*event.Event, *event.Process)) {
	rest := *ev
	p := new(event.Process)
	if ev.Process != nil {
		*p = *ev.Process
		rest.Process = p
	}
	clear(&rest, p)
	e.key(key)
	e.b = e.own.Append(e.b, &rest)
}

// highest returns the index of the first alert with the highest severity, -1 if there is none.
func highest(alerts []event.Alert) int {
	best := -1
	for i := range alerts {
		if best < 0 || rank(alerts[i].Severity) > rank(alerts[best].Severity) {
			best = i
		}
	}
	return best
}

// rank orders the severities of alerts.
func rank(severity string) int {
	return slices.Index([]string{"info", "warning", "critical"}, severity)
}

// period returns the times between which it happened, if the event has them.
func period(ev *event.Event) (from, to time.Time) {
	switch {
	case ev.Between != nil:
		return ev.Between.From, ev.Between.To
	case ev.Loss != nil:
		return ev.Loss.From, ev.Loss.To
	case ev.Trace != nil:
		return ev.Trace.From, ev.Trace.To
	case !ev.LastTime.IsZero():
		return ev.Time, ev.LastTime
	}
	return from, to
}

// eventID identifies an event everywhere.
func eventID(ev *event.Event) string {
	if ev.RunID == "" {
		return ""
	}
	return ev.RunID + "-" + number(ev.Seq)
}
