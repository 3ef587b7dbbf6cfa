// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/osmemory"
	"github.com/nstrace/nstrace/internal/osthread"
	"github.com/nstrace/nstrace/internal/resolver"
	"github.com/nstrace/nstrace/internal/runtimes"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
	"github.com/nstrace/nstrace/tracer"
)

// openOutput opens the file of --output-file. Without that flag it returns def.
func (f *streamFlags) openOutput(def *os.File) (io.Writer, func() error, error) {
	rotation, err := f.rotation()
	if err != nil {
		return nil, nil, err
	}
	if f.file == "" {
		return def, func() error { return nil }, nil
	}
	file, err := output.OpenFile(f.file, rotation)
	if err != nil {
		return nil, nil, noFolder(fmt.Errorf("--output-file: %w", err))
	}
	return file, file.Close, nil
}

// noFolder makes an error of opening a file a mistake on the command line, if its path cannot be that of a file.
func noFolder(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) {
		return usageError{err}
	}
	return err
}

// sink returns the sink for --output. hold is how long --group may hold a row back.
func (f *streamFlags) sink(w io.Writer, host map[event.NSType]uint32, hold time.Duration) output.Sink {
	if f.live != nil {
		return f.live
	}
	if f.quiet {
		return nowhere{}
	}
	if f.format == "json" {
		return output.NewJSON(w)
	}
	opts := output.TableOptions{Location: location(), Wide: f.format == "wide", HostNS: host, HostOf: f.hostOf, Date: true, OneLine: true}
	if file, ok := w.(*os.File); ok {
		opts.Color, opts.Width = colorWanted(file), output.TerminalWidth(file)
		opts.WidthNow = func() int { return output.TerminalWidth(file) }
		opts.OneLine = opts.Width == 0
		opts.Date = f.stored || !term.IsTerminal(int(file.Fd()))
	}
	table := output.NewTable(w, opts)
	var sink output.Sink = table
	if f.group != "off" {
		sink = output.NewGroup(table, output.GroupOptions{Open: f.group == "open", Hold: hold})
	}
	if f.group == "open" || opts.Wide {
		return sink
	}
	return output.NewCascades(sink)
}

// nowhere is a sink that discards events.
type nowhere struct{}

func (nowhere) Write(*event.Event) error { return nil }
func (nowhere) Flush() error             { return nil }
func (nowhere) Close() error             { return nil }

// A run is a tracer with the pipeline that its events go through.
type run struct {
	names  *resolver.Client
	tracer *tracer.Tracer
	stage  *runtimes.Stage // the first step of the pipeline
	steps  *pipeline.Pipeline
	drift  *pipeline.Drift // nil without a history
	sink   output.Sink
	sinks  *sink.Set // of --sink, nil for none
	status *status
	retry  *pipeline.Retry // around sink; nil: an error of sink ends the run
	close  func() error    // of the output
}

// heldNotes are messages about what a run lacks, which wait until it is clear that there is a run.
type heldNotes struct {
	notify func(string)

	mu       sync.Mutex
	held     []string
	released bool
}

func (h *heldNotes) add(message string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		h.notify(message)
		return
	}
	h.held = append(h.held, message)
}

func (h *heldNotes) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	for _, message := range h.held {
		h.notify(message)
	}
	h.held = nil
}

// spareThreads is more than a run has been seen to need at once: readers of /proc, of the user
// database and of runtimes that wait, those that enter namespaces, and those that detach programs.
const spareThreads = 40

