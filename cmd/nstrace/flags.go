// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/config"
	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/format"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/nearest"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
	"github.com/nstrace/nstrace/tracer"
)

// streamFlags are the flags of the commands that stream events.
type streamFlags struct {
	format      string
	file        string
	rotateSize  string
	rotateAge   time.Duration
	rotateKeep  int
	sinkValues  []string
	labelValues []string
	labels      map[string]string // parsed from labelValues
	sinks       []*sinkValue      // parsed from sinkValues
	spool       string
	events      []string
	nsTypes     []string
	sysctls     []string
	pids        []string
	comms       []string
	users       []string
	failed      bool
	changed     bool
	filter      string
	program     *filter.Program // compiled from filter, nil without --filter
	group       string
	alertFiles  []string
	alerts      *alert.Rules // read from alertFiles, nil without --alert
	runtimes    []string
	containers  []string
	netns       []string
	selected    pipeline.Selection // from containers and netns
	count       uint64
	duration    time.Duration
	backend     string
	ringSize    string
	selfTest    time.Duration
	partial     bool
	verbose     bool
	metrics     string
	heartbeat   time.Duration

	byDefault string         // the file that is read without --config
	remake    func() remade  // for reload
	hangup    chan os.Signal // of SIGHUP, if that means to reload
	tracing   tracer.Options // of this run

	profile *confine.Profile // of this process
	work    confine.Work     // what it is for
	result  confine.Result   // what confines it

	pickUser sync.Once
	user     uint32 // of the resolver; 0: that of this process

	configFile string
	config     *config.Config      // what files say; nil until configure
	given      []given             // the flags of the command line
	effective  map[string][]string // the values of all flags, as they were given

	stored bool // the events are from a history
	fleet  bool // of several hosts

	live output.Sink // set by top: takes the events instead of the output

	hostOf func(bootID string) map[event.NSType]uint32 // set by history: see output.TableOptions

	// Set by record.
	quiet   bool              // write no stream
	history *history.Recorder // also takes the events

	sysctlFirst bool   // see tracer.Options
	db          string // path of the history's database

	expected *baseline.Marker                // marks events, nil without --baseline and --declared
	marker   atomic.Pointer[baseline.Marker] // expected, for unmet
	refresh  func(context.Context)           // keeps expected up to date until the context ends, nil for none
}

func (f *streamFlags) register(cmd *cobra.Command) {
	f.registerFilters(cmd)
	f.registerSource(cmd)
	fs := cmd.Flags()
	fs.StringVarP(&f.file, "output-file", "O", "", "append events to this file")
	fs.StringVar(&f.rotateSize, "rotate-size", "", "start a new output file before the current one exceeds this size, for example 100MiB")
	spanVar(fs, &f.rotateAge, "rotate-age", 0, "start a new output file when the current one reaches this age, for example 24h")
	fs.IntVar(&f.rotateKeep, "rotate-keep", 0, "number of old output files to keep (0: all)")
	fs.StringArrayVar(&f.sinkValues, "sink", nil, "also send events there, KIND[:WHERE][,OPTION...]; may be repeated (kinds: "+strings.Join(sinkKinds(), ", ")+")")
	fs.StringVar(&f.spool, "spool", "", "keep what a --sink to another host has not taken in files in this folder, FOLDER[,SIZE] (SIZE for each sink, default 1GiB)")
	fs.Uint64VarP(&f.count, "count", "n", 0, "stop after this number of events")
	spanVar(fs, &f.duration, "duration", 0, "stop after this time, for example 30s")
	registerConfig(fs, &f.configFile)
	registerLabels(fs, &f.labelValues)
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "print to stderr how each observation is attached")
}

// registerHealth adds the flags by which others see whether nstrace traces.
func (f *streamFlags) registerHealth(cmd *cobra.Command, heartbeat string) {
	fs := cmd.Flags()
	fs.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics, /healthz and /readyz at this [IP:]PORT, for example 9464 (without an IP address: only to this host)")
	spanVar(fs, &f.heartbeat, "heartbeat", 0, "how often to write a trace.alive event, which shows that a quiet host is traced (0: never)")
	fs.Lookup("heartbeat").DefValue = heartbeat
}

// defaultHeartbeat is the default of --heartbeat where it is not 0.
const defaultHeartbeat = time.Minute

// setHeartbeat sets --heartbeat if it was not given: a stream that only somebody looks at has none.
func (f *streamFlags) setHeartbeat(cmd *cobra.Command) error {
	flag := cmd.Flags().Lookup("heartbeat")
	switch {
	case flag == nil: // nstrace run and top
	case !flag.Changed && (f.history != nil || len(f.sinks) > 0):
		f.heartbeat = defaultHeartbeat
	case f.heartbeat != 0 && f.heartbeat < time.Second:
		return usagef("--heartbeat: invalid time %s: want at least 1s, for example 1m, or 0", f.heartbeat)
	}
	return nil
}

