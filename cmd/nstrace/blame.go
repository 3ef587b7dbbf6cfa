// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nstrace/nstrace/history"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/tracer"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

type blameFlags struct {
	db       string
	format   string
	group    string
	all      bool
	netns    string
	allNetns bool
}

func newBlame() *cobra.Command {
	var f blameFlags
	cmd := &cobra.Command{
		Use:   "blame [GLOB...] [flags]",
		Short: "Show for each parameter its value, who set it last, when, and from what",
		Long: `Show the parameters that anyone changed while nstrace record ran, or those that a
GLOB matches: what each holds now, what it held before the last write, when and by
whom that was, and how many writes are recorded (N). One that holds something else
than the last recorded write left there is marked: it was changed while nobody
watched. What one process set at once, as sysctl --system does, is one line that
--group=open opens. Parameters of network namespaces are the host's, unless flags
ask for others.`,
		Example: `  nstrace blame
  nstrace blame 'net.ipv4.*' kernel.core_pattern
  nstrace blame --group=open
  nstrace blame --netns web -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			foldPast(cmd, f.format, &f.group)
			return f.blame(cmd.Context(), args)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "how to write: table, wide or json")
	registerGroup(cmd, &f.group, "fold what a process set at once into one line of the table: closed, open for one with its parameters below it, or off")
	fs.Lookup("group").DefValue = groupedPast
	fs.BoolVar(&f.all, "all", false, "also parameters of which no change is recorded")
	fs.StringVar(&f.netns, "netns", "", "those of this network namespace (number, pid, path, or name of ip netns)")
	fs.BoolVar(&f.allNetns, "all-netns", false, "those of all network namespaces")
	registerDB(fs, &f.db)
	complete(cmd, "output", formats)
	return cmd
}

// A blameSink is output.BlameTable, what folds its rows, or output.BlameJSON.
type blameSink interface {
	Add(*output.Blame) error
	Flush() error
}

func (f *blameFlags) blame(ctx context.Context, globs []string) (err error) {
	if err := checkFormat(f.format, f.group, "parameter"); err != nil {
		return err
	}
	if f.netns != "" && f.allNetns {
		return usagef("--netns and --all-netns exclude each other")
	}
	for i, g := range globs {
		globs[i] = sysctlArg(g)
		if err := (&tracer.Filter{Sysctl: globs[i : i+1]}).Validate(); err != nil {
			return usagef("blame: %w", err)
		}
	}
	var only netSelector
	if f.netns != "" {
		if only, err = parseNet(f.netns); err != nil {
			return usagef("--netns: %w", err)
		}
		if only.id == 0 {
			// A name of ip netns that is there now is also told by its number.
			if id, err := netAt(filepath.Join("/run/netns", only.name)); err == nil {
				only.id = id
			}
		}
	}
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	db, err := openHistory(f.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	host := hostNamespaces()
	var sink blameSink
	if f.format == "json" {
		sink = output.NewBlameJSON(os.Stdout)
	} else {
		table := output.NewBlameTable(os.Stdout, output.TableOptions{
			Wide: f.format == "wide", HostNS: host, Color: output.ColorWanted(os.Stdout), Width: output.TerminalWidth(os.Stdout),
		})
		if sink = table; f.group != "off" {
			sink = output.NewBlameGroup(table, f.group == "open")
		}
	}
	match := func(name string) bool {
		return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { return tracer.MatchSysctl(g, name) })
	}
	wanted := func(ns *tracer.Namespace) bool {
		switch {
		case f.netns != "":
			return ns != nil && ns.Type == "net" && ((only.id != 0 && ns.ID == only.id) || (only.id == 0 && ns.Name == only.name))
		case f.allNetns:
			return true
		}
		return ns == nil || ns.Host || (ns.ID != 0 && host[ns.Type] == ns.ID)
	}
	r := newReader(host)
	rows, err := f.rows(ctx, db, r, match, wanted, only)
	if err != nil {
		return ignoreCancel(err)
	}
	for _, row := range rows {
		if err := sink.Add(row); err != nil {
			return err
		}
	}
	if err := sink.Flush(); err != nil {
		return err
	}
	if len(rows) == 0 {
		fmt.Fprintf(os.Stderr, "nstrace: %s\n", f.nothing(globs))
	}
	return nil
}

// nothing says of what there is no row.
func (f *blameFlags) nothing(globs []string) string {
	what := "no write is recorded to "
	if f.all {
		what = "there is no parameter "
	}
	if len(globs) > 0 {
		what += strings.Join(globs, " or ")
	} else {
		what += "any parameter"
	}
	if f.netns != "" {
		what += " in the network namespace " + f.netns
	}
	return what
}

// rows finds the last writes and the values that there are now.
func (f *blameFlags) rows(ctx context.Context, db *history.DB, r *valueReader, match func(string) bool, wanted func(*tracer.Namespace) bool, only netSelector) ([]*output.Blame, error) {
	boot := history.BootID()
	type key struct {
		name string
		ns   string
	}
	seen := map[key]bool{}
	var rows []*output.Blame
	for w, err := range db.LastWrites(ctx, match) {
		if err != nil {
			return nil, err
		}
		if !wanted(w.Namespace) {
			continue
		}
		// The host's own are one, whichever boot it was; others are of one boot.
		k := key{name: w.Parameter}
		if ns := w.Namespace; ns != nil && !r.isHost(ns) {
			k.ns = w.Event.BootID + " " + string(ns.Type) + " " + strconv.Itoa(int(ns.ID)) + " " + ns.UID
		}
		if seen[k] {
			continue // an earlier boot's
		}
		seen[k] = true
		rows = append(rows, r.row(&w, boot))
	}
	for _, row := range rows {
		if err := r.settle(ctx, db, row); err != nil {
			return nil, err
		}
	}
	if f.all {
		changed := map[string]bool{}
		for _, row := range rows {
			changed[row.Parameter] = true
		}
		add := func(name string, value *string, ns *tracer.Namespace) {
			if !match(name) || changed[name] {
				return
			}
			row := &output.Blame{Parameter: name, Namespace: ns, Value: value, State: output.Unchanged}
			if value == nil {
				row.State = output.Unreadable
			}
			rows = append(rows, row)
		}
		if f.netns == "" {
			r.each("/proc/sys", nil, func(name string, value *string) { add(name, value, nil) })
		} else if only.id != 0 {
			ns := &tracer.Namespace{Type: "net", ID: only.id, Name: only.name}
			r.each("/proc/sys/net", ns, func(name string, value *string) { add(name, value, ns) })
		}
		slices.SortStableFunc(rows, func(a, b *output.Blame) int { return strings.Compare(a.Parameter, b.Parameter) })
	}
	return rows, nil
}

// each calls do for each parameter below dir that there is in a namespace, nil for those
// that this process is in.
func (r *valueReader) each(dir string, ns *tracer.Namespace, do func(name string, value *string)) {
	walk := func() {
		// What is gone, or not to be listed, is left out.
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				do(sysctlArg(path), readValue(path))
			}
			return nil
		})
	}
	if ns == nil || r.own[ns.Type] == ns.ID {
		walk()
		return
	}
	r.inside(ns, walk)
}

// A valueReader reads what parameters hold now, also in other namespaces.
type valueReader struct {
	host    map[tracer.NSType]uint32
	own     map[tracer.NSType]uint32 // this process's
	pids    map[uint32]int           // of network and other namespaces, someone who is in it
	scanned bool
}

func newReader(host map[tracer.NSType]uint32) *valueReader {
	r := &valueReader{host: host, own: map[tracer.NSType]uint32{}, pids: map[uint32]int{}}
	for _, t := range tracer.NSTypes() {
		if id, ok := nsOf("self", t); ok {
			r.own[t] = id
		}
	}
	return r
}

// nsOf returns the namespace of a process.
func nsOf(pid string, t tracer.NSType) (uint32, bool) {
	link, err := os.Readlink("/proc/" + pid + "/ns/" + string(t))
	if err != nil {
		return 0, false
	}
	_, id, _ := strings.Cut(strings.TrimSuffix(link, "]"), ":[")
	n, err := strconv.ParseUint(id, 10, 32)
	return uint32(n), err == nil
}

func (r *valueReader) isHost(ns *tracer.Namespace) bool {
	return ns.Host || (ns.ID != 0 && r.host[ns.Type] == ns.ID)
}

// row makes a row of a last write.
func (r *valueReader) row(w *history.LastWrite, boot string) *output.Blame {
	b := &output.Blame{Parameter: w.Parameter, Namespace: w.Namespace, Writes: w.Writes, ID: w.ID, Last: w.Event}
	s := w.Event.Sysctl
	if b.Recorded = s.After; b.Recorded == nil {
		b.Recorded = s.New
	}
	same := w.Event.BootID == boot
	ns := w.Namespace
	if ns != nil && !r.isHost(ns) && !same {
		b.State = output.Gone
		return b
	}
	b.Value = r.read(s.Path, ns)
	switch {
	case b.Value == nil && ns != nil && !r.isHost(ns) && os.Geteuid() == 0:
		b.State = output.Gone
	case b.Value == nil:
		b.State = output.Unreadable
		if _, err := os.Stat(s.Path); errors.Is(err, os.ErrNotExist) && (ns == nil || r.isHost(ns)) {
			b.State = output.Gone
		}
	case !same:
		b.State = output.Rebooted
	case w.Event.Outcome == "" && s.Old != nil && output.SameValue(*b.Value, *s.Old):
		// Whether it was done was not seen, and by the looks of it it was not.
		b.State, b.Recorded = output.AsRecorded, nil
	case b.Recorded != nil && !s.Truncated && !output.SameValue(*b.Value, *b.Recorded):
		b.State = output.Drifted
	default:
		b.State = output.AsRecorded
	}
	return b
}

// settle finds out whether a write was done after all of which row thinks that it was not:
// what changed later, while nobody watched, then began with the value that it set.
func (r *valueReader) settle(ctx context.Context, db *history.DB, b *output.Blame) error {
	if b.State != output.AsRecorded || b.Recorded != nil || b.Last.Sysctl.New == nil {
		return nil
	}
	host := func(ns *tracer.Namespace) bool { return ns == nil || r.isHost(ns) }
	set, ns := b.Last.Sysctl.New, b.Namespace
	for _, err := range db.Events(ctx, history.Query{
		Parameter: b.Parameter, After: b.ID, Types: map[tracer.Type]bool{tracer.SysctlDrift: true}, Limit: 1,
		Match: func(e *tracer.Event) bool {
			of := e.Sysctl.Namespace
			return e.Sysctl.Old != nil && output.SameValue(*e.Sysctl.Old, *set) && (host(ns) && host(of) || ns != nil && of != nil && ns.UID == of.UID)
		},
	}) {
		if err != nil {
			return err
		}
		b.State, b.Recorded = output.Drifted, set
	}
	return nil
}

// read returns what a parameter holds in a namespace, nil if that can't be found out.
func (r *valueReader) read(path string, ns *tracer.Namespace) *string {
	if ns == nil {
		return readValue(path)
	}
	if id := r.own[ns.Type]; id != 0 && (id == ns.ID || (ns.Host && id == r.host[ns.Type])) {
		return readValue(path)
	}
	if ns.ID == 0 {
		return nil
	}
	var value *string
	r.inside(ns, func() { value = readValue(path) })
	return value
}

func readValue(path string) *string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	text := strings.TrimRight(string(b), "\n")
	return &text
}

// inside does something in a namespace that this process is not in, if it can be entered.
// What is below /proc/sys is that of the namespaces of whoever opens it.
func (r *valueReader) inside(ns *tracer.Namespace, do func()) {
	fd, err := r.open(ns)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and its namespaces with it.
		runtime.LockOSThread()
		if ns.Type == "net" {
			err = netns.Set(netns.NsHandle(fd))
		} else {
			err = unix.Setns(fd, 0)
		}
		if err == nil {
			do()
		}
	}()
	<-done
	_ = unix.Close(fd)
}

// open opens a namespace by its name, or by a process that is in it.
func (r *valueReader) open(ns *tracer.Namespace) (int, error) {
	var paths []string
	if ns.Type == "net" {
		for _, dir := range []string{"/run/netns", "/run/docker/netns", "/var/run/netns"} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range entries {
				paths = append(paths, filepath.Join(dir, e.Name()))
			}
		}
	}
	if !r.scanned {
		r.scanned = true
		r.scan()
	}
	if pid, ok := r.pids[ns.ID]; ok {
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/%s", pid, ns.Type))
	}
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && uint32(st.Ino) == ns.ID {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, os.ErrNotExist
}

// scan finds someone in each namespace that is not this process's.
func (r *valueReader) scan() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		for _, t := range []tracer.NSType{"net", "uts", "ipc", "pid", "user"} {
			if id, ok := nsOf(e.Name(), t); ok && id != r.own[t] {
				if _, known := r.pids[id]; !known {
					r.pids[id] = pid
				}
			}
		}
	}
}
