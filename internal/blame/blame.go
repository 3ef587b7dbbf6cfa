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
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Names   []string               // only parameters with these names, which need not be looked for among all; nil: all
	All     bool                   // also parameters without a recorded write
	AllNets bool                   // parameters of all network namespaces
	Net     *Net                   // only parameters of this network namespace
	BootID  string                 // only writes of this boot, "": of all

	// Sync returns nil once the history has all that has happened so far, and an error that wraps
	// history.ErrNoRecorder if it has all that it will have. With another error, it can lack the newest
	// writes. nil: no recorder writes to it.
	Sync func(context.Context) error
}

// A Net is a network namespace, by its inode number or by a name. It means the namespace that has
// them now or, if none has, the last one that had.
type Net struct {
	ID   uint32 // 0: unknown
	Name string
}

// A History has the recorded events: a history.DB.
type History interface {
	LastWrites(ctx context.Context, match func(name string) bool) iter.Seq2[history.LastWrite, error]
	LastWritesTo(ctx context.Context, names ...string) iter.Seq2[history.LastWrite, error]
	LastWritesIn(ctx context.Context, bootID string, found iter.Seq2[history.LastWrite, error]) iter.Seq2[history.LastWrite, error]
	Events(ctx context.Context, q history.Query) iter.Seq2[history.Stored, error]
	LifeOf(ctx context.Context, ns *event.Namespace, bootID string) (*history.Life, error)
	WatchedSince(ctx context.Context, id int64) (bool, error)
	Initial(ctx context.Context, parameter, bootID string) (*string, error)
}

// Find returns a row for each selected parameter.
func Find(ctx context.Context, db History, o Options) ([]*output.Blame, error) {
	if o.Match == nil {
		o.Match = func(string) bool { return true }
	}
	if o.Sync == nil {
		o.Sync = func(context.Context) error { return history.ErrNoRecorder }
	}
	if o.Net != nil && o.Net.ID == 0 && (o.BootID == "" || o.BootID == procfs.BootID()) {
		// The namespace can have got the name after the recorded writes.
		if id, err := procfs.NamespaceInode(filepath.Join("/run/netns", o.Net.Name)); err == nil {
			o.Net = &Net{ID: id, Name: o.Net.Name}
		}
	}
	r := newReader(ctx, db, procfs.HostNamespaces())
	defer r.close()
	r.synced = o.Sync(ctx)
	writes, err := o.writes(ctx, db, r)
	if err != nil {
		return nil, err
	}
	rows := make([]*output.Blame, len(writes))
	r.wantMoves(writes)
	for i := range writes {
		if rows[i], err = r.row(ctx, &writes[i]); err != nil {
			return nil, err
		}
	}
	if err := o.confirm(ctx, db, r, writes, rows); err != nil {
		return nil, err
	}
	if o.All {
		rows = append(rows, o.unwritten(ctx, r, rows)...)
		slices.SortStableFunc(rows, func(a, b *output.Blame) int { return strings.Compare(a.Parameter, b.Parameter) })
	}
	return rows, nil
}

// maxRounds is how often confirm reads a value and the history again, and confirmTime for how long.
const (
	maxRounds   = 5
	confirmTime = 3 * time.Second
)

// confirm makes sure of the rows whose value is not the recorded one: the parameter can have been written
// after the history was read and before its value was. So it reads the history again, up to the time of
// the value, and the value again if there is another write.
func (o *Options) confirm(ctx context.Context, db History, r *reader, writes []history.LastWrite, rows []*output.Blame) error {
	doubtful := map[writeKey]int{}
	for i, row := range rows {
		if row.State == output.Drifted || row.State == output.Unknown {
			doubtful[r.key(&writes[i])] = i
		}
	}
	start := time.Now()
	for round := 0; len(doubtful) > 0 && round < maxRounds && time.Since(start) < confirmTime; round++ {
		if err := o.Sync(ctx); errors.Is(err, history.ErrNoRecorder) {
			if round > 0 || errors.Is(r.synced, history.ErrNoRecorder) {
				return nil
			}
		} else if err != nil {
			break
		}
		names := map[string]bool{}
		for k := range doubtful {
			names[k.name] = true
		}
		again := *o
		again.Names = slices.Collect(maps.Keys(names))
		clear(r.devices)
		now, err := again.writes(ctx, db, r)
		if err != nil {
			return err
		}
		r.wantMoves(now)
		for i := range now {
			k := r.key(&now[i])
			at, ok := doubtful[k]
			switch {
			case !ok:
				continue
			case now[i].ID == writes[at].ID && now[i].Writes == writes[at].Writes:
				delete(doubtful, k)
				continue
			}
			writes[at] = now[i]
			if rows[at], err = r.row(ctx, &now[i]); err != nil {
				return err
			}
			if rows[at].State != output.Drifted && rows[at].State != output.Unknown {
				delete(doubtful, k)
			}
		}
	}
	for _, i := range doubtful {
		rows[i].State = output.Unknown
	}
	return nil
}

