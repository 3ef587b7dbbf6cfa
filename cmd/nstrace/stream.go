// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/runtimes"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/tracer"
)

// A sinkHandler hands a tracer's events to a sink: those that match, up to a limit.
// The tracer counts the others as written, and so the books are put right here, at the
// end of what events go through.
type sinkHandler struct {
	t     *tracer.Tracer
	first tracer.Handler // what events come through
	sink  output.Sink
	match *filter.Program // nil: all
	rules *alert.Rules    // nil: none

	selected selection
	limit    uint64 // 0: none
	done     func() // called when limit is reached
	n        uint64
	stop     *event.Totals

	history *history.Recorder // nil without
	started time.Time         // of trace.start, zero before it
	gapTold bool              // or there was none
	keeper  *keeper           // nil without a history
	drifted uint64            // events that nobody watched, which the tracer has not counted
	last    event.Event       // of what was written, the number and where it came from
	added   uint64            // lines that are not the tracer's

	dropped uint64 // lines that were left out
	stood   uint64 // and for how many events they stood

	// The number that the last write had, and has now: 0 if it was left out. Of its own
	// write a change says the number (tracer.Cause).
	wrote, wroteNow uint64

	alerts map[string]uint64 // of those written, by the rule
	raised uint64            // their sum
}

func (h *sinkHandler) Event(e *event.Event) error {
	if h.keeper != nil {
		h.keeper.see(e)
	}
	switch e.Type {
	case event.TraceStop:
		if err := errors.Join(h.tellGap(time.Now()), h.tellDrift(true), h.tellUnkept()); err != nil {
			return err
		}
		h.stop = e.Trace.Totals
		h.stop.Seen += h.drifted
		h.stop.Written += h.drifted - h.stood
		h.stop.Filtered += h.stood
		h.stop.Alerts = h.raised
	case event.TraceStart:
	case event.TraceLoss, event.TraceTamper:
		if h.rules != nil {
			h.rules.Mark(e)
		}
	default:
		// The ring can hold more than the last event that was asked for.
		if (h.limit > 0 && h.n >= h.limit) || !h.wants(e) {
			if e.Sysctl != nil && e.Sysctl.Cause == nil {
				h.wrote, h.wroteNow = e.Seq, 0
			}
			h.dropped++
			h.stood += max(1, e.Count)
			return nil
		}
		h.n++
	}
	if e.Sysctl != nil {
		switch c := e.Sysctl.Cause; {
		case c == nil:
			h.wrote, h.wroteNow = e.Seq, e.Seq+h.added-h.dropped
		case c.Seq == h.wrote:
			c.Seq = h.wroteNow
		default:
			c.Seq = 0
		}
	}
	e.Seq += h.added - h.dropped
	err := h.write(e)
	if e.Type == event.TraceStart && err == nil {
		h.started = e.Time
		err = h.tellGap(e.Time)
	}
	if h.limit > 0 && h.n == h.limit {
		h.done()
	}
	return err
}

// wants says whether e is to be written. --filter can ask for the rules that it met.
func (h *sinkHandler) wants(e *event.Event) bool {
	if !h.selected.match(e) {
		return false
	}
	if h.rules != nil {
		h.rules.Mark(e)
	}
	return h.match == nil || h.match.Match(e)
}

// write gives an event to the sink, and to the history where one is kept.
func (h *sinkHandler) write(e *event.Event) error {
	for i := range e.Alert {
		h.alerts[e.Alert[i].Name]++
		h.raised++
	}
	h.last = event.Event{V: e.V, Seq: e.Seq, Host: e.Host, BootID: e.BootID}
	if h.history != nil {
		if err := h.history.Append(e); err != nil {
			return err
		}
	}
	return h.sink.Write(e)
}

// add writes an event that is not the tracer's.
func (h *sinkHandler) add(e *event.Event) error {
	e.V, e.Seq, e.Host, e.BootID = h.last.V, h.last.Seq+1, h.last.Host, h.last.BootID
	h.added++
	return h.write(e)
}

