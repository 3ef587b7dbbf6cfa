// SPDX-License-Identifier: Apache-2.0

// Package coverage keeps what the end-to-end tests found: what nstrace and the kernel's audit
// report of each way to act on namespaces and parameters, on each kernel.
package coverage

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Mark is before a Row, as JSON, in the output of the tests.
const Mark = "coverage: "

// Columns are those that report.
var Columns = []string{"fentry", "kprobe", "tracepoint", "audit"}

// A Row is what they reported of one way on one kernel.
type Row struct {
	Kernel  string            `json:"kernel"` // major and minor version: 6.1
	Group   string            `json:"group"`
	Way     string            `json:"way"`
	Reports map[string]string `json:"reports"` // by column; empty for nothing
}

// All is what is known of all kernels.
type All struct {
	Kernels map[string][]Row `json:"kernels"`
}

// Read reads the file that Write has written. One that is not there is empty.
func Read(file string) (*All, error) {
	all := &All{Kernels: map[string][]Row{}}
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

// Write writes it to a file.
func (a *All) Write(file string) error {
	b, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// Find returns what a column reported, "" for nothing, and whether the way was gone.
func (a *All) Find(kernel, group, way, column string) (said string, gone bool) {
	for _, r := range a.Kernels[kernel] {
		if r.Group == group && r.Way == way {
			return r.Reports[column], true
		}
	}
	return "", false
}

// kernels returns the series, the oldest first.
func (a *All) kernels() []string {
	var all []string
	for k := range a.Kernels {
		all = append(all, k)
	}
	slices.SortFunc(all, func(x, y string) int { return slices.Compare(numbers(x), numbers(y)) })
	return all
}

func numbers(series string) (n []int) {
	for part := range strings.SplitSeq(series, ".") {
		i, _ := strconv.Atoi(part)
		n = append(n, i)
	}
	return n
}

// Markdown is docs/coverage.md.
func (a *All) Markdown() string {
	kernels := a.kernels()
	var sb strings.Builder
	fmt.Fprintf(&sb, `<!-- Made by "make coverage" from what the tests found. -->

# Coverage

Each row is a way to make, enter, keep or end a namespace, to change a parameter or to move a device.
A real program does it in the end-to-end tests (`+"`TestCoverage`"+`). The columns show what nstrace reported with each
backend, and what the kernel's audit reported in the same run. Audit had rules for the calls and for writes below
`+"`/proc/sys`"+`. Kernels: %s. Where they differ, the cell says on which kernel. A dash means nothing. The Debian archive
has no modules for some kernels (%s). On those, no row about devices was tried.

`+"`openat`"+` in the audit column means that audit reported a file opened for writing. Audit reports no names of
parameters, no values, no results of writes and no namespaces. It has no rule for `+"`clone3`"+`, whose flags are behind a
pointer.
`, strings.Join(kernels, ", "), strings.Join(a.partial(kernels), ", "))
	if len(kernels) == 0 {
		return sb.String()
	}
	group := ""
	for _, row := range a.Kernels[kernels[len(kernels)-1]] {
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(&sb, "\n## %s\n\n| way | %s |\n|%s\n", group, strings.Join(Columns, " | "), strings.Repeat(" --- |", len(Columns)+1))
		}
		fmt.Fprintf(&sb, "| %s", row.Way)
		for _, column := range Columns {
			fmt.Fprintf(&sb, " | %s", a.cell(kernels, row, column))
		}
		sb.WriteString(" |\n")
	}
	return sb.String()
}

// partial returns the kernels on which not every way was gone.
func (a *All) partial(kernels []string) (some []string) {
	for _, k := range kernels {
		if len(a.Kernels[k]) < len(a.Kernels[kernels[len(kernels)-1]]) {
			some = append(some, k)
		}
	}
	return some
}

// cell is what a column reports of a way, by kernel where they differ, the newest first.
func (a *All) cell(kernels []string, row Row, column string) string {
	var texts []string
	by := map[string][]string{}
	kernels = slices.DeleteFunc(slices.Clone(kernels), func(k string) bool {
		_, gone := a.Find(k, row.Group, row.Way, column)
		return !gone
	})
	for _, k := range slices.Backward(kernels) {
		text, _ := a.Find(k, row.Group, row.Way, column)
		if text == "" {
			text = "—"
		}
		if by[text] == nil {
			texts = append(texts, text)
		}
		by[text] = append([]string{k}, by[text]...)
	}
	if len(texts) == 1 {
		return texts[0]
	}
	for i, text := range texts {
		texts[i] = fmt.Sprintf("%s (%s)", text, ranges(by[text], kernels))
	}
	return strings.Join(texts, "; ")
}

// ranges lists some of all, both in order, those that follow each other as one: "5.10 to 6.1, 7.3".
func ranges(some, all []string) string {
	var list []string
	for len(some) > 0 {
		from := slices.Index(all, some[0])
		n := 1
		for n < len(some) && from+n < len(all) && all[from+n] == some[n] {
			n++
		}
		switch {
		case n == 1:
			list = append(list, some[0])
		case from+n == len(all):
			list = append(list, "from "+some[0])
		default:
			list = append(list, some[0]+" to "+some[n-1])
		}
		some = some[n:]
	}
	return strings.Join(list, ", ")
}
