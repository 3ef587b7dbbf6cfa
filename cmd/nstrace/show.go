// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/internal/show"
	"github.com/nstrace/nstrace/output"
)

type showFlags struct {
	inventoryFlags
	format string
	events int
}

// defaultEvents is how many latest events of a namespace are shown.
const defaultEvents = 10

func newShow() *cobra.Command {
	var f showFlags
	cmd := &cobra.Command{
		Use:   "show NS|CONTAINER|UNIT|PID [flags]",
		Short: "Show one namespace in full, or those of a container, unit or process",
		Long: `Show all that is known of a namespace: its owner, the processes in it, everything that
keeps it alive and what ends that, the parameters that differ from the host's, and the
latest events, if nstrace record keeps a history. A network namespace also has devices with
the device on the other side, routes, listening sockets and firewall tables.

For a container, a pod, a systemd unit or a process, show all its namespaces. For a unit,
also compare what it declares (PrivateNetwork=, JoinsNamespaceOf= and others) with the
namespaces that it has.

NS is an inode number, alone or as in net:[4026531840], a path, or a name from ip netns.`,
		Example: `  nstrace show web
  nstrace show nginx.service
  nstrace show 4026532178
  nstrace show net:[4026531833] -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.show(cmd.Context(), args) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table or json")
	fs.IntVar(&f.events, "events", defaultEvents, "number of latest events of each namespace")
	f.register(cmd)
	completeArgs(cmd, 1, netnsNames)
	complete(cmd, "output", []string{"table", "json"})
	return cmd
}

func (f *showFlags) show(ctx context.Context, args []string) (err error) {
	o, err := f.options()
	if err != nil {
		return err
	}
	switch {
	case len(args) != 1:
		return usagef("show: %d arguments: want one namespace, container, unit or process", len(args))
	case f.events < 0:
		return usagef("--events: invalid number %d: want 0 or more", f.events)
	}
	if err := oneOf("--output", f.format, []string{"table", "json"}); err != nil {
		return err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	defer visit(ctx, f.db)()
	names, err := resolve.Runtimes(ctx, f.runtimes, f.runtimeWait)
	if err != nil {
		return usagef("--runtime-socket: %w", err)
	}
	inv, err := inventory.Take(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	r := resolve.New(inv, names)
	target, err := r.Find(ctx, args[0])
	if err != nil {
		return argumentMistake("show", err)
	}
	// All of them, because the other side of a device can be in any.
	if err := f.nameContainers(ctx, inv, inv.Namespaces()); err != nil {
		return err
	}
	db, err := f.history(ctx)
	if err != nil {
		return err
	}
	if db != nil {
		defer func() { err = errors.Join(err, db.Close()) }()
	}
	opts := show.Options{Inventory: inv, Resolver: r, History: db, Events: f.events}
	page, err := show.Collect(ctx, target, opts)
	if err != nil {
		return interrupted(argumentMistake("show", err))
	}
	var users attribution.Users
	w := &output.PageWriter{
		Listing: &output.Listing{
			Inventory: inv, User: users.Name, Now: time.Now(),
			Color: colorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout),
		},
		Lines: output.TableOptions{Location: location(), HostNS: inv.Host, Date: true, Color: colorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout), OneLine: output.TerminalWidth(os.Stdout) == 0},
	}
	if f.format == "json" {
		err = show.WriteJSON(ctx, os.Stdout, page, opts, w)
	} else {
		err = show.Write(ctx, os.Stdout, page, opts, w, notify)
	}
	return interrupted(err)
}
