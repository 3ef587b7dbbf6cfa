// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/output"
)

func newHistoryBoots() *cobra.Command {
	var path, format string
	cmd := &cobra.Command{
		Use:   "boots [flags]",
		Short: "List the boots that have events",
		Long: `List the boots that have events, the newest last. IDX is the number for --boot: 0 is the
newest boot, -1 the one before. nstrace reads all events for that.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := oneOf("--output", format, tableFormats); err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			db, err := openHistory(ctx, path)
			if err != nil {
				return interrupted(err)
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			askRecorder(ctx, path)
			found, err := db.Boots()
			if err != nil {
				return interrupted(err)
			}
			boots := make([]output.Boot, len(found))
			for i, b := range found {
				boots[i] = output.Boot{Index: i + 1 - len(found), ID: b.ID, Host: b.Host, First: b.First, Last: b.Last, Events: b.Events}
			}
			if format == "json" {
				return output.WriteBootsJSON(os.Stdout, boots)
			}
			if len(boots) == 0 {
				notify("no events")
				return nil
			}
			return output.WriteBoots(os.Stdout, boots, location())
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "output format: table or json")
	complete(cmd, "output", tableFormats)
	registerDB(cmd.Flags(), &path)
	return cmd
}

// tableFormats are the values of --output of a command that has no wide table.
var tableFormats = []string{"table", "json"}

// bootForm matches a boot: its number, or its id with or without dashes.
var bootForm = regexp.MustCompile(`^(?:[+-]?[0-9]{1,9}|[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12})$`)

// bootIDLength is the length of a boot id without dashes.
const bootIDLength = 32

// registerBoot adds --boot, which selects what.
func registerBoot(fs *pflag.FlagSet, boot *string, what string) {
	fs.StringVarP(boot, "boot", "b", "", what+": 0 (the newest, if no boot is given), -1 (the one before), 1 (the oldest), or a boot id; see nstrace history boots")
	optionalPattern(fs, "boot", "0", bootForm)
}

// checkBoot checks a value of --boot.
func checkBoot(boot string) error {
	if boot != "" && !bootForm.MatchString(boot) {
		return usagef("--boot: invalid boot %q: want for example 0, -1, or an id from nstrace history boots", boot)
	}
	return nil
}

// findBoot returns the id of the boot that a value of --boot means.
func findBoot(db *history.DB, boot string) (id string, err error) {
	all, err := db.Boots()
	if err != nil {
		return "", err
	}
	b, ok := history.BootWith(all, boot)
	if offset, err := strconv.Atoi(boot); err == nil && len(boot) < bootIDLength {
		b, ok = history.BootAt(all, offset)
	}
	switch {
	case !ok:
		return "", fmt.Errorf("--boot: no event of boot %s is recorded: nstrace history boots lists the boots", boot)
	case b.ID == "":
		return "", fmt.Errorf("--boot: the events of boot %s have no boot id", boot)
	}
	return b.ID, nil
}