// start opens the output, finds the container runtimes, and attaches. The output comes
// first, so that a file that cannot be written is reported before anything else happens.
// limitDone is called once --count is reached.
func (f *streamFlags) start(o tracer.Options, def *os.File, limitDone func()) (r *run, err error) {
	w, closeOutput, err := f.openOutput(def)
	if err != nil {
		return nil, err
	}
	r = &run{close: closeOutput}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.finish())
			r = nil
		}
	}()
	r.status = f.newStatus(r)
	if r.sinks, err = openSinks(f.sinks, r.status.took, warn); err != nil {
		return r, err
	}
	// Early: it starts while the programs are loaded, and before a host can run out of process ids.
	notes := &heldNotes{notify: o.Notify}
	r.names = resolver.Start(resolver.Options{Notify: notes.add, User: f.resolverUser()})
	o.Resolver = r.names.Names()
	if r.stage, err = runtimes.NewBy(r.names, f.runtimes, runtimes.DefaultWait); err != nil {
		return r, usageError{fmt.Errorf("--runtime-socket: %w", err)}
	}
	f.warnPattern(notes.add) // it can take a while, in which nobody would read the ring
	osthread.Reserve(spareThreads)
	restoreGC := withoutGC()
	r.tracer, err = tracer.New(o)
	restoreGC()
	if errors.Is(err, tracer.ErrPartial) {
		err = fmt.Errorf("%w (--partial: trace the rest)", err)
	}
	if err != nil {
		return r, err
	}
	if !o.Follow { // what a command makes is not there yet
		f.warnAbsent(&o.Filter, r.stage, r.liveNets, notes.add)
	}
	notes.release()
	go osmemory.GiveBack()
	if f.verbose {
		for _, obs := range r.tracer.Observations() {
			fmt.Fprintf(os.Stderr, "nstrace: %s\n", describe(obs))
		}
	}
	r.sink = r.status.timed(f.sink(w, r.tracer.HostNS(), output.DefaultHold), f.quiet)
	var first pipeline.Sink = r.sink
	if f.file != "" || f.history != nil {
		r.retry = &pipeline.Retry{Sink: r.sink, Report: warn}
		first = r.retry
	}
	if f.history != nil {
		r.drift = pipeline.NewDrift(pipeline.DriftOptions{
			History: f.history, DB: f.db, Filter: o.Filter, Scan: r.scan, Wake: r.tracer.Wake,
			Complete: f.selected.Empty() && f.program == nil && f.count == 0 && !o.Follow &&
				(o.Filter.Types == nil || o.Filter.Types[event.SysctlWrite]),
			Tables: !o.Follow && scansTables(r.tracer.Observations()) &&
				(o.Filter.Types == nil || o.Filter.Types[event.SysctlAppear] || o.Filter.Types[event.SysctlVanish]),
			Report: warn,
		})
	}
	sinks := []pipeline.Sink{first}
	if r.sinks != nil {
		sinks = append(sinks, r.sinks)
	}
	if m := r.status.metrics; m != nil {
		sinks = append(sinks, m)
	}
	r.steps = pipeline.New(pipeline.Options{
		RunID: pipeline.NewRunID(), Writers: pipeline.NewWriters(f.history, f.db), Selection: f.selected, Expected: f.expected, Alerts: f.alerts, Filter: f.program,
		Limit: f.count, LimitDone: limitDone, History: f.history, Drift: r.drift,
		Sinks: sinks, Source: r.tracer,
	})
	r.stage.SetNext(r.steps)
	r.stage.OnError(r.tracer.Wake)
	return r, nil
}

// scan returns the live namespaces, for Drift.
func (r *run) scan(ctx context.Context) (found []drift.Found, complete bool, err error) {
	live, complete, err := r.tracer.Scan(ctx)
	if err != nil {
		return nil, false, err
	}
	found = make([]drift.Found, len(live))
	for i := range live {
		found[i] = drift.Found{Namespace: live[i].Namespace, Paths: live[i].Paths, User: live[i].User}
	}
	return found, complete, nil
}

// sinkStats returns the numbers of --sink, nil for none.
func (r *run) sinkStats() []sink.Stats {
	if r.sinks == nil {
		return nil
	}
	return r.sinks.Stats()
}

// liveNets returns the inode numbers of the network namespaces that exist. ok is false if some can be missing.
func (r *run) liveNets() (ids []uint32, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), parametersTime)
	defer cancel()
	live, complete, err := r.tracer.Scan(ctx)
	for i := range live {
		if ns := &live[i].Namespace; ns.Type == event.NSTypeNet {
			ids = append(ids, ns.ID)
		}
	}
	return ids, complete && err == nil
}

