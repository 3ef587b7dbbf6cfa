// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
}

// versionLine is the output of nstrace version and nstrace --version.
func versionLine() string {
	return fmt.Sprintf("nstrace %s %s/%s %s", buildVersion(), runtime.GOOS, runtime.GOARCH, runtime.Version())
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
			return doc.GenMan(page, &doc.GenManHeader{Title: "NSTRACE", Section: "8", Source: "nstrace " + buildVersion()}, cmd.OutOrStdout())
		},
	}
}
