// SPDX-License-Identifier: Apache-2.0

// Package alert tests events against rules and marks those that meet one:
//
//	rules, err := alert.Load("default")
//	if err != nil { ... }
//	rules.Mark(event)
//	for _, a := range event.Alert { ... }
//
// A rule is an expression of package filter with a name, a severity and a message. Rules
// are kept in YAML, see Default.
package alert

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// Severities, from the least.
const (
	Info     = "info"
	Warning  = "warning"
	Critical = "critical"
)

// Severities lists them, from the least.
func Severities() []string { return []string{Info, Warning, Critical} }

// Default are the rules that are shipped, which Load finds by the name DefaultName. They
// are an example of what a file of rules looks like, too.
//
//go:embed default.yaml
var Default string

// DefaultName is what Load takes for the rules that are shipped.
const DefaultName = "default"

// maxFile is how long a file of rules may be, in bytes: an expression has at most
// filter.MaxLength.
const maxFile = 1 << 20

// Rules are tested in their order. They are for one goroutine at a time.
type Rules struct {
	rules []rule
}

type rule struct {
	name     string
	severity string
	when     *filter.Program
	message  message
}

// Load reads the rules of files, in their order; one that is called DefaultName has those
// that are shipped. What is wrong in one is an *Error.
func Load(files ...string) (*Rules, error) {
	r := &Rules{}
	for _, file := range files {
		text := []byte(Default)
		if file != DefaultName {
			var err error
			if text, err = read(file); err != nil {
				return nil, err
			}
		}
		if err := r.parse(file, text); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func read(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most 1 MiB", file)
	}
	return os.ReadFile(file)
}

// Parse makes rules of a text in YAML. name is the file's, for what is said of mistakes.
func Parse(name string, text []byte) (*Rules, error) {
	r := &Rules{}
	if err := r.parse(name, text); err != nil {
		return nil, err
	}
	return r, nil
}

// Names lists the rules, in their order.
func (r *Rules) Names() []string {
	var names []string
	for i := range r.rules {
		names = append(names, r.rules[i].name)
	}
	return names
}

// Mark sets e.Alert to the rules that e meets. An event about the run itself, other than
// one about what is lost, meets none.
func (r *Rules) Mark(e *event.Event) {
	e.Alert = nil
	if e.Type == event.TraceStart || e.Type == event.TraceStop {
		return
	}
	for i := range r.rules {
		if rule := &r.rules[i]; rule.when.Match(e) {
			e.Alert = append(e.Alert, event.Alert{Name: rule.name, Severity: rule.severity, Message: rule.message.of(e)})
		}
	}
}

// Error is a mistake in a file of rules.
type Error struct {
	File         string
	Line, Column int // from 1, 0 where not known; Column in characters
	Message      string
}

// Error is one line.
func (e *Error) Error() string {
	at := filepath.Clean(e.File)
	if e.Line > 0 {
		at += fmt.Sprintf(":%d", e.Line)
	}
	if e.Column > 0 {
		at += fmt.Sprintf(":%d", e.Column)
	}
	return at + ": " + e.Message
}
