// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

type historyFlags struct {
	streamFlags
	db      string
	since   string
	until   string
	grep    string
	lines   uint64
	reverse bool
	follow  bool
	alert   string
	boot    string
	store   storeFlags // of history and history sysctl
}

func newHistory() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history [flags]",
		Short: "Show the events that nstrace record stored",
		Long: `Show the events that nstrace record stored. The flags that select events are those of
nstrace. Times are written as for journalctl: "2012-10-30 18:17:16", "18:17", "yesterday",
"today", "now", "-1h", "1 hour ago" or RFC 3339. The only privilege needed is read access
to the database.`,
		Example: `  nstrace history --since yesterday -e sysctl
  nstrace history -n 20 --container web
  nstrace history --boot=-1 -e sysctl          show the writes of the boot before this one
  nstrace history sysctl net.ipv4.ip_forward   show all writes to a parameter
  nstrace history ns 4026532281                show everything about a namespace
  nstrace history verify                       check that no event was removed or changed
  nstrace history --store http://logs:9428 --host 'web-*' --since 1h   ask the log store of a fleet`,
		Args: historyArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			foldPast(cmd, f.format, &f.group)
			return f.show(cmd.Context(), history.Query{}, "")
		},
	}
	f.registerPast(cmd)
	f.store.register(cmd)
	cmd.Flags().Lookup("group").DefValue = groupedPast
	cmd.AddCommand(newHistorySysctl(), newHistoryNS(), newHistoryBoots(), newHistoryDeviations(), newHistoryVerify(), newHistoryExport(), newHistoryImport())
	return cmd
}

// historyArgs refuses arguments, and suggests the command that an unknown one resembles.
func historyArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usagef("history: unknown command %q%s: want one of %s, or only flags", args[0], didYouMean(args[0], names), strings.Join(names, ", "))
}

// registerPast adds the flags of the commands that show past events.
func (f *historyFlags) registerPast(cmd *cobra.Command) {
	f.registerFilters(cmd)
	fs := cmd.Flags()
	fs.StringVarP(&f.since, "since", "S", "", `only events since this time, for example "yesterday", "-1h" or "2012-10-30 18:17:16"`)
	registerBoot(fs, &f.boot, "only events of this boot")
	fs.StringVarP(&f.until, "until", "U", "", "only events until this time")
	fs.StringVarP(&f.grep, "grep", "g", "", "only events whose JSON line matches this regular expression (without capital letters: ignore case)")
	fs.Uint64VarP(&f.lines, "lines", "n", 0, "only this number of the newest events")
	fs.BoolVarP(&f.reverse, "reverse", "r", false, "show the newest events first")
	fs.BoolVarP(&f.follow, "follow", "f", false, "show new events as they are recorded, after the newest 10 (see --lines and --since)")
	fs.StringVar(&f.alert, "alert", "", "only events that met an alert rule when they were recorded, or that meet a rule in this file (\"default\": the built-in rules)")
	optionalValue(fs, "alert", recordedAlerts, nil)
	registerDB(fs, &f.db)
}

// recordedAlerts is the value of --alert without a file.
const recordedAlerts = "recorded"

func newHistorySysctl() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "sysctl NAME [flags]",
		Short: "Show every write to a parameter",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("history sysctl: want one parameter name, for example net.ipv4.ip_forward")
			}
			name := sysctlArg(args[0])
			q := history.Query{Parameter: name, Types: map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true}}
			if strings.ContainsAny(name, "*?[") {
				q.Parameter = ""
				f.sysctls = append(f.sysctls, name)
			}
			return f.show(cmd.Context(), q, "writes to "+name)
		},
	}
	f.registerPast(cmd)
	f.store.register(cmd)
	completeArgs(cmd, 1, parameterParts)
	return cmd
}

// sysctlArg returns the name of a parameter, or a glob of names, which can be given as sysctl(8) takes them:
// net.ipv4.ip_forward, net/ipv4/ip_forward or /proc/sys/net/ipv4/ip_forward.
func sysctlArg(arg string) string {
	if name, ok := event.SysctlName(arg); ok {
		return name
	}
	// The first separator decides: net.ipv4.conf.eth0/100.forwarding is a name.
	if i := strings.IndexAny(arg, "./"); i > 0 && arg[i] == '/' {
		if name, ok := event.SysctlName(event.SysctlDir + "/" + arg); ok {
			return name
		}
	}
	return arg
}

