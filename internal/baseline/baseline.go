// SPDX-License-Identifier: Apache-2.0

// Package baseline compares parameters with what is expected of them:
//
//	set, err := baseline.Load(baseline.Options{}, "default", "own.yaml")
//	if x := set.Of("kernel.kptr_restrict"); x != nil {
//		fmt.Println(x, x.Judge("0"))
//	}
//
// A file of expectations is in YAML, see Default. Load also reads the output of other programs, see Load. Expectations
// are about the parameters of the host, not about those of the namespaces of containers.
//
// The files are not trusted: their size and the number of their rows are limited, and only regular files are read.
package baseline

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
)

// A Comparison says how the value of a parameter has to compare with the values of an expectation.
type Comparison string

// Comparisons.
const (
	Equal   Comparison = "equal"
	OneOf   Comparison = "one of"
	Not     Comparison = "not" // none of the values
	AtLeast Comparison = "at least"
	AtMost  Comparison = "at most"
	Any     Comparison = "any" // nothing is expected; for a parameter that a glob matches too
)

// Comparisons returns all comparisons.
func Comparisons() []string {
	return []string{string(Equal), string(OneOf), string(Not), string(AtLeast), string(AtMost), string(Any)}
}

// An Expectation says what a parameter should be. Its strings are UTF-8.
type Expectation struct {
	Name       string     `json:"name"` // of the parameter, or a glob
	Comparison Comparison `json:"comparison"`
	Values     []string   `json:"values"`
	Reason     string     `json:"reason,omitempty"`
	Severity   string     `json:"severity,omitempty"` // info, warning, critical; empty for a declared value
	Source     string     `json:"source,omitempty"`   // who recommends it
	File       string     `json:"file"`
	Line       int        `json:"line,omitempty"` // 0 if the file has no lines
}

// Where returns the file and the line.
func (x *Expectation) Where() string {
	if x.Line == 0 {
		return x.File
	}
	return fmt.Sprintf("%s:%d", x.File, x.Line)
}

// Judge says whether a value that the kernel prints is as expected: Equal if it is, and Unclear if nstrace cannot
// compare it.
func (x *Expectation) Judge(value string) declared.Equality {
	return Judge(x.Comparison, x.Values, value)
}

// Judge is Expectation.Judge for a comparison with values.
func Judge(c Comparison, values []string, value string) declared.Equality {
	if len(values) == 0 {
		return declared.Unclear
	}
	switch c {
	case Equal, OneOf, Not:
		found := declared.Different
		for _, want := range values {
			switch declared.Compare(value, want) {
			case declared.Equal:
				found = declared.Equal
			case declared.Unclear:
				if found == declared.Different {
					found = declared.Unclear
				}
			}
		}
		if c == Not && found != declared.Unclear {
			return not(found == declared.Equal)
		}
		return found
	case AtLeast, AtMost:
		limit, ok := number(values[0])
		is, too := number(value)
		if !ok || !too {
			return declared.Unclear
		}
		return not(c == AtLeast && is < limit || c == AtMost && is > limit)
	}
	return declared.Unclear
}

func not(differs bool) declared.Equality {
	if differs {
		return declared.Different
	}
	return declared.Equal
}

// numeral is a number as the kernel reads it.
var numeral = regexp.MustCompile(`^-?(0[xX][0-9a-fA-F]+|[0-9]+)$`)

// number returns the number that a text is.
func number(text string) (n int64, ok bool) {
	if text = strings.TrimSpace(text); !numeral.MatchString(text) {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 0, 64)
	return n, err == nil
}

// A Set is what is expected of parameters.
type Set struct {
	layers []layer // the last one counts that has the parameter
}

// A layer is what one file expects.
type layer interface {
	// of returns the expectation of a parameter, nil for none.
	of(name string) *Expectation
	// names returns the names that are no globs.
	names() []string
}

// Of returns the expectation of a parameter, nil for none. If several files have one, that of the last file counts.
func (s *Set) Of(name string) *Expectation {
	for _, l := range slices.Backward(s.layers) {
		if x := l.of(name); x != nil {
			if x.Comparison == Any {
				return nil
			}
			return x
		}
	}
	return nil
}

// Names returns the names of parameters of which something is expected and that are no globs, sorted.
func (s *Set) Names() (names []string) {
	for _, l := range s.layers {
		names = append(names, l.names()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// rows are the expectations of a file. A name beats a glob, and the last row counts.
type rows struct {
	exact map[string]*Expectation
	globs []glob
}

type glob struct {
	pattern string // for path.Match, without slashes
	row     *Expectation
}

// noSlash makes a slash an ordinary character for path.Match, see event.MatchSysctl.
func noSlash(name string) string { return strings.ReplaceAll(name, "/", "\x00") }

func (r *rows) add(x *Expectation) {
	if isGlob(x.Name) {
		r.globs = append(r.globs, glob{noSlash(x.Name), x})
		return
	}
	if r.exact == nil {
		r.exact = map[string]*Expectation{}
	}
	r.exact[x.Name] = x
}

func isGlob(name string) bool { return strings.ContainsAny(name, `*?[\`) }

func (r *rows) of(name string) *Expectation {
	if x := r.exact[name]; x != nil {
		return x
	}
	name = noSlash(name)
	for i := range slices.Backward(r.globs) {
		if ok, _ := path.Match(r.globs[i].pattern, name); ok {
			return r.globs[i].row
		}
	}
	return nil
}

func (r *rows) names() (names []string) {
	for name := range r.exact {
		names = append(names, name)
	}
	return names
}

// A config is what files of sysctl.d declare, by the rules of a program.
type config struct {
	*declared.Config
	program declared.Program
}

// Declared returns what files of sysctl.d declare, by the rules of a program.
func Declared(c *declared.Config, p declared.Program) *Set {
	return &Set{[]layer{&config{c, p}}}
}

func (c *config) of(name string) *Expectation {
	ruling := c.By(c.program, name)
	winner := ruling.Winner()
	if winner == nil {
		return nil
	}
	return &Expectation{
		Name: valid(winner.Key), Comparison: Equal, Values: []string{valid(*winner.Value)}, File: valid(winner.File), Line: winner.Line,
	}
}

func (c *config) names() []string { return c.Names(c.program) }

// valid returns a text as UTF-8.
func valid(text string) string { return strings.ToValidUTF8(text, "\ufffd") }

// A name is normalized as for sysctl(8): net/ipv4/ip_forward and /proc/sys/net/ipv4/ip_forward are
// net.ipv4.ip_forward. The first separator decides.
func normalize(name string) string {
	if n, ok := event.SysctlName(name); ok {
		return n
	}
	if i := strings.IndexAny(name, "./"); i > 0 && name[i] == '/' {
		if n, ok := event.SysctlName(event.SysctlDir + "/" + name); ok {
			return n
		}
	}
	return name
}
