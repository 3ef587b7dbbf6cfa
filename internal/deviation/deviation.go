// SPDX-License-Identifier: Apache-2.0

// Package deviation finds in a history how long parameters did not have their expected values, who set them, and who
// set them back.
//
//	all, err := deviation.Find(ctx, db, deviation.Options{})
//	for _, d := range all { ... }
//
// A deviation begins with an event that pipeline.Expected marked. What is expected is what was expected then.
package deviation

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/history"
)

// A State says how a deviation ended.
type State string

// States.
const (
	Open    State = "open"    // it has not
	Ended   State = "ended"   // with the event Back
	Reset   State = "reset"   // the host rebooted, and that undid all recorded writes to the parameter
	Reboot  State = "reboot"  // the host rebooted, and which value the parameter then got is unknown
	Unknown State = "unknown" // whether it has is unknown, or when
)

// A Deviation is a time in which a parameter did not have its expected value.
type Deviation struct {
	Parameter string
	Expected  *event.Expected
	Value     *string // the first wrong value that is known
	Last      *string // the last one
	State     State
	BootID    string
	Set       *event.Event // what began it, nil if that is not recorded
	Back      *event.Event // what ended it, for Ended and Reset
	// Seen is the last time at which the parameter is known to have had a wrong value.
	Seen time.Time
	// By is a time at which it is known to be over, for Reboot and Unknown. Zero if that is unknown too.
	By time.Time
}

// From returns when the deviation began, zero if that is not recorded.
func (d *Deviation) From() time.Time {
	if d.Set == nil {
		return time.Time{}
	}
	return d.Set.Time
}

// To returns when the deviation ended, zero if it has not or if that is unknown.
func (d *Deviation) To() time.Time {
	if d.Back == nil {
		return time.Time{}
	}
	return d.Back.Time
}

// A History is what Find needs of a history.DB.
type History interface {
	Marked(context.Context) (map[string]int64, error)
	FirstRuns(context.Context) ([]history.Run, error)
	Events(context.Context, history.Query) iter.Seq2[history.Stored, error]
}

// Options say which deviations to find. The zero value finds all.
type Options struct {
	Since, Until time.Time // only those of which some time is between them; zero: no bound
	// Match, if not nil, selects a deviation by the events that began or ended it.
	Match func(*event.Event) bool
	// Index, if not nil, returns the index of a network device of the host, 0 if it is unknown.
	Index func(device string) uint32
	// Value, if not nil, returns the current value of a parameter of the host, nil if it is unknown. BootID is that of
	// the host.
	Value  func(name string) *string
	BootID string
}

// Find returns the deviations, those that began first first.
func Find(ctx context.Context, db History, o Options) (all []*Deviation, err error) {
	marked, err := db.Marked(ctx)
	if err != nil || len(marked) == 0 {
		return nil, err
	}
	boots, err := readBoots(ctx, db)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(marked)) {
		f := &finder{name: name, boots: boots}
		q := history.Query{
			Parameter: name, After: marked[name] - 1, Types: map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true},
			Match: func(e *event.Event) bool { return e.Outcome != event.Failure && baseline.OfHost(e.Sysctl) },
		}
		for s, err := range db.Events(ctx, q) {
			if err != nil {
				return nil, err
			}
			f.add(s.Event)
		}
		f.finish(&o)
		all = append(all, f.found...)
	}
	all = slices.DeleteFunc(all, func(d *Deviation) bool { return !o.wants(d) })
	slices.SortStableFunc(all, func(a, b *Deviation) int {
		return cmp.Or(a.begin().Compare(b.begin()), cmp.Compare(a.Parameter, b.Parameter))
	})
	return all, nil
}

// begin is From, or the first time at which the value was wrong.
func (d *Deviation) begin() time.Time {
	if d.Set == nil {
		return d.Seen
	}
	return d.Set.Time
}

func (o *Options) wants(d *Deviation) bool {
	end := d.To()
	if end.IsZero() {
		end = d.By
	}
	switch {
	case !o.Until.IsZero() && d.begin().After(o.Until):
		return false
	case !o.Since.IsZero() && !end.IsZero() && end.Before(o.Since):
		return false
	case o.Match == nil:
		return true
	}
	return d.Set != nil && o.Match(d.Set) || d.Back != nil && o.Match(d.Back)
}

// boots are the boots of a history.
type boots struct {
	last  string               // that of the last event
	after map[string]time.Time // when the run after a reboot began, by the boot before it
}

func readBoots(ctx context.Context, db History) (*boots, error) {
	b := &boots{after: map[string]time.Time{}}
	runs, err := db.FirstRuns(ctx)
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(runs); i++ {
		b.after[runs[i-1].BootID] = runs[i].Started
	}
	for s, err := range db.Events(ctx, history.Query{Reverse: true, Limit: 1, Match: func(e *event.Event) bool { return e.Type != event.NamespaceGone }}) {
		if err != nil {
			return nil, err
		}
		b.last = s.Event.BootID
	}
	return b, nil
}

