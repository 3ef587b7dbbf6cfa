// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/internal/store"
	"github.com/nstrace/nstrace/pipeline"
)

// storeFlags are the flags of the commands that can ask the log store of a fleet.
type storeFlags struct {
	url     string
	headers string
	hosts   []string
	given   *pflag.FlagSet // all flags of the command
}

func (s *storeFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	s.given = fs
	fs.StringVar(&s.url, "store", "", "ask the log store of a fleet (VictoriaLogs), for example http://logs.example.com:9428, instead of the database of this host")
	fs.StringSliceVar(&s.hosts, "host", nil, "with --store: only hosts with this name, which can be a glob")
	fs.StringVar(&s.headers, "store-headers", "", "with --store: file with a line NAME: VALUE for each header to send, for example to log in")
}

// open returns a client, after it has checked that none of the flags that need the database of this host is given.
func (s *storeFlags) open(local ...string) (*store.Client, error) {
	if s.url == "" {
		return nil, usagef("--host needs --store")
	}
	for _, name := range local {
		if s.given.Changed(name) {
			return nil, usagef("--%s needs the database of a host: it cannot be used with --store", name)
		}
	}
	if err := store.CheckHosts(s.hosts); err != nil {
		return nil, usagef("--host: %w", err)
	}
	c, err := store.NewClient(s.url, s.headers)
	if err != nil {
		return nil, usagef("--store: %w", err)
	}
	return c, nil
}

// warn says on stderr how many records were skipped as invalid.
func (s *storeFlags) warn(c *store.Client) {
	if n, first := c.LeftOut(); n > 0 {
		fmt.Fprintf(os.Stderr, "nstrace: %s: skipped %s that nstrace cannot have sent: %s\n", s.url, plural(n, "record"), oneLine(first))
	}
}

// anywhere parses a value of --netns that means the same on each host.
func anywhere(text string) (pipeline.NetSelector, error) {
	arg, err := resolve.Parse(text)
	if err == nil && (arg.Kind == resolve.KindPID || arg.Kind == resolve.KindPath) {
		return pipeline.NetSelector{}, usagef("--netns: %q is a process or a file of one host: with --store, want an inode number or a name", text)
	}
	n, err := pipeline.ParseNetSelector(text)
	if err != nil {
		return n, usagef("--netns: %w", err)
	}
	return n, nil
}

// dashed returns the id of a boot with its dashes, which --boot can lack.
func dashed(id string) string {
	if len(id) != bootIDLength {
		return id
	}
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
}

// showStored is show for a store.
func (f *historyFlags) showStored(ctx context.Context, local history.Query, what string) (err error) {
	c, err := f.store.open("db", "follow")
	if err != nil {
		return err
	}
	defer c.Close()
	for _, text := range f.netns {
		if _, err := anywhere(text); err != nil {
			return err
		}
	}
	if f.boot != "" && len(f.boot) < bootIDLength {
		return usagef("--boot: with --store, want the id of a boot: only one host has a boot %q", f.boot)
	}
	// A name of a user is that of the event's host, not of this one.
	users := f.users
	var names []string
	f.users = slices.DeleteFunc(slices.Clone(users), func(s string) bool {
		_, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			names = append(names, s)
		}
		return err != nil
	})
	if err := f.query(&local); err != nil {
		return err
	}
	filters, err := f.filters()
	if err != nil {
		return err
	}
	match := local.Match
	if len(names) > 0 {
		uids := filters.UIDs
		filters.UIDs = nil
		f.users = nil
		if err := f.query(&local); err != nil {
			return err
		}
		rest := local.Match
		match = func(e *event.Event) bool {
			p := e.Process
			return (e.Type.Family() == "trace" || p != nil && (slices.Contains(names, p.User) || slices.Contains(uids, p.UID))) && rest(e)
		}
		filters.UIDs = uids
	}
	q := store.Query{
		Hosts: f.store.hosts, Since: local.Since, Until: local.Until, Types: local.Types, Filter: filters, Users: names,
		Parameter: local.Parameter, BootID: dashed(f.boot), Alert: f.alert == recordedAlerts, Trace: true, Match: match,
		Limit: int(min(f.lines, 1<<31)), Reverse: f.reverse || f.lines > 0,
	}
	if f.alerts == nil && f.grep != "" { // the rules of --alert FILE change what the line has
		grep, err := compileGrep(f.grep)
		if err != nil {
			return err
		}
		q.Grep = grep.String()
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	defer f.store.warn(c)
	f.stored, f.fleet = true, true
	f.hostOf = func(string) map[event.NSType]uint32 { return nil } // events say which namespaces are of their hosts
	sink := f.sink(os.Stdout, nil, 0)
	defer func() { err = errors.Join(err, sink.Close()) }()
	n := 0
	var newest []*event.Event
	for e, err := range c.Events(ctx, q) {
		if err != nil {
			return ignoreCancel(err)
		}
		n++
		if q.Reverse && !f.reverse {
			newest = append(newest, e)
			continue
		}
		if err := sink.Write(e); err != nil {
			return err
		}
	}
	for _, e := range slices.Backward(newest) {
		if err := sink.Write(e); err != nil {
			return err
		}
	}
	if n > 0 {
		return nil
	}
	if err := sink.Flush(); err != nil {
		return err
	}
	if what != "" {
		what = ": " + what
	}
	notify("the store has no matching events" + what + "; a host can have events that it did not send yet")
	return nil
}

// blameStored is blame for a store.
func (f *blameFlags) blameStored(ctx context.Context, globs []string, since time.Time) error {
	c, err := f.store.open("db", "all", "boot")
	if err != nil {
		return err
	}
	defer c.Close()
	q := store.BlameQuery{Query: store.Query{Hosts: f.store.hosts, Since: since}, Globs: globs, AllNets: f.allNetns}
	if f.netns != "" {
		n, err := anywhere(f.netns)
		if err != nil {
			return err
		}
		q.NetID, q.NetName = n.ID, n.Name
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	defer f.store.warn(c)
	rows, err := c.Blame(ctx, q)
	if err != nil {
		return ignoreCancel(err)
	}
	if err := f.write(f.sink(true), rows); err != nil {
		return err
	}
	if len(rows) == 0 {
		on := ""
		if len(f.store.hosts) > 0 {
			on = " on " + strings.Join(f.store.hosts, " or ")
		}
		notify("the store has " + f.emptyMessage(globs) + on + "; a host can have writes that it did not send yet, or lost")
	}
	return nil
}
