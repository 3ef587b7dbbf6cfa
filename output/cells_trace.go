// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

var (
	traceLoss = kind{
		name: "!! LOST", style: alarm, alarm: true,
		target: (*Table).lostCount, change: (*Table).lossReason, who: (*Table).lostRecords,
	}
	traceTamper = kind{
		name: "!! SELF", style: alarm, alarm: true,
		target: (*Table).tamperTarget, change: (*Table).tamperAction,
	}
	traceGap = kind{
		name: "gap", style: doubtful,
		target: (*Table).gapLength, who: (*Table).gapReason,
	}
)

// lostCount is how many events are missing.
func (t *Table) lostCount(ev *event.Event) []word {
	switch l := ev.Loss; {
	case l == nil:
		return nil
	case len(l.Records) == 0:
		return []word{newWord("EVENTS", alarm), joinedWord("NOT SHOWN", alarm), joinedWord("(number unknown)", alarm)}
	default:
		var n uint64
		for _, c := range l.Records {
			n += c
		}
		return []word{newWord(number(n), alarm), joinedWord(plural(n, "EVENT", "EVENTS"), alarm), joinedWord("NOT SHOWN", alarm)}
	}
}

func (t *Table) lossReason(ev *event.Event) []word {
	if ev.Loss == nil {
		return nil
	}
	return []word{newWord(escapeName(strings.ReplaceAll(ev.Loss.Reason, "_", " "), ""), alarm)}
}

// lostRecords is how many events of each type are missing, and from when to when.
func (t *Table) lostRecords(ev *event.Event) []word {
	l := ev.Loss
	if l == nil {
		return nil
	}
	types := slices.Sorted(maps.Keys(l.Records))
	var words []word
	if l.UID != nil {
		words = append(words, newWord(fmt.Sprintf("of uid %d:", *l.UID), alarm))
	}
	for i, typ := range types {
		text := number(l.Records[typ]) + " " + escapeName(string(typ), "")
		if i < len(types)-1 {
			text += ","
		}
		words = append(words, newWord(text, alarm))
	}
	clock := func(at time.Time) string { return at.In(t.opts.Location).Format("15:04:05.000") }
	if !l.From.IsZero() && !l.To.IsZero() {
		words = append(words, newWord(clock(l.From), alarm), joinedWord("to", alarm), joinedWord(clock(l.To), alarm))
	}
	return words
}

// tamperTarget is nstrace, and which of its programs or maps.
func (t *Table) tamperTarget(ev *event.Event) []word {
	words := []word{newWord("nstrace", alarm)}
	if ev.Tamper != nil && ev.Tamper.Object != "" {
		words = append(words, newWord(escapeName(ev.Tamper.Object, ""), alarm))
	}
	return words
}

// tamperAction is the signal or the command of bpf(2).
func (t *Table) tamperAction(ev *event.Event) []word {
	switch a := ev.Tamper; {
	case a == nil:
		return nil
	case a.Signal != "":
		return []word{newWord(escapeName(a.Signal, ""), alarm)}
	default:
		return []word{newWord(escapeName(a.Action, ""), alarm)}
	}
}

// gapLength is how long nothing was recorded.
func (t *Table) gapLength(ev *event.Event) []word {
	if ev.Trace == nil {
		return nil
	}
	return []word{newWord("not traced for", doubtful), newWord(duration(ev.Trace.To.Sub(ev.Trace.From)), doubtful)}
}

// gapReason is since when nothing was recorded, and why.
func (t *Table) gapReason(ev *event.Event) []word {
	tr := ev.Trace
	if tr == nil {
		return nil
	}
	words := []word{newWord("since "+tr.From.In(t.opts.Location).Format(time.DateTime), normal)}
	switch tr.Ended {
	case event.GapStopped:
		words = append(words, newWord("nstrace was stopped", normal))
	case event.GapCrashed:
		words = append(words, newWord("nstrace was killed", normal))
	}
	if tr.SameBoot != nil && !*tr.SameBoot {
		words = append(words, newWord("the host rebooted", normal))
	}
	return words
}