func newHistoryNS() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "ns ID|UID|NAME [flags]",
		Short: "Show every event about a namespace, from its creation to its end",
		Long: `Show the events about the namespace, the processes that left it for another one, and the
devices that came and went. It is the namespace with this inode number (as lsns prints it), uid
(from the events, unique within a boot) or name (from ip netns, or of a container's network
namespace). If no namespace is recorded with the name, nstrace shows the one that was mounted
at that name in another mount namespace, and says so on stderr.

The kernel uses numbers again, and so do people with names. Of several namespaces, the one
is shown that has the name now, or else the one with the newest event that the flags select.
So --type, --until and the uid select another one. A line on stderr lists the others.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("history ns: want one namespace, by its inode number, uid or name")
			}
			var n history.NamespaceQuery
			id, err := strconv.ParseUint(args[0], 10, 64)
			switch {
			case err != nil:
				n.Name = args[0]
			case id >= resolve.FirstInode && id <= 1<<32-1:
				n.ID = uint32(id)
			default:
				n.UID = args[0]
			}
			return f.show(cmd.Context(), history.Query{Namespace: &n}, "events about namespace "+args[0])
		},
	}
	f.registerPast(cmd)
	completeArgs(cmd, 1, netnsNames)
	return cmd
}

// followed is the number of past events that --follow shows first.
const followed = 10

// show writes past events. what describes them in the message for an empty result.
func (f *historyFlags) show(ctx context.Context, q history.Query, what string) (err error) {
	if f.filter == "help" {
		return filterHelp()
	}
	if f.store.url != "" || len(f.store.hosts) > 0 {
		return f.showStored(ctx, q, what)
	}
	if err := f.query(&q); err != nil {
		return err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	db, err := openHistory(ctx, f.db)
	if err != nil {
		return ignoreCancel(err)
	}
	defer func() { warnLeftOut(f.db, db); err = errors.Join(err, db.Close()) }()
	askRecorder(ctx, f.db)
	if f.boot != "" {
		if q.BootID, err = findBoot(db, f.boot); err != nil {
			return ignoreCancel(err)
		}
	}
	if f.hostOf, err = recordedHosts(db); err != nil {
		return ignoreCancel(err)
	}
	if err := f.oneLife(ctx, db, &q); err != nil {
		return ignoreCancel(err)
	}
	go watchReader(os.Stdout, cancel) // it can take long until the next event
	f.stored = true
	var hold time.Duration // past events are complete
	if f.follow {
		hold = output.DefaultHold
	}
	sink := f.sink(os.Stdout, nil, hold)
	defer func() { err = errors.Join(err, sink.Close()) }()

	last, err := db.Last()
	if err != nil {
		return ignoreCancel(err)
	}
	q.To = last // later events are for --follow
	n, err := f.past(ctx, db, q, sink)
	if err != nil {
		return ignoreCancel(err)
	}
	if n == 0 && !f.follow {
		if err := sink.Flush(); err != nil {
			return err
		}
		f.warnPattern(notify)
		if q.Parameter != "" && len(f.sysctls) == 0 {
			suggestParameters([]string{q.Parameter}, false)
		}
		if what != "" {
			what = ": " + what
		}
		notify("no matching events" + what)
	}
	if !f.follow {
		return nil
	}
	return f.future(ctx, &db, q, sink, last)
}

// recordedHosts returns the namespaces of the recorded hosts by boot. The reader can be on another host, in a
// container, or not allowed to look.
func recordedHosts(db *history.DB) (func(bootID string) map[event.NSType]uint32, error) {
	hosts, err := db.HostNamespaces()
	if err != nil {
		return nil, err
	}
	return func(bootID string) map[event.NSType]uint32 { return hosts[bootID] }, nil
}

// maxOthers is how many other namespaces a message lists.
const maxOthers = 4

// oneLife makes a query for a namespace, and --netns, select one namespace, although others had its number
// or name before it.
func (f *historyFlags) oneLife(ctx context.Context, db *history.DB, q *history.Query) error {
	for i := range f.selected.Nets {
		n := &f.selected.Nets[i]
		if n.ID == 0 {
			continue // a name selects whatever has it at the time of the event
		}
		life, err := findLife(ctx, db, history.Query{Since: q.Since, Until: q.Until, BootID: q.BootID}, history.NamespaceQuery{Type: event.NSTypeNet, ID: n.ID})
		if err != nil {
			return err
		}
		if life != nil {
			n.Life = life
		}
	}
	if q.Namespace == nil {
		return nil
	}
	n := *q.Namespace
	var life *history.Life
	var err error
	if n.Name != "" {
		if now, mounted := namedNow(n.Name); mounted {
			life, err = findLife(ctx, db, *q, now)
		}
	}
	if life == nil && err == nil {
		life, err = findLife(ctx, db, *q, n)
	}
	if err != nil {
		return err
	}
	elsewhere, err := namedElsewhere(ctx, db, n.Name)
	if err != nil {
		return err
	}
	if life == nil {
		if known, err := findLife(ctx, db, history.Query{}, n); known != nil || err != nil || len(elsewhere) == 0 {
			return err
		}
		first := elsewhere[0]
		if life, err = db.LifeOf(ctx, first.ns, first.bootID); err != nil {
			return err
		}
		notify(fmt.Sprintf("no namespace is recorded with the name %s; shown is net %d with uid %s, which was mounted at %s in mount namespace %d",
			n.Name, first.ns.ID, first.ns.UID, first.ns.Path, first.ns.MntNS))
	}
	for _, e := range elsewhere {
		if !life.Covers(e.ns, e.bootID) {
			notify(fmt.Sprintf("in mount namespace %d, net %d with uid %s was mounted at %s", e.ns.MntNS, e.ns.ID, e.ns.UID, e.ns.Path))
		}
	}
	if f.hostOf(life.BootID)[life.Type] != life.ID { // almost every process comes from the host's
		if err := db.Widen(ctx, life); err != nil {
			return err
		}
	}
	q.Life = life
	others, err := db.Others(&n, life, maxOthers+1)
	if err != nil {
		return err
	}
	if life.Unsure {
		notify("the kernel has no unique id of this namespace, and several runs recorded it: another namespace can have had its number in between")
	}
	if len(others) == 0 {
		return nil
	}
	var list []string
	for _, o := range others {
		if len(list) == maxOthers {
			list = append(list, "and more")
			break
		}
		list = append(list, fmt.Sprintf("%s %d with uid %s", o.Type, o.ID, o.UID))
	}
	notify(fmt.Sprintf("shown is %s %d with uid %s; also recorded: %s", life.Type, life.ID, life.UID, strings.Join(list, ", ")))
	return nil
}

// A pinned is a namespace that was mounted.
type pinned struct {
	ns     *event.Namespace
	bootID string
}

// elsewhereTime is how long namedElsewhere may read.
const elsewhereTime = 3 * time.Second

// namedElsewhere returns the network namespaces that were given a name of ip netns in other mount namespaces than the
// host's, at most maxOthers, the newest first. An event that gives a name in the host's has it as the name, too.
func namedElsewhere(ctx context.Context, db *history.DB, name string) (found []pinned, err error) {
	if name == "" || strings.Contains(name, "/") {
		return nil, nil
	}
	limit, cancel := context.WithTimeout(ctx, elsewhereTime)
	defer cancel()
	seen := map[string]bool{}
	q := history.Query{Types: map[event.Type]bool{event.NamespacePin: true}, Reverse: true, Match: func(e *event.Event) bool {
		ns := e.Namespace
		return ns != nil && ns.Type == event.NSTypeNet && e.Outcome == event.Success && ns.MntNS != 0 && ns.Name != name && procfs.NetnsName(ns.Path) == name
	}}
	for s, err := range db.Events(limit, q) {
		if err != nil {
			if limit.Err() != nil && ctx.Err() == nil { // a large history
				return found, nil
			}
			return nil, err
		}
		ns := *s.Event.Namespace
		if key := fmt.Sprint(s.Event.BootID, ns.UID, ns.MntNS); !seen[key] {
			seen[key] = true
			if found = append(found, pinned{&ns, s.Event.BootID}); len(found) == maxOthers {
				break
			}
		}
	}
	return found, nil
}

// namedNow returns the network namespace that has a name of ip netns now.
func namedNow(name string) (n history.NamespaceQuery, mounted bool) {
	for _, dir := range procfs.NetnsDirs {
		path := filepath.Join(dir, filepath.Base(name))
		if id, ok := procfs.MountedAt(path); ok {
			n = history.NamespaceQuery{Type: event.NSTypeNet, ID: id, BootID: procfs.BootID()}
			if kernel := procfs.HandleID(path); kernel != 0 {
				n.UID = strconv.FormatUint(kernel, 10)
			}
			return n, true
		}
	}
	return n, false
}

// findLife returns the namespace with the newest event that both queries select, nil if there is none.
func findLife(ctx context.Context, db *history.DB, q history.Query, n history.NamespaceQuery) (*history.Life, error) {
	q.Namespace, q.Life, q.Reverse, q.Limit = &n, nil, true, 1
	for s, err := range db.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		ns := s.Event.Namespace
		if ns == nil && s.Event.Sysctl != nil {
			ns = s.Event.Sysctl.Namespace
		}
		if ns == nil {
			return nil, nil
		}
		return db.LifeOf(ctx, ns, s.Event.BootID)
	}
	return nil, nil
}

// patience is how long a command can take to end in good order.
const patience = time.Second

// interruptible returns a context that ends with the first SIGINT or SIGTERM, so that a
// command can end in good order. A second signal ends the command at once, and so does the first one
// if the command waits for something else, such as the reader of its output.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel()
			time.AfterFunc(patience, func() { _ = syscall.Kill(os.Getpid(), s.(syscall.Signal)) })
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	return ctx, cancel
}

// errInterrupted is the error of a command that was interrupted and has no result.
var errInterrupted = errors.New("interrupted")

// interrupted replaces the error of a canceled context by errInterrupted.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// warnLeftOut reports on stderr the rows of a history that were skipped as invalid.
func warnLeftOut(path string, db *history.DB) {
	if n, first := db.LeftOut(); n > 0 {
		fmt.Fprintf(os.Stderr, "nstrace: %s: skipped %s that nstrace cannot have written: %s\n", path, plural(n, "row"), oneLine(first))
	}
}

// askRecorder has the recorder of the history at path write everything, and warns like warnBehind.
func askRecorder(ctx context.Context, path string) {
	_ = warnBehind(path, func(ctx context.Context) error { return history.Sync(ctx, path) })(ctx)
}

// warnBehind returns sync, which asks the recorder of the history at path to write everything. It warns once if a
// recorder runs and does not do so.
func warnBehind(path string, sync func(context.Context) error) func(context.Context) error {
	warned := false
	return func(ctx context.Context) error {
		err := sync(ctx)
		if err != nil && !warned && ctx.Err() == nil && !errors.Is(err, history.ErrNoRecorder) {
			warned = true
			warn(fmt.Sprintf("%s can lack the newest events: %v", path, err))
		}
		return err
	}
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// query turns the flags of registerPast into a query.
func (f *historyFlags) query(q *history.Query) error {
	filters, err := f.filters()
	if err != nil {
		return err
	}
	now := time.Now()
	if f.since != "" {
		if q.Since, err = parseWhen(f.since, now); err != nil {
			return usagef("--since: %w", err)
		}
	}
	if f.until != "" {
		if q.Until, err = parseWhen(f.until, now); err != nil {
			return usagef("--until: %w", err)
		}
	}
	if err := checkBoot(f.boot); err != nil {
		return err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && q.Until.Before(q.Since) {
		return usagef("--until: %q is before --since", f.until)
	}
	if f.follow && (f.reverse || f.until != "") {
		return usagef("--follow cannot be used with --reverse or --until")
	}
	if f.alert != "" && f.alert != recordedAlerts {
		if f.alerts, err = alert.Load(f.alert); err != nil {
			return usagef("--alert: %w", err)
		}
	}
	grep, err := compileGrep(f.grep)
	if err != nil {
		return err
	}
	// The database has an index of parameters.
	if len(filters.Sysctl) == 1 && !strings.ContainsAny(filters.Sysctl[0], `*?[\`) && q.Parameter == "" {
		q.Parameter = filters.Sysctl[0]
	}
	if q.Types == nil && filters.Types != nil {
		q.Types = map[event.Type]bool{event.TraceLoss: true, event.TraceGap: true, event.TraceStart: true, event.TraceAttach: true, event.TraceStop: true}
		for t := range filters.Types {
			q.Types[t] = true
		}
	}
	if q.Parameter != "" || q.Namespace != nil {
		q.Types = filters.Types // none about the trace
	}
	chosen := filters.Types != nil || filters.NSTypes != nil || len(filters.PIDs)+len(filters.Comms)+len(filters.UIDs) > 0 || filters.Failed ||
		!f.selected.Empty() || f.program != nil || grep != nil || f.alert != ""
	q.Likely = &history.Likely{PIDs: filters.PIDs, UIDs: filters.UIDs, Comms: filters.Comms, Contained: len(f.selected.Containers) > 0}
	for _, n := range f.selected.Nets {
		if n.ID == 0 { // a name does not tell the number
			q.Likely.Inodes = nil
			break
		}
		q.Likely.Inodes = append(q.Likely.Inodes, n.ID)
	}
	encode := new(event.Encoder)
	var line []byte
	q.Match = func(e *event.Event) bool {
		switch e.Type {
		case event.TraceStart, event.TraceAttach, event.TraceAlive, event.TraceStop:
			// A table has no row for these, and a selection does not select them.
			if chosen || isTable(f.format) {
				return false
			}
		case event.TraceLoss, event.TraceGap:
		default:
			if !filters.MatchStored(e) || !f.selected.Match(e) || (f.program != nil && !f.program.Match(e)) {
				return false
			}
			if f.alerts != nil {
				f.alerts.Mark(e)
			}
			if f.alert != "" && len(e.Alert) == 0 {
				return false
			}
		}
		if grep == nil {
			return true
		}
		line = encode.Append(line[:0], e)
		return grep.Match(line)
	}
	return nil
}

// compileGrep compiles a regular expression. As in journalctl, it ignores case if it has no
// capital letter.
func compileGrep(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	if text == strings.ToLower(text) {
		text = "(?i)" + text
	}
	r, err := regexp.Compile(text)
	if err != nil {
		return nil, usagef("--grep: %w", err)
	}
	return r, nil
}

// flushEvery is how often past hands JSON lines on: the next event can be far away.
const flushEvery = 100 * time.Millisecond

// past writes the stored events, and returns their number.
func (f *historyFlags) past(ctx context.Context, db *history.DB, q history.Query, sink output.Sink) (n int, err error) {
	lines := f.lines
	if f.follow && lines == 0 && f.since == "" {
		lines = followed
	}
	if lines == 0 || f.reverse {
		q.Reverse, q.Limit = f.reverse, int(min(lines, 1<<31))
		var flushed time.Time
		for s, err := range db.Events(ctx, q) {
			if err != nil {
				return n, err
			}
			if err := sink.Write(s.Event); err != nil {
				return n, err
			}
			n++
			if f.format == "json" && time.Since(flushed) > flushEvery { // a table can still fold rows
				if err := sink.Flush(); err != nil {
					return n, err
				}
				flushed = time.Now()
			}
		}
		return n, sink.Flush()
	}
	q.Reverse, q.Limit = true, int(min(lines, 1<<31))
	var newest []*event.Event
	for s, err := range db.Events(ctx, q) {
		if err != nil {
			return n, err
		}
		newest = append(newest, s.Event)
	}
	for _, e := range slices.Backward(newest) {
		if err := sink.Write(e); err != nil {
			return n, err
		}
		n++
	}
	return n, sink.Flush()
}

// followEvery is how often --follow queries for new events, which are stored in batches.
const followEvery = 200 * time.Millisecond

// future writes the events that are recorded after the event last, until ctx ends. If the
// database is replaced, as a recorder does after its file was moved, it continues with the new
// one.
func (f *historyFlags) future(ctx context.Context, at **history.DB, q history.Query, sink output.Sink, last int64) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	q.Reverse, q.Limit, q.To = false, 0, 0
	seen := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		db := *at
		if db.Moved() {
			next, err := history.OpenContext(ctx, f.db)
			if err != nil {
				continue // the new one does not exist yet
			}
			*at, last = next, 0
			// The new database can have older events.
			if from := seen.Add(-history.DefaultDelay); from.After(q.Since) {
				q.Since = from
			}
			warnLeftOut(f.db, db)
			if err := db.Close(); err != nil {
				return err
			}
			db = next
		}
		seen = time.Now()
		newest, err := db.Last()
		if err != nil {
			return ignoreCancel(err)
		}
		if newest <= last {
			continue
		}
		q.After = last
		for s, err := range db.Events(ctx, q) {
			if err != nil {
				return ignoreCancel(err)
			}
			if err := sink.Write(s.Event); err != nil {
				return err
			}
			newest = max(newest, s.ID)
		}
		last = newest
		if err := sink.Flush(); err != nil {
			return err
		}
	}
}

// openHistory opens the database.
func openHistory(ctx context.Context, path string) (*history.DB, error) {
	db, err := history.OpenContext(ctx, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("--db: %w: nstrace record creates it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("--db: %w", err)
	}
	warnUntrusted(path, db)
	return db, nil
}

// warnUntrusted says on stderr that other users can have written to a database.
func warnUntrusted(path string, db *history.DB) {
	if why := db.Untrusted(); why != "" {
		warn(fmt.Sprintf("%s: other users can have written to it: %s", path, why))
	}
}

func newHistoryVerify() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "Check that no stored event was removed or changed",
		Long: `Follow the chain of hashes from the first event to the last, and report where it is
broken. The hash of the last event is printed: if you keep a copy of it elsewhere, you can
check later that the history up to this event was not rewritten. The exit status is 1 if a
problem is found.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			db, err := openHistory(ctx, path)
			if err != nil {
				return interrupted(err)
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			v, err := db.Verify(ctx)
			if err != nil {
				return interrupted(err)
			}
			return verified(v)
		},
	}
	registerDB(cmd.Flags(), &path)
	return cmd
}

