// SPDX-License-Identifier: Apache-2.0

// Package alert tests events against rules and marks those that meet one:
//
//	rules, err := alert.Load("default")
//	if err != nil { ... }
//	rules.Mark(event)
//	for _, a := range event.Alert { ... }
//
// A rule is an expression of package filter with a name, a severity and a message. Files of
// rules are in YAML, see Default.
package alert

import (
	_ "embed"
	"fmt"
	"os"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/yamlfile"
)

// Severities, in ascending order.
const (
	Info     = "info"
	Warning  = "warning"
	Critical = "critical"
)

// Severities returns all severities, in ascending order.
func Severities() []string { return []string{Info, Warning, Critical} }

// Default is the file of the built-in rules. Load finds it by DefaultName. It also serves as
// an example of a file of rules.
//
//go:embed default.yaml
var Default string

// DefaultName is the name of the built-in rules for Load.
const DefaultName = "default"

// maxFile is the maximum size of a file of rules, in bytes.
const maxFile = 1 << 20

// Rules are alert rules, which are tested in order. One goroutine at a time can use them.
type Rules struct {
	rules    []rule
	warnings []string
}

// Warnings says which comparisons of the rules can never hold.
func (r *Rules) Warnings() []string { return r.warnings }

type rule struct {
	name     string
	severity string
	when     *filter.Program
	message  message
}

// Load reads files of rules, in order. DefaultName stands for the built-in rules. An error in
// the text of a file is an *Error.
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
		return nil, fmt.Errorf("%s: want a regular file of at most 1MiB", file)
	}
	return os.ReadFile(file)
}

// Parse parses rules in YAML. name is the name of the file in errors.
func Parse(name string, text []byte) (*Rules, error) {
	r := &Rules{}
	if err := r.parse(name, text); err != nil {
		return nil, err
	}
	return r, nil
}

// Names returns the names of the rules, in order.
func (r *Rules) Names() []string {
	var names []string
	for i := range r.rules {
		names = append(names, r.rules[i].name)
	}
	return names
}

// Mark sets e.Alert to the rules that e meets. trace.start and trace.stop meet none.
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

// Error is an error in a file of rules.
type Error = yamlfile.Error
