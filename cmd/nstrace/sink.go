// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/output"
)

// A sinkValue is a value of --sink.
type sinkValue struct {
	text     string // as it was given, without the filter
	kind     string
	where    string
	filter   *filter.Program
	rotation output.Rotation
	to       sink.Destination // if its kind makes that while parsing
	headers  string           // file with headers of requests
	network  bool             // it connects to other hosts
}

// A sinkKind is a kind of sink.
type sinkKind struct {
	name    string
	where   string                 // what follows the colon: "" for nothing, "[...]" if it can be absent
	options []string               // besides those of all kinds
	events  bool                   // the destination wants events, and not only lines
	parse   func(*sinkValue) error // checks where, nil if anything will do
	open    func(*sinkValue, sink.Options) (sink.Target, error)
}

// kindsOfSinks are the values of --sink.
var kindsOfSinks = []sinkKind{
	{
		name: "file", where: "PATH", options: []string{"size", "age", "keep", "compress", "mode"},
		open: toDestination(func(v *sinkValue) (sink.Destination, error) { return sink.OpenFile(v.where, v.rotation) }),
	},
	{
		name: "journald", events: true,
		open: toDestination(func(*sinkValue) (sink.Destination, error) { return sink.OpenJournald() }),
	},
	{
		name: "syslog", where: "[PATH|udp:HOST:PORT|tcp:HOST:PORT|tls:HOST:PORT]", events: true,
		parse: func(v *sinkValue) (err error) {
			v.to, v.network, err = sink.ParseSyslog(v.where)
			return err
		},
		open: toDestination(func(v *sinkValue) (sink.Destination, error) { return v.to, nil }),
	},
	{
		name: "unix", where: "PATH", parse: func(v *sinkValue) error { return sink.CheckSocket(v.where) },
		open: func(v *sinkValue, o sink.Options) (sink.Target, error) { return sink.Listen(v.where, o) },
	},
	{
		name: "http", where: "URL", options: []string{"headers"},
		parse: func(v *sinkValue) error {
			v.network = true
			return sink.ParseURL(v.where)
		},
		open: toDestination(func(v *sinkValue) (sink.Destination, error) { return sink.OpenHTTP(v.where, v.headers) }),
	},
}

// toDestination makes a sink in front of a destination.
func toDestination(open func(*sinkValue) (sink.Destination, error)) func(*sinkValue, sink.Options) (sink.Target, error) {
	return func(v *sinkValue, o sink.Options) (sink.Target, error) {
		to, err := open(v)
		if err != nil {
			return nil, err
		}
		o.Destination = to
		return sink.New(o), nil
	}
}

// sinkOptions are the options that each kind has. The filter is the last option of a value, so that it can have commas.
var sinkOptions = []string{"format", "filter"}

func sinkKinds() (names []string) {
	for _, k := range kindsOfSinks {
		names = append(names, k.name)
	}
	return names
}

// parseSinks parses the values of --sink.
func parseSinks(values []string) ([]*sinkValue, error) {
	var all []*sinkValue
	for _, text := range values {
		v, err := parseSink(text)
		if err != nil {
			return nil, usagef("--sink: %w", err)
		}
		if slices.ContainsFunc(all, func(o *sinkValue) bool { return o.where == v.where && o.where != "" && !o.network }) {
			return nil, usagef("--sink: two sinks write to %q", v.where)
		}
		all = append(all, v)
	}
	return all, nil
}