// registerSource adds the flags that say where events and what they are marked with come from.
func (f *streamFlags) registerSource(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVar(&f.alertFiles, "alert", nil, "mark the events that meet a rule in this file; may be repeated (\"default\": the built-in rules, \"help\": print them)")
	registerRuntimes(fs, &f.runtimes)
	fs.StringVar(&f.backend, "backend", "auto", "how to attach: "+strings.Join(tracer.Backends(), ", "))
	fs.StringVar(&f.ringSize, "ring-size", "4MiB", "size of the ring buffer between the kernel and nstrace, a power of two")
	spanVar(fs, &f.selfTest, "self-test", tracer.DefaultProveEvery, "how often to test that the hooks work, unless events show it (0: only at the start and the end)")
	fs.BoolVar(&f.partial, "partial", false, "trace even if creates, enters or sysctl writes cannot be seen here (otherwise exit status 3)")
	complete(cmd, "backend", tracer.Backends())
}

// registerFilters adds the flags that select events and their format. The stream and the
// history share them.
func (f *streamFlags) registerFilters(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false
	all := eventFormats()
	cmd.Flags().StringVarP(&f.format, "output", "o", "table", "output format: "+strings.Join(all[:len(all)-1], ", ")+" or "+all[len(all)-1])
	f.registerSelection(cmd)
	registerGroup(cmd, &f.group, "fold a burst of events of one process into one table row: closed, open (with the events below the row) or off")
	complete(cmd, "output", all)
}

// registerSelection adds the flags that select events.
func (f *streamFlags) registerSelection(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVarP(&f.events, "event", "e", nil, "only these event types or families: "+strings.Join(eventNames(), ", "))
	fs.StringSliceVarP(&f.nsTypes, "ns-type", "t", nil, "only namespaces of these types: "+strings.Join(nsTypeNames(), ", "))
	fs.StringSliceVar(&f.sysctls, "sysctl", nil, "only writes to parameters that match this glob, for example 'net.ipv4.*'")
	fs.StringSliceVarP(&f.pids, "pid", "p", nil, "only processes with this pid, of the PID namespace of nstrace")
	fs.StringSliceVarP(&f.comms, "comm", "c", nil, "only processes with this command name (at most 15 bytes, as in ps -o comm)")
	fs.StringSliceVarP(&f.users, "user", "u", nil, "only processes of this user (name or uid)")
	fs.StringSliceVar(&f.containers, "container", nil, "only events by or about this container (name, id or NAMESPACE/POD)")
	fs.StringSliceVar(&f.netns, "netns", nil, "only events about this network namespace (inode number, pid, path, or a name from ip netns or of a container)")
	fs.BoolVar(&f.failed, "failed", false, "only failed operations")
	fs.BoolVar(&f.changed, "changed", false, "no writes of the value that a parameter has already")
	fs.StringVar(&f.filter, "filter", "true", "only events that match this expression, for example 'process.comm == \"runc\"' (\"help\": list the fields)")
	fs.Lookup("filter").DefValue = "" // --help shows no default
	complete(cmd, "event", eventNames())
	complete(cmd, "ns-type", nsTypeNames())
	completeBy(cmd, "sysctl", parameterParts)
	completeBy(cmd, "comm", commandNames)
	completeBy(cmd, "user", userNames)
	completeBy(cmd, "netns", netnsNames)
}

// registerGroup adds --group.
func registerGroup(cmd *cobra.Command, group *string, usage string) {
	cmd.Flags().StringVar(group, "group", "off", usage)
	optionalValue(cmd.Flags(), "group", groups[0], groups)
	complete(cmd, "group", groups)
}

var formats = []string{"table", "wide", "json"}

// eventFormats are the formats of events. All but the tables have a line for each event.
func eventFormats() []string { return append(slices.Clone(formats), format.Names()...) }

// isTable reports whether a format is for people.
func isTable(format string) bool { return format == "table" || format == "wide" }

// groups are the values of --group. Without a value it is the first.
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

// oneOf checks that a flag has one of its values.
func oneOf(flag, value string, all []string) error {
	if slices.Contains(all, value) {
		return nil
	}
	return usagef("%s: invalid value %q%s: want one of %s", flag, value, didYouMean(value, all), strings.Join(all, ", "))
}

