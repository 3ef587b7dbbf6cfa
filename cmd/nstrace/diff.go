// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/explain"
	"github.com/nstrace/nstrace/internal/nsdiff"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// Exit statuses of diff, which are those of diff(1). exitOK says that nothing differs.
const (
	exitDiffers = 1
	exitTrouble = 2
)

type diffFlags struct {
	format   string
	fresh    bool
	declared bool
	baseline []string
	rules    string
	db       string
	nsTypes  []string
	runtimes []string

	runtimeWait time.Duration
}

func newDiff() *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff NS [NS] | --declared | --baseline FILE [flags]",
		Short: "Show the parameters that differ between two namespaces, or from what files declare or expect",
		Long: `Show the parameters that differ between two namespaces: between NS and NS, between NS and
the host's namespace (that of process 1) if there is one NS only, or between NS and a fresh
namespace with --fresh.

NS is an inode number, TYPE:[NUMBER], a pid, a path, a name of ip netns, a container's name
or id, NAMESPACE/POD, or a systemd unit. Of a process, container, pod or unit, nstrace
compares the namespaces of all types that have parameters of their own.

nstrace makes a few namespaces, which end at once, to find what a new namespace gets: a copy
from its creator, or the kernel's default. It says nothing where that does not show.

With --declared, nstrace shows each parameter of the host that has another value than sysctl.d
declares, with the line that declares it and the last process that wrote it. nstrace explain
shows one of them in full.

With --baseline, nstrace shows each parameter of the host that is not as FILE expects. FILE has
expectations in YAML ("nstrace diff --baseline help" prints an example, which is the built-in
baseline), or it is the output of sysctl -a or of kernel-hardening-checker -m json, or a file
of sysctl.d whose name ends in .conf.

The exit status is 0 if nothing differs, 1 if something does, and 2 for trouble.`,
		Example: `  nstrace diff web                     web and the host
  nstrace diff blue green              two network namespaces
  nstrace diff 4711 --fresh            what is set in the namespaces of a process
  nstrace diff web db -t net -o json
  nstrace diff --declared              what differs from the files of sysctl.d
  nstrace diff --baseline default      what differs from common advice to harden a host`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.Contains(f.baseline, "help") {
				return baselineHelp()
			}
			run := f.diff
			if f.declared || cmd.Flags().Changed("baseline") {
				run = func(ctx context.Context, args []string) (bool, error) { return f.diffDeclared(ctx, cmd, args) }
			}
			differs, err := run(cmd.Context(), args)
			var usage usageError
			switch {
			case err != nil && errors.As(err, &usage):
				return err
			case err != nil:
				return errors.Join(err, exitStatus(exitTrouble))
			case differs:
				return exitStatus(exitDiffers)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table or json")
	fs.BoolVar(&f.fresh, "fresh", false, "compare with a fresh namespace, which nstrace makes and drops")
	fs.StringSliceVarP(&f.nsTypes, "ns-type", "t", nil, "only namespaces of these types: "+strings.Join(diffTypeNames(), ", "))
	fs.BoolVar(&f.declared, "declared", false, "compare the host's parameters with the files of sysctl.d")
	registerBaseline(cmd, &f.baseline, "compare the host's parameters with the expectations in this file")
	registerRules(cmd, &f.rules)
	registerDB(fs, &f.db)
	registerRuntimes(fs, &f.runtimes)
	registerRuntimeWait(fs, &f.runtimeWait)
	completeArgs(cmd, 2, netnsNames)
	complete(cmd, "output", []string{"table", "json"})
	complete(cmd, "ns-type", diffTypeNames())
	return cmd
}

func diffTypeNames() (names []string) {
	for _, t := range nsdiff.Types() {
		names = append(names, string(t))
	}
	return names
}

// A diffSink writes the rows: output.DiffTable or output.DiffJSON.
type diffSink interface {
	Add(*output.Diff) error
	Flush() error
}