// A writeKey identifies a copy of a parameter: the name and, unless it is the host's, the namespace.
type writeKey struct{ name, boot, typ, id, uid string }

// key returns the key of a last write. The host's copy is the same one in each boot. Other namespaces end
// with the boot.
func (r *reader) key(w *history.LastWrite) writeKey {
	k := writeKey{name: w.Parameter}
	if ns := w.Namespace; ns != nil && !r.isHost(ns, w.Event.BootID) {
		k.boot, k.typ, k.id, k.uid = w.Event.BootID, string(ns.Type), strconv.FormatUint(uint64(ns.ID), 10), ns.UID
	}
	return k
}

// writes returns the last write to each selected copy of a parameter.
func (o *Options) writes(ctx context.Context, db History, r *reader) ([]history.LastWrite, error) {
	var all []history.LastWrite
	seen := map[writeKey]bool{}
	found := db.LastWrites(ctx, o.Match)
	if o.Names != nil {
		found = db.LastWritesTo(ctx, o.Names...)
	}
	if o.BootID != "" {
		found = db.LastWritesIn(ctx, o.BootID, found)
	}
	for w, err := range found {
		if err != nil {
			return nil, err
		}
		ns := w.Namespace
		switch {
		case o.Net != nil:
			if ns == nil || ns.Type != event.NSTypeNet || o.Net.ID != 0 && ns.ID != o.Net.ID || o.Net.ID == 0 && ns.Name != o.Net.Name {
				continue
			}
		case !o.AllNets && ns != nil && !r.isHost(ns, w.Event.BootID):
			continue
		}
		if k := r.key(&w); !seen[k] { // else it is the write of an earlier boot
			seen[k] = true
			all = append(all, w)
		}
	}
	if o.Net == nil {
		return all, nil
	}
	return o.oneLife(ctx, r, all)
}