// tellGap tells of the time between the run before and this one: behind trace.start, or once
// the database could be opened.
func (h *sinkHandler) tellGap(at time.Time) error {
	if h.history == nil || h.gapTold || h.started.IsZero() {
		return nil
	}
	select {
	case <-h.history.Opened():
	default:
		return nil
	}
	h.gapTold = true
	e := gap(h.history, h.started)
	if e == nil {
		return nil
	}
	e.Time = at.UTC()
	return h.add(e)
}

// tellDrift tells what happened before that nobody watched, once that is known, which it
// is at the end.
func (h *sinkHandler) tellDrift(end bool) error {
	if h.keeper == nil {
		return nil
	}
	return h.keeper.find(end, func(e *event.Event) error {
		if (h.limit > 0 && h.n >= h.limit) || !h.keeper.filter.Match(e) || !h.wants(e) {
			return nil
		}
		h.n++
		h.drifted++
		return h.add(e)
	})
}

// tellUnkept tells what the history could not take.
func (h *sinkHandler) tellUnkept() error {
	if h.history == nil || h.last.Seq == 0 {
		return nil
	}
	l := h.history.TakeLoss()
	if l == nil {
		return nil
	}
	return h.add(&event.Event{Type: event.TraceLoss, Time: time.Now().UTC(), Loss: l})
}

func (h *sinkHandler) Idle() error {
	return errors.Join(h.tellGap(time.Now()), h.tellDrift(false), h.tellUnkept(), h.sink.Flush())
}

// openOutput opens what events are written to: def without --output-file.
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
		return nil, nil, fmt.Errorf("--output-file: %w", err)
	}
	return file, file.Close, nil
}

// sink makes the sink that the flags ask for. hold is how long --group may hold a line back.
func (f *streamFlags) sink(w io.Writer, host map[event.NSType]uint32, hold time.Duration) output.Sink {
	if f.quiet {
		return nowhere{}
	}
	if f.format == "json" {
		return output.NewJSON(w)
	}
	opts := output.TableOptions{Wide: f.format == "wide", HostNS: host}
	if terminal, ok := w.(*os.File); ok {
		opts.Color, opts.Width = output.ColorWanted(terminal), output.TerminalWidth(terminal)
	}
	table := output.NewTable(w, opts)
	if f.group == "off" {
		return table
	}
	return output.NewGroup(table, output.GroupOptions{Open: f.group == "open", Hold: hold})
}

// nowhere is the sink of a stream that nobody wants to see.
type nowhere struct{}

func (nowhere) Write(*event.Event) error { return nil }
func (nowhere) Flush() error             { return nil }
func (nowhere) Close() error             { return nil }

// stream traces the whole host.
func (f *streamFlags) stream(cmd *cobra.Command) (err error) {
	if done, err := f.help(); done {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	t, h, finish, err := f.start(o, os.Stdout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, finish()) }()
	h.done, h.history = cancel, f.history
	if f.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	var gone atomic.Bool // whoever read the events: there is nobody to sum up for
	if f.file == "" && !f.quiet {
		go watchReader(os.Stdout, func() { gone.Store(true); cancel() })
	}
	if f.history != nil {
		h.keeper = newKeeper(t, f.history, f.db, o.Filter)
		ctx, cancel = h.keeper.keep(ctx)
		defer cancel()
	}
	interval := watchdogInterval()
	// What systemd starts after this is watched. The watchdog needs the socket again.
	if _, err := daemon.SdNotify(interval == 0, daemon.SdNotifyReady); err != nil {
		fmt.Fprintf(os.Stderr, "nstrace: systemd is not told that it watches: %v\n", err)
	}
	handler, unwatch := watch(h.first, interval, t.Wake)
	defer unwatch()
	if err := t.Run(ctx, handler); err != nil {
		return err
	}
	if !gone.Load() {
		f.summary(h)
	}
	return nil
}

