// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/deviation"
	"github.com/nstrace/nstrace/internal/explain"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

func newHistoryDeviations() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "deviations [flags]",
		Short: "Show how long parameters were not as expected, who set them, and who set them back",
		Long: `Show the times in which a parameter of the host did not have the value that nstrace record
--baseline or --declared expected. The flags that select events select a deviation by the
event that began or ended it. --since and --until select those that lasted at some time
between them. "still wrong" is what nstrace reads now. A reboot ends a deviation.`,
		Example: `  nstrace history deviations
  nstrace history deviations --since yesterday --sysctl 'net.*' -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.deviations(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table or json")
	complete(cmd, "output", []string{"table", "json"})
	f.registerSelection(cmd)
	fs.StringVarP(&f.since, "since", "S", "", `only deviations that lasted after this time, for example "yesterday", "-1h" or "2012-10-30 18:17:16"`)
	fs.StringVarP(&f.until, "until", "U", "", "only deviations that began before this time")
	fs.Uint64VarP(&f.lines, "lines", "n", 0, "only this number of the newest deviations")
	fs.BoolVarP(&f.reverse, "reverse", "r", false, "show the newest deviations first")
	registerDB(fs, &f.db)
	return cmd
}

// deviations writes the deviations of the history.
func (f *historyFlags) deviations(ctx context.Context) (err error) {
	if f.filter == "help" {
		return filterHelp()
	}
	if err := oneOf("--output", f.format, []string{"table", "json"}); err != nil {
		return err
	}
	f.group = "off" // this table has none
	var q history.Query
	if err := f.query(&q); err != nil {
		return err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	db, err := openHistory(ctx, f.db)
	if err != nil {
		return interrupted(err)
	}
	defer func() { warnLeftOut(f.db, db); err = errors.Join(err, db.Close()) }()
	recorder := history.NewClient(f.db)
	defer recorder.Close()
	_ = warnBehind(f.db, recorder.Sync)(ctx)
	o := deviation.Options{Since: q.Since, Until: q.Until, BootID: procfs.BootID(), Match: q.Match}
	host := resolve.New(nil, nil)
	o.Value = func(name string) *string { return explain.HostValue(host, name) }
	o.Index = func(device string) uint32 { return explain.HostIndex(host, device) }
	all, err := deviation.Find(ctx, db, o)
	if err != nil {
		return interrupted(err)
	}
	if f.lines > 0 && uint64(len(all)) > f.lines {
		all = all[uint64(len(all))-f.lines:]
	}
	if f.reverse {
		slices.Reverse(all)
	}
	write := output.WriteDeviationsText
	if f.format == "json" {
		write = output.WriteDeviationsJSON
	}
	if err := write(os.Stdout, all, location()); err != nil {
		return fmt.Errorf("write the deviations: %w", err)
	}
	if len(all) == 0 {
		notify("no matching deviations: nstrace record --baseline or --declared finds them")
	}
	return nil
}