// verified prints what a verification found.
func verified(v *history.Verification) error {
	for _, p := range v.Problems {
		if _, err := fmt.Println(p); err != nil {
			return err
		}
	}
	if v.Dropped > 0 {
		if _, err := fmt.Printf("retention dropped %s\n", plural(v.Dropped, "earlier event")); err != nil {
			return err
		}
	}
	if len(v.Problems) > 0 {
		return fmt.Errorf("the history was tampered with: found %s", plural(uint64(len(v.Problems)), "problem"))
	}
	if v.Events == 0 {
		_, err := fmt.Println("no events")
		return err
	}
	_, err := fmt.Printf("%s, %d to %d: nothing was removed or changed\nhash of the last event: %x\n", plural(v.Events, "event"), v.First, v.Last, v.Head)
	return err
}

func newHistoryExport() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export [flags]",
		Short: "Write the whole history as JSON lines for nstrace history import",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			db, err := openHistory(ctx, path)
			if err != nil {
				return interrupted(err)
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			_, err = db.Export(ctx, os.Stdout)
			return interrupted(err)
		},
	}
	registerDB(cmd.Flags(), &path)
	return cmd
}

// interruptibleReader returns a reader of in that fails once ctx ends, even while in blocks.
func interruptibleReader(ctx context.Context, in io.Reader) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, in)
		_ = w.CloseWithError(err) // nil stands for io.EOF
	}()
	return r
}

func newHistoryImport() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "import FILE|- [flags]",
		Short: "Import a file that nstrace history export wrote",
		Long: `Import an export into a new database, or into one that ends where the export begins.
The import checks the chain of hashes line by line. If a line does not follow from the one
before it, nothing is imported.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) != 1 || args[0] == "" {
				return usagef("history import: want one file, or - for stdin")
			}
			var in io.Reader = os.Stdin
			name := "stdin"
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer file.Close()
				in, name = file, args[0]
			}
			if err := checkFolder("--db", path); err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			n, err := history.Import(ctx, path, interruptibleReader(ctx, in))
			var bad *history.ImportError
			if errors.As(err, &bad) {
				return fmt.Errorf("%s: %w; nothing was imported", name, err)
			}
			if err != nil {
				return interrupted(err)
			}
			fmt.Fprintf(os.Stderr, "nstrace: %s imported\n", plural(n, "event"))
			return nil
		},
	}
	registerDB(cmd.Flags(), &path)
	return cmd
}
