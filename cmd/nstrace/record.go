// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/internal/history"
)

// defaultDB is where record keeps the history, and where the others look for it.
const defaultDB = "/var/lib/nstrace/history.db"

type recordFlags struct {
	streamFlags
	db       string
	keep     string
	keepSize string
}

func newRecord() *cobra.Command {
	var f recordFlags
	cmd := &cobra.Command{
		Use:   "record [flags]",
		Short: "Keep a history of events, for nstrace blame and nstrace history",
		Long: `Stream as nstrace does, with the same flags, and keep what is streamed in a
database. The stream is written if --output or --output-file asks for it, or if
stdout is a terminal. While the database can't be written or opened (its disk is
full, another program locks it) the stream goes on and events wait in memory.
While another nstrace records to it this one stands by, and takes over without a
gap when that one ends.`,
		Example: `  nstrace record                                   for a service manager to run
  nstrace record --keep 30d --keep-size 256MiB -o json -O /var/log/nstrace.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.record(cmd) },
	}
	f.register(cmd)
	registerDB(cmd.Flags(), &f.db)
	cmd.Flags().StringVar(&f.keep, "keep", "90d", "drop events that are older than this, such as 90d or 12h (0: never)")
	cmd.Flags().StringVar(&f.keepSize, "keep-size", "1GiB", "drop the oldest events when the database grows beyond this (0: never)")
	return cmd
}

// registerDB adds the flag that names the database.
func registerDB(fs *pflag.FlagSet, db *string) {
	fs.StringVar(db, "db", defaultDB, "the database that nstrace record writes")
}

func (f *recordFlags) record(cmd *cobra.Command) (err error) {
	if done, err := f.help(); done {
		return err
	}
	// What is wrong with a flag is known before there is a file.
	if _, err := f.options(); err != nil {
		return err
	}
	keep, err := parseAge(f.keep)
	if err != nil {
		return usagef("--keep: %w", err)
	}
	size, err := humanize.ParseBytes(f.keepSize)
	if err != nil || size > math.MaxInt64 || (size > 0 && size < 1<<20) {
		return usagef("--keep-size: %q is no size; it takes one of at least 1MiB, such as 1GiB, or 0", f.keepSize)
	}
	f.quiet = f.file == "" && !cmd.Flags().Changed("output") && !term.IsTerminal(int(os.Stdout.Fd()))
	r, err := history.Create(history.Options{
		Path: f.db, Keep: keep, KeepSize: int64(size), Version: buildVersion(),
		Report: func(message string) { fmt.Fprintf(os.Stderr, "nstrace: %s\n", message) },
	})
	if err != nil {
		return fmt.Errorf("--db: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f.history, f.streamFlags.db = r, f.db
	return f.stream(cmd)
}

// parseAge reads a time that can be days or weeks.
func parseAge(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no time; it takes one such as 90d, 2w, 12h or 0", text)
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 32)
			if err != nil || time.Duration(n) > math.MaxInt64/d {
				return 0, bad
			}
			return time.Duration(n) * d, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, bad
	}
	return d, nil
}
