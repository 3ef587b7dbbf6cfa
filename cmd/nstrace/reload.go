// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/config"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/pipeline"
	"github.com/nstrace/nstrace/tracer"
)

// reloadable are the flags that can change while nstrace runs. All others need a restart: the kernel side applies
// them, or what they name stays open.
var reloadable = []string{"filter", "container", "netns", "changed", "alert", "sink", "baseline", "label"}

// A remade is a command with flags of its own, to read the configuration again.
type remade struct {
	cmd    *cobra.Command
	flags  *streamFlags
	check  func() (tracer.Options, error)
	expect func() (*baseline.Set, error) // nil for none
}

// remakeStream makes the command that streams.
func remakeStream() remade {
	f := new(streamFlags)
	cmd := &cobra.Command{Use: "nstrace"}
	f.register(cmd)
	return remade{cmd: cmd, flags: f, check: f.options}
}

// remakeRecord makes the command record.
func remakeRecord() remade {
	f := new(recordFlags)
	return remade{f.command(), &f.streamFlags, f.check, func() (*baseline.Set, error) {
		if len(f.baseline) == 0 {
			return nil, nil
		}
		return loadBaseline(f.baseline, f.rules)
	}}
}

// reloadsAtHangup reports whether SIGHUP means to read the configuration again. On a terminal it means that this is
// gone.
func (f *streamFlags) reloadsAtHangup() bool {
	return (f.history != nil || f.configFile != "") && !signal.Ignored(syscall.SIGHUP) && !hasTerminal()
}

// keepReloading reads the configuration again at each SIGHUP, until the function that it returns is called.
func (f *streamFlags) keepReloading(ctx context.Context, r *run) (end func()) {
	if f.hangup == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-f.hangup:
			case <-ctx.Done():
				return
			}
			_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading) // stderr has the outcome
			changed, err := f.reload(r)
			switch {
			case err != nil:
				warn(fmt.Sprintf("the old configuration stays in force: %v", err))
			case len(changed) == 0:
				notify("read the configuration again: no flag has changed")
			default:
				notify("read the configuration again: changed " + strings.Join(changed, ", "))
			}
			_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}

// reload reads the configuration again. It changes all or nothing, between two events. It returns the keys that have
// changed.
func (f *streamFlags) reload(r *run) (changed []string, err error) {
	next := f.remake()
	scratch := globalFlags{}
	scratch.register(next.cmd.Flags())
	if err := give(next.cmd.Flags(), f.given); err != nil {
		return nil, err
	}
	c, err := loadConfig(next.cmd, f.configFile, f.byDefault)
	if err != nil {
		return nil, err
	}
	if err := c.Apply(next.cmd.Flags()); err != nil {
		return nil, err
	}
	effective := effectiveOf(next.cmd.Flags())
	var restart []string
	for _, name := range slices.Sorted(maps.Keys(effective)) {
		if slices.Equal(f.effective[name], effective[name]) {
			continue
		}
		key := config.Key(next.cmd.Flags().Lookup(name))
		if changed = append(changed, key); !slices.Contains(reloadable, name) {
			restart = append(restart, key)
		}
	}
	if len(restart) > 0 {
		return nil, fmt.Errorf("a change of %s needs a restart", strings.Join(restart, ", "))
	}
	if _, err := next.check(); err != nil {
		return nil, c.Locate(err)
	}
	var expected *baseline.Marker
	if f.refresh != nil { // --declared
		expected = f.expected
	} else if next.expect != nil {
		set, err := next.expect()
		if err != nil {
			return nil, c.Locate(err)
		}
		if set != nil {
			expected = baseline.NewMarker(set)
		}
	}
	kept := next.flags.selected
	if slices.Equal(f.effective["container"], effective["container"]) && slices.Equal(f.effective["netns"], effective["netns"]) {
		kept.Nets = f.selected.Nets // it has learned which namespaces these are
	}
	next.flags.selected = kept
	closed, err := f.replaceSinks(next.flags.sinks, r)
	if err != nil {
		return nil, c.Locate(err)
	}
	settings := pipeline.Settings{Selection: kept, Expected: expected, Alerts: next.flags.alerts, Filter: next.flags.program, Labels: next.flags.labels}
	r.stage.Between(func() {
		r.steps.Use(settings, next.flags.complete(f.tracing))
		var targets []sink.Target
		for _, v := range next.flags.sinks {
			sink.SetFilter(v.target, v.filter)
			targets = append(targets, v.target)
		}
		r.sinks.Replace(targets...)
	})
	r.draining.Go(func() {
		if err := sink.NewSet(closed...).Close(); err != nil {
			warn(err.Error())
		}
	})
	f.config, f.effective = c, effective
	f.marker.Store(expected)
	f.selected, f.expected, f.alerts, f.program, f.sinks = kept, expected, next.flags.alerts, next.flags.program, next.flags.sinks
	f.labels = next.flags.labels
	next.flags.warnPattern(notify)
	return changed, nil
}

// replaceSinks opens the sinks of next that are new, and takes over those that are there already, whatever their
// filter. It returns the others, which are to be closed.
func (f *streamFlags) replaceSinks(next []*sinkValue, r *run) (closed []sink.Target, err error) {
	old := slices.Clone(f.sinks)
	take := func(same func(a, b *sinkValue) bool) {
		for _, v := range next {
			i := slices.IndexFunc(old, func(o *sinkValue) bool { return same(o, v) })
			if v.target == nil && i >= 0 {
				v.target, v.name = old[i].target, old[i].name
				old = slices.Delete(old, i, i+1)
			}
		}
	}
	take(func(a, b *sinkValue) bool { return a.options == b.options && a.condition == b.condition })
	take(func(a, b *sinkValue) bool { return a.options == b.options })
	var added []*sinkValue
	for _, v := range next {
		if v.target != nil {
			continue
		}
		added = append(added, v)
		switch {
		case v.spool != "" && slices.ContainsFunc(old, func(o *sinkValue) bool { return o.spool == v.spool }),
			!v.network && v.where != "" && slices.ContainsFunc(old, func(o *sinkValue) bool { return o.where == v.where }):
			return nil, fmt.Errorf("--sink %s: a change of its options needs a restart", v.text)
		case v.network && !f.work.Network:
			return nil, fmt.Errorf("--sink %s: the first sink to another host needs a restart, because nstrace has given up the network", v.text)
		case v.kind == "file" && !f.work.Files:
			return nil, fmt.Errorf("--sink %s: the first file needs a restart, because nstrace has given up the privileges for it", v.text)
		}
	}
	if err := checkSinkFolders(added); err != nil {
		return nil, err
	}
	r.draining.Wait() // one of the new ones can be where an old one was
	nameSinks(next)
	if _, err := openSinks(added, r.status.took, warn); err != nil {
		return nil, err
	}
	for _, o := range old {
		closed = append(closed, o.target)
	}
	return closed, nil
}

// hangups returns a channel that gets SIGHUP.
func hangups() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}
