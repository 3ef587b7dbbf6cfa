// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/show"
	"github.com/nstrace/nstrace/internal/top"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/tracer"
)

type topFlags struct {
	streamFlags
	db string
}

func newTop() *cobra.Command {
	f := topFlags{streamFlags: streamFlags{format: "table", group: "off"}}
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "Show the host's namespaces and events live",
		Long: `Show the namespaces of the host, with their processes and how many events a second each
one has, and below them the events as they happen. Enter shows what nstrace show prints of a
namespace. The flags select events as those of nstrace do. Press ? for the keys, and q to end.

Ages and creators come from the history of nstrace record, if there is one, and from events.`,
		Example: `  nstrace top                    show all namespaces and events
  nstrace top -e sysctl -t net   show only writes to parameters of network namespaces`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.top(cmd) },
	}
	cmd.Flags().SortFlags = false
	f.registerSelection(cmd)
	f.registerSource(cmd)
	registerDB(cmd.Flags(), &f.db)
	return cmd
}

func (f *topFlags) top(cmd *cobra.Command) error {
	if done, err := f.help(); done {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	if err := top.CheckTerminal(os.Stdin, os.Stdout); err != nil {
		return usagef("top: %w", err)
	}
	guarded := top.IsGuarded()
	if guarded == nil {
		status, err := top.Guard(os.Stdin, os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		return exitStatus(status)
	}
	feed := top.NewFeed()
	f.live, o.Notify = feed, feed.Notify
	err = f.view(cmd.Context(), o, feed, guarded)
	for _, message := range feed.Messages() {
		notify(message)
	}
	guarded.Ended() // not deferred: after a panic, it does not end in order
	return err
}

// view shows the view, in the process that top.Guard started.
func (f *topFlags) view(ctx context.Context, o tracer.Options, feed *top.Feed, guarded *top.Guarded) error {
	past := (&inventoryFlags{db: f.db}).history
	db, err := past(ctx)
	if err != nil {
		return err
	}
	if db != nil {
		if err := db.Close(); err != nil {
			return err
		}
	}
	f.dropPrivileges(confine.Work{})
	r, err := f.start(o, os.Stdout, nil)
	if err != nil {
		return err
	}
	f.seal()
	inventories := &top.Inventories{By: r.names, Runtimes: f.runtimes, History: past}
	users := r.names.Users() // of the one goroutine that calls Show
	err = top.Run(ctx, top.Options{
		In: os.Stdin, Out: os.Stdout, Color: colorWanted(os.Stdout), Guarded: guarded,
		Feed: feed, HostNS: r.tracer.HostNS(),
		Trace: func(ctx context.Context) error { return r.tracer.Run(ctx, r.stage) },
		Take:  inventories.Take,
		Show: func(ctx context.Context, inv *inventory.Inventory, ns *inventory.Namespace, width int) (string, error) {
			defer visit(ctx, f.db)()
			db, err := past(ctx)
			if err != nil {
				return "", err
			}
			color := colorWanted(os.Stdout)
			text, err := show.Text(ctx, ns, show.Options{Inventory: inv, History: db, Events: defaultEvents}, &output.PageWriter{
				Listing: &output.Listing{Inventory: inv, User: users.Name, Now: time.Now(), Color: color, Width: width},
				Lines:   output.TableOptions{Location: location(), HostNS: inv.Host, Color: color, Width: width},
			})
			if db != nil {
				err = errors.Join(err, db.Close())
			}
			return text, err
		},
	})
	return errors.Join(err, inventories.Close(), r.finish()) // not deferred: after a panic, the panic is what matters
}
