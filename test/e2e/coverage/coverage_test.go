// SPDX-License-Identifier: Apache-2.0

package coverage

import (
	"os"
	"strings"
	"testing"
)

func TestRanges(t *testing.T) {
	all := strings.Fields("5.10 6.1 6.12 7.0 7.1 arm64-5.10 arm64-6.12")
	for some, want := range map[string]string{
		"6.1":           "6.1",
		"7.1":           "7.1",
		"7.0 7.1":       "from 7.0",
		"5.10 6.1":      "5.10 to 6.1",
		"5.10 6.12 7.0": "5.10, 6.12 to 7.0",
		"6.1 7.0 7.1":   "6.1, from 7.0",

		"7.1 arm64-5.10":            "7.1, arm64-5.10",
		"7.0 7.1 arm64-6.12":        "from 7.0, arm64-6.12",
		"7.1 arm64-5.10 arm64-6.12": "7.1, from arm64-5.10",
	} {
		if got := ranges(strings.Fields(some), all); got != want {
			t.Errorf("%s: %q, want %q", some, got, want)
		}
	}
}

// TestDocuments checks that the committed documents are those of the committed results.
func TestDocuments(t *testing.T) {
	all, err := Read("../testdata/coverage.json")
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if read("../../../docs/coverage.md") != all.Markdown() {
		t.Error("docs/coverage.md is not that of testdata/coverage.json: make coverage")
	}
	text := read("../../../docs/limits.md")
	if want, err := all.InsertLimits(text); err != nil || text != want {
		t.Errorf("docs/limits.md is not that of testdata/coverage.json: make coverage (%v)", err)
	}
}

// TestLimits has results of two kernels: a call that only the newer one has, one that a backend
// misses on one kernel and one that it misses on both, and one that nothing reports.
func TestLimits(t *testing.T) {
	all := &All{Kernels: map[string][]Row{}}
	for _, k := range []string{"5.10", "7.3"} {
		add := func(way, fentry, tracepoint string) {
			all.Add(Row{Kernel: k, Group: "Make", Way: way, Reports: map[string]string{"fentry": fentry, "tracepoint": tracepoint, "audit": ""}})
		}
		onlyNew, onlyOld := map[string]string{"7.3": "seen"}[k], map[string]string{"5.10": "seen"}[k]
		add("new", onlyNew, onlyNew)
		add("sometimes", "seen", onlyOld)
		add("never by tracepoint", "seen", "")
		add("never", "", "")
		add("always", "seen", "seen")
	}
	const want = `| | way | not seen by | kernels |
| --- | --- | --- | --- |
| Make | sometimes | tracepoint | 7.3 |
| Make | never by tracepoint | tracepoint | all |
| Make | never | any backend | all |
`
	if got := all.Limits(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
