// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

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
