// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/pipeline"
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
		if err := (&event.Filter{Sysctl: globs[i : i+1]}).Validate(); err != nil {
			return usagef("blame: %w", err)
		}
	}
	var only pipeline.NetSelector
	if f.netns != "" {
		if only, err = parseNet(f.netns); err != nil {
			return usagef("--netns: %w", err)
		}
		if only.ID == 0 {
			// A name of ip netns that is there now is also told by its number.
			if id, err := netAt(filepath.Join("/run/netns", only.Name)); err == nil {
				only.ID = id
			}
		}
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	db, err := openHistory(ctx, f.db)
	if err != nil {
		return ignoreCancel(err)
	}
	defer func() { warnLeftOut(f.db, db); err = errors.Join(err, db.Close()) }()
	host := procfs.NamespacesOf("1")
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
		return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { return event.MatchSysctl(g, name) })
	}
	wanted := func(ns *event.Namespace) bool {
		switch {
		case f.netns != "":
			return ns != nil && ns.Type == "net" && ((only.ID != 0 && ns.ID == only.ID) || (only.ID == 0 && ns.Name == only.Name))
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
func (f *blameFlags) rows(ctx context.Context, db *history.DB, r *valueReader, match func(string) bool, wanted func(*event.Namespace) bool, only pipeline.NetSelector) ([]*output.Blame, error) {
	boot := procfs.BootID()
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
		each := func(dir string, ns *event.Namespace) {
			r.each(dir, ns, func(name string) bool { return match(name) && !changed[name] }, func(name string, value *params.Value) {
				row := &output.Blame{Parameter: name, Namespace: ns, State: output.Unchanged}
				if setValue(row, value); value == nil {
					row.State = output.Unreadable
				}
				rows = append(rows, row)
			})
		}
		if f.netns == "" {
			each(params.Dir, nil)
		} else if only.ID != 0 {
			each(params.Dir+"/net", &event.Namespace{Type: "net", ID: only.ID, Name: only.Name})
		}
		slices.SortStableFunc(rows, func(a, b *output.Blame) int { return strings.Compare(a.Parameter, b.Parameter) })
	}
	return rows, nil
}

// each calls do for each parameter below dir that is wanted and that there is in a namespace,
// nil for those that this process is in. The value is nil where it can't be read.
func (r *valueReader) each(dir string, ns *event.Namespace, wanted func(name string) bool, do func(name string, value *params.Value)) {
	walk := func(root *params.Root) {
		// What is gone, or not to be listed, is left out.
		_ = root.Walk(dir, func(file string) {
			name, err := params.Name(file)
			if err != nil || !wanted(name) {
				return
			}
			if v, err := root.Read(file); err == nil {
				do(name, &v)
			} else {
				do(name, nil)
			}
		})
	}
	if ns == nil || r.own[ns.Type] == ns.ID {
		r.here(walk)
		return
	}
	r.inside(ns, walk)
}

// setValue puts what a parameter holds, nil for what is not known, into its row.
func setValue(b *output.Blame, v *params.Value) {
	if v != nil {
		b.Value, b.ValueTruncated = &v.Text, v.Cut
	}
}

// A valueReader reads what parameters hold now, also in other namespaces.
type valueReader struct {
	host    map[event.NSType]uint32
	own     map[event.NSType]uint32 // this process's
	pids    map[uint32]int          // of network and other namespaces, someone who is in it
	scanned bool
	root    *params.Root // of this process's namespaces, nil until it is asked for
}

func newReader(host map[event.NSType]uint32) *valueReader {
	return &valueReader{host: host, own: procfs.NamespacesOf("self"), pids: map[uint32]int{}}
}

func (r *valueReader) isHost(ns *event.Namespace) bool {
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
	value, err := r.read(b.Parameter, s.Path, ns)
	setValue(b, value)
	switch {
	case b.Value == nil && (errors.Is(err, os.ErrNotExist) || errors.Is(err, errNotEntered) && r.gone(ns)):
		b.State = output.Gone
	case b.Value == nil:
		b.State = output.Unreadable
	case !same:
		b.State = output.Rebooted
	case w.Event.Outcome == "" && s.Old != nil && sameValue(b, *s.Old):
		// Whether it was done was not seen, and by the looks of it it was not.
		b.State, b.Recorded = output.AsRecorded, nil
	case b.Recorded != nil && !s.Truncated && !sameValue(b, *b.Recorded):
		b.State = output.Drifted
	default:
		b.State = output.AsRecorded
	}
	return b
}

// gone says whether a namespace that can't be entered is gone: root can enter any other.
func (r *valueReader) gone(ns *event.Namespace) bool {
	return ns != nil && !r.isHost(ns) && entered[ns.Type] != 0 && os.Geteuid() == 0
}

// settle finds out whether a write was done after all of which row thinks that it was not:
// what changed later, while nobody watched, then began with the value that it set.
func (r *valueReader) settle(ctx context.Context, db *history.DB, b *output.Blame) error {
	if b.State != output.AsRecorded || b.Recorded != nil || b.Last.Sysctl.New == nil {
		return nil
	}
	host := func(ns *event.Namespace) bool { return ns == nil || r.isHost(ns) }
	set, ns := b.Last.Sysctl.New, b.Namespace
	for _, err := range db.Events(ctx, history.Query{
		Parameter: b.Parameter, After: b.ID, Types: map[event.Type]bool{event.SysctlDrift: true}, Limit: 1,
		Match: func(e *event.Event) bool {
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

// sameValue says whether a parameter holds a value. Of one that is too long to be read, the
// part that was read is compared.
func sameValue(b *output.Blame, value string) bool {
	if b.ValueTruncated && len(value) > len(*b.Value) {
		value = value[:len(*b.Value)]
		return value == *b.Value
	}
	return output.SameValue(*b.Value, value)
}

// errOtherPath is that a history has a parameter with the path of another one.
var errOtherPath = errors.New("its path is another parameter's")

// errNotEntered is that the namespace that has a value can't be entered.
var errNotEntered = errors.New("its namespace can't be entered")

// read returns what the parameter with a name and a path holds in a namespace, nil if that
// can't be found out. Both are as the history has them: the path is opened only if it is the
// parameter's.
func (r *valueReader) read(name, path string, ns *event.Namespace) (value *params.Value, err error) {
	if is, err := params.Name(path); err != nil {
		return nil, err
	} else if is != name {
		return nil, errOtherPath
	}
	err = errNotEntered
	read := func(root *params.Root) {
		var v params.Value
		if v, err = root.Read(path); err == nil {
			value = &v
		}
	}
	if ns == nil {
		r.here(read)
		return value, err
	}
	if id := r.own[ns.Type]; id != 0 && (id == ns.ID || (ns.Host && id == r.host[ns.Type])) {
		r.here(read)
		return value, err
	}
	if ns.ID == 0 {
		return nil, errNotEntered
	}
	r.inside(ns, read)
	return value, err
}

// here does something with the parameters of this process's namespaces, if there are any.
func (r *valueReader) here(do func(*params.Root)) {
	if r.root == nil {
		root, err := params.Open()
		if err != nil {
			return
		}
		r.root = root // until the command ends
	}
	do(r.root)
}

// entered are the types of the namespaces that have parameters and that a thread can enter,
// with the flag for that.
var entered = map[event.NSType]int{"net": unix.CLONE_NEWNET, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC}

// inside does something with the parameters of a namespace that this process is not in, if it
// can be entered. What is below /proc/sys is that of the namespaces of whoever opens it.
func (r *valueReader) inside(ns *event.Namespace, do func(*params.Root)) {
	flag, ok := entered[ns.Type]
	if !ok {
		return
	}
	fd, err := r.open(ns)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and its namespaces with it.
		runtime.LockOSThread()
		var err error
		if ns.Type == "net" {
			err = netns.Set(netns.NsHandle(fd))
		} else {
			err = unix.Setns(fd, flag)
		}
		if err != nil {
			return
		}
		if root, err := params.Open(); err == nil {
			do(root)
			root.Close()
		}
	}()
	<-done
	_ = unix.Close(fd)
}

// open opens a namespace, of a type that can be entered, by its name or by a process that is
// in it.
func (r *valueReader) open(ns *event.Namespace) (int, error) {
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
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.NSFS_MAGIC && unix.Fstat(fd, &st) == nil && uint32(st.Ino) == ns.ID {
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
		for _, t := range slices.Collect(maps.Keys(entered)) {
			if id, err := procfs.NamespaceOf(e.Name(), t); err == nil && id != r.own[t] {
				if _, known := r.pids[id]; !known {
					r.pids[id] = pid
				}
			}
		}
	}
}
