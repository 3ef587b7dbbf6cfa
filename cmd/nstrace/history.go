// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
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
}

func newHistory() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history [flags]",
		Short: "Show past events, as nstrace record kept them",
		Long: `Show the events that nstrace record kept, selected as those of the stream are.
Times are as journalctl takes them: "2012-10-30 18:17:16", "18:17", "yesterday",
"today", "now", "-1h", "1 hour ago" or RFC 3339. It takes no privilege but to read
the database.`,
		Example: `  nstrace history --since yesterday -e sysctl
  nstrace history -n 20 --container web
  nstrace history sysctl net.ipv4.ip_forward   the parameter's life
  nstrace history ns 4026532281                a namespace's life, and who entered it
  nstrace history verify                       was anything removed or changed`,
		Args: historyArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			foldPast(cmd, f.format, &f.group)
			return f.show(cmd.Context(), history.Query{}, "")
		},
	}
	f.registerPast(cmd)
	cmd.Flags().Lookup("group").DefValue = groupedPast
	cmd.AddCommand(newHistorySysctl(), newHistoryNS(), newHistoryVerify(), newHistoryExport(), newHistoryImport())
	return cmd
}

// historyArgs refuses arguments; one that is no command gets the nearest that is.
func historyArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usagef("history: unknown command %q%s: it takes %s, or flags", args[0], didYouMean(args[0], names), strings.Join(names, ", "))
}

// registerPast adds the flags of what shows past events.
func (f *historyFlags) registerPast(cmd *cobra.Command) {
	f.registerFilters(cmd)
	fs := cmd.Flags()
	fs.StringVarP(&f.since, "since", "S", "", `only events since then, such as "yesterday", "-1h" or "2012-10-30 18:17:16"`)
	fs.StringVarP(&f.until, "until", "U", "", "only events until then")
	fs.StringVarP(&f.grep, "grep", "g", "", "only events whose JSON line this regular expression matches; in lower case it ignores case")
	fs.Uint64VarP(&f.lines, "lines", "n", 0, "only the newest so many events")
	fs.BoolVarP(&f.reverse, "reverse", "r", false, "newest first")
	fs.BoolVarP(&f.follow, "follow", "f", false, "go on with new events as they are recorded; begins with the newest 10 unless -n or --since is given")
	registerDB(fs, &f.db)
}

func newHistorySysctl() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "sysctl NAME [flags]",
		Short: "Show a parameter's life: every write to it",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("history sysctl takes a parameter's name, such as net.ipv4.ip_forward")
			}
			name := sysctlArg(args[0])
			q := history.Query{Parameter: name, Types: map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true}}
			if strings.ContainsAny(name, "*?[") {
				q.Parameter = ""
				f.sysctls = append(f.sysctls, name)
			}
			return f.show(cmd.Context(), q, "no write to "+name)
		},
	}
	f.registerPast(cmd)
	return cmd
}

// sysctlArg returns the name of a parameter that was given by its name or its path.
func sysctlArg(arg string) string {
	if name, ok := event.SysctlName(arg); ok {
		return name
	}
	return arg
}

