// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return printVersion(cmd) },
	}
}

// printVersion prints what nstrace version and nstrace --version print.
func printVersion(cmd *cobra.Command) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "nstrace %s %s/%s %s\n", buildVersion(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	return err
}

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man [COMMAND]",
		Short: "Print the manual page in the format of man(1): nstrace man | man -l -",
		RunE: func(cmd *cobra.Command, args []string) error {
			page := cmd.Root()
			if len(args) > 0 {
				found, rest, err := page.Find(args)
				if err != nil || len(rest) > 0 {
					return usagef("man: unknown command %q: see nstrace --help", args[0])
				}
				page = found
			}
			return writeManual(cmd.OutOrStdout(), page)
		},
	}
}
