// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strings"

	"github.com/nstrace/nstrace/event"
)

var (
	sysctlWrite = kind{
		name: "sysctl", style: written, wantsOutcome: true, happened: [2]string{"write", "writes"},
		target: (*Table).parameter, change: (*Table).values, topic: parameterName,
	}
	sysctlDrift = kind{
		name: "drift", style: doubtful, happened: [2]string{"changed", "changed"},
		target: (*Table).parameter, change: (*Table).values, who: (*Table).untraced, topic: parameterName,
	}
	sysctlAppear = kind{
		name: "appear", style: created, happened: [2]string{"appeared", "appeared"},
		target: (*Table).parameter, change: (*Table).parameters, who: (*Table).untracedParameters, topic: parameterName,
	}
	sysctlVanish = kind{
		name: "vanish", style: destroyed, happened: [2]string{"vanished", "vanished"},
		target: (*Table).parameter, change: (*Table).parameters, who: (*Table).untracedParameters, topic: parameterName,
	}
)

// maxValueLines is how many lines of its column a value may fill. The value of
// kernel.core_pattern that systemd sets fits; a value of a kilobyte would push everything
// else off the screen.
const maxValueLines = 8

// parameterName is what the line of a burst lists.
func parameterName(ev *event.Event) string {
	if ev.Sysctl == nil {
		return ""
	}
	return ev.Sysctl.Name
}

// parameter is "net.ipv4.ip_forward in net 4026532281 web".
func (t *Table) parameter(ev *event.Event) []word {
	s := ev.Sysctl
	if s == nil {
		return nil
	}
	words := []word{newWord(escapeName(s.Name, ""), strong)}
	switch {
	case s.Namespace == nil && strings.HasPrefix(s.Name, "net."):
		// Every net.* parameter belongs to a network namespace.
		words = append(words, newWord("in net "+unknown, doubtful))
	case s.Namespace != nil && !t.isHost(s.Namespace):
		words = append(words, inWords(t.namespace(s.Namespace))...)
		words = append(words, ownerWords(ev, s.Namespace)...)
	}
	return words
}

// parameters is "37 parameters in 3 namespaces", then what happened to their network device.
func (t *Table) parameters(ev *event.Event) []word {
	var words []word
	if s := ev.Sysctl; s != nil && s.Parameters != nil {
		p := s.Parameters
		words = append(words, newWord(number(p.Count)+" "+plural(p.Count, "parameter", "parameters"), normal))
		if p.Namespaces > 1 {
			words = append(words, newWord("in "+number(p.Namespaces)+" namespaces", normal))
		}
	}
	d := ev.Netdev
	if d == nil {
		return words
	}
	switch {
	case d.NewName != "":
		words = append(words, newWord("device "+escapeName(d.Name, arrow), normal), joinedWord(arrow+" "+escapeName(d.NewName, arrow), normal))
	case d.From == nil && d.To == nil && d.Kind != "":
		words = append(words, newWord(escapeName(d.Kind, "")+" device", normal))
	}
	for _, end := range [...]struct {
		name string
		ns   *event.Namespace
	}{{"from", d.From}, {"to", d.To}} {
		switch {
		case end.ns == nil:
		case t.isHost(end.ns):
			words = append(words, newWord(end.name+" host", normal))
		default:
			w := t.namespace(end.ns)
			w[0].text = end.name + " " + w[0].text
			words = append(words, w...)
		}
	}
	return words
}

// unmetOf returns the parameters that appeared without the expected values.
func unmetOf(ev *event.Event) []event.Unmet {
	if ev.Sysctl == nil || ev.Sysctl.Parameters == nil {
		return nil
	}
	return ev.Sysctl.Parameters.Unmet
}

// unmet is "net.ipv4.conf.eth0.rp_filter = 0 (expected 1 in /etc/sysctl.d/60-a.conf:3)".
func (t *Table) unmet(u *event.Unmet) []word {
	words := []word{newWord(escapeName(u.Name, ""), strong)}
	words = append(words, t.value(u.Value, "= ", failed)...)
	x := u.Expected
	words = append(words, t.value(expectation(x.Comparison, x.Values), "(expected ", failed)...)
	where := escapeName(x.File, "")
	if x.Line > 0 {
		where += ":" + number(uint64(x.Line))
	}
	return append(words, newWord("in "+where+")", normal))
}

// untracedParameters is the time in which a scan found that parameters came or went.
func (t *Table) untracedParameters(ev *event.Event) []word {
	words := t.untraced(ev)
	if len(words) > 0 && ev.Between.Recording {
		words[0] = newWord("found by scan", doubtful)
	}
	return words
}