// finish closes everything.
func (r *run) finish() error {
	var errs []error
	if r.tracer != nil {
		errs = append(errs, r.tracer.Close())
	}
	if r.stage != nil {
		errs = append(errs, r.stage.Close())
	}
	if r.names != nil {
		errs = append(errs, r.names.Close())
	}
	switch {
	case r.retry != nil:
		errs = append(errs, r.retry.Close())
		if n := r.retry.Lost(); n > 0 {
			errs = append(errs, fmt.Errorf("the output lacks up to %s that could not be written", plural(n, "event")))
		}
	case r.sink != nil:
		errs = append(errs, r.sink.Close())
	}
	if r.sinks != nil {
		errs = append(errs, r.sinks.Close())
	}
	return errors.Join(append(errs, r.close())...)
}

// stream traces the whole host.
func (f *streamFlags) stream(cmd *cobra.Command) (err error) {
	if done, err := f.help(); done {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	if err := f.setHeartbeat(cmd); err != nil {
		return err
	}
	// Before nstrace gives up the right to open sockets of the network, and ports below 1024.
	listener, err := f.listen()
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	ctx, cancel := signal.NotifyContext(cmd.Context(), f.endSignals()...)
	defer cancel()
	f.dropPrivileges(confine.Work{})
	r, err := f.start(o, os.Stdout, cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.finish()) }()
	f.seal()
	if f.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	var gone atomic.Bool // the reader of the events closed the pipe: print no summary
	if f.file == "" && !f.quiet {
		end := cancel // Keep's, below, would end the run without a last snapshot
		go watchReader(os.Stdout, func() { gone.Store(true); end() })
	}
	handler := r.status.handler()
	if r.drift != nil {
		ctx, cancel = r.drift.Keep(ctx)
		defer cancel()
		serve, end := context.WithCancel(ctx)
		served := make(chan struct{})
		go func() {
			defer close(served)
			f.history.ServeSync(serve, r.drift.Sync, r.status.state)
		}()
		defer func() { end(); <-served }() // it removes its socket
	}
	if f.refresh != nil {
		refresh, end := context.WithCancel(ctx)
		defer end()
		go f.refresh(refresh)
	}
	interval := watchdogInterval()
	// systemd starts the units that are ordered after this one once tracing is active. The
	// watchdog and the status need the socket again.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		fmt.Fprintf(os.Stderr, "nstrace: cannot tell systemd that tracing is active: %v\n", err)
	}
	if listener != nil {
		defer r.status.serve(listener).Close()
	}
	defer r.status.background(ctx)()
	handler, unwatch := watch(handler, interval, r.tracer.Wake)
	defer unwatch()
	if err := r.tracer.Run(ctx, handler); err != nil {
		return err
	}
	if !gone.Load() {
		f.summary(r)
	}
	return nil
}

// endSignals returns the signals that end a run in order.
func (f *streamFlags) endSignals() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGQUIT) {
		all = append(all, syscall.SIGQUIT)
	}
	switch {
	case signal.Ignored(syscall.SIGHUP): // nohup
	case f.history != nil && !hasTerminal():
		// It asks a daemon to open its files again. nstrace does that by itself, see output.OpenFile.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	default:
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// hasTerminal reports whether the process has a controlling terminal. A daemon has none.
func hasTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		tty.Close()
	}
	return !saysNoTerminal(err)
}

// saysNoTerminal reports whether an open of /dev/tty failed because there is no terminal, and not for another
// reason, such as too many open files.
func saysNoTerminal(err error) bool { return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOTTY) }

// help answers --filter help and --alert help, and reports whether one was given.
func (f *streamFlags) help() (bool, error) {
	switch {
	case f.filter == "help":
		return true, filterHelp()
	case slices.Contains(f.alertFiles, "help"):
		_, err := fmt.Fprint(os.Stdout, alert.Default)
		return true, err
	}
	return false, nil
}

