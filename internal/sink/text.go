// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// A severity is one of syslog(3), which the journal also uses.
type severity int

const (
	critical severity = 2
	warning  severity = 4
	notice   severity = 5
	info     severity = 6
)

// severityOf returns the highest severity of the rules that an event met. What is missing from the stream, and what
// somebody does to nstrace itself, is at least a warning.
func severityOf(e *event.Event) severity {
	s := info
	if e.Type == event.TraceLoss || e.Type == event.TraceTamper {
		s = warning
	}
	for i := range e.Alert {
		switch e.Alert[i].Severity {
		case "critical":
			s = min(s, critical)
		case "warning":
			s = min(s, warning)
		default:
			s = min(s, notice)
		}
	}
	return s
}

// A summary makes texts for people.
type summary struct{ lines *output.Lines }

func newSummary() summary {
	return summary{output.NewLines(output.TableOptions{Location: time.UTC})}
}

// text returns a line for people: the type, and what a table has behind the time.
func (s summary) text(e *event.Event) string {
	_, rest, ok := strings.Cut(s.lines.Text(e), " ")
	if !ok {
		return string(e.Type)
	}
	return rest
}
