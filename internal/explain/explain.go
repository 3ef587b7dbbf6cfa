// SPDX-License-Identifier: Apache-2.0

// Package explain finds out why a parameter has its value: what files declare, what the value is, and who wrote it.
package explain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/blame"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/nsdiff"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// MaxWrites is how many of the newest writes to a parameter are shown.
const MaxWrites = 20

// historyTime is how long Find may read the history: users decide how much there is to read.
const historyTime = 5 * time.Second

// Options say what to explain.
type Options struct {
	Parameter string // its name
	Config    *declared.Config
	Program   declared.Program // whose rules count
	Location  *time.Location   // of the times in the verdict

	Resolver *resolve.Resolver
	Target   *resolve.Target // what has the network namespace; nil: the host

	DB     History // nil: there is no history
	BootID string  // the boot of the writes, "": the running one. Other namespaces than the host's end with their boot
	Sync   func(context.Context) error
}

// IsNet reports whether a parameter can belong to network namespaces.
func IsNet(name string) bool { return strings.HasPrefix(name, "net.") }

// Find explains a parameter.
func Find(ctx context.Context, o Options) (*output.Explanation, error) {
	x := &output.Explanation{
		Parameter: o.Parameter, Rulings: o.Config.Of(o.Parameter), Program: o.Program, Problems: o.Config.Problems, HasHistory: o.DB != nil,
	}
	if o.BootID != "" && o.BootID != procfs.BootID() {
		x.OtherBoot = o.BootID
	}
	net, err := o.netns()
	if err != nil {
		return nil, err
	}
	defer net.close()
	x.Namespace = net.event()
	if x.Value, err = net.read(o.Parameter); err != nil {
		x.Error, x.Gone = reason(err), errors.Is(err, os.ErrNotExist)
	}
	var making sync.WaitGroup
	o.device(x, net)
	if IsNet(o.Parameter) {
		making.Go(func() { o.fresh(ctx, x, net) }) // sets x.Fresh
	}
	defer making.Wait()
	if o.DB != nil {
		limited, cancel := context.WithTimeout(ctx, historyTime)
		defer cancel()
		switch err := o.writes(limited, x, net); {
		case err != nil && limited.Err() != nil && ctx.Err() == nil:
			x.Writes, x.Applied, x.State, x.Unread, x.Since = nil, nil, "", true, time.Time{}
		case err != nil:
			return nil, err
		}
	}
	making.Wait()
	judge(x, o.Location)
	return x, nil
}

// reason is the text of an error without what the reader knows already.
func reason(err error) string {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

// A netns is the network namespace whose parameters are meant. Without a file, it is that of this process.
type netns struct {
	target *resolve.Target
	id     uint32
	name   string
	host   bool
	file   *os.File
}

func (n *netns) close() {
	if n.file != nil {
		n.file.Close()
	}
}

func (n *netns) event() *event.Namespace {
	if n.id == 0 {
		return nil
	}
	return &event.Namespace{Type: event.NSTypeNet, ID: n.id, Name: n.name, Host: n.host}
}

// netns finds the network namespace of the parameter. A parameter that belongs to none gets the zero value.
func (o *Options) netns() (*netns, error) {
	n := &netns{target: o.Target}
	if !IsNet(o.Parameter) {
		return n, nil
	}
	if n.target == nil {
		host, err := o.Resolver.Host(event.NSTypeNet)
		if err != nil { // this user may not see which one is the host's
			n.id, err = procfs.NamespaceOf("self", event.NSTypeNet)
			return n, err
		}
		n.target = o.Resolver.Target(host)
	}
	ns, err := n.target.In(event.NSTypeNet)
	if err != nil {
		return nil, err
	}
	n.id, n.name, n.host = ns.ID, n.target.Name, ns.ID == o.Resolver.Hosts()[event.NSTypeNet]
	if own, err := procfs.NamespaceOf("self", event.NSTypeNet); err == nil && own == n.id {
		return n, nil
	}
	n.file, err = o.Resolver.Open(ns)
	return n, err
}

// read reads the value of a parameter.
func (n *netns) read(name string) (value *output.DiffValue, err error) {
	err = n.in(func(root *params.Root) (err error) {
		value, err = readValue(root, name)
		return err
	})
	return value, err
}

// in calls do with the parameters of the namespace.
func (n *netns) in(do func(*params.Root) error) error {
	return params.OnThread(func(t *params.Thread) error {
		if n.file != nil {
			root, err := t.Enter(event.NSTypeNet, n.id, []string{fmt.Sprintf("/proc/self/fd/%d", n.file.Fd())})
			if err != nil {
				return err
			}
			return do(root)
		}
		root, err := params.Open()
		if err != nil {
			return err
		}
		defer root.Close()
		return do(root)
	})
}

func readValue(root *params.Root, name string) (*output.DiffValue, error) {
	v, err := root.Read(event.SysctlPath(name))
	if err != nil {
		return nil, err
	}
	return &output.DiffValue{Text: &v.Text, Truncated: v.Cut}, nil
}

// originTime is how long fresh may look for where a new namespace has its value from.
const originTime = 2 * time.Second

// fresh finds out what a new network namespace has.
func (o *Options) fresh(ctx context.Context, x *output.Explanation, net *netns) {
	var v *output.DiffValue
	err := params.OnThread(func(*params.Thread) error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		root, err := params.Open()
		if err != nil {
			return err
		}
		defer root.Close()
		v, err = readValue(root, o.Parameter)
		return err
	})
	if err != nil || v.Truncated {
		return // the namespace has no such parameter, or nstrace may not make one
	}
	x.Fresh = &output.DiffNew{Value: *v.Text}
	if net.target == nil || x.Value == nil || event.SameValue(*x.Value.Text, *v.Text) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, originTime)
	defer cancel()
	c, err := nsdiff.New(o.Resolver, []*resolve.Target{net.target}, true, []event.NSType{event.NSTypeNet})
	if err != nil {
		return
	}
	defer c.Close()
	c.Only = o.Parameter
	rows, _ := c.Run(ctx) // what is unknown is left out
	for _, row := range rows {
		if row.New != nil && row.New.Value == *v.Text {
			x.Fresh = row.New
		}
	}
}