// filterHelp prints the language and the fields of --filter.
func filterHelp() error {
	const language = `An expression uses the fields below, which are named as in the JSON. A field that an
event does not have is "", 0, false or an empty list.

  == != < <= > >=                           strings, numbers, times ("2026-11-23T12:00:00Z")
  in ["a", "b"], in LIST, in MAP            and not in
  contains, startsWith, endsWith, matches   strings; matches takes a regular expression
  glob("net.ipv4.*", sysctl.name)           as --sysctl does
  any(process.ancestors, .comm == "sshd")   also all and none; # is the element
  len(process.args)                         of a string, list or map
  FIELD == nil                              the field is absent; != nil: it is present
  &&, ||, !                                 and, or, not

`
	_, err := fmt.Fprint(os.Stdout, language+strings.Join(filter.Fields(), "\n")+"\n")
	return err
}

// scansTables reports whether no hook shows which parameters appear and vanish.
func scansTables(observations []event.Observation) bool {
	return slices.ContainsFunc(observations, func(o event.Observation) bool {
		return (o.Name == "appear" || o.Name == "vanish") && o.Backend != string(tracer.Fentry) && o.Backend != string(tracer.Kprobe)
	})
}

// describe returns one line about how an observation is attached.
func describe(o event.Observation) string {
	s := fmt.Sprintf("%s: %s", o.Name, o.Backend)
	if len(o.Hooks) > 0 {
		s += " (" + strings.Join(o.Hooks, ", ") + ")"
	}
	if len(o.Missing) > 0 {
		s += "; not seen: " + strings.Join(o.Missing, "; ")
	}
	return s
}

// summary prints the totals of the run on stderr.
func (f *streamFlags) summary(r *run) {
	s := r.steps.Totals()
	if s == nil || global.quiet {
		return
	}
	more := ""
	if r.steps.Uncounted() {
		more = ", and an unknown number of other events lost"
	}
	if len(s.Uncounted) > 0 {
		var names []string
		for _, typ := range s.Uncounted {
			names = append(names, string(typ))
		}
		more += fmt.Sprintf("; this kernel does not count what it skips of %s", strings.Join(names, ", "))
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s in %s: %d seen = %d written + %d filtered + %d lost%s\n",
		plural(s.Written, "event"), (time.Duration(s.DurationMS) * time.Millisecond).String(), s.Seen, s.Written, s.Filtered, s.Lost, more)
	f.alertSummary(r)
	if n, err := r.tracer.Untracked(); err == nil && n > 0 {
		fmt.Fprintf(os.Stderr, "nstrace: could not follow up to %s: too many existed at once, or the kernel skipped the hook\n", plural(n, "process"))
	}
}

// alertSummary prints on stderr how many events met each rule.
func (f *streamFlags) alertSummary(r *run) {
	if f.alerts == nil || global.quiet {
		return
	}
	var each []string
	var sum uint64
	met := r.steps.Alerts()
	for _, name := range f.alerts.Names() {
		if n := met[name]; n > 0 {
			sum += n
			each = append(each, fmt.Sprintf("%s %d", name, n))
		}
	}
	s := plural(sum, "alert")
	if len(each) > 0 {
		s += ": " + strings.Join(each, ", ")
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s\n", s)
}

// notify prints a note about the run on stderr, unless --quiet is given.
func notify(message string) {
	if !global.quiet {
		warn(message)
	}
}

// warn prints a message about what is wrong on stderr, also with --quiet.
func warn(message string) { fmt.Fprintf(os.Stderr, "nstrace: %s\n", flatten(message)) }

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// watchReader calls gone when out is a pipe whose reader has closed it. On a quiet host, a write
// could fail only hours later.
func watchReader(out *os.File, gone func()) {
	st, err := out.Stat()
	if err != nil || st.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(out.Fd())}} // poll(2) always reports POLLERR and POLLHUP
	for {
		_, err := unix.Poll(fds, -1)
		if err == nil {
			gone()
			return
		}
		if err != unix.EINTR {
			return
		}
	}
}
