// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
	"github.com/nstrace/nstrace/tracer"
)

// streamFlags are the flags that every command that streams events takes.
type streamFlags struct {
	format     string
	file       string
	rotateSize string
	rotateAge  time.Duration
	rotateKeep int
	events     []string
	nsTypes    []string
	sysctls    []string
	pids       []string
	comms      []string
	users      []string
	failed     bool
	filter     string
	program    *filter.Program // of filter, nil for all
	group      string
	alertFiles []string
	alerts     *alert.Rules // of those, nil for none
	runtimes   []string
	containers []string
	netns      []string
	selected   pipeline.Selection // of the two above
	count      uint64
	duration   time.Duration
	backend    string
	ringSize   string
	verbose    bool

	// Of record.
	quiet   bool              // no stream
	history *history.Recorder // takes the events too
	db      string            // its path
}

func (f *streamFlags) register(cmd *cobra.Command) {
	f.registerFilters(cmd)
	fs := cmd.Flags()
	fs.StringArrayVar(&f.alertFiles, "alert", nil, "mark the events that meet a rule of this file; may be repeated; default: those that are shipped (help: shows them)")
	fs.StringVarP(&f.file, "output-file", "O", "", "write events to this file, appending")
	fs.StringVar(&f.rotateSize, "rotate-size", "", "start a new output file before it grows beyond this, such as 100MiB")
	fs.DurationVar(&f.rotateAge, "rotate-age", 0, "start a new output file when it is older than this, such as 24h")
	fs.IntVar(&f.rotateKeep, "rotate-keep", 0, "keep at most so many old output files (0: all)")
	fs.StringArrayVar(&f.runtimes, "runtime-socket", nil, "container runtime to ask for names, as docker:PATH, podman:PATH, cri:PATH or PATH; may be repeated; none asks nobody (default: those found)")
	fs.Uint64VarP(&f.count, "count", "n", 0, "end after so many events")
	fs.DurationVar(&f.duration, "duration", 0, "end after this time, such as 30s")
	fs.StringVar(&f.backend, "backend", "auto", "how to attach: "+strings.Join(tracer.Backends(), ", "))
	fs.StringVar(&f.ringSize, "ring-size", "4MiB", "size of the ring between kernel and nstrace, a power of two")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr how each observation is attached")
	complete(cmd, "backend", tracer.Backends())
}

// registerFilters adds the flags that say which events and how they are shown, which
// are the same for those that happen and those of the past.
func (f *streamFlags) registerFilters(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "how to write events: table, wide or json")
	fs.StringSliceVarP(&f.events, "event", "e", nil, "only these events or families: "+strings.Join(eventNames(), ", "))
	fs.StringSliceVarP(&f.nsTypes, "ns-type", "t", nil, "only namespaces of these types: "+strings.Join(nsTypeNames(), ", "))
	fs.StringSliceVar(&f.sysctls, "sysctl", nil, "only writes to parameters that this glob matches, such as 'net.ipv4.*'")
	fs.StringSliceVarP(&f.pids, "pid", "p", nil, "only these processes")
	fs.StringSliceVarP(&f.comms, "comm", "c", nil, "only processes with this command name (15 bytes, as in ps -o comm)")
	fs.StringSliceVarP(&f.users, "user", "u", nil, "only processes of this user (name or id)")
	fs.StringSliceVar(&f.containers, "container", nil, "only what a container does or what is done to it (name, id, or NAMESPACE/POD)")
	fs.StringSliceVar(&f.netns, "netns", nil, "only what is about this network namespace (number, pid, path, or name of ip netns or a container)")
	fs.BoolVar(&f.failed, "failed", false, "only what failed")
	fs.StringVar(&f.filter, "filter", "true", "only events for which this expression holds, such as 'process.comm == \"runc\"' (help: lists the fields)")
	registerGroup(cmd, &f.group, "fold a burst of one process into one line of the table: closed, open for one with its events below it, or off")
	complete(cmd, "output", formats)
	complete(cmd, "event", eventNames())
	complete(cmd, "ns-type", nsTypeNames())
}

