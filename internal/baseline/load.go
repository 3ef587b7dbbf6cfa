// SPDX-License-Identifier: Apache-2.0

package baseline

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/yamlfile"
)

// Default is the built-in baseline: common advice to harden a host. Load finds it by DefaultName. It also serves as an
// example of a file of expectations.
//
//go:embed default.yaml
var Default string

// DefaultName is the name of the built-in baseline for Load.
const DefaultName = "default"

// Limits of what Load reads.
const (
	MaxFile = 4 << 20 // bytes of a file: sysctl -a prints the parameters of every network device
	MaxRows = 50_000  // of a file
	// maxText is how long a name, a value or another text of a row can be.
	maxText = 4096
)

// An Error is a mistake in a file.
type Error = yamlfile.Error

// Options say how to read files.
type Options struct {
	Program declared.Program // whose rules say which line of a file of sysctl.d counts
	// Report, if not nil, takes what a file has that Load leaves out.
	Report func(message string)
}

// Load reads files. If several have an expectation of a parameter, that of the last file counts. DefaultName stands
// for the built-in baseline. A file can be
//
//   - YAML, as Default is
//   - the JSON of kernel-hardening-checker -m json
//   - the output of sysctl -a
//   - a file of sysctl.d, if its name ends in .conf
//
// A mistake in the text of a file is an *Error.
func Load(o Options, files ...string) (*Set, error) {
	s := &Set{}
	for _, file := range files {
		name, text := file, []byte(Default)
		if file != DefaultName {
			var err error
			if text, err = read(file); err != nil {
				return nil, err
			}
			if name, err = filepath.Abs(file); err != nil {
				return nil, err
			}
		}
		l, err := parse(o, valid(file), valid(name), text)
		if err != nil {
			return nil, err
		}
		s.layers = append(s.layers, l)
	}
	return s, nil
}

// Parse parses the text of a file. The end of its name can decide what the text is, see Load.
func Parse(o Options, name string, text []byte) (*Set, error) {
	l, err := parse(o, name, name, text)
	if err != nil {
		return nil, err
	}
	return &Set{[]layer{l}}, nil
}

func read(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file: want a file of at most %dMiB", file, MaxFile>>20)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(text) > MaxFile {
		err = fmt.Errorf("%s: the file is too long: want at most %dMiB", file, MaxFile>>20)
	}
	return text, err
}

// parse parses a file. name is its name in errors, and file that in expectations.
func parse(o Options, name, file string, text []byte) (l layer, err error) {
	var all *rows
	switch kindOf(name, text) {
	case checkerJSON:
		all, err = o.parseChecker(name, file, text)
	case assignments:
		all, err = o.parseAssignments(name, file, text)
	case sysctlD:
		return o.parseSysctlD(name, file, text)
	default:
		all, err = parseYAML(name, file, text)
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// A kind is what the text of a file is.
type kind int

const (
	yamlRows kind = iota
	checkerJSON
	assignments
	sysctlD
)

// kindOf says what a file is. The first line with text tells, except for files of sysctl.d, which look like the output
// of sysctl -a.
func kindOf(name string, text []byte) kind {
	if filepath.Ext(name) == ".conf" {
		return sysctlD
	}
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		return yamlRows
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			return checkerJSON
		}
		key, _, ok := bytes.Cut(line, []byte("="))
		if ok && !bytes.ContainsAny(bytes.TrimSpace(key), ": \t{\"'") {
			return assignments
		}
		return yamlRows
	}
	return yamlRows
}

var rowKeys = []string{"name", "comparison", "value", "reason", "severity", "source"}

const wantRows = "baseline: and a list below it"