// writes finds the writes of this boot.
func (o *Options) writes(ctx context.Context, x *output.Explanation, net *netns) error {
	find := blame.Options{Names: []string{o.Parameter}}
	find.Sync = func(ctx context.Context) error {
		err := o.Sync(ctx)
		x.Behind = err != nil && !errors.Is(err, history.ErrNoRecorder)
		return err
	}
	if IsNet(o.Parameter) && !net.host {
		find.Net = &blame.Net{ID: net.id, Name: net.name}
	}
	boot, hosts := procfs.BootID(), procfs.HostNamespaces()
	if x.OtherBoot != "" {
		boot, hosts = x.OtherBoot, nil // the host's own are marked in its events
	}
	find.BootID = o.BootID
	rows, err := blame.Find(ctx, o.DB, find)
	if err != nil {
		return err
	}
	row := &output.Blame{}
	if len(rows) > 0 {
		row = rows[0]
	}
	if x.OtherBoot == "" {
		x.State = row.State
	}
	for s, err := range o.DB.Events(ctx, history.Query{BootID: boot, Limit: 1}) {
		if err != nil {
			return err
		}
		x.Since = s.Event.Time
	}
	ours := func(e *event.Event) bool {
		ns := e.Sysctl.Namespace
		switch {
		case e.BootID != boot:
			return false
		case row.Last != nil && row.State == output.Gone && x.Value != nil && !e.Time.After(row.Last.Time):
			return false // another device had the name
		case row.Last != nil && e.Sysctl.Ifindex != 0 && row.Last.Sysctl.Ifindex != 0 && e.Sysctl.Ifindex != row.Last.Sysctl.Ifindex:
			return false
		case find.Net == nil:
			return ns == nil || ns.Host || ns.ID != 0 && hosts[ns.Type] == ns.ID
		case ns == nil || ns.Host || row.Namespace == nil:
			return false
		}
		return ns.ID == row.Namespace.ID && ns.UID == row.Namespace.UID
	}
	types := map[event.Type]bool{event.SysctlWrite: true, event.SysctlDrift: true}
	q := history.Query{Parameter: o.Parameter, Types: types, Reverse: true, Match: ours, Limit: MaxWrites + 1}
	for s, err := range o.DB.Events(ctx, q) {
		if err != nil {
			return err
		}
		x.Writes = append(x.Writes, output.ExplainedWrite{ID: s.ID, Event: s.Event})
	}
	if err := o.applied(ctx, x, q); err != nil {
		return err
	}
	if err := o.appeared(ctx, x, ours); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	if find.Net == nil && x.Applied == nil && x.OtherBoot == "" {
		if err := o.skipped(ctx, x, boot); err != nil {
			return err
		}
	}
	if len(x.Writes) > MaxWrites {
		x.Writes, x.More = x.Writes[:MaxWrites], true
	}
	slices.Reverse(x.Writes)
	for i := range x.Writes {
		if x.Writes[i].Cause, err = o.cause(ctx, &x.Writes[i]); err != nil {
			return err
		}
	}
	return nil
}

