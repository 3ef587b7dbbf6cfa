// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/config"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/tracer"
)

// defaultDB is the default database of record and of the commands that read the history.
const defaultDB = "/var/lib/nstrace/history.db"

type recordFlags struct {
	streamFlags
	db       string
	keep     time.Duration
	keepSize string
	declared bool
	baseline []string
	rules    string
	wait     bool
	first    bool
}

func newRecord() *cobra.Command { return new(recordFlags).command() }

// command returns the command whose flags f has.
func (f *recordFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "record [flags]",
		Short: "Record a history of events for nstrace blame and nstrace history",
		Long: `Trace as nstrace does, with the same flags, and store the events in a database. The
events are also written to stdout if --output is given or stdout is a terminal, and to
the file of --output-file, and go to each --sink. While the database cannot be opened or written (the disk is
full, another program holds a lock), tracing continues and events wait in memory.

While another nstrace records to the same database, this one stands by. It takes over
without a gap when the other one ends.

With --baseline or --declared, nstrace record marks each event that moves a parameter of the
host away from its expected value, or back. nstrace history deviations lists them.

The files /etc/nstrace/config.yaml and /etc/nstrace/conf.d/*.yaml can set each flag; see --config.
At SIGHUP, a recorder without a terminal reads them again.`,
		Example: `  nstrace record                                   record, as a service does
  nstrace record --keep 30d --keep-size 256MiB -o json -O /var/log/nstrace.json
  nstrace record --declared                        mark what moves parameters away from sysctl.d`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.record(cmd) },
	}
	f.register(cmd)
	f.registerHealth(cmd, "1m")
	registerDB(cmd.Flags(), &f.db)
	spanVar(cmd.Flags(), &f.keep, "keep", 90*24*time.Hour, "drop events older than this, for example 90d or 12h (0: never)")
	cmd.Flags().Lookup("keep").DefValue = "90d"
	cmd.Flags().StringVar(&f.keepSize, "keep-size", "1GiB", "drop the oldest events when the database exceeds this size (0: never)")
	cmd.Flags().BoolVar(&f.declared, "declared", false, "mark the events that move a parameter of the host away from what sysctl.d declares, or back")
	registerBaseline(cmd, &f.baseline, "mark the events that move a parameter of the host away from what this file expects, or back")
	registerRules(cmd, &f.rules)
	cmd.Flags().BoolVar(&f.wait, "wait-for-db", false, "keep events in memory while the folder of the database is missing or read-only, as early in a boot, instead of making it or failing")
	cmd.Flags().BoolVar(&f.first, "sysctl-first", false, "attach first what sees writes to parameters, which costs a fraction, and the rest in the background once tracing is active, as early in a boot")
	return cmd
}

// registerDB adds the flag that names the database.
func registerDB(fs *pflag.FlagSet, db *string) {
	fs.StringVar(db, "db", defaultDB, "database of nstrace record")
}

func (f *recordFlags) record(cmd *cobra.Command) (err error) {
	if done, err := f.help(); done {
		return err
	}
	if slices.Contains(f.baseline, "help") {
		return baselineHelp()
	}
	f.remake = remakeRecord
	if err := f.configure(cmd, config.Path); err != nil {
		return err
	}
	defer func() { err = f.config.Locate(err) }()
	// An invalid flag creates no database.
	if _, err := f.check(); err != nil {
		return err
	}
	if err := f.expect(cmd); err != nil {
		return err
	}
	size, err := f.size()
	if err != nil {
		return err
	}
	// Nothing of these leaves a database behind, or part of one.
	if err := tracer.CheckPrivileges(); err != nil {
		return err
	}
	if f.db != defaultDB && !f.wait { // whose folder nstrace makes
		if err := checkFolder("--db", f.db); err != nil {
			return err
		}
	}
	if f.file != "" {
		if err := checkFolder("--output-file", f.file); err != nil {
			return err
		}
	}
	if err := checkSinkFolders(f.sinks); err != nil {
		return err
	}
	f.quiet = f.file == "" && !cmd.Flags().Changed("output") && !term.IsTerminal(int(os.Stdout.Fd()))
	r, err := history.Create(history.Options{
		Path: f.db, Keep: f.keep, KeepSize: size, Version: buildVersion(),
		Report: reportHistory, WaitForFolder: f.wait,
	})
	if err != nil {
		return fmt.Errorf("--db: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f.history, f.streamFlags.db, f.sysctlFirst = r, f.db, f.first
	return f.stream(cmd)
}

// check parses the flags that need nothing of the host.
func (f *recordFlags) check() (tracer.Options, error) {
	o, err := f.options()
	if err != nil {
		return o, err
	}
	if err := oneOf("--rules", f.rules, ruleNames); err != nil {
		return o, err
	}
	if len(f.baseline) > 0 && f.declared {
		return o, errDeclaredAndBaseline
	}
	if f.keep < 0 {
		return o, usagef("--keep: invalid negative time %s: want for example 90d, or 0 to keep all", f.keep)
	}
	if _, err := f.size(); err != nil {
		return o, err
	}
	_, err = f.rotation()
	return o, err
}

// size parses --keep-size.
func (f *recordFlags) size() (int64, error) {
	size, err := humanize.ParseBytes(f.keepSize)
	if err != nil || size > math.MaxInt64 || (size > 0 && size < 1<<20) {
		return 0, usagef("--keep-size: invalid size %q: want at least 1MiB, for example 1GiB, or 0", f.keepSize)
	}
	return int64(size), nil
}

// expect reads what is expected of parameters.
func (f *recordFlags) expect(cmd *cobra.Command) error {
	switch {
	case len(f.baseline) > 0:
		set, err := loadBaseline(f.baseline, f.rules)
		if err != nil {
			return err
		}
		f.expected = baseline.NewMarker(set)
	case f.declared:
		return f.expectDeclared(cmd.Context())
	}
	return nil
}

// expectDeclared reads the files of sysctl.d, and has them read again when they change.
func (f *recordFlags) expectDeclared(ctx context.Context) error {
	program := program(f.rules)
	read := func(ctx context.Context) (*baseline.Set, error) {
		config, err := readDeclared(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range config.Problems {
			warn("--declared: not read: " + p)
		}
		return baseline.Declared(config, program), nil
	}
	watch := declared.NewWatch(declared.Options{}) // before the files are read
	set, err := read(ctx)
	if err != nil {
		watch.Close()
		return fmt.Errorf("--declared: %w", err)
	}
	f.expected = baseline.NewMarker(set)
	f.refresh = func(ctx context.Context) {
		defer watch.Close()
		for watch.Next(ctx) == nil {
			if set, err := read(ctx); err == nil {
				f.expected.Use(set)
			} else if ctx.Err() == nil {
				warn(fmt.Sprintf("--declared: %v", err))
			}
		}
	}
	return nil
}

// reportHistory reports where events are kept, on stderr and in the status of a unit.
func reportHistory(message string) {
	warn(message)
	_, _ = daemon.SdNotify(false, "STATUS="+flatten(message)) // stderr has it
}

// visit tells the recorder of a database that this process enters namespaces only to look, see history.Client, until
// it calls leave. Without a recorder that answers there is nobody to tell.
func visit(ctx context.Context, db string) (leave func()) {
	c := history.NewClient(db)
	_ = c.Sync(ctx)
	return c.Close
}

// checkFolder refuses a file in a folder that does not exist, which is likely a mistyped one.
func checkFolder(flag, path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usagef("%s: there is no folder %q", flag, dir)
	case err == nil && !info.IsDir():
		return usagef("%s: %q is not a folder", flag, dir)
	}
	return nil // opening the file says what else is wrong
}
