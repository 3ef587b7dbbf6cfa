// SPDX-License-Identifier: Apache-2.0

// Cmd makes the committed files with the results of TestCoverage from the output of go test -v:
//
//	NSTRACE_COVERAGE=1 go test -v ./test/vm -run 'TestKernel/.*/TestCoverage$' | go run ./test/e2e/coverage/cmd
//
// Run it in the root of the repository. It replaces the rows in the output, and keeps the others. So
// the tests can also run for some kernels or some ways only.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/nstrace/nstrace/test/e2e/coverage"
)

const (
	results = "test/e2e/testdata/coverage.json"
	doc     = "docs/coverage.md"
	limits  = "docs/limits.md"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run() error {
	all, err := coverage.Read(results)
	if err != nil {
		return err
	}
	found := false
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		_, text, ok := strings.Cut(in.Text(), coverage.Mark+"{")
		if !ok {
			continue
		}
		var row coverage.Row
		if err := json.Unmarshal([]byte("{"+text), &row); err != nil {
			return fmt.Errorf("%w: %q", err, in.Text())
		}
		found = true
		all.Add(row)
	}
	if err := in.Err(); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("no results: did the tests run with -v and NSTRACE_COVERAGE=1?")
	}
	if err := all.Write(results); err != nil {
		return err
	}
	text, err := os.ReadFile(limits)
	if err != nil {
		return err
	}
	inserted, err := all.InsertLimits(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", limits, err)
	}
	if err := os.WriteFile(limits, []byte(inserted), 0o644); err != nil {
		return err
	}
	return os.WriteFile(doc, []byte(all.Markdown()), 0o644)
}