// applied finds the last write of the declared value by a program that applies files. q finds the writes, of which
// the newest are in x.
func (o *Options) applied(ctx context.Context, x *output.Explanation, q history.Query) error {
	winner := x.Winner()
	if winner == nil {
		return nil
	}
	same := func(value string) bool { return declared.Compare(value, *winner.Value) == declared.Equal }
	is := func(e *event.Event) bool {
		return applies(e.Process) && e.Outcome != event.Failure && e.Sysctl.New != nil && same(*e.Sysctl.New) &&
			(e.Sysctl.After == nil || same(*e.Sysctl.After)) // else the kernel ignored it
	}
	for i := range x.Writes {
		if w := x.Writes[i]; is(w.Event) {
			x.Applied = &w
			return nil
		}
	}
	if len(x.Writes) < q.Limit {
		return nil // there are no others
	}
	ours := q.Match
	q.To, q.Limit, q.Process, q.New = x.Writes[len(x.Writes)-1].ID-1, 1, applies, same
	q.Match = func(e *event.Event) bool { return ours(e) && is(e) }
	for s, err := range o.DB.Events(ctx, q) {
		if err != nil {
			return err
		}
		x.Applied = &output.ExplainedWrite{ID: s.ID, Event: s.Event}
	}
	return nil
}

// maxBeside is how many other parameters of a file skipped looks at.
const maxBeside = 200

// skipped finds the last write of this boot by which a program applied another line of the file that counts, if none
// applied the line of this parameter.
func (o *Options) skipped(ctx context.Context, x *output.Explanation, boot string) error {
	winner := x.Winner()
	if winner == nil || x.More || slices.ContainsFunc(x.Writes, func(w output.ExplainedWrite) bool { return applies(w.Event.Process) }) {
		return nil
	}
	for w, err := range o.DB.LastWritesTo(ctx, o.Config.Beside(o.Program, winner, maxBeside)...) {
		if err != nil {
			return err
		}
		e := w.Event
		if e.BootID != boot || w.Namespace != nil && !w.Namespace.Host || !applies(e.Process) || e.Sysctl.New == nil || x.Skipped != nil && x.Skipped.ID > w.ID {
			continue
		}
		ruling := o.Config.By(o.Program, w.Parameter)
		if d := ruling.Winner(); d != nil && d.File == winner.File && declared.Compare(*e.Sysctl.New, *d.Value) == declared.Equal {
			x.Skipped = &output.ExplainedWrite{ID: w.ID, Event: e}
		}
	}
	return nil
}

// causeWithin is how many events before a change its cause can be.
const causeWithin = 1000

// cause returns the write that made the kernel change the parameter too, nil if there is none or it is not
// recorded.
func (o *Options) cause(ctx context.Context, w *output.ExplainedWrite) (cause *event.Event, err error) {
	c := w.Event.Sysctl.Cause
	if c == nil || c.Seq == 0 {
		return nil, nil
	}
	run := w.Event.RunID
	q := history.Query{
		After: w.ID - causeWithin, To: w.ID - 1, Reverse: true, Limit: 1, Match: func(e *event.Event) bool { return e.RunID == run && e.Seq == c.Seq },
	}
	for s, err := range o.DB.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		cause = s.Event
	}
	return cause, nil
}

// applies reports whether a process is root's program that applies the files.
func applies(p *event.Process) bool {
	if p == nil || p.UID != 0 {
		return false
	}
	name := p.Comm
	if p.Exe != "" {
		name = path.Base(p.Exe)
	}
	return name == "systemd-sysctl" || name == "sysctl"
}

