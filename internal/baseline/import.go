// SPDX-License-Identifier: Apache-2.0

package baseline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/params"
)

// report tells the user what is left out of a file.
func (o *Options) report(name, format string, args ...any) {
	if o.Report != nil {
		o.Report(name + ": " + fmt.Sprintf(format, args...))
	}
}

// A checked is what kernel-hardening-checker says about one option.
type checked struct {
	Name     string `json:"option_name"`
	Type     string `json:"type"`
	Value    string `json:"desired_val"`
	Decision string `json:"decision"` // who recommends it
	Reason   string `json:"reason"`
}

// UnmarshalJSON also takes the lists of older versions: the name, the type, the value, the decision and the reason.
func (c *checked) UnmarshalJSON(text []byte) error {
	if !bytes.HasPrefix(text, []byte("[")) {
		type plain checked
		return json.Unmarshal(text, (*plain)(c))
	}
	var list []any
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	for i, to := range []*string{&c.Name, &c.Type, &c.Value, &c.Decision, &c.Reason} {
		if i < len(list) {
			*to, _ = list[i].(string)
		}
	}
	return nil
}

const wantChecker = "want the output of kernel-hardening-checker -m json"

// parseChecker parses the JSON of kernel-hardening-checker.
func (o *Options) parseChecker(name, file string, text []byte) (*rows, error) {
	at := &position{text: text, line: 1, column: 1}
	fail := func(offset int64, format string, args ...any) error {
		at.move(int(offset))
		return &Error{File: name, Line: at.line, Column: at.column, Message: fmt.Sprintf(format, args...)}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil { // the [ that kindOf saw
		return nil, fail(0, "%v: %s", err, wantChecker)
	}
	all, left, n := &rows{}, 0, 0
	for dec.More() {
		start := dec.InputOffset()
		for int(start) < len(text) && bytes.IndexByte([]byte(" \t\r\n,"), text[start]) >= 0 {
			start++
		}
		if n++; n > MaxRows {
			return nil, fail(start, "more than %d options", MaxRows)
		}
		var c checked
		if err := dec.Decode(&c); err != nil {
			return nil, fail(start, "%s: %s", jsonMessage(err), wantChecker)
		}
		switch {
		case c.Name == "" || c.Type == "":
			return nil, fail(start, "an entry without option_name or type: %s", wantChecker)
		case c.Type != "sysctl":
			continue
		case c.Value == "" || c.Value == "is not set" || c.Value == "is not off" || c.Value == "is present" || strings.HasPrefix(c.Value, "*"):
			left++
			continue
		case len(c.Value)+len(c.Reason)+len(c.Decision) > maxText:
			return nil, fail(start, "the text is too long: want at most %d bytes", maxText)
		}
		parameter, err := checkName(c.Name)
		if err != nil || isGlob(parameter) {
			return nil, fail(start, "invalid name %.100q: want that of a parameter", c.Name)
		}
		at.move(int(start))
		x := &Expectation{
			Name: parameter, Comparison: Equal, Values: []string{valid(c.Value)}, Reason: valid(c.Reason), Severity: alert.Warning,
			Source: "kernel-hardening-checker", File: file, Line: at.line,
		}
		if c.Decision != "" {
			x.Source += " (" + valid(c.Decision) + ")"
		}
		all.add(x)
	}
	if _, err := dec.Token(); err != nil { // the ]
		return nil, fail(dec.InputOffset(), "%s: %s", jsonMessage(err), wantChecker)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fail(dec.InputOffset(), "something follows the list: %s", wantChecker)
	}
	if left > 0 {
		o.report(name, "left out %d parameters for which kernel-hardening-checker wants no certain value", left)
	}
	if len(all.exact) == 0 {
		return nil, fail(0, "no parameter in it: %s -a or -s FILE", wantChecker)
	}
	return all, nil
}

// jsonMessage says what is wrong with an entry.
func jsonMessage(err error) string {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return "an entry is a " + wrong.Value + " or has one for a text"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the list does not end"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// A position is a place in a text, which only moves forward.
type position struct {
	text         []byte
	offset       int
	line, column int // from 1; column in characters
}

func (p *position) move(offset int) {
	for p.offset < min(offset, len(p.text)) {
		r, size := utf8.DecodeRune(p.text[p.offset:])
		p.offset += size
		p.column++
		if r == '\n' {
			p.line, p.column = p.line+1, 1
		}
	}
}

const wantAssignments = "want lines as sysctl -a prints them, such as net.ipv4.ip_forward = 0"

// parseAssignments parses the output of sysctl -a. It prints each line of a value with the name. Parameters that
// nobody sets are left out.
func (o *Options) parseAssignments(name, file string, text []byte) (*rows, error) {
	all := &rows{}
	var last *Expectation // of the line before
	left, number := 0, 0
	for line := range bytes.Lines(text) {
		number++
		fail := func(format string, args ...any) error {
			return &Error{File: name, Line: number, Message: fmt.Sprintf(format, args...)}
		}
		trimmed := strings.TrimSpace(string(line))
		if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' {
			last = nil
			continue
		}
		key, value, ok := strings.Cut(trimmed, "=")
		if !ok {
			return nil, fail("no =: %s", wantAssignments)
		}
		value = valid(strings.TrimSpace(value))
		parameter, err := checkName(strings.TrimSpace(key))
		switch {
		case err != nil || isGlob(parameter):
			return nil, fail("invalid name %.100q: %s", strings.TrimSpace(key), wantAssignments)
		case last != nil && last.Name == parameter:
			value = last.Values[0] + "\n" + value
		case len(all.exact) >= MaxRows:
			return nil, fail("more than %d parameters", MaxRows)
		}
		if len(value) > params.MaxValue {
			return nil, fail("the value is too long: want at most %d bytes", params.MaxValue)
		}
		x := &Expectation{Name: parameter, Comparison: Equal, Values: []string{value}, Severity: alert.Warning, File: file, Line: number}
		if last != nil && last.Name == parameter {
			x.Line = last.Line
		}
		last = x
		if drift.Leaves(parameter) || readOnly(parameter) {
			left++
			continue
		}
		all.add(x)
	}
	if left > 0 {
		o.report(name, "left out %d parameters that nobody sets: they change by themselves or cannot be written", left)
	}
	if len(all.exact) == 0 {
		return nil, &Error{File: name, Message: "no parameter in it: " + wantAssignments}
	}
	return all, nil
}

// readOnly reports whether the host has a parameter that nobody can write.
func readOnly(name string) bool {
	file := event.SysctlPath(name)
	if _, err := params.Name(file); err != nil {
		return false
	}
	info, err := os.Lstat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o222 == 0
}

// parseSysctlD parses a file of sysctl.d as the program does that applies it.
func (o *Options) parseSysctlD(name, file string, text []byte) (layer, error) {
	switch {
	case len(text) > declared.MaxFile:
		return nil, &Error{File: name, Message: fmt.Sprintf("the file is too long: want at most %dMiB", declared.MaxFile>>20)}
	case bytes.IndexByte(text, 0) >= 0:
		return nil, &Error{File: name, Line: 1 + bytes.Count(text[:bytes.IndexByte(text, 0)], []byte("\n")), Message: "a NUL byte: want a text"}
	case bytes.Count(text, []byte("\n"))+bytes.Count(text, []byte("\r")) > MaxRows:
		return nil, &Error{File: name, Message: fmt.Sprintf("more than %d lines", MaxRows)}
	}
	program := o.Program
	if program == "" {
		program = declared.Systemd
	}
	c := declared.File(file, string(text))
	if !c.Declares(program) {
		return nil, &Error{File: name, Message: "no parameter in it: want lines such as net.ipv4.ip_forward = 0"}
	}
	return &config{c, program}, nil
}
