// SPDX-License-Identifier: Apache-2.0

// Package yamlfile reads files of YAML strictly: an unknown key is an error, and each error is one line that says
// where it is and what is accepted.
//
//	f, top, err := yamlfile.Parse("rules.yaml", text, "rules: and a list below it")
//	m, err := f.Mapping(top, "the file", []string{"rules"})
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/nstrace/nstrace/internal/nearest"
)

// A File is a file of YAML.
type File struct {
	Name string // in errors
}

// Parse parses a file that has one YAML document, and returns what that contains. want is what the file has to have.
// An error is an *Error.
func Parse(name string, text []byte, want string) (*File, *yaml.Node, error) {
	f := &File{Name: name}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil, &Error{File: name, Message: "the file is empty: want " + want}
	} else if err != nil {
		return nil, nil, f.syntax(err)
	}
	if err := dec.Decode(&yaml.Node{}); err == nil {
		return nil, nil, &Error{File: name, Message: "more than one YAML document: want one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, nil, f.syntax(err)
	}
	return f, doc.Content[0], nil
}

var syntaxAt = regexp.MustCompile(`^line (\d+): (.*)`)

// syntax takes the line out of an error of the YAML library: "yaml: line 3: ...".
func (f *File) syntax(err error) error {
	e := &Error{File: f.Name, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := syntaxAt.FindStringSubmatch(e.Message); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Message = m[2]
	}
	return e
}

// Fail returns an error at a node.
func (f *File) Fail(n *yaml.Node, format string, args ...any) error {
	return &Error{File: f.Name, Line: n.Line, Column: n.Column, Message: fmt.Sprintf(format, args...)}
}

// Mapping returns the values of a mapping, whose keys must be in keys. what describes the mapping.
func (f *File) Mapping(n *yaml.Node, what string, keys []string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, f.Fail(n, "%s is not a mapping: want %s", what, strings.Join(keys, ", "))
	}
	m := map[string]*yaml.Node{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], Resolve(n.Content[i+1])
		if !slices.Contains(keys, key.Value) {
			return nil, f.Fail(key, "unknown key %q in %s%s: want %s", key.Value, what, DidYouMean(key.Value, keys), strings.Join(keys, ", "))
		}
		if m[key.Value] != nil {
			return nil, f.Fail(key, "duplicate key %q", key.Value)
		}
		m[key.Value] = value
	}
	return m, nil
}

// Resolve returns the node that an alias stands for.
func Resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// DidYouMean suggests the name nearest to the one that was typed, if one is near.
func DidYouMean(typed string, names []string) string {
	if name := nearest.Name(typed, names); name != "" {
		return fmt.Sprintf(" (did you mean %q?)", name)
	}
	return ""
}

// Error is an error in a file.
type Error struct {
	File         string
	Line, Column int // from 1, 0 if unknown; Column in characters
	Message      string
}

// Error returns one line.
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