func newHistoryNS() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "ns ID|UID|NAME [flags]",
		Short: "Show a namespace's life, from its creation to its end, with everyone who entered",
		Long: `Show what happened to the namespaces with a number (as lsns shows it), with a uid (of
the events, unique for a boot) or with a name (of ip netns or a container's network).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("history ns takes a namespace's number, its uid or its name")
			}
			var n history.NamespaceQuery
			id, err := strconv.ParseUint(args[0], 10, 64)
			switch {
			case err != nil:
				n.Name = args[0]
			case id >= firstInode && id <= 1<<32-1:
				n.ID = uint32(id)
			default:
				n.UID = args[0]
			}
			return f.show(cmd.Context(), history.Query{Namespace: &n}, "nothing about the namespace "+args[0])
		},
	}
	f.registerPast(cmd)
	return cmd
}

// followed is how many events --follow begins with.
const followed = 10

// show writes past events. Where there are none, it says that there is no what.
func (f *historyFlags) show(ctx context.Context, q history.Query, what string) (err error) {
	if f.filter == "help" {
		return filterHelp()
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
	if f.follow {
		go watchReader(os.Stdout, cancel)
	}
	var hold time.Duration // the past is all there
	if f.follow {
		hold = output.DefaultHold
	}
	sink := f.sink(os.Stdout, procfs.NamespacesOf("1"), hold)
	defer func() { err = errors.Join(err, sink.Close()) }()

	last, err := db.Last()
	if err != nil {
		return ignoreCancel(err)
	}
	q.To = last // what comes from now on is that of --follow
	n, err := f.past(ctx, db, q, sink)
	if err != nil {
		return ignoreCancel(err)
	}
	if n == 0 && what != "" && !f.follow {
		if err := sink.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "nstrace: %s is recorded that the flags ask for\n", what)
	}
	if !f.follow {
		return nil
	}
	return f.future(ctx, &db, q, sink, last)
}

// interruptible returns a context that ends with the first SIGINT or SIGTERM, for a command to
// end in good order. The second one ends the command at once.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx, cancel
}

// errInterrupted is that somebody interrupted a command whose result is then unknown.
var errInterrupted = errors.New("interrupted")

// interrupted says that a command was interrupted, where err is because of that.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// warnLeftOut says in one line on stderr what a history left out.
func warnLeftOut(path string, db *history.DB) {
	if n, first := db.LeftOut(); n > 0 {
		fmt.Fprintf(os.Stderr, "nstrace: %s: left out %s, since no nstrace writes such: %s\n", path, plural(n, "row"), oneLine(first))
	}
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// query reads the flags of registerPast.
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
	if !q.Since.IsZero() && !q.Until.IsZero() && q.Until.Before(q.Since) {
		return usagef("--until: %q is before --since", f.until)
	}
	if f.follow && (f.reverse || f.until != "") {
		return usagef("--follow goes on with what comes: it takes neither --reverse nor --until")
	}
	grep, err := compileGrep(f.grep)
	if err != nil {
		return err
	}
	// What has a place of its own in the tables is looked for there.
	if len(filters.Sysctl) == 1 && !strings.ContainsAny(filters.Sysctl[0], `*?[\`) && q.Parameter == "" {
		q.Parameter = filters.Sysctl[0]
	}
	if q.Types == nil && filters.Types != nil {
		q.Types = map[event.Type]bool{event.TraceLoss: true, event.TraceGap: true, event.TraceStart: true, event.TraceStop: true}
		for t := range filters.Types {
			q.Types[t] = true
		}
	}
	if q.Parameter != "" || q.Namespace != nil {
		q.Types = filters.Types // none about the trace
	}
	chosen := filters.Types != nil || filters.NSTypes != nil || len(filters.PIDs)+len(filters.Comms)+len(filters.UIDs) > 0 || filters.Failed ||
		len(f.containers)+len(f.netns) > 0 || f.program != nil || grep != nil
	encode := new(event.Encoder)
	var line []byte
	q.Match = func(e *event.Event) bool {
		switch e.Type {
		case event.TraceStart, event.TraceStop:
			// No row of a table, and nothing that was asked for.
			if chosen || f.format != "json" {
				return false
			}
		case event.TraceLoss, event.TraceGap:
		default:
			if !filters.Match(e) || !f.selected.Match(e) || (f.program != nil && !f.program.Match(e)) {
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

// compileGrep compiles a regular expression that ignores case where it has no capital, as
// that of journalctl does.
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

// past writes what there is, and returns how much that was.
func (f *historyFlags) past(ctx context.Context, db *history.DB, q history.Query, sink output.Sink) (n int, err error) {
	lines := f.lines
	if f.follow && lines == 0 && f.since == "" {
		lines = followed
	}
	if lines == 0 || f.reverse {
		q.Reverse, q.Limit = f.reverse, int(min(lines, 1<<31))
		for s, err := range db.Events(ctx, q) {
			if err != nil {
				return n, err
			}
			if err := sink.Write(s.Event); err != nil {
				return n, err
			}
			n++
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

// followEvery is how often --follow looks for new events; they come in batches.
const followEvery = 200 * time.Millisecond

// future writes what is recorded behind the event last, until ctx ends. Where the database is
// replaced, as a recorder does whose own was moved, it goes on with the new one.
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
				continue // there is none yet
			}
			*at, last = next, 0
			// One that was there before has older events.
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

// openHistory opens the database, or says what makes one.
func openHistory(ctx context.Context, path string) (*history.DB, error) {
	db, err := history.OpenContext(ctx, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("--db: %w: nstrace record makes it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("--db: %w", err)
	}
	return db, nil
}

func newHistoryVerify() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "Say whether anything was removed or changed, and where",
		Long: `Follow the chain of hashes from the first event to the last, and say where it is
broken. The hash of the last event is shown: kept elsewhere, it shows later that
nothing was made anew since. The exit status is 1 where something is wrong.`,
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

// verified says what was found.
func verified(v *history.Verification) error {
	for _, p := range v.Problems {
		if _, err := fmt.Println(p); err != nil {
			return err
		}
	}
	if v.Dropped > 0 {
		if _, err := fmt.Printf("%s of before were dropped by retention\n", plural(v.Dropped, "event")); err != nil {
			return err
		}
	}
	if len(v.Problems) > 0 {
		return fmt.Errorf("the history was tampered with: %s found", plural(uint64(len(v.Problems)), "problem"))
	}
	if v.Events == 0 {
		_, err := fmt.Println("no events")
		return err
	}
	_, err := fmt.Printf("%s, %d to %d: nothing was removed or changed\nhash of the last: %x\n", plural(v.Events, "event"), v.First, v.Last, v.Head)
	return err
}

func newHistoryExport() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export [flags]",
		Short: "Write the whole history as JSON lines, for nstrace history import",
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

// interruptibleReader reads from in until ctx ends, also while in has nothing to read.
func interruptibleReader(ctx context.Context, in io.Reader) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, in)
		_ = w.CloseWithError(err) // nil is the end
	}()
	return r
}

func newHistoryImport() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "import FILE|- [flags]",
		Short: "Take back what nstrace history export wrote",
		Long: `Read an export into a database that is new, or that ends where the export begins.
The chain of hashes is checked with each line: one that does not follow from the
one before ends it, and nothing is taken.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) != 1 || args[0] == "" {
				return usagef("history import takes a file, or - for stdin")
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