func parseSink(text string) (*sinkValue, error) {
	head, rest, more := strings.Cut(text, ",")
	name, where, _ := strings.Cut(head, ":")
	i := slices.IndexFunc(kindsOfSinks, func(k sinkKind) bool { return k.name == name })
	if i < 0 {
		return nil, fmt.Errorf("invalid kind %q%s: want one of %s", name, didYouMean(name, sinkKinds()), strings.Join(sinkKinds(), ", "))
	}
	kind := kindsOfSinks[i]
	if kind.where != "" && where == "" && !strings.HasPrefix(kind.where, "[") {
		return nil, fmt.Errorf("%q says not where: want %s:%s", text, name, kind.where)
	}
	if kind.where == "" && where != "" {
		return nil, fmt.Errorf("%q: want %s without %q", text, name, ":"+where)
	}
	v := &sinkValue{text: head, kind: name, where: where}
	if kind.parse != nil {
		if err := kind.parse(v); err != nil {
			return nil, err
		}
	}
	known := append(slices.Clone(kind.options), sinkOptions...)
	seen := map[string]bool{}
	for more {
		var option string
		if strings.HasPrefix(rest, "filter=") {
			option, more = rest, false
		} else {
			option, rest, more = strings.Cut(rest, ",")
		}
		key, value, has := strings.Cut(option, "=")
		switch {
		case !slices.Contains(known, key):
			return nil, fmt.Errorf("%s has no option %q%s: want %s", name, key, didYouMean(key, known), strings.Join(known, ", "))
		case seen[key]:
			return nil, fmt.Errorf("%q has the option %q twice", head, key)
		case has == (key == "compress"):
			return nil, fmt.Errorf("option %q: want %s", option, map[bool]string{true: "compress without a value", false: key + "=VALUE"}[has])
		}
		seen[key] = true
		if err := v.set(key, value); err != nil {
			return nil, err
		}
	}
	if r := v.rotation; r.MaxSize == 0 && r.MaxAge == 0 && (seen["keep"] || r.Compress) {
		return nil, fmt.Errorf("%q: keep and compress need size or age", head)
	}
	return v, nil
}

// set sets an option.
func (v *sinkValue) set(key, value string) (err error) {
	switch key {
	case "format":
		if value != "json" {
			return fmt.Errorf("invalid format %q: want json", value)
		}
	case "filter":
		if v.filter, err = filter.Compile(value); err != nil {
			mistake, _, _ := strings.Cut(err.Error(), "\n") // without the lines that show where
			return fmt.Errorf("filter: %s", mistake)
		}
	case "size":
		size, err := humanize.ParseBytes(value)
		if err != nil || size < 1<<20 || size > 1<<50 {
			return fmt.Errorf("invalid size %q: want at least 1MiB, for example 100MiB", value)
		}
		v.rotation.MaxSize = int64(size)
	case "age":
		var age spanValue
		if err := age.Set(value); err != nil {
			return fmt.Errorf("age: %w", err)
		}
		if age <= 0 {
			return fmt.Errorf("invalid age %q: want for example 24h", value)
		}
		v.rotation.MaxAge = time.Duration(age)
	case "keep":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return fmt.Errorf("invalid number %q of files to keep: want a whole number, or 0 for all", value)
		}
		v.rotation.Keep = int(n)
	case "headers":
		v.headers = value
	case "compress":
		v.rotation.Compress = true
	case "mode":
		mode, err := strconv.ParseUint(value, 8, 32)
		if err != nil || mode&^0o666 != 0 || mode&0o600 != 0o600 {
			return fmt.Errorf("invalid mode %q: want for example 0640", value)
		}
		v.rotation.Mode = fs.FileMode(mode)
	}
	return nil
}

// sinkNames returns a name for each sink, for metrics: its kind, and a number if it is not the first one of that. It
// says nothing of where the sink is, which can have a password.
func sinkNames(values []*sinkValue) (names []string) {
	seen := map[string]int{}
	for _, v := range values {
		name := v.kind
		if seen[v.kind]++; seen[v.kind] > 1 {
			name += "-" + strconv.Itoa(seen[v.kind])
		}
		names = append(names, name)
	}
	return names
}

// openSinks opens all sinks. It returns nil if there are none. took returns what a sink of a name calls for each event
// that its destination took.
func openSinks(values []*sinkValue, took func(name string) func(time.Time), report func(string)) (_ *sink.Set, err error) {
	if len(values) == 0 {
		return nil, nil
	}
	var sinks []sink.Target
	defer func() {
		if err != nil {
			err = errors.Join(err, sink.NewSet(sinks...).Close())
		}
	}()
	names := sinkNames(values)
	for i, v := range values {
		kind := kindsOfSinks[slices.Index(sinkKinds(), v.kind)]
		o := sink.Options{Name: "the sink " + v.text, Filter: v.filter, Events: kind.events, Report: report, Took: took(names[i])}
		s, err := kind.open(v, o)
		if err != nil {
			return nil, noFolder(fmt.Errorf("--sink %s: %w", v.text, err))
		}
		sinks = append(sinks, s)
	}
	return sink.NewSet(sinks...), nil
}

// checkSinkFolders refuses files in folders that do not exist, see checkFolder.
func checkSinkFolders(values []*sinkValue) error {
	for _, v := range values {
		if v.kind == "file" || v.kind == "unix" {
			if err := checkFolder("--sink", v.where); err != nil {
				return err
			}
		}
	}
	return nil
}
