// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/baseline"
)

// errDeclaredAndBaseline is the error for both flags: a parameter has one expected value.
var errDeclaredAndBaseline = usagef("--declared and --baseline cannot be used together: want one of them")

// registerBaseline adds --baseline.
func registerBaseline(cmd *cobra.Command, files *[]string, usage string) {
	cmd.Flags().StringArrayVar(files, "baseline", nil, usage+"; may be repeated (\"default\": common advice to harden a host, \"help\": print it)")
}

// baselineHelp answers --baseline help.
func baselineHelp() error {
	_, err := fmt.Fprint(os.Stdout, baseline.Default)
	return err
}

// loadBaseline reads the files of --baseline.
func loadBaseline(files []string, rules string) (*baseline.Set, error) {
	set, err := baseline.Load(baseline.Options{Program: program(rules), Report: notify}, files...)
	if err != nil {
		return nil, usagef("--baseline: %w", err)
	}
	return set, nil
}
