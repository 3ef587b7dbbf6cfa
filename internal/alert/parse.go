// SPDX-License-Identifier: Apache-2.0

package alert

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/yamlfile"
)

// A source is the text of a file of rules.
type source struct {
	*yamlfile.File
	lines []string
}

func (r *Rules) parse(name string, text []byte) error {
	s := &source{lines: strings.Split(string(text), "\n")}
	file, content, err := yamlfile.Parse(name, text, "rules: and a list below it")
	if err != nil {
		return err
	}
	s.File = file
	top, err := s.Mapping(content, "the file", []string{"rules"})
	if err != nil {
		return err
	}
	list := top["rules"]
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return s.Fail(content, "no rules: want rules: and a list below it")
	}
	for _, n := range list.Content {
		parsed, err := s.rule(yamlfile.Resolve(n))
		if err != nil {
			return err
		}
		if slices.Contains(r.Names(), parsed.name) {
			return s.Fail(n, "duplicate rule %q", parsed.name)
		}
		for _, w := range parsed.when.Warnings() {
			r.warnings = append(r.warnings, fmt.Sprintf("%s: rule %q: %s", name, parsed.name, w))
		}
		r.rules = append(r.rules, parsed)
	}
	return nil
}

func (s *source) rule(n *yaml.Node) (r rule, err error) {
	m, err := s.Mapping(n, "a rule", []string{"name", "when", "severity", "message"})
	if err != nil {
		return r, err
	}
	for key, v := range m {
		if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
			return r, s.Fail(v, "%s: want a string", key)
		}
	}
	for _, key := range []string{"name", "when"} {
		if m[key] == nil {
			return r, s.Fail(n, "a rule has no %s", key)
		}
	}
	r.name = m["name"].Value
	if r.name == "" || strings.ContainsFunc(r.name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return r, s.Fail(m["name"], "invalid name %q: want printable characters", r.name)
	}
	if r.when, err = filter.Compile(m["when"].Value); err != nil {
		var mistake *filter.Error
		if errors.As(err, &mistake) {
			return r, s.within(m["when"], mistake.Offset, "rule %q: %w", r.name, whatIsWrong(mistake))
		}
		return r, s.Fail(m["when"], "rule %q: %v", r.name, err)
	}
	r.severity = Warning
	if v := m["severity"]; v != nil {
		if r.severity = v.Value; !slices.Contains(Severities(), r.severity) {
			return r, s.Fail(v, "rule %q: invalid severity %q%s: want one of %s", r.name, v.Value, yamlfile.DidYouMean(v.Value, Severities()), strings.Join(Severities(), ", "))
		}
	}
	if v := m["message"]; v != nil {
		var at int
		if r.message, at, err = parseMessage(v.Value); err != nil {
			return r, s.within(v, at, "rule %q: %w", r.name, err)
		}
	}
	return r, nil
}

// whatIsWrong returns the message of an error in an expression without its column, which
// differs from the column in the file.
func whatIsWrong(e *filter.Error) error {
	if e.Hint == "" {
		return errors.New(e.Message)
	}
	return fmt.Errorf("%s: %s", e.Message, e.Hint)
}

// within returns an error at an offset in the value of a scalar.
func (s *source) within(n *yaml.Node, offset int, format string, args ...any) error {
	e := &Error{File: s.Name, Message: fmt.Errorf(format, args...).Error()}
	e.Line, e.Column = s.locate(n, offset)
	return e
}

// locate returns the position in the file of a byte of a scalar's value. It compares the value
// with the text of the file, and skips the white space that YAML folds and the escapes of
// quotes. If the two differ, as after \u00e9, it returns the start of the scalar.
func (s *source) locate(n *yaml.Node, offset int) (line, column int) {
	at := cursor{lines: s.lines, line: n.Line - 1}
	at.col = byteColumn(at.text(), n.Column)
	switch n.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		at.line, at.col = at.line+1, 0 // below the | or >
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		at.col++
	}
	for i, r := range n.Value[:min(offset, len(n.Value))] {
		if unicode.IsSpace(r) {
			continue
		}
		at.skipSpace()
		if n.Style&yaml.SingleQuotedStyle != 0 && r == '\'' || n.Style&yaml.DoubleQuotedStyle != 0 && (r == '"' || r == '\\') {
			at.col++ // the escape
		}
		if !strings.HasPrefix(at.rest(), n.Value[i:i+utf8.RuneLen(r)]) {
			return n.Line, n.Column
		}
		at.col += utf8.RuneLen(r)
	}
	if offset < len(n.Value) {
		at.skipSpace()
	}
	return at.line + 1, utf8.RuneCountInString(at.text()[:min(at.col, len(at.text()))]) + 1
}

// A cursor is a position in a file, in bytes from 0.
type cursor struct {
	lines     []string
	line, col int
}

func (c *cursor) text() string {
	if c.line >= len(c.lines) {
		return ""
	}
	return c.lines[c.line]
}

func (c *cursor) rest() string { return c.text()[min(c.col, len(c.text())):] }

func (c *cursor) skipSpace() {
	for {
		rest := c.rest()
		c.col += len(rest) - len(strings.TrimLeft(rest, " \t\r"))
		if c.rest() != "" || c.line >= len(c.lines)-1 {
			return
		}
		c.line, c.col = c.line+1, 0
	}
}

// byteColumn converts a column in characters from 1 to bytes from 0.
func byteColumn(line string, column int) int {
	for i := range line {
		if column--; column == 0 {
			return i
		}
	}
	return len(line)
}