// diff writes what differs, and reports whether anything does.
func (f *diffFlags) diff(ctx context.Context, args []string) (differs bool, err error) {
	if err := f.check(args); err != nil {
		return false, err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	defer visit(ctx, defaultDB)()
	names, err := resolve.Runtimes(ctx, f.runtimes, f.runtimeWait)
	if err != nil {
		return false, usagef("--runtime-socket: %w", err)
	}
	r := resolve.New(nil, names)
	var targets []*resolve.Target
	for _, text := range args {
		t, err := r.Find(ctx, text)
		if err != nil {
			return false, argumentMistake("diff", err)
		}
		targets = append(targets, t)
	}
	comparison, err := nsdiff.New(r, targets, f.fresh, f.types())
	if err != nil {
		return false, argumentMistake("diff", err)
	}
	defer comparison.Close()
	for _, left := range comparison.LeftOut {
		notify(left)
	}
	rows, err := comparison.Run(ctx)
	if ctx.Err() != nil {
		return false, interrupted(ctx.Err())
	}
	differs, writeErr := f.write(rows, args, r.Hosts())
	return differs, errors.Join(err, writeErr)
}

func (f *diffFlags) check(args []string) error {
	switch {
	case len(args) == 0 || len(args) > 2:
		return usagef("diff: %d arguments: want one or two namespaces", len(args))
	case f.fresh && len(args) > 1:
		return usagef("diff: --fresh compares one namespace with a fresh one: want one namespace")
	}
	for _, t := range f.nsTypes {
		if err := oneOf("--ns-type", t, diffTypeNames()); err != nil {
			return err
		}
	}
	if err := checkRuntimeWait(f.runtimeWait); err != nil {
		return err
	}
	return oneOf("--output", f.format, []string{"table", "json"})
}

func (f *diffFlags) types() (types []event.NSType) {
	for _, t := range nsdiff.Types() {
		if len(f.nsTypes) == 0 || slices.Contains(f.nsTypes, string(t)) {
			types = append(types, t)
		}
	}
	return types
}

// argumentMistake makes an error about an argument of a command a usage error.
func argumentMistake(command string, err error) error {
	for _, mistake := range []error{resolve.ErrSyntax, resolve.ErrUnknown, resolve.ErrAmbiguous, resolve.ErrNoNamespace, nsdiff.ErrTypes} {
		if errors.Is(err, mistake) {
			return usagef("%s: %w", command, err)
		}
	}
	return err
}

func (f *diffFlags) write(rows []*output.Diff, args []string, host map[event.NSType]uint32) (differs bool, err error) {
	var sink diffSink
	if f.format == "json" {
		sink = output.NewDiffJSON(os.Stdout)
	} else if len(rows) > 0 {
		names := [2]string{args[0], "host"}
		switch {
		case f.fresh:
			names[1] = "fresh"
		case len(args) > 1:
			names[1] = args[1]
		}
		sink = output.NewDiffTable(os.Stdout, names, output.TableOptions{Location: location(),
			HostNS: host, Color: colorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout), OneLine: output.TerminalWidth(os.Stdout) == 0,
		})
	} else {
		return false, nil
	}
	for _, row := range rows {
		differs = differs || row.State == output.Different || row.State == output.OnlyIn
		if err := sink.Add(row); err != nil {
			return differs, err
		}
	}
	if err := sink.Flush(); err != nil {
		return differs, fmt.Errorf("write the differences: %w", err)
	}
	return differs, nil
}

// diffDeclared is diff for --declared and --baseline.
func (f *diffFlags) diffDeclared(ctx context.Context, cmd *cobra.Command, args []string) (differs bool, err error) {
	flag := "--declared"
	if !f.declared {
		flag = "--baseline"
	}
	switch {
	case len(args) > 0:
		return false, usagef("diff: %s compares the host's parameters: want no namespace", flag)
	case f.fresh || len(f.nsTypes) > 0:
		return false, usagef("diff: %s cannot be used with --fresh or --ns-type", flag)
	case f.declared && cmd.Flags().Changed("baseline"):
		return false, errDeclaredAndBaseline
	}
	if err := errors.Join(oneOf("--output", f.format, []string{"table", "json"}), oneOf("--rules", f.rules, ruleNames)); err != nil {
		return false, err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	o := explain.Options{Program: program(f.rules), Resolver: resolve.New(nil, nil)}
	compare, write, summary := explain.Compare, output.WriteDeclaredText, fmt.Sprintf("by the rules of %s", o.Program)
	read := readDeclared
	if !f.declared {
		set, err := loadBaseline(f.baseline, f.rules)
		if err != nil {
			return false, err
		}
		compare = func(ctx context.Context, o explain.Options) (*explain.Comparison, error) {
			return explain.CompareSet(ctx, o, set)
		}
		write, summary = output.WriteExpectedText, "by the baseline "+strings.Join(f.baseline, " and ")
		read = func(context.Context) (*declared.Config, error) { return &declared.Config{}, nil }
	}
	wait, finish := readAhead(ctx, cmd, f.db, &o, read)
	defer func() { err = errors.Join(err, finish()) }()
	if err := wait(); err != nil {
		return false, interrupted(err)
	}
	all, err := compare(ctx, o)
	if err != nil {
		return false, interrupted(err)
	}
	if f.format == "json" {
		write = output.WriteDeclaredJSON
	}
	if err := write(os.Stdout, all.Rows, location()); err != nil {
		return false, fmt.Errorf("write the differences: %w", err)
	}
	what, as := "declared parameter", "declared"
	if !f.declared {
		what, as = "checked parameter", "expected"
	}
	notify(fmt.Sprintf("%s %s: %d as %s, %d different, %d not comparable, %d missing", plural(uint64(all.Total()), what),
		summary, all.Count[output.AsDeclared], as, all.Count[output.OtherValue], all.Count[output.NotComparable], all.Count[output.Missing]))
	for _, p := range o.Config.Problems {
		err = errors.Join(err, fmt.Errorf("not read: %s", p))
	}
	return all.Count[output.OtherValue] > 0, err
}