// judge compares the value with the declared one, and writes the verdict.
func judge(x *output.Explanation, location *time.Location) {
	winner := x.Winner()
	any := slices.ContainsFunc(x.Rulings, func(r declared.Ruling) bool { return len(r.Declarations) > 0 })
	x.Differ = declared.Differ(x.Rulings)
	var parts []string
	switch {
	case x.Differ:
		var each []string
		for _, r := range x.Rulings {
			text := "nothing"
			if w := r.Winner(); w != nil {
				text = fmt.Sprintf("%s (%s)", output.Short(*w.Value), w.Where())
			}
			each = append(each, fmt.Sprintf("%s sets %s", r.Program, text))
		}
		parts = append(parts, "by the files, "+strings.Join(each, " and "))
	case winner != nil:
		parts = append(parts, fmt.Sprintf("declared %s in %s", output.Short(*winner.Value), winner.Where()))
	case any:
		parts = append(parts, "no declaration counts")
	default:
		parts = append(parts, "declared nowhere")
	}
	if len(x.Problems) > 0 {
		parts[0] += " as far as the files could be read"
	}
	x.Declared = Of(x.Value, x.Gone, winner)
	unapplied := winner != nil && (x.Declared == output.OtherValue || x.Declared == output.Missing)
	if s := x.Skipped; s != nil && unapplied && x.LastWrite() == nil { // programs need not write a value that is there
		parts = append(parts, fmt.Sprintf("%s wrote other lines of this file, but not this one", by(s.Event, location)))
	}
	var appeared string
	if a := x.Appeared; a != nil && unapplied && x.OtherBoot == "" {
		appeared = "the parameter appeared with " + by(a.Event, location)
		if last := x.LastWrite(); last == nil || last.ID < a.ID {
			appeared += ", and no write is recorded since"
		}
	}
	if last := x.LastWrite(); appeared != "" && (last == nil || last.ID > x.Appeared.ID) {
		parts, appeared = append(parts, appeared), ""
	}
	wrote := false
	switch last := x.LastWrite(); {
	case !x.HasHistory:
		parts = append(parts, "without a history, nstrace cannot know who set it")
	case x.Unread:
		parts = append(parts, "the history could not be read in time")
	case last == nil && x.Appeared != nil && unapplied && x.OtherBoot == "": // said already
	case last == nil && x.OtherBoot != "":
		parts = append(parts, "no write is recorded in boot "+x.OtherBoot)
	case last == nil && !x.Since.IsZero():
		parts = append(parts, "no write is recorded since "+clock(x.Since, location)+", when the history of this boot begins")
	case last == nil:
		parts = append(parts, "no write is recorded since the boot")
	default:
		wrote = true
		if x.OtherBoot != "" {
			parts[len(parts)-1] += " now; in boot " + x.OtherBoot
		}
		if x.Applied != nil && x.Applied.ID < last.ID {
			parts = append(parts, "applied by "+by(x.Applied.Event, location))
		}
		verb := "set to " + after(last.Event) + " by "
		if x.Applied != nil && x.Applied.ID == last.ID {
			verb = "applied by "
		}
		parts = append(parts, verb+by(last.Event, location))
		if c := last.Event.Sysctl.Cause; c != nil && c.Name != "" {
			parts[len(parts)-1] += ", which wrote " + c.Name
		}
	}
	if x.Behind && (!wrote || x.State == output.Unknown) {
		parts = append(parts, "the history can lack the newest writes")
	}
	switch x.State {
	case output.Drifted:
		parts = append(parts, "changed later without a recorded write")
	case output.Unknown:
		parts = append(parts, "changed later, and the history does not say how")
	}
	if appeared != "" {
		parts = append(parts, appeared)
	}
	parts = append(parts, verdictOn(x, wrote))
	if text := effect(x); text != "" {
		parts = append(parts, text)
	}
	x.Verdict = strings.Join(parts, "; ")
}

// Of returns whether a parameter has the value that the winner declares. value is nil if it cannot be read.
func Of(value *output.DiffValue, gone bool, winner *declared.Declaration) output.DeclaredState {
	switch {
	case winner == nil:
		return output.Undeclared
	case gone:
		return output.Missing
	case value == nil:
		return output.NotComparable
	case value.Truncated:
		return output.NotComparable
	}
	switch declared.Compare(*value.Text, *winner.Value) {
	case declared.Equal:
		return output.AsDeclared
	case declared.Different:
		return output.OtherValue
	}
	return output.NotComparable
}

// verdictOn is the end of the verdict.
func verdictOn(x *output.Explanation, wrote bool) string {
	switch {
	case x.Gone:
		return "the parameter does not exist now"
	case x.Value == nil:
		return "its value cannot be read: " + x.Error
	}
	is := "is " + output.Short(*x.Value.Text)
	if x.OtherBoot != "" {
		is, wrote = "is now "+output.Short(*x.Value.Text), false
		if x.Declared == output.AsDeclared {
			return is + ", as declared"
		}
	} else if x.Copied != "" && !wrote && x.HasHistory && !x.Unread && !x.Behind {
		is += ", as " + x.Copied + ", which the kernel copies for a new device"
	}
	switch {
	case x.Declared == output.AsDeclared:
		return "is as declared"
	case x.Declared == output.OtherValue && wrote:
		return is + ", still differs"
	case x.Declared == output.OtherValue:
		return is + ", differs"
	case x.Declared == output.NotComparable:
		return is + ", which nstrace cannot compare with the declared value"
	}
	return is
}

// by names the process of a write, and the time.
func by(e *event.Event, location *time.Location) string {
	who := "an unknown process"
	if p := e.Process; p != nil {
		who = fmt.Sprintf("%s[%d]", p.Comm, p.PID)
	}
	return who + " at " + clock(e.Time, location)
}

// clock is a time, without the date if that is today's.
func clock(t time.Time, location *time.Location) string {
	at := t.In(location)
	format := "15:04:05"
	if now := time.Now().In(location); at.YearDay() != now.YearDay() || at.Year() != now.Year() {
		format = "2006-01-02 15:04:05"
	}
	return at.Format(format)
}

// after is the value after a write.
func after(e *event.Event) string {
	switch s := e.Sysctl; {
	case s.After != nil:
		return output.Short(*s.After)
	case s.New != nil:
		return output.Short(*s.New)
	}
	return "an unknown value"
}