// parseYAML parses a file of expectations.
func parseYAML(name, file string, text []byte) (*rows, error) {
	f, top, err := yamlfile.Parse(name, text, wantRows)
	if err != nil {
		return nil, err
	}
	m, err := f.Mapping(top, "the file", []string{"baseline"})
	if err != nil {
		return nil, err
	}
	list := m["baseline"]
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, f.Fail(top, "no expectations: want %s", wantRows)
	}
	if len(list.Content) > MaxRows {
		return nil, f.Fail(top, "%d expectations: want at most %d", len(list.Content), MaxRows)
	}
	all := &rows{}
	for _, n := range list.Content {
		x, err := parseRow(f, yamlfile.Resolve(n))
		if err != nil {
			return nil, err
		}
		x.File, x.Line = file, n.Line
		all.add(x)
	}
	return all, nil
}

func parseRow(f *yamlfile.File, n *yaml.Node) (*Expectation, error) {
	m, err := f.Mapping(n, "an expectation", rowKeys)
	if err != nil {
		return nil, err
	}
	x := &Expectation{Comparison: Equal, Severity: alert.Warning}
	for key, to := range map[string]*string{"name": &x.Name, "reason": &x.Reason, "source": &x.Source, "severity": &x.Severity, "comparison": (*string)(&x.Comparison)} {
		if v := m[key]; v != nil {
			if *to, err = scalar(f, v, key); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case m["name"] == nil:
		return nil, f.Fail(n, "an expectation has no name")
	case !slices.Contains(Comparisons(), string(x.Comparison)):
		return nil, f.Fail(m["comparison"], "invalid comparison %q%s: want one of %s", x.Comparison,
			yamlfile.DidYouMean(string(x.Comparison), Comparisons()), strings.Join(Comparisons(), ", "))
	case !slices.Contains(alert.Severities(), x.Severity):
		return nil, f.Fail(m["severity"], "invalid severity %q%s: want one of %s", x.Severity,
			yamlfile.DidYouMean(x.Severity, alert.Severities()), strings.Join(alert.Severities(), ", "))
	}
	if x.Name, err = checkName(x.Name); err != nil {
		return nil, f.Fail(m["name"], "%v", err)
	}
	v := m["value"]
	switch {
	case x.Comparison == Any && v != nil:
		return nil, f.Fail(v, "comparison any takes no value")
	case x.Comparison == Any:
		return x, nil
	case v == nil:
		return nil, f.Fail(n, "the expectation of %s has no value", x.Name)
	}
	list := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		if x.Comparison != OneOf && x.Comparison != Not {
			return nil, f.Fail(v, "value: want one value for comparison %s: a list is for one of and not", x.Comparison)
		}
		list = v.Content
	}
	if len(list) == 0 || len(list) > maxText {
		return nil, f.Fail(v, "value: %d values: want 1 to %d", len(list), maxText)
	}
	for _, v := range list {
		v = yamlfile.Resolve(v)
		text, err := scalar(f, v, "value")
		if err != nil {
			return nil, err
		}
		if _, ok := number(text); !ok && (x.Comparison == AtLeast || x.Comparison == AtMost) {
			return nil, f.Fail(v, "value: %q is not a number, which comparison %s wants", text, x.Comparison)
		}
		x.Values = append(x.Values, text)
	}
	return x, nil
}

// scalar returns the text of a scalar.
func scalar(f *yamlfile.File, n *yaml.Node, key string) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		return "", f.Fail(n, "%s: want a text or a number", key)
	case len(n.Value) > maxText:
		return "", f.Fail(n, "%s: the text is too long: want at most %d bytes", key, maxText)
	}
	return valid(n.Value), nil
}

// checkName returns the name of a parameter or a glob of names as events have it.
func checkName(name string) (string, error) {
	bad := strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsGraphic(c) || unicode.IsSpace(c) })
	if name == "" || bad || len(name) > maxText {
		return "", fmt.Errorf("invalid name %.100q: want that of a parameter, such as net.ipv4.ip_forward or net.ipv4.conf.*.rp_filter", name)
	}
	name = normalize(name)
	if _, err := path.Match(noSlash(name), ""); err != nil {
		return "", fmt.Errorf("invalid glob %.100q: want for example net.ipv4.conf.*.rp_filter", name)
	}
	return name, nil
}
