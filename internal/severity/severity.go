// SPDX-License-Identifier: Apache-2.0

// Package severity says how severe an event is.
package severity

import "github.com/nstrace/nstrace/event"

// A Level is a severity of syslog(3), which the journal also uses. A smaller level is more severe.
type Level int

// The levels that events have.
const (
	Critical Level = 2
	Warning  Level = 4
	Notice   Level = 5
	Info     Level = 6
)

// Of returns the highest severity of the rules that an event met. What is missing from the stream, and what somebody
// does to nstrace itself, is at least a warning.
func Of(e *event.Event) Level {
	l := Info
	if e.Type == event.TraceLoss || e.Type == event.TraceTamper {
		l = Warning
	}
	for i := range e.Alert {
		switch e.Alert[i].Severity {
		case "critical":
			l = min(l, Critical)
		case "warning":
			l = min(l, Warning)
		default:
			l = min(l, Notice)
		}
	}
	return l
}