// start opens the output, finds whom to ask for names, and attaches. The output comes
// first, so that a file that cannot be written is known before anything else happens.
func (f *streamFlags) start(o tracer.Options, def *os.File) (*tracer.Tracer, *sinkHandler, func() error, error) {
	w, closeOutput, err := f.openOutput(def)
	if err != nil {
		return nil, nil, nil, err
	}
	h := &sinkHandler{match: f.program, rules: f.alerts, alerts: map[string]uint64{}, selected: f.selected, limit: f.count}
	stage, err := runtimes.New(h, f.runtimes, runtimes.DefaultWait)
	if err != nil {
		return nil, nil, nil, errors.Join(usageError{fmt.Errorf("--runtime-socket: %w", err)}, closeOutput())
	}
	restoreGC := withoutGC()
	t, err := tracer.New(o)
	restoreGC()
	if err != nil {
		return nil, nil, nil, errors.Join(err, stage.Close(), closeOutput())
	}
	go giveBack()
	if f.verbose {
		for _, obs := range t.Observations() {
			fmt.Fprintf(os.Stderr, "nstrace: %s\n", describe(obs))
		}
	}
	sink := f.sink(w, t.HostNS(), output.DefaultHold)
	h.t, h.sink, h.first = t, sink, stage
	finish := func() error { return errors.Join(t.Close(), stage.Close(), sink.Close(), closeOutput()) }
	return t, h, finish, nil
}

// help answers --filter help and --alert help, and says whether it was asked.
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

// filterHelp says what --filter takes.
func filterHelp() error {
	const language = `An expression is made of the fields below, named as in the JSON; what an event
does not have is "", 0, false or an empty list.

  == != < <= > >=                           strings, numbers, times ("2026-11-23T12:00:00Z")
  in ["a", "b"], in LIST, in MAP            and not in
  contains, startsWith, endsWith, matches   strings; the last takes a regular expression
  glob("net.ipv4.*", sysctl.name)           as --sysctl does
  any(process.ancestors, .comm == "sshd")   also all and none; # is the element
  len(process.args)                         of a string, list or map
  FIELD == nil                              it is absent; != nil: it is there
  &&, ||, !                                 and, or, not

`
	_, err := fmt.Fprint(os.Stdout, language+strings.Join(filter.Fields(), "\n")+"\n")
	return err
}

// describe says in a line how an observation is attached.
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

// summary closes the books on stderr.
func (f *streamFlags) summary(h *sinkHandler) {
	if h.stop == nil {
		return
	}
	s := h.stop
	fmt.Fprintf(os.Stderr, "nstrace: %s in %s: %d seen = %d written + %d filtered + %d lost\n",
		plural(s.Written, "event"), (time.Duration(s.DurationMS) * time.Millisecond).String(), s.Seen, s.Written, s.Filtered, s.Lost)
	f.alertSummary(h)
	if n, err := h.t.Untracked(); err == nil && n > 0 {
		fmt.Fprintf(os.Stderr, "nstrace: %s could not be followed: too many lived at once\n", plural(n, "process"))
	}
}

// alertSummary says on stderr how often which rules were met.
func (f *streamFlags) alertSummary(h *sinkHandler) {
	if f.alerts == nil {
		return
	}
	var each []string
	for _, name := range f.alerts.Names() {
		if n := h.alerts[name]; n > 0 {
			each = append(each, fmt.Sprintf("%s %d", name, n))
		}
	}
	s := plural(h.raised, "alert")
	if len(each) > 0 {
		s += ": " + strings.Join(each, ", ")
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s\n", s)
}

// notify says on stderr what the tracer has to say about the run.
func notify(message string) { fmt.Fprintf(os.Stderr, "nstrace: %s\n", message) }

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// watchReader calls gone when out is a pipe whose reader went away: on a quiet
// host there may be no write for hours to find that out.
func watchReader(out *os.File, gone func()) {
	st, err := out.Stat()
	if err != nil || st.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(out.Fd())}} // POLLERR and POLLHUP need not be asked for
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