// oneLife keeps the writes of the one namespace that Net means.
func (o *Options) oneLife(ctx context.Context, r *reader, all []history.LastWrite) ([]history.LastWrite, error) {
	keep := func(is func(*history.LastWrite) bool) []history.LastWrite {
		return slices.DeleteFunc(all, func(w history.LastWrite) bool { return !is(&w) })
	}
	if o.Net.ID != 0 && r.exists(event.NSTypeNet, o.Net.ID) {
		is := map[int64]presence{}
		sure := false
		for i := range all {
			p, err := r.find(ctx, &all[i])
			if err != nil {
				return nil, err
			}
			p.close()
			is[all[i].ID], sure = p.state, sure || p.state == exists
		}
		all = keep(func(w *history.LastWrite) bool { return is[w.ID] == exists || !sure && is[w.ID] == uncertain })
		if sure {
			return all, nil
		}
	}
	var newest *history.LastWrite
	for i := range all {
		if newest == nil || all[i].ID > newest.ID {
			newest = &all[i]
		}
	}
	if newest == nil {
		return nil, nil
	}
	of := r.key(newest)
	return keep(func(w *history.LastWrite) bool {
		k := r.key(w)
		k.name = of.name
		return k == of
	}), nil
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
	p := r.living(ns)
	defer p.close()
	_ = r.in(p, func(root *params.Root) {
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

// row returns the row of a last write.
//
//	state       the parameter
//	Gone        does not exist any more, or its namespace or its device does not
//	Unreadable  cannot be read, or it is unknown whether its namespace still exists
//	Rebooted    was written in an earlier boot
//	Reset       was, too, and has the value that it had before the first write in that boot
//	Drifted     has another value than right after the write
//	Unknown     has, too, but perhaps belongs to another device that has the name now; or it is unknown which
//	            value it had after the write, and it is not the written one
//	AsRecorded  has the value that it had right after the write, or the written one if that is unknown
func (r *reader) row(ctx context.Context, w *history.LastWrite) (*output.Blame, error) {
	b := &output.Blame{Parameter: w.Parameter, Namespace: w.Namespace, Writes: w.Writes, ID: w.ID, Last: w.Event}
	s := w.Event.Sysctl
	if ns := w.Namespace; ns != nil && !ns.Host && r.isHost(ns, w.Event.BootID) {
		host := *ns
		host.Host = true
		b.Namespace = &host
	}
	if b.Recorded = s.After; b.Recorded == nil {
		b.Recorded = s.New
	}
	p, err := r.find(ctx, w)
	if err != nil {
		return nil, err
	}
	defer p.close()
	switch p.state {
	case ended:
		b.State = output.Gone
		return b, nil
	case uncertain:
		b.State = output.Unreadable
		return b, nil
	}
	device := deviceSame
	if name := event.SysctlDevice(s.Path); name != "" && w.Event.BootID == r.boot {
		if device, err = r.device(ctx, w, p, name); err != nil {
			return nil, err
		}
	}
	if device == deviceOther {
		b.State = output.Gone
		return b, nil
	}
	value, err := r.read(b.Parameter, s.Path, p)
	setValue(b, value)
	switch {
	case b.Value == nil && errors.Is(err, os.ErrNotExist):
		b.State = output.Gone
	case b.Value == nil:
		b.State = output.Unreadable
	case w.Event.BootID != r.boot:
		b.State = output.Rebooted
		if b.Recorded != nil && sameValue(b, *b.Recorded) {
			break
		}
		initial, err := r.initial(ctx, b.Parameter, w.Event.BootID)
		if err != nil {
			return nil, err
		}
		if initial != nil && sameValue(b, *initial) {
			b.State = output.Reset
		}
	default:
		b.State, b.Recorded = compare(b, s)
		if b.State == output.Drifted && device == deviceUnknown {
			b.State = output.Unknown
		}
	}
	return b, r.checkDrift(ctx, b)
}

// initialTime is how long all calls of initial may read. Users decide how much there is to read.
const initialTime = 3 * time.Second

// initial returns the value before the first write to a parameter of the host in an earlier boot, nil if that
// is unknown or there is no time to read it.
func (r *reader) initial(ctx context.Context, parameter, bootID string) (*string, error) {
	limit, cancel := context.WithTimeout(ctx, r.initialLeft)
	defer cancel()
	start := time.Now()
	value, err := r.db.Initial(limit, parameter, bootID)
	r.initialLeft -= time.Since(start)
	if limit.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return value, err
}

// compare compares the current value of a row with what its last write made of the parameter. Only what the
// kernel had after the write tells whether the value has changed since: the kernel prints many values in another
// form than they were written in, changes some, and can ignore or refuse a write.
func compare(b *output.Blame, w *event.Sysctl) (state output.State, recorded *string) {
	switch {
	case w.After != nil && sameRecorded(b, *w.After, w.Truncated):
		return output.AsRecorded, w.After
	case w.After != nil:
		return output.Drifted, w.After
	case w.New != nil && sameRecorded(b, *w.New, w.Truncated):
		return output.AsRecorded, w.New
	}
	return output.Unknown, nil
}

// maxDrifts is how many later differences of a parameter a row looks at.
const maxDrifts = 1000

// checkDrift looks for recorded differences (sysctl.drift) since the last write of a row. One that began with the
// value that was written shows that a write with an unknown result succeeded, and that the value changed later. The last
// one tells when, if it ended with the current value.
func (r *reader) checkDrift(ctx context.Context, b *output.Blame) error {
	undone := b.State == output.Unknown && b.Recorded == nil && b.Last.Sysctl.New != nil
	if b.State != output.Drifted && !undone {
		return nil
	}
	host := func(ns *event.Namespace) bool { return ns == nil || r.isHost(ns, b.Last.BootID) }
	ns := b.Namespace
	for stored, err := range r.db.Events(ctx, history.Query{
		Parameter: b.Parameter, After: b.ID, Types: map[event.Type]bool{event.SysctlDrift: true}, Limit: maxDrifts,
		Match: func(e *event.Event) bool {
			of := e.Sysctl.Namespace
			return host(ns) && host(of) || ns != nil && of != nil && ns.UID == of.UID
		},
	}) {
		if err != nil {
			return err
		}
		d := stored.Event
		if old := d.Sysctl.Old; undone && old != nil && event.SameValue(*old, *b.Last.Sysctl.New) {
			b.State, b.Recorded, undone = output.Drifted, b.Last.Sysctl.New, false
		}
		b.Between = nil
		if after := d.Sysctl.After; after != nil && sameRecorded(b, *after, d.Sysctl.Truncated) {
			b.Between = d.Between
		}
	}
	if b.State != output.Drifted {
		b.Between = nil
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

// longValue is the length from which the recorded value of an event with Truncated can be the one that was cut.
const longValue = 1000

// sameRecorded is sameValue for a value of an event, of which truncated says that one of its values was cut. It
// compares the part that was recorded.
func sameRecorded(b *output.Blame, value string, truncated bool) bool {
	if truncated && len(value) >= longValue {
		return strings.HasPrefix(*b.Value, value)
	}
	return sameValue(b, value)
}