// didYouMean suggests the name nearest to the one that was typed, if one is near.
func didYouMean(typed string, names []string) string {
	best := nearest.Name(typed, names)
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// unmet is for tracer.Options.Unmet: a reload can change what is expected.
func (f *streamFlags) unmet(name string, value func() (string, bool)) *event.Unmet {
	if m := f.marker.Load(); m != nil {
		return m.Unmet(name, value)
	}
	return nil
}

// options turns the flags into options of the tracer.
func (f *streamFlags) options() (tracer.Options, error) {
	o := tracer.Options{Backend: tracer.Backend(f.backend), Version: buildVersion(), Notify: warn, Partial: f.partial, SysctlFirst: f.sysctlFirst}
	if f.history != nil {
		f.marker.Store(f.expected)
		o.Unmet = f.unmet
	}
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
		return o, usagef("--ring-size: invalid size %q: want a power of two from 64KiB to 1GiB", f.ringSize)
	}
	o.RingSize = int(size)
	switch {
	case f.selfTest < 0:
		return o, usagef("--self-test: invalid negative time %s: want for example 1m", f.selfTest)
	case f.selfTest == 0:
		o.ProveEvery = -1
	default:
		o.ProveEvery = f.selfTest
	}
	if f.labels, err = parseLabels(f.labelValues); err != nil {
		return o, err
	}
	if f.sinks, err = parseSinks(f.sinkValues); err != nil {
		return o, err
	}
	if err := setSpool(f.sinks, f.spool); err != nil {
		return o, err
	}
	if f.duration < 0 {
		return o, usagef("--duration: invalid negative time %s: want for example 30s", f.duration)
	}
	return o, nil
}

// checkFormat checks --output, which has one of these values, and --group. what is what a line of the output is about.
func checkFormat(format string, all []string, group, what string) error {
	if err := oneOf("--output", format, all); err != nil {
		return err
	}
	if err := oneOf("--group", group, groups); err != nil {
		return err
	}
	if !isTable(format) && group != "off" {
		return usagef("--group needs -o table or -o wide: -o %s writes every %s", format, what)
	}
	return nil
}

// groupedPast is the default of --group as --help shows it where foldPast applies.
const groupedPast = "closed for -o table"

// foldPast folds bursts in a table of past events unless --group was given.
func foldPast(cmd *cobra.Command, format string, group *string) {
	if !cmd.Flags().Changed("group") && format == "table" {
		*group = groups[0]
	}
}

// filters parses the flags of registerFilters.
func (f *streamFlags) filters() (event.Filter, error) {
	var o event.Filter
	if err := checkFormat(f.format, eventFormats(), f.group, "event"); err != nil {
		return o, err
	}
	if len(f.sysctls) > 0 && len(f.events) == 0 {
		o.Types = map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true, event.SysctlAppear: true, event.SysctlVanish: true}
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
			return o, usagef("--pid: invalid process id %q: want a number from 1 to 4194303", s)
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
	for i, glob := range f.sysctls {
		f.sysctls[i] = sysctlArg(glob)
	}
	o.Sysctl, o.Comms, o.Failed = f.sysctls, f.comms, f.failed
	if err := o.Validate(); err != nil {
		return o, usageError{err}
	}
	selected, err := newSelection(f.containers, f.netns)
	if err != nil {
		return o, err
	}
	selected.Changed = f.changed
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
		return 0, usagef("--user: no user %q on this host: want a user name or a uid", s)
	}
	return uid, err
}

// rotation parses the flags that rotate the output file.
func (f *streamFlags) rotation() (output.Rotation, error) {
	var r output.Rotation
	if (f.rotateSize != "" || f.rotateAge != 0) && f.file == "" {
		return r, usagef("--rotate-size and --rotate-age need --output-file")
	}
	if f.rotateKeep != 0 && f.rotateSize == "" && f.rotateAge == 0 {
		return r, usagef("--rotate-keep needs --rotate-size or --rotate-age")
	}
	if f.rotateSize != "" {
		size, err := humanize.ParseBytes(f.rotateSize)
		if err != nil || size < 1<<20 || size > 1<<50 {
			return r, usagef("--rotate-size: invalid size %q: want at least 1MiB, for example 100MiB", f.rotateSize)
		}
		r.MaxSize = int64(size)
	}
	if f.rotateAge < 0 || f.rotateKeep < 0 {
		return r, usagef("--rotate-age and --rotate-keep must not be negative")
	}
	r.MaxAge, r.Keep = f.rotateAge, f.rotateKeep
	return r, nil
}

// flagError turns an error of pflag into one line that says what the flag accepts.
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
			return usagef("unknown flag -%s: see %s --help", name, cmd.CommandPath())
		}
		return usagef("unknown flag --%s%s: see %s --help", name, didYouMean("--"+name, names), cmd.CommandPath())
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		return usagef("--%s: invalid value %q: want %s", f.Name, invalid.GetValue(), accepted(f.Value.Type()))
	case errors.As(err, &missing):
		f := missing.GetFlag()
		return usagef("--%s needs a value: %s", f.Name, f.Usage)
	}
	return usageError{err}
}

// accepted describes the values that a type of flag accepts.
func accepted(typ string) string {
	switch typ {
	case "uint64", "int":
		return "a whole number"
	case "duration":
		return "a time with a unit, for example 500ms, 30s, 10m, 1h, 3d or 1d12h"
	case "bool":
		return "true or false"
	}
	return typ
}
