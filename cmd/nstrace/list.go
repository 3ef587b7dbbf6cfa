// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/output"
)

type listFlags struct {
	inventoryFlags
	filters    streamFlags // those of the stream that apply to namespaces
	format     string
	columns    []string
	sort       []string
	tree       string
	noHeadings bool

	filter event.Filter // from filters
}

func newList() *cobra.Command {
	var f listFlags
	names, usages := output.ListColumns()
	var columns strings.Builder
	for i := range names {
		fmt.Fprintf(&columns, "\n  %-10s %s", names[i], usages[i])
	}
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "Show the namespaces that exist, who they belong to and what keeps them alive",
		Long: `Show every namespace of the host, also those without a process. A row has the container,
pod, name or unit that the namespace belongs to, the number of processes in it, the oldest
of them, and what else keeps it alive (HELD BY): mounts in all mount namespaces, threads in
another namespace than the first thread of their process, open files, sockets, and child or
owned namespaces. A namespace can also be held by a descriptor that is on its way through a
Unix socket; no program can see that.

Age and creator come from the history of nstrace record, if there is one.

Columns for --columns and --sort:
` + columns.String()[1:],
		Example: `  nstrace list -t net
  nstrace list --tree=owner
  nstrace list --sort -procs --columns id,owner,procs
  nstrace list -o json | jq 'select(.processes == 0)'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.list(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table, wide or json")
	fs.StringSliceVarP(&f.filters.nsTypes, "ns-type", "t", nil, "only namespaces of these types: "+strings.Join(nsTypeNames(), ", "))
	fs.StringSliceVarP(&f.filters.pids, "pid", "p", nil, "only namespaces that this process is in")
	fs.StringSliceVarP(&f.filters.comms, "comm", "c", nil, "only namespaces that a process with this command name is in")
	fs.StringSliceVarP(&f.filters.users, "user", "u", nil, "only namespaces that a process of this user is in (name or uid)")
	fs.StringSliceVar(&f.filters.containers, "container", nil, "only namespaces of this container (name, id or NAMESPACE/POD)")
	fs.StringSliceVar(&f.filters.netns, "netns", nil, "only this network namespace (inode number, pid, path, or a name from ip netns or of a container)")
	fs.StringVar(&f.filters.filter, "filter", "true", "only namespaces that match this expression, for example 'namespace.name == \"web\"' (\"help\": list the fields)")
	fs.Lookup("filter").DefValue = ""
	fs.StringSliceVar(&f.columns, "columns", nil, "show these columns")
	fs.StringSliceVar(&f.sort, "sort", nil, "sort by these columns; a minus sign before a name reverses the order")
	fs.StringVar(&f.tree, "tree", "", "show a tree: parent (PID and user namespaces below their parents) or owner (namespaces below the user namespace that owns them)")
	optionalValue(fs, "tree", string(output.TreeParent), []string{string(output.TreeParent), string(output.TreeOwner)})
	fs.BoolVar(&f.noHeadings, "no-headings", false, "leave out the line with the headings")
	f.register(cmd)
	complete(cmd, "output", formats)
	complete(cmd, "ns-type", nsTypeNames())
	complete(cmd, "tree", []string{string(output.TreeParent), string(output.TreeOwner)})
	complete(cmd, "columns", names)
	complete(cmd, "sort", names)
	completeBy(cmd, "comm", commandNames)
	completeBy(cmd, "user", userNames)
	completeBy(cmd, "netns", netnsNames)
	return cmd
}

// listGC lets the heap grow to 16 MiB before the collector runs for the first time, and then to five times what is
// live. A list keeps most of what it allocates until its end, so collecting would free little.
const listGC = 400

func (f *listFlags) list(ctx context.Context) error {
	if done, err := f.filters.help(); done {
		return err
	}
	o, err := f.check()
	if err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(listGC))
	ctx, cancel := interruptible(ctx)
	defer cancel()
	inv, err := inventory.Take(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	all, err := f.selected(inv)
	if err != nil {
		return err
	}
	if err := f.name(ctx, inv, all); err != nil {
		return err
	}
	if !f.filters.selected.Empty() || f.filters.program != nil {
		all = slices.DeleteFunc(all, func(n *inventory.Namespace) bool {
			e := inv.Event(n)
			return !f.filters.selected.Match(e) || f.filters.program != nil && !f.filters.program.Match(e)
		})
	}
	if f.format == "json" || f.shows("command") {
		inv.ReadCommands(ctx, inventory.OldestOf(all))
	}
	var users attribution.Users
	l := &output.Listing{
		Inventory: inv, User: users.Name, Now: time.Now(), Columns: f.columns, NoHeadings: f.noHeadings,
		Tree: output.Tree(f.tree), Wide: f.format == "wide",
		Color: colorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout),
	}
	if err := l.SortNamespaces(all, f.sort); err != nil {
		return usagef("--sort: %w", err)
	}
	for _, line := range inv.Incomplete {
		warn("not listed: " + line)
	}
	if f.format == "json" {
		return l.WriteJSON(os.Stdout, all)
	}
	return l.WriteTable(os.Stdout, all)
}

// shows reports whether a column is shown.
func (f *listFlags) shows(column string) bool {
	return f.columns == nil || slices.Contains(f.columns, column) || slices.Contains(f.sort, column) || slices.Contains(f.sort, "-"+column)
}

// check checks the flags.
func (f *listFlags) check() (inventory.Options, error) {
	o, err := f.options()
	if err != nil {
		return o, err
	}
	if err := oneOf("--output", f.format, formats); err != nil {
		return o, err
	}
	f.filters.format, f.filters.group = "table", "off"
	filter, err := f.filters.filters()
	if err != nil {
		return o, err
	}
	names, _ := output.ListColumns()
	for _, c := range f.columns {
		if err := oneOf("--columns", c, names); err != nil {
			return o, err
		}
	}
	for _, c := range f.sort {
		if err := oneOf("--sort", strings.TrimPrefix(c, "-"), names); err != nil {
			return o, err
		}
	}
	if f.tree != "" {
		if err := oneOf("--tree", f.tree, []string{string(output.TreeParent), string(output.TreeOwner)}); err != nil {
			return o, err
		}
	}
	for t := range filter.NSTypes {
		o.Types = append(o.Types, t)
	}
	f.filter = filter
	return o, nil
}

// selected returns the namespaces that the flags about processes select.
func (f *listFlags) selected(inv *inventory.Inventory) ([]*inventory.Namespace, error) {
	all := inv.Namespaces()
	if len(f.filter.NSTypes) > 0 { // a source can find others on its way
		all = slices.DeleteFunc(all, func(n *inventory.Namespace) bool { return !f.filter.NSTypes[n.Type] })
	}
	p := &f.filter
	if len(p.PIDs)+len(p.Comms)+len(p.UIDs) == 0 {
		return all, nil
	}
	in := inv.With(func(x *inventory.Process) bool {
		return (len(p.PIDs) == 0 || slices.Contains(p.PIDs, x.PID)) &&
			(len(p.Comms) == 0 || slices.Contains(p.Comms, x.Comm)) &&
			(len(p.UIDs) == 0 || slices.Contains(p.UIDs, x.UID))
	})
	return slices.DeleteFunc(all, func(n *inventory.Namespace) bool { return !in[n.Ref] }), nil
}
