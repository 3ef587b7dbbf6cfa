// SPDX-License-Identifier: Apache-2.0

package store

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/otelmap"
)

// A Query selects events. The zero value selects all, oldest first. The store selects a superset of what the fields say, as
// near as its language allows, and Match decides. nil: all.
type Query struct {
	Hosts        []string // globs of host names, as in path.Match
	Since, Until time.Time
	Types        map[event.Type]bool
	Filter       event.Filter // its Types are ignored
	Users        []string     // names of users, as an alternative to Filter.UIDs
	Parameter    string       // only writes to this parameter
	BootID       string
	Alert        bool   // only events that met a rule when they were recorded
	Grep         string // a regular expression for the line
	Trace        bool   // also events about the trace, whatever Filter, Users and Alert say
	Match        func(*event.Event) bool
	Limit        int
	Reverse      bool // newest first
}

// A clause is a filter of LogsQL.
type clause string

// quote makes any text a token of LogsQL, whose quoted tokens have Go's syntax.
func quote(s string) string { return strconv.Quote(stored(s)) }

// stored returns a text as records have it: each byte that is not UTF-8 is U+FFFD.
func stored(s string) string {
	if !utf8.ValidString(s) {
		return string([]rune(s))
	}
	return s
}

func is(field, value string) clause { return clause(quote(field) + ":=" + quote(value)) }
func absent(field string) clause    { return clause(quote(field) + `:""`) }
func present(field string) clause   { return clause(quote(field) + ":*") }

func matches(field, expression string) clause { return clause(quote(field) + ":~" + quote(expression)) }

func oneOf(field string, values []string) clause {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = quote(v)
	}
	return clause(quote(field) + ":in(" + strings.Join(all, ",") + ")")
}

func not(c clause) clause { return "!(" + c + ")" }

func either(all ...clause) clause { return "(" + join(all, " OR ") + ")" }

func both(all ...clause) clause { return "(" + join(all, " ") + ")" }

func join(all []clause, by string) clause {
	texts := make([]string, len(all))
	for i, c := range all {
		texts[i] = string(c)
	}
	return clause(strings.Join(texts, by))
}

// Fields of the records.
const (
	timeField = "_time"
	bodyField = "_msg"

	outcomeField   = "nstrace.outcome"
	parameterField = "nstrace.sysctl.name"
	ownerField     = "nstrace.sysctl.namespace."
	pidField       = "process.pid"
	uidField       = "process.real_user.id"
	userField      = "process.real_user.name"
)

// globs returns an expression that matches at least what one of the globs of path.Match does. after is an expression for
// what may follow.
func globs(all []string, after string) string {
	var alternatives []string
	for _, glob := range all {
		alternatives = append(alternatives, globExpression(glob))
	}
	return "(?s)^(?:" + strings.Join(alternatives, "|") + ")" + after + "$"
}

func globExpression(glob string) string {
	var b strings.Builder
	for i := 0; i < len(glob); {
		r, size := utf8.DecodeRuneInString(glob[i:])
		switch {
		case r == '*':
			b.WriteString(".*")
		case r == '?':
			b.WriteString(".")
		case r == '[': // up to the next ] that nothing escapes
			end := i + 1
			for end < len(glob) && glob[end] != ']' {
				if glob[end] == '\\' {
					end++
				}
				end++
			}
			b.WriteString(".")
			i = end + 1
			continue
		case r == '\\' && i+1 < len(glob):
			i++
			r, size = utf8.DecodeRuneInString(glob[i:])
			b.WriteString(regexp.QuoteMeta(string(r)))
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
		i += size
	}
	return b.String()
}

// plain returns values as they are if none is a glob.
func plain(all []string) (values []string, ok bool) {
	for _, s := range all {
		if strings.ContainsAny(s, `*?[\`) {
			return nil, false
		}
	}
	return all, true
}

// filter returns the clauses of a query without the time.
func (q *Query) filter() []clause {
	all := []clause{is("scope.name", otelmap.Scope)}
	if len(q.Hosts) > 0 {
		if names, ok := plain(q.Hosts); ok {
			all = append(all, oneOf(otelmap.Host, names))
		} else {
			all = append(all, matches(otelmap.Host, globs(q.Hosts, "")))
		}
	}
	if q.BootID != "" {
		all = append(all, is(otelmap.BootID, q.BootID))
	}
	if q.Types != nil {
		var types []string
		for t := range q.Types {
			types = append(types, string(t))
		}
		all = append(all, oneOf(otelmap.Type, types))
	}
	if q.Parameter != "" {
		all = append(all, is(parameterField, q.Parameter))
	}
	if q.Grep != "" {
		all = append(all, matches(bodyField, q.Grep))
	}
	if some := q.selection(); len(some) > 0 {
		if q.Trace {
			all = append(all, either(matches(otelmap.Type, `^trace\.`), both(some...)))
		} else {
			all = append(all, some...)
		}
	}
	return all
}

// selection returns the clauses that do not select events about the trace.
func (q *Query) selection() (all []clause) {
	f := &q.Filter
	if f.Failed {
		all = append(all, is(outcomeField, string(event.Failure)))
	}
	if q.Alert {
		all = append(all, present("nstrace.alert"))
	}
	if f.NSTypes != nil {
		var types []string
		for t := range f.NSTypes {
			types = append(types, string(t))
		}
		any := []clause{oneOf("nstrace.namespace.type", types), oneOf(ownerField+"type", types)}
		if f.NSTypes[event.NSTypeNet] {
			any = append(any, is(otelmap.Type, string(event.NetdevMove)))
		}
		all = append(all, either(any...))
	}
	if len(f.Sysctl) > 0 { // several parameters can share an event, which has no name then
		one := matches(parameterField, globs(f.Sysctl, ""))
		if names, ok := plain(f.Sysctl); ok {
			one = oneOf(parameterField, names)
		}
		all = append(all, either(one, absent(parameterField), oneOf(otelmap.Type, []string{string(event.SysctlAppear), string(event.SysctlVanish)})))
	}
	// An event without a process can have one in its namespace's creator, which only the body has.
	if len(f.PIDs) > 0 {
		pids := numbers(f.PIDs)
		all = append(all, either(oneOf(pidField, pids), both(absent(pidField), matches(bodyField, `"pid":(`+strings.Join(pids, "|")+`)[,}]`))))
	}
	if len(f.UIDs)+len(q.Users) > 0 {
		any := []clause{absent(pidField)}
		if len(f.UIDs) > 0 {
			any = append(any, oneOf(uidField, numbers(f.UIDs)))
		}
		if len(q.Users) > 0 {
			any = append(any, oneOf(userField, q.Users))
		}
		all = append(all, either(any...))
	}
	if len(f.Comms) > 0 { // that of the thread, of its leader or of the creator
		var names []string
		for _, c := range f.Comms {
			names = append(names, regexp.QuoteMeta(string(event.AppendString(nil, c))))
		}
		all = append(all, matches(bodyField, `comm":(`+strings.Join(names, "|")+`)`))
	}
	return all
}

func numbers(all []uint32) []string {
	texts := make([]string, len(all))
	for i, n := range all {
		texts[i] = strconv.FormatUint(uint64(n), 10)
	}
	return texts
}

// between returns the clauses for a time span, both inclusive; zero: no bound.
func between(since, until time.Time) (all []clause) {
	if !since.IsZero() {
		all = append(all, clause(timeField+":>="+stamp(since)))
	}
	if !until.IsZero() {
		all = append(all, clause(timeField+":<="+stamp(until)))
	}
	return all
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