// values is "7200 → 600". If the parameter then has another value than the written one,
// "(now 32767)" follows.
func (t *Table) values(ev *event.Event) []word {
	s := ev.Sysctl
	if s == nil {
		return nil
	}
	words := t.oldAndNew(ev, s)
	if s.Truncated {
		words = append(words, newWord("(truncated)", doubtful))
	}
	words = append(words, t.indirect(ev, s)...)
	return append(words, t.expected(s)...)
}

// expected is "(expected 1)" if the event moved the parameter away from that, and "(as expected)" if it moved it back.
func (t *Table) expected(s *event.Sysctl) []word {
	switch x := s.Expected; {
	case x == nil:
		return nil
	case x.State == event.ExpectedBack:
		return []word{newWord("(as expected)", normal)}
	default:
		words := t.value(expectation(x.Comparison, x.Values), "(expected ", failed)
		words[len(words)-1].text += ")"
		return words
	}
}

// expectation is "1", "at least 1", "one of 1, 2" or "not 0".
func expectation(comparison string, values []string) string {
	text := strings.Join(values, ", ")
	if text == "" {
		text = `""`
	}
	if comparison == "equal" {
		return text
	}
	return comparison + " " + text
}

func (t *Table) oldAndNew(ev *event.Event, s *event.Sysctl) []word {
	to := s.New
	if to == nil {
		to = s.After
	}
	if s.Old == nil && to == nil {
		if ev.Outcome == event.Failure {
			return nil
		}
		return []word{newWord(arrow+" "+unknown, doubtful)}
	}

	if wasIgnored(ev, s) {
		words := t.value(*s.Old, "", faint)
		words = append(words, t.value(*s.After, arrow+" ", faint)...)
		words[len(words)-1].text += ","
		return append(append(words, newWord("ignored", doubtful)), t.piece(s)...)
	}
	st := normal
	if s.Old != nil && to != nil && event.SameValue(*s.Old, *to) {
		st = faint // a write that changes nothing
	}
	var words []word
	switch {
	case s.Old != nil:
		words = append(words, t.value(*s.Old, "", st)...)
	case ev.Outcome != event.Failure:
		words = append(words, newWord(unknown, doubtful))
	}
	if to == nil {
		words = append(words, newWord(arrow+" "+unknown, doubtful))
	} else {
		words = append(words, t.value(*to, arrow+" ", st)...)
		if s.Offset != 0 {
			words = append(words, newWord("at byte "+number(uint64(s.Offset)), doubtful))
		}
	}

	if s.After != nil && !event.SameValue(*s.After, *to) {
		switch {
		case s.Old == nil || !event.SameValue(*s.After, *s.Old):
			words = append(words, t.value(*s.After, "(now ", doubtful)...)
			words[len(words)-1].text += ")"
		case ev.Outcome != event.Failure:
			words = append(words, t.value(*s.After, "(still ", doubtful)...)
			words[len(words)-1].text += ")"
		}
	}
	return words
}

// wasIgnored reports whether the kernel accepted a write and ignored it, as it does with one that does not begin at
// the beginning of the file.
func wasIgnored(ev *event.Event, s *event.Sysctl) bool {
	return s.Offset != 0 && ev.Outcome != event.Failure && s.Old != nil && s.New != nil && s.After != nil && *s.Old == *s.After
}

// piece is a text that was written, with its place in the file: `"00" at byte 2`.
func (t *Table) piece(s *event.Sysctl) []word {
	text := `"` + escapeValue(*s.New) + `"`
	if !t.opts.Wide {
		text = shorten(text, t.changeWidth())
	}
	return []word{newWord(text, doubtful), newWord("at byte "+number(uint64(s.Offset)), doubtful)}
}

// indirect says how a parameter changed that no process wrote to.
func (t *Table) indirect(ev *event.Event, s *event.Sysctl) []word {
	switch ev.Via {
	case "cascade":
		name := unknown
		if s.Cause != nil && s.Cause.Name != "" {
			name = escapeName(s.Cause.Name, "")
		}
		return []word{newWord("cascade of", normal), newWord(name, normal)}
	case "netlink", "device":
		if !t.opts.Wide { // the wide table has a column for it
			return []word{newWord("via "+ev.Via, normal)}
		}
	}
	return nil
}

// value returns the words of a value, with a prefix before the first one.
func (t *Table) value(v, prefix string, st style) []word {
	v = escapeValue(v)
	if !t.opts.Wide {
		v = shorten(v, maxValueLines*t.changeWidth())
	}
	var words []word
	for i, text := range strings.Fields(v) {
		if i == 0 {
			words = append(words, newWord(prefix+text, st))
		} else {
			words = append(words, joinedWord(text, st))
		}
	}
	return words
}
