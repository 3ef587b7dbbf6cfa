// SPDX-License-Identifier: Apache-2.0

// Package blame finds for each parameter of a history its last recorded write and the value that
// it has now, also in other namespaces:
//
//	rows, err := blame.Find(ctx, db, blame.Options{Match: match})
package blame

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// Options select parameters. The zero value selects those with a recorded write, and of network
// namespaces only those of the host's.
type Options struct {
	Match   func(name string) bool // reports whether a parameter is wanted, nil: all
	All     bool                   // also parameters without a recorded write
	AllNets bool                   // parameters of all network namespaces
	Net     *Net                   // only parameters of this network namespace
}

// A Net is a network namespace, by its inode number or by a name.
type Net struct {
	ID   uint32 // 0: unknown
	Name string
}

// A History has the recorded events: a history.DB.
type History interface {
	LastWrites(ctx context.Context, match func(name string) bool) iter.Seq2[history.LastWrite, error]
	Events(ctx context.Context, q history.Query) iter.Seq2[history.Stored, error]
}

// Find returns a row for each selected parameter.
func Find(ctx context.Context, db History, o Options) ([]*output.Blame, error) {
	if o.Match == nil {
		o.Match = func(string) bool { return true }
	}
	if o.Net != nil && o.Net.ID == 0 {
		// The namespace can have got the name after the recorded writes.
		if id, err := procfs.NamespaceInode(filepath.Join("/run/netns", o.Net.Name)); err == nil {
			o.Net = &Net{ID: id, Name: o.Net.Name}
		}
	}
	r := newReader(ctx, procfs.HostNamespaces())
	defer r.close()
	rows, err := o.written(ctx, db, r)
	if err != nil || !o.All {
		return rows, err
	}
	rows = append(rows, o.unwritten(ctx, r, rows)...)
	slices.SortStableFunc(rows, func(a, b *output.Blame) int { return strings.Compare(a.Parameter, b.Parameter) })
	return rows, nil
}

// wants reports whether the copy of a parameter in a namespace is selected. ns is nil for a
// parameter of which the host has only one copy.
func (o *Options) wants(r *reader, ns *event.Namespace) bool {
	switch {
	case o.Net != nil:
		return ns != nil && ns.Type == event.NSTypeNet && (o.Net.ID != 0 && ns.ID == o.Net.ID || o.Net.ID == 0 && ns.Name == o.Net.Name)
	case o.AllNets:
		return true
	}
	return ns == nil || r.isHost(ns)
}

// written returns the rows of the parameters with a recorded write.
func (o *Options) written(ctx context.Context, db History, r *reader) ([]*output.Blame, error) {
	boot := procfs.BootID()
	type key struct{ name, ns string }
	seen := map[key]bool{}
	var rows []*output.Blame
	for w, err := range db.LastWrites(ctx, o.Match) {
		if err != nil {
			return nil, err
		}
		if !o.wants(r, w.Namespace) {
			continue
		}
		// The host's copy is the same one in each boot. Other namespaces end with the boot.
		k := key{name: w.Parameter}
		if ns := w.Namespace; ns != nil && !r.isHost(ns) {
			k.ns = w.Event.BootID + " " + string(ns.Type) + " " + strconv.Itoa(int(ns.ID)) + " " + ns.UID
		}
		if seen[k] {
			continue // the write of an earlier boot
		}
		seen[k] = true
		rows = append(rows, r.row(&w, boot))
	}
	for _, row := range rows {
		if err := r.checkDone(ctx, db, row); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// unwritten returns the rows of the parameters that have no row in written.
func (o *Options) unwritten(ctx context.Context, r *reader, written []*output.Blame) (rows []*output.Blame) {
	done := map[string]bool{}
	for _, row := range written {
		done[row.Parameter] = true
	}
	dir := params.Dir
	var ns *event.Namespace
	switch {
	case o.Net == nil:
	case o.Net.ID == 0:
		return nil
	default:
		dir, ns = params.Dir+"/net", &event.Namespace{Type: event.NSTypeNet, ID: o.Net.ID, Name: o.Net.Name}
	}
	// A namespace that cannot be entered has no rows.
	_ = r.in(ns, func(root *params.Root) {
		_ = root.Walk(ctx, dir, func(file string) {
			name, err := params.Name(file)
			if err != nil || !o.Match(name) || done[name] {
				return
			}
			row := &output.Blame{Parameter: name, Namespace: ns, State: output.Unreadable}
			if v, err := root.Read(file); err == nil {
				row.State = output.Unchanged
				setValue(row, &v)
			}
			rows = append(rows, row)
		})
	})
	return rows
}

// setValue puts the current value of a parameter into its row, nil if it is unknown.
func setValue(b *output.Blame, v *params.Value) {
	if v != nil {
		b.Value, b.ValueTruncated = &v.Text, v.Cut
	}
}

// row returns the row of a last write. boot is the id of the current boot.
//
//	state       the parameter
//	Gone        does not exist any more, or its namespace does not
//	Unreadable  cannot be read
//	Rebooted    was written in an earlier boot
//	Drifted     has another value than the write set
//	AsRecorded  has the value that the write set
func (r *reader) row(w *history.LastWrite, boot string) *output.Blame {
	b := &output.Blame{Parameter: w.Parameter, Namespace: w.Namespace, Writes: w.Writes, ID: w.ID, Last: w.Event}
	s := w.Event.Sysctl
	if b.Recorded = s.After; b.Recorded == nil {
		b.Recorded = s.New
	}
	sameBoot := w.Event.BootID == boot
	ns := w.Namespace
	if ns != nil && !r.isHost(ns) && !sameBoot {
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
	case !sameBoot:
		b.State = output.Rebooted
	case w.Event.Outcome == "" && s.Old != nil && sameValue(b, *s.Old):
		// The outcome of the write is unknown, and the old value suggests that it failed.
		b.State, b.Recorded = output.AsRecorded, nil
	case b.Recorded != nil && !s.Truncated && !sameValue(b, *b.Recorded):
		b.State = output.Drifted
	default:
		b.State = output.AsRecorded
	}
	return b
}

// checkDone corrects a row that takes its write for a failed one. If a later sysctl.drift began
// with the value that the write set, the write succeeded and the old value came back later.
func (r *reader) checkDone(ctx context.Context, db History, b *output.Blame) error {
	if b.State != output.AsRecorded || b.Recorded != nil || b.Last.Sysctl.New == nil {
		return nil
	}
	host := func(ns *event.Namespace) bool { return ns == nil || r.isHost(ns) }
	set, ns := b.Last.Sysctl.New, b.Namespace
	for _, err := range db.Events(ctx, history.Query{
		Parameter: b.Parameter, After: b.ID, Types: map[event.Type]bool{event.SysctlDrift: true}, Limit: 1,
		Match: func(e *event.Event) bool {
			of := e.Sysctl.Namespace
			return e.Sysctl.Old != nil && event.SameValue(*e.Sysctl.Old, *set) && (host(ns) && host(of) || ns != nil && of != nil && ns.UID == of.UID)
		},
	}) {
		if err != nil {
			return err
		}
		b.State, b.Recorded = output.Drifted, set
	}
	return nil
}

// sameValue reports whether a parameter has a value. Of a value that was too long to be read in
// full, it compares the part that was read.
func sameValue(b *output.Blame, value string) bool {
	if b.ValueTruncated && len(value) > len(*b.Value) {
		return value[:len(*b.Value)] == *b.Value
	}
	return event.SameValue(*b.Value, value)
}