// A finder finds the deviations of one parameter.
type finder struct {
	name  string
	boots *boots
	found []*Deviation
	open  *Deviation // the last one of found, if it has not ended
}

// judge says whether a value is the one that a deviation misses. It is Unclear if the value is unknown.
func judge(x *event.Expected, s *event.Sysctl, value *string) declared.Equality {
	if value == nil || s.Truncated {
		return declared.Unclear
	}
	return baseline.Judge(baseline.Comparison(x.Comparison), x.Values, *value)
}

// add takes the next event of the parameter.
func (f *finder) add(e *event.Event) {
	s := e.Sysctl
	if f.reboot(e) {
		return
	}
	if f.open != nil && f.otherDevice(s.Ifindex) {
		f.close(Unknown, e.Time)
	}
	switch x := s.Expected; {
	case x == nil:
		f.unmarked(e)
	case x.State == event.ExpectedAway:
		f.close(Unknown, e.Time) // the value was as expected before
		f.begin(&Deviation{Expected: x, Set: e, Value: s.After}, e)
	case x.State == event.ExpectedBack:
		if f.open == nil {
			f.begin(&Deviation{Expected: x, Value: s.Old}, e)
		}
		f.open.Last, f.open.Back = s.Old, e
		f.close(Ended, time.Time{})
	}
}

// otherDevice reports whether the parameter is known to belong to another device now than the open deviation is about.
func (f *finder) otherDevice(index uint32) bool {
	return f.index() != 0 && index != 0 && index != f.index()
}

// index returns the index of the device that the open deviation is about, 0 if it is unknown.
func (f *finder) index() uint32 {
	if f.open.Set == nil {
		return 0
	}
	return f.open.Set.Sysctl.Ifindex
}

func (f *finder) begin(d *Deviation, e *event.Event) {
	d.Parameter, d.BootID, d.Last, d.Seen, d.State = f.name, e.BootID, d.Value, e.Time, Open
	f.found, f.open = append(f.found, d), d
}

// close ends the open deviation, if there is one.
func (f *finder) close(state State, by time.Time) {
	if f.open != nil {
		f.open.State, f.open.By = state, by
	}
	f.open = nil
}

// reboot ends the open deviation if an event is of another boot. It reports whether that is all that the event says.
func (f *finder) reboot(e *event.Event) bool {
	between := e.Between
	rebooted := between != nil && between.Boot == "different" // Old is from before the reboot
	d := f.open
	if d == nil || d.BootID == e.BootID {
		return rebooted && e.Sysctl.Expected != nil && e.Sysctl.Expected.State == event.ExpectedBack
	}
	after := judge(d.Expected, e.Sysctl, e.Sysctl.After)
	if rebooted && between.Reset && after == declared.Equal {
		d.Back = e
		f.close(Reset, time.Time{})
		return true
	}
	by := e.Time
	if start := f.boots.after[d.BootID]; !start.IsZero() {
		by = start
	}
	f.close(Reboot, by)
	if rebooted && after == declared.Different {
		f.begin(&Deviation{Expected: d.Expected, Set: e, Value: e.Sysctl.After}, e)
	}
	return rebooted
}

// unmarked takes an event that was recorded without an expectation, or that changed nothing that is known.
func (f *finder) unmarked(e *event.Event) {
	d, s := f.open, e.Sysctl
	if d == nil {
		return
	}
	switch before, after := judge(d.Expected, s, s.Old), judge(d.Expected, s, s.After); {
	case before == declared.Equal: // something that is not recorded ended it
		f.close(Unknown, e.Time)
	case after == declared.Different:
		d.Last, d.Seen = s.After, e.Time
	case after == declared.Equal && before == declared.Different:
		d.Last, d.Back = s.Old, e
		f.close(Ended, time.Time{})
	case after == declared.Equal:
		f.close(Unknown, e.Time)
	case before == declared.Different:
		d.Last, d.Seen = s.Old, e.Time
	}
}

// finish decides whether the open deviation still lasts.
func (f *finder) finish(o *Options) {
	d := f.open
	if d == nil {
		return
	}
	switch {
	case d.BootID != f.boots.last:
		f.close(Reboot, f.boots.after[d.BootID])
		return
	case o.Value == nil || d.BootID != o.BootID:
		f.close(Unknown, time.Time{}) // the history ends
		return
	}
	if device := event.SysctlDevice(event.SysctlPath(f.name)); device != "" && (o.Index == nil || f.index() == 0 || o.Index(device) != f.index()) {
		f.close(Unknown, time.Time{}) // another device can have the name
		return
	}
	now := o.Value(f.name)
	switch judge(d.Expected, &event.Sysctl{}, now) {
	case declared.Different:
		d.Last, d.Seen = now, time.Now()
	case declared.Equal:
		f.close(Unknown, time.Now())
	default:
		f.close(Unknown, time.Time{})
	}
}
