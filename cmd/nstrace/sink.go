// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/format"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/output"
)

// A sinkValue is a value of --sink.
type sinkValue struct {
	text     string // as it was given, without the filter
	kind     string
	where    string
	filter   *filter.Program
	format   format.Func // nil for nstrace's own
	rotation output.Rotation
	to       sink.Destination // if its kind makes that while parsing
	headers  string           // file with headers of requests
	otlp     *sink.OTLP
	spool    string // file of --spool, "" for none
	most     int64  // size of the spool
	network  bool   // it connects to other hosts

	options   string      // the text without the filter
	condition string      // the text of the filter
	name      string      // see nameSinks
	target    sink.Target // once it is open
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
	{
		name: "otlp", where: "[URL]", options: []string{"headers"}, events: true,
		parse: func(v *sinkValue) (err error) {
			v.network = true
			v.otlp, err = sink.ParseOTLP(v.where)
			return err
		},
		open: toDestination(func(v *sinkValue) (sink.Destination, error) {
			return v.otlp.Open(otelmap.Mapper{Version: buildVersion(), HostID: machineID()}, v.headers)
		}),
	},
	{
		name: "stdout",
		open: toDestination(func(*sinkValue) (sink.Destination, error) { return sink.ToFile(os.Stdout), nil }),
	},
}

// machineID returns the id of the host, "" if it has none (machine-id(5)).
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(b))
	if _, hexErr := hex.DecodeString(id); err != nil || hexErr != nil || len(id) != 32 {
		return "" // such as uninitialized
	}
	return id
}

// toDestination makes a sink in front of a destination.
func toDestination(open func(*sinkValue) (sink.Destination, error)) func(*sinkValue, sink.Options) (sink.Target, error) {
	return func(v *sinkValue, o sink.Options) (sink.Target, error) {
		to, err := open(v)
		if err != nil {
			return nil, err
		}
		o.Destination = to
		if v.spool == "" {
			return sink.New(o), nil
		}
		spool, err := sink.Spool(v.spool, v.most, o)
		if err != nil {
			return nil, fmt.Errorf("--spool: %w", errors.Join(err, to.Close()))
		}
		o.Destination, o.Events, o.Format, o.Took = spool, false, nil, nil
		return sink.New(o), nil
	}
}

// sinkOptions are the options that each kind has, except that otlp has its own format. The filter is the last option of a value, so that it can have commas.
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

// setSpool gives each sink to another host, except one by UDP, a file in the folder of --spool.
func setSpool(values []*sinkValue, spool string) error {
	if spool == "" {
		return nil
	}
	folder, text, has := strings.Cut(spool, ",")
	size := uint64(1 << 30)
	if has {
		var err error
		if size, err = humanize.ParseBytes(text); err != nil || size < 1<<20 || size > 1<<50 {
			return usagef("--spool: invalid size %q: want at least 1MiB, for example 1GiB", text)
		}
	}
	if folder == "" {
		return usagef("--spool: want FOLDER[,SIZE]")
	}
	used := map[string]bool{}
	for _, v := range values {
		if !v.network || strings.HasPrefix(v.where, "udp:") {
			continue
		}
		sum := sha256.Sum256([]byte(v.text))
		v.spool, v.most = sink.SpoolPath(folder, v.kind+"-"+hex.EncodeToString(sum[:8])), int64(size)
		if used[v.spool] {
			return usagef("--spool: two sinks send to %s", v.text)
		}
		used[v.spool] = true
	}
	if len(used) == 0 {
		return usagef("--spool needs a --sink to another host, by http, otlp, or syslog with tcp or tls")
	}
	return nil
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
	v := &sinkValue{text: head, kind: name, where: where, options: head}
	if kind.parse != nil {
		if err := kind.parse(v); err != nil {
			return nil, err
		}
	}
	known := append(slices.Clone(kind.options), sinkOptions...)
	if name == "otlp" {
		known = slices.DeleteFunc(known, func(option string) bool { return option == "format" })
	}
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
		if key == "filter" {
			v.condition = value
		} else {
			v.options += "," + option
		}
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
		if v.format = format.ByName(value); v.format == nil && value != "json" {
			names := append([]string{"json"}, format.Names()...)
			return fmt.Errorf("invalid format %q%s: want one of %s", value, didYouMean(value, names), strings.Join(names, ", "))
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

// nameSinks gives each sink that has none a name for metrics: its kind, and a number if others have that. It says
// nothing of where the sink is, which can have a password.
func nameSinks(values []*sinkValue) {
	used := map[string]bool{}
	for _, v := range values {
		used[v.name] = true
	}
	for _, v := range values {
		for n := 2; v.name == ""; n++ {
			name := v.kind
			if n > 2 || used[name] {
				name += "-" + strconv.Itoa(n)
			}
			if !used[name] {
				v.name, used[name] = name, true
			}
		}
	}
}

// openSinks opens all sinks. took, if not nil, returns what a sink of a name calls for each event that its destination
// took.
func openSinks(values []*sinkValue, took func(name string) func(time.Time), report func(string)) (_ *sink.Set, err error) {
	var sinks []sink.Target
	defer func() {
		if err != nil {
			err = errors.Join(err, sink.NewSet(sinks...).Close())
		}
	}()
	for _, v := range values {
		kind := kindsOfSinks[slices.Index(sinkKinds(), v.kind)]
		o := sink.Options{Name: "the sink " + v.text, Label: v.name, Filter: v.filter, Format: v.format, Events: kind.events, Report: report, Took: took(v.name)}
		v.target, err = kind.open(v, o)
		if err != nil {
			return nil, noFolder(fmt.Errorf("--sink %s: %w", v.text, err))
		}
		sinks = append(sinks, v.target)
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
