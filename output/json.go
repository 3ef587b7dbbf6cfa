// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/tracer"
)

// JSON writes events as JSON, one object a line, as schema/event.v1.json
// describes it.
//
// The lines are always valid UTF-8, each byte that is not being replaced by
// U+FFFD, and nothing that a terminal would act on stands in them raw: control
// and format characters are written as \u escapes, which every reader turns
// back into the character. Times are RFC 3339 with nine digits of fraction in
// UTC, so that lines sort by time as text.
type JSON struct {
	lines lineBuffer
	enc   *json.Encoder
	out   bytes.Buffer // the line being written
	safe  []byte       // the same with everything escaped, where it needed it
}

// NewJSON makes a sink that writes JSON lines to w.
func NewJSON(w io.Writer) *JSON {
	j := &JSON{lines: lineBuffer{w: w}}
	j.enc = json.NewEncoder(&j.out)
	// Arguments and values are full of <, > and &; they are not going into HTML.
	j.enc.SetEscapeHTML(false)
	return j
}

// Write takes one event.
func (j *JSON) Write(ev *tracer.Event) error {
	j.out.Reset()
	if err := j.enc.Encode(newJSONEvent(ev)); err != nil {
		return fmt.Errorf("encode event %d: %w", ev.Seq, err)
	}
	line := j.out.Bytes()
	if i := firstUnsafe(line); i >= 0 {
		j.safe = appendEscaped(j.safe[:0], line, i)
		line = j.safe
	}
	return j.lines.add(line)
}

// Flush hands everything taken so far to the operating system.
func (j *JSON) Flush() error { return j.lines.flush() }

// Close flushes. It does not close the writer.
func (j *JSON) Close() error { return j.lines.flush() }

// stamp is a time as the stream writes it. time.Time would keep the zone it
// came in and drop trailing zeros, after which ".1Z" sorts behind ".15Z".
type stamp time.Time

func (s stamp) IsZero() bool { return time.Time(s).IsZero() }

func (s stamp) MarshalJSON() ([]byte, error) {
	return time.Time(s).UTC().AppendFormat(make([]byte, 0, 34), `"2006-01-02T15:04:05.000000000Z"`), nil
}

// jsonEvent and its parts are the tracer's types with every time.Time hidden
// behind a stamp of the same name, which lies less deep and so wins. All other
// fields are those of the embedded type: a field added there appears here
// without a change. TestJSONHasEveryField fails for a new time that was forgotten.
type jsonEvent struct {
	V        int   `json:"v"`
	Time     stamp `json:"time"`
	LastTime stamp `json:"last_time,omitzero"`
	*tracer.Event
	Namespace *jsonNamespace `json:"namespace,omitempty"`
	Sysctl    *jsonSysctl    `json:"sysctl,omitempty"`
	Process   *jsonProcess   `json:"process,omitempty"`
	Loss      *jsonLoss      `json:"loss,omitempty"`
}

type jsonNamespace struct {
	*tracer.Namespace
	Created stamp `json:"created,omitzero"`
}

type jsonSysctl struct {
	*tracer.Sysctl
	Namespace *jsonNamespace `json:"namespace,omitempty"`
}

type jsonProcess struct {
	*tracer.Process
	StartTime stamp `json:"start_time,omitzero"`
}

type jsonLoss struct {
	*tracer.Loss
	From stamp `json:"from,omitzero"`
	To   stamp `json:"to,omitzero"`
}

func newJSONEvent(ev *tracer.Event) *jsonEvent {
	e := &jsonEvent{
		V:         ev.V,
		Time:      stamp(ev.Time),
		LastTime:  stamp(ev.LastTime),
		Event:     ev,
		Namespace: newJSONNamespace(ev.Namespace),
	}
	if s := ev.Sysctl; s != nil {
		e.Sysctl = &jsonSysctl{Sysctl: s, Namespace: newJSONNamespace(s.Namespace)}
	}
	if p := ev.Process; p != nil {
		e.Process = &jsonProcess{Process: p, StartTime: stamp(p.StartTime)}
	}
	if l := ev.Loss; l != nil {
		e.Loss = &jsonLoss{Loss: l, From: stamp(l.From), To: stamp(l.To)}
	}
	return e
}

func newJSONNamespace(ns *tracer.Namespace) *jsonNamespace {
	if ns == nil {
		return nil
	}
	return &jsonNamespace{Namespace: ns, Created: stamp(ns.Created)}
}

// firstUnsafe finds the first character of an encoded line that encoding/json
// leaves as it is and a terminal would not show as it is, or returns -1. The
// library escapes C0 controls and U+2028/U+2029 only, not DEL, the C1 controls
// (U+009B is as good as ESC [) or what changes the direction of text.
func firstUnsafe(line []byte) int {
	for i := 0; i < len(line); {
		c := line[i]
		if c < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		if invisible(r) {
			return i
		}
		i += size
	}
	return -1
}

// appendEscaped appends line to dst with every such character, the first at
// index i, as \u escapes. They can only stand inside of strings.
func appendEscaped(dst, line []byte, i int) []byte {
	dst = append(dst, line[:i]...)
	for i < len(line) {
		c := line[i]
		if c < 0x7f {
			dst = append(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		switch {
		case !invisible(r):
			dst = append(dst, line[i:i+size]...)
		case r > 0xffff:
			r -= 0x10000
			dst = appendHex(append(dst, `\u`...), 0xd800|r>>10, 4)
			dst = appendHex(append(dst, `\u`...), 0xdc00|r&0x3ff, 4)
		default:
			dst = appendHex(append(dst, `\u`...), r, 4)
		}
		i += size
	}
	return dst
}
