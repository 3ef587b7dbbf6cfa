// SPDX-License-Identifier: Apache-2.0

package output

import "github.com/nstrace/nstrace/event"

// A kind says how the table shows the events of one type.
type kind struct {
	// name is the EVENT cell, in at most seven columns.
	name  string
	style style

	// target and change return the words of these cells. CHANGE also has what all types
	// have in common: the failure before these words, the count after them.
	target, change func(*Table, *event.Event) []word
	// who returns the words of the WHO cell. If there are none, the cell has the process.
	who func(*Table, *event.Event) []word

	// happened is what the line of a burst says of one and of several such events.
	happened [2]string
	// topic returns what the line of a burst lists, such as the names of parameters. If it
	// is nil, the line has numbers only.
	topic func(*event.Event) string

	wantsOutcome bool // an unknown outcome is shown as such
	hidden       bool // such an event has no row
	alarm        bool // the whole row is painted
}

// kinds has one entry for each event type. The cells of an entry are in the file of the
// type's family: cells_namespace.go, cells_sysctl.go, cells_netdev.go and cells_trace.go.
var kinds = map[event.Type]*kind{
	event.NamespaceCreate:   &namespaceCreate,
	event.NamespaceEnter:    &namespaceEnter,
	event.NamespaceDestroy:  &namespaceDestroy,
	event.NamespacePin:      &namespacePin,
	event.NamespaceUnpin:    &namespaceUnpin,
	event.NamespaceAppeared: &namespaceAppeared,
	event.NamespaceGone:     &namespaceGone,
	event.SysctlWrite:       &sysctlWrite,
	event.SysctlDrift:       &sysctlDrift,
	event.SysctlAppear:      &sysctlAppear,
	event.SysctlVanish:      &sysctlVanish,
	event.NetdevMove:        &netdevMove,
	event.TraceStart:        {hidden: true},
	event.TraceAlive:        {hidden: true},
	event.TraceAttach:       {hidden: true},
	event.TraceStop:         {hidden: true},
	event.TraceLoss:         &traceLoss,
	event.TraceTamper:       &traceTamper,
	event.TraceGap:          &traceGap,
}

// unknownKind shows an event of a type that this version does not know: its family, and what
// it is about.
var unknownKind = kind{target: (*Table).unknownTarget}

func (t *Table) unknownTarget(ev *event.Event) []word {
	switch {
	case ev.Sysctl != nil:
		return t.parameter(ev)
	case ev.Netdev != nil:
		return t.device(ev)
	case ev.Namespace != nil:
		return t.namespaceTarget(ev)
	}
	return nil
}

func kindOf(ev *event.Event) *kind {
	if k := kinds[ev.Type]; k != nil {
		return k
	}
	return &unknownKind
}

// isBurst reports whether the row stands for the events of a burst.
func (t *Table) isBurst() bool { return t.burst != nil && !t.member }

// event returns the words of the EVENT cell.
func (t *Table) event(ev *event.Event) []word {
	if t.isBurst() && len(t.burst.parts) > 1 {
		return []word{newWord("burst", strong)}
	}
	k := kindOf(ev)
	if k == &unknownKind {
		return []word{newWord(escapeName(ev.Type.Family(), ""), normal)}
	}
	return []word{newWord(k.name, k.style)}
}

// target returns the words of the TARGET cell: the namespace, parameter or device.
func (t *Table) target(ev *event.Event) []word {
	if t.isBurst() {
		return t.burst.target(t)
	}
	if k := kindOf(ev); k.target != nil {
		return k.target(t, ev)
	}
	return nil
}

// change returns the words of the CHANGE cell: what changed, and whether that failed.
func (t *Table) change(ev *event.Event) []word {
	if t.isBurst() {
		return t.burst.change()
	}
	var words []word
	if ev.Outcome == event.Failure {
		words = append(words, newWord("FAILED", failed))
		if ev.Error != "" {
			words = append(words, joinedWord(escapeName(ev.Error, ""), failed))
		}
	}
	k := kindOf(ev)
	if k.change != nil {
		words = concat(words, k.change(t, ev))
	}
	if ev.Cascaded > 0 {
		if n := len(words); n > 0 {
			words[n-1].text += ","
		}
		words = append(words, newWord("and "+number(ev.Cascaded)+" more", strong))
	}
	if k.wantsOutcome && ev.Outcome == "" {
		words = append(words, newWord(unknown, doubtful))
	}
	if ev.Count > 1 {
		words = append(words, newWord("×"+number(ev.Count), strong))
		if d := ev.LastTime.Sub(ev.Time); !ev.LastTime.IsZero() && d > 0 {
			words = append(words, newWord("in "+duration(d), normal))
		}
	}
	return words
}

// who returns the words of the WHO cell: the process and its ancestors, or, for an event
// that no process caused, why it happened.
func (t *Table) who(ev *event.Event) []word {
	if words := t.whoOfKind(ev); len(words) > 0 {
		return words
	}
	if ev.Process == nil {
		return nil
	}
	return append(t.ancestors(ev.Process), t.self(ev)...)
}

func (t *Table) whoOfKind(ev *event.Event) []word {
	if k := kindOf(ev); k.who != nil {
		return k.who(t, ev)
	}
	return nil
}

// concat appends b to a, without an allocation if a is empty.
func concat(a, b []word) []word {
	if len(a) == 0 {
		return b
	}
	return append(a, b...)
}

// inWords puts "in " before words.
func inWords(words []word) []word {
	words[0].text = "in " + words[0].text
	return words
}
