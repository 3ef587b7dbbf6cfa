// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/blame"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/output"
)

// A History has the recorded events: a history.DB.
type History interface {
	blame.History
	Patterns(ctx context.Context, match func(pattern string) bool) ([]string, error)
}

// appearTime is how long appeared may read: users make devices, and so events, in namespaces of theirs.
const appearTime = time.Second

// appeared finds the event with which the parameter appeared last, unless it vanished later. ours reports whether an
// event is about the namespace. The name in such an event is a pattern, and the event lists the names.
func (o *Options) appeared(ctx context.Context, x *output.Explanation, ours func(*event.Event) bool) error {
	ctx, cancel := context.WithTimeout(ctx, appearTime)
	defer cancel()
	patterns, err := o.DB.Patterns(ctx, func(pattern string) bool { return matches(pattern, o.Parameter) })
	if err != nil {
		return err
	}
	q := history.Query{
		Parameters: append(patterns, o.Parameter), Types: map[event.Type]bool{event.SysctlAppear: true, event.SysctlVanish: true}, Reverse: true, Limit: 1,
		Match: func(e *event.Event) bool { return ours(e) && e.Outcome != event.Failure && lists(e, o.Parameter) },
	}
	for s, err := range o.DB.Events(ctx, q) {
		if err != nil {
			return err
		}
		x.Appeared = &output.ExplainedWrite{ID: s.ID, Event: s.Event}
	}
	if x.Appeared != nil && x.Appeared.Event.Type == event.SysctlVanish {
		x.Appeared = nil
	}
	return nil
}

// maxAlternatives is how many patterns matches makes of one.
const maxAlternatives = 100

// matches reports whether a name can be one that a pattern stands for: net.{netfilter.*,nf_conntrack_max}.
func matches(pattern, name string) bool {
	all := []string{pattern}
	for i := 0; i < len(all) && len(all) <= maxAlternatives; i++ {
		before, rest, opens := strings.Cut(all[i], "{")
		inner, after, closes := strings.Cut(rest, "}")
		if !opens || !closes {
			if event.MatchSysctl(all[i], name) {
				return true
			}
			continue
		}
		for alternative := range strings.SplitSeq(inner, ",") {
			all = append(all, before+alternative+after)
		}
	}
	return false
}

// lists reports whether an event lists a parameter.
func lists(e *event.Event, name string) bool {
	found := false
	if e.Sysctl != nil {
		e.Sysctl.Parameters.Each(func(listed string) bool {
			found = listed == name
			return !found
		})
	}
	return found
}