// registerGroup adds --group.
func registerGroup(cmd *cobra.Command, group *string, usage string) {
	cmd.Flags().StringVar(group, "group", "off", usage)
	cmd.Flags().Lookup("group").NoOptDefVal = groups[0]
	complete(cmd, "group", groups)
}

// complete says which values a flag takes.
func complete(cmd *cobra.Command, flag string, values []string) {
	// The flag exists: the only error there is.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

var formats = []string{"table", "wide", "json"}

// groups are the values of --group; alone it is the first.
var groups = []string{"closed", "open", "off"}

// eventNames are the values of --event: families and types.
func eventNames() []string {
	var names []string
	for _, family := range event.Families() {
		names = append(names, family.Name)
		for _, t := range family.Types {
			names = append(names, string(t))
		}
	}
	slices.Sort(names)
	return names
}

// eventTypes returns the types that a value of --event stands for.
func eventTypes(name string) []event.Type {
	for _, family := range event.Families() {
		if family.Name == name {
			return family.Types
		}
	}
	return []event.Type{event.Type(name)}
}

func nsTypeNames() []string {
	var names []string
	for _, t := range event.NSTypes() {
		names = append(names, string(t))
	}
	return names
}

// oneOf checks a value of a flag against what the flag takes.
func oneOf(flag, value string, all []string) error {
	if slices.Contains(all, value) {
		return nil
	}
	return usagef("%s: unknown value %q%s: it takes %s", flag, value, didYouMean(value, all), strings.Join(all, ", "))
}

// didYouMean suggests the name that is nearest to what was typed.
func didYouMean(typed string, names []string) string {
	best, dist := "", min(4, len(typed)/2+1)
	for _, name := range names {
		if d := levenshtein.Distance(typed, name, nil); d < dist {
			best, dist = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// options turns the flags into what the tracer takes.
func (f *streamFlags) options() (tracer.Options, error) {
	o := tracer.Options{Backend: tracer.Backend(f.backend), Version: buildVersion(), Notify: notify}
	var err error
	if o.Filter, err = f.filters(); err != nil {
		return o, err
	}
	if err := oneOf("--backend", f.backend, tracer.Backends()); err != nil {
		return o, err
	}
	if len(f.alertFiles) > 0 {
		var err error
		if f.alerts, err = alert.Load(f.alertFiles...); err != nil {
			return o, usagef("--alert: %w", err)
		}
	}
	size, err := humanize.ParseBytes(f.ringSize)
	if err != nil || size > tracer.MaxRingSize || tracer.CheckRingSize(int(size)) != nil {
		return o, usagef("--ring-size: %q is no size of a ring; it takes a power of two from 64KiB to 1GiB", f.ringSize)
	}
	o.RingSize = int(size)
	if f.duration < 0 {
		return o, usagef("--duration: %s is negative; it takes a time such as 30s", f.duration)
	}
	return o, nil
}

// checkFormat checks --output and --group, of which JSON, with all of what, takes none.
func checkFormat(format, group, what string) error {
	if err := oneOf("--output", format, formats); err != nil {
		return err
	}
	if err := oneOf("--group", group, groups); err != nil {
		return err
	}
	if format == "json" && group != "off" {
		return usagef("--group folds lines of a table; -o json has every %s", what)
	}
	return nil
}

// groupedPast says what foldPast does.
const groupedPast = "closed for -o table"

// foldPast has the table of what is past fold bursts unless a flag says otherwise.
func foldPast(cmd *cobra.Command, format string, group *string) {
	if !cmd.Flags().Changed("group") && format == "table" {
		*group = groups[0]
	}
}

// filters reads the flags of registerFilters.
func (f *streamFlags) filters() (event.Filter, error) {
	var o event.Filter
	if err := checkFormat(f.format, f.group, "event"); err != nil {
		return o, err
	}
	if len(f.sysctls) > 0 && len(f.events) == 0 {
		o.Types = map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true}
	}
	for _, name := range f.events {
		if err := oneOf("--event", name, eventNames()); err != nil {
			return o, err
		}
		if o.Types == nil {
			o.Types = map[event.Type]bool{}
		}
		for _, t := range eventTypes(name) {
			o.Types[t] = true
		}
	}
	for _, name := range f.nsTypes {
		if err := oneOf("--ns-type", name, nsTypeNames()); err != nil {
			return o, err
		}
		if o.NSTypes == nil {
			o.NSTypes = map[event.NSType]bool{}
		}
		o.NSTypes[event.NSType(name)] = true
	}
	for _, s := range f.pids {
		pid, err := strconv.ParseUint(s, 10, 22) // PID_MAX_LIMIT is 2^22
		if err != nil || pid == 0 {
			return o, usagef("--pid: %q is no process id; it takes a number from 1 to 4194303", s)
		}
		o.PIDs = append(o.PIDs, uint32(pid))
	}
	for _, s := range f.users {
		uid, err := lookupUser(s)
		if err != nil {
			return o, err
		}
		o.UIDs = append(o.UIDs, uid)
	}
	o.Sysctl, o.Comms, o.Failed = f.sysctls, f.comms, f.failed
	if err := o.Validate(); err != nil {
		return o, usageError{err}
	}
	selected, err := newSelection(f.containers, f.netns)
	if err != nil {
		return o, err
	}
	f.selected = selected
	if f.filter != "true" {
		program, err := filter.Compile(f.filter)
		if err != nil {
			return o, usagef("--filter: %w", err)
		}
		f.program = program
	}
	return o, nil
}

func lookupUser(s string) (uint32, error) {
	if uid, err := strconv.ParseUint(s, 10, 32); err == nil {
		return uint32(uid), nil
	}
	uid, err := attribution.LookupUID(s)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return 0, usagef("--user: this host knows no user %q; it takes a name or a number", s)
	}
	return uid, err
}

// rotation returns what was asked about rotating the output file.
func (f *streamFlags) rotation() (output.Rotation, error) {
	var r output.Rotation
	if (f.rotateSize != "" || f.rotateAge != 0) && f.file == "" {
		return r, usagef("--rotate-size and --rotate-age take --output-file")
	}
	if f.rotateKeep != 0 && f.rotateSize == "" && f.rotateAge == 0 {
		return r, usagef("--rotate-keep takes --rotate-size or --rotate-age")
	}
	if f.rotateSize != "" {
		size, err := humanize.ParseBytes(f.rotateSize)
		if err != nil || size < 1<<20 || size > 1<<50 {
			return r, usagef("--rotate-size: %q is no size; it takes one of at least 1MiB, such as 100MiB", f.rotateSize)
		}
		r.MaxSize = int64(size)
	}
	if f.rotateAge < 0 || f.rotateKeep < 0 {
		return r, usagef("--rotate-age and --rotate-keep can't be negative")
	}
	r.MaxAge, r.Keep = f.rotateAge, f.rotateKeep
	return r, nil
}

// flagError says in our own words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &unknown):
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return usagef("unknown flag -%s: %s --help lists them", name, cmd.CommandPath())
		}
		return usagef("unknown flag --%s%s: %s --help lists them", name, didYouMean("--"+name, names), cmd.CommandPath())
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		return usagef("--%s: %q is no %s", f.Name, invalid.GetValue(), takes(f.Value.Type()))
	case errors.As(err, &missing):
		f := missing.GetFlag()
		return usagef("--%s takes a value: %s", f.Name, f.Usage)
	}
	return usageError{err}
}

// takes describes the values of a type of flag.
func takes(typ string) string {
	switch typ {
	case "uint64", "int":
		return "whole number"
	case "duration":
		return "time; it takes one such as 500ms, 30s, 10m or 24h"
	case "bool":
		return "truth value; it takes true or false"
	}
	return typ
}
