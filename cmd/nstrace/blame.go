// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/blame"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
)

type blameFlags struct {
	db       string
	format   string
	group    string
	all      bool
	netns    string
	allNetns bool
	since    string
	boot     string
	sort     []string
	store    storeFlags
}

func newBlame() *cobra.Command {
	var f blameFlags
	cmd := &cobra.Command{
		Use:   "blame [GLOB...] [flags]",
		Short: "Show the value of each parameter, who set it last, when, and the value before",
		Long: `Show the parameters that were changed while nstrace record ran, or of these the ones
that match a GLOB or are below a name such as net.ipv4. Each row has the current value, the value before the last write, the
time and the process of that write, and the number of recorded writes (N).

A parameter is marked if its value is not the one that the last recorded write set: it was
changed while nstrace was not running. Parameters that one process set in a burst, as
sysctl --system does, share one row; --group=open lists them below it. Parameters of
network namespaces are shown for the host's network namespace, unless --netns or
--all-netns is given.`,
		Example: `  nstrace blame
  nstrace blame 'net.ipv4.*' kernel.core_pattern
  nstrace blame --group=open
  nstrace blame --boot=-1                      the last writes of the boot before this one
  nstrace blame --netns web -o json
  nstrace blame --store http://logs:9428 net.ipv4.ip_forward --since yesterday   of all hosts that send there`,
		RunE: func(cmd *cobra.Command, args []string) error {
			foldPast(cmd, f.format, &f.group)
			return f.blame(cmd.Context(), args)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table, wide or json")
	registerGroup(cmd, &f.group, "fold the parameters that a process set in a burst into one table row: closed, open (with the parameters below the row) or off")
	fs.Lookup("group").DefValue = groupedPast
	fs.BoolVar(&f.all, "all", false, "also show parameters without a recorded change")
	fs.StringVar(&f.netns, "netns", "", "show the parameters of this network namespace (inode number, pid, path, or a name from ip netns)")
	fs.BoolVar(&f.allNetns, "all-netns", false, "show the parameters of all network namespaces")
	fs.StringVarP(&f.since, "since", "S", "", `only parameters set since this time, for example "yesterday", "1h" or "2012-10-30 18:17:16"`)
	registerBoot(fs, &f.boot, "only the last write of each parameter in this boot")
	fs.StringSliceVar(&f.sort, "sort", nil, "sort by these columns: "+strings.Join(output.BlameColumns(), ", ")+"; a minus sign before a name reverses the order")
	registerDB(fs, &f.db)
	f.store.register(cmd)
	complete(cmd, "sort", output.BlameColumns())
	completeBy(cmd, "netns", netnsNames)
	completeArgs(cmd, 0, parameterParts)
	complete(cmd, "output", formats)
	return cmd
}

// A blameSink writes the rows: output.BlameTable, output.BlameGroup or output.BlameJSON.
type blameSink interface {
	Add(*output.Blame) error
	Flush() error
}

func (f *blameFlags) blame(ctx context.Context, globs []string) (err error) {
	if err := checkFormat(f.format, formats, f.group, "parameter"); err != nil {
		return err
	}
	if f.netns != "" && f.allNetns {
		return usagef("--netns and --all-netns cannot be used together")
	}
	for i, g := range globs {
		globs[i] = sysctlArg(g)
		if err := (&event.Filter{Sysctl: globs[i : i+1]}).Validate(); err != nil {
			return usagef("blame: %w", err)
		}
	}
	var since time.Time
	if f.since != "" {
		var err error
		if since, err = parseWhen(f.since, time.Now()); err != nil {
			return usagef("--since: %w", err)
		}
	}
	if err := checkBoot(f.boot); err != nil {
		return err
	}
	for _, c := range f.sort {
		if err := oneOf("--sort", strings.TrimPrefix(c, "-"), output.BlameColumns()); err != nil {
			return err
		}
	}
	if f.store.url != "" || len(f.store.hosts) > 0 {
		return f.blameStored(ctx, globs, since)
	}
	recorder := history.NewClient(f.db)
	defer recorder.Close()
	o := blame.Options{All: f.all, AllNets: f.allNetns, Sync: warnBehind(f.db, recorder.Sync)}
	if len(globs) > 0 {
		o.Match = func(name string) bool {
			return slices.ContainsFunc(globs, func(g string) bool {
				return event.MatchSysctl(g, name) || isBelow(name, g)
			})
		}
	}
	if f.netns != "" {
		n, err := pipeline.ParseNetSelector(f.netns)
		if err != nil {
			return usagef("--netns: %w", err)
		}
		o.Net = &blame.Net{ID: n.ID, Name: n.Name}
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	db, err := openHistory(ctx, f.db)
	if err != nil {
		return ignoreCancel(err)
	}
	defer func() { warnLeftOut(f.db, db); err = errors.Join(err, db.Close()) }()
	if f.boot != "" {
		askRecorder(ctx, f.db)
		if o.BootID, err = findBoot(db, f.boot); err != nil {
			return ignoreCancel(err)
		}
	}
	sink := f.sink(false)
	rows, err := blame.Find(ctx, db, o)
	if err != nil {
		return ignoreCancel(err)
	}
	if !since.IsZero() {
		rows = slices.DeleteFunc(rows, func(row *output.Blame) bool { return row.Last == nil || row.SetAt().Before(since) })
	}
	if err := f.write(sink, rows); err != nil {
		return err
	}
	if len(rows) == 0 {
		suggestParameters(globs, true)
		notify(f.emptyMessage(globs))
	}
	return nil
}

// sink returns the sink of --output and --group. fleet says that the rows are of several hosts.
func (f *blameFlags) sink(fleet bool) blameSink {
	if f.format == "json" {
		return output.NewBlameJSON(os.Stdout)
	}
	table := output.NewBlameTable(os.Stdout, output.TableOptions{Location: location(), Host: fleet,
		Wide: f.format == "wide", Color: colorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout), OneLine: output.TerminalWidth(os.Stdout) == 0,
	})
	if f.group == "off" {
		return table
	}
	return output.NewBlameGroup(table, f.group == "open")
}

// write sorts and writes rows.
func (f *blameFlags) write(sink blameSink, rows []*output.Blame) error {
	output.SortBlame(rows, f.sort)
	for _, row := range rows {
		if err := sink.Add(row); err != nil {
			return err
		}
	}
	return sink.Flush()
}

// emptyMessage returns the message for an empty result.
func (f *blameFlags) emptyMessage(globs []string) string {
	message := "no recorded write to "
	if f.all {
		message = "no such parameter: "
	}
	if len(globs) > 0 {
		message += strings.Join(globs, " or ")
	} else {
		message += "any parameter"
	}
	if f.netns != "" {
		message += " in network namespace " + f.netns
	}
	if f.since != "" {
		message += " since " + f.since
	}
	if f.boot != "" {
		message += " in boot " + f.boot
	}
	return message
}
