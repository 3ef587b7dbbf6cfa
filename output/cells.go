// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

const (
	ellipsis = "…"
	arrow    = "→"
	unknown  = "?"
)

// maxValueLines is how many lines of its column a value may fill. With less,
// kernel.core_pattern as systemd sets it would not be shown whole; with no
// limit, a value of a kilobyte would push everything else off the screen.
const maxValueLines = 8

// column is one column of the table: a new one is one entry below.
type column struct {
	title string
	width int // of a wide table, the least
	// words is what an event has to say in this column.
	words func(*Table, *event.Event) []word
	// fit lays out the same within some number of lines, in a column where
	// that may leave something out; where it is nil, words wrap.
	fit func(t *Table, ev *event.Event, width, lines int) [][]word
}

// columnsFor divides a line. The time and the kind of event take what they
// take. At 100 columns the target has room for net.ipv4.tcp_keepalive_time; of
// a wider line the first columns go to who, where most is to be said.
func columnsFor(width int) []column {
	const timeWidth, eventWidth = len("15:04:05.000"), len("destroy")
	const fixed = timeWidth + eventWidth + 4*len(gap)
	target, change := 27, 16
	if width < DefaultWidth {
		target -= (DefaultWidth - width) / 4
		change -= (DefaultWidth - width) / 6
	} else if extra := width - DefaultWidth - 18; extra > 0 {
		target += min(extra/3, 17)
		change += min(extra/3, 24)
	}
	who := width - fixed - target - change
	return []column{
		{title: "TIME", width: timeWidth, words: (*Table).timeOfDay},
		{title: "EVENT", width: eventWidth, words: (*Table).event},
		{title: "TARGET", width: target, words: (*Table).target},
		{title: "CHANGE", width: change, words: (*Table).change},
		{title: "WHO", width: who, words: (*Table).who, fit: (*Table).fitWho},
	}
}

// wideColumns are those of a wide table: the same, and then whatever else is
// known, what varies most in length last.
var wideColumns = []column{
	{title: "TIME", width: 27, words: (*Table).fullTime},
	{title: "EVENT", width: 7, words: (*Table).event},
	{title: "TARGET", width: 50, words: (*Table).target},
	{title: "CHANGE", width: 30, words: (*Table).change},
	{title: "VIA", width: 7, words: (*Table).via},
	{title: "TID", width: 7, words: (*Table).tid},
	{title: "LOGIN", width: 8, words: (*Table).login},
	{title: "NS UID", width: 10, words: (*Table).nsUID},
	{title: "USER NS", width: 10, words: (*Table).userNS},
	{title: "WHO", width: 80, words: (*Table).who},
	{title: "CGROUP", width: 48, words: (*Table).cgroup},
	{title: "NAMESPACES", width: 124, words: (*Table).ownNS},
	{title: "ALERT", width: 5, words: (*Table).alert},
	{title: "EXE", width: 20, words: (*Table).exe},
	{title: "ARGS", width: 4, words: (*Table).args},
}

// folds says whether the row is for several events.
func (t *Table) folds() bool { return t.burst != nil && !t.member }

func (t *Table) timeOfDay(ev *event.Event) []word {
	if t.member {
		return []word{t.burst.offset(ev, t.columns[0].width)}
	}
	return []word{say(ev.Time.In(t.opts.Location).Format("15:04:05.000"), faint)}
}

func (t *Table) fullTime(ev *event.Event) []word {
	if t.member {
		return []word{t.burst.offset(ev, t.columns[0].width)}
	}
	return []word{say(ev.Time.In(t.opts.Location).Format("2006-01-02 15:04:05.000000"), faint)}
}

func (t *Table) event(ev *event.Event) []word {
	if t.folds() && len(t.burst.parts) > 1 {
		return []word{say("burst", strong)}
	}
	switch ev.Type {
	case event.NamespaceCreate:
		return []word{say("create", created)}
	case event.NamespaceEnter:
		return []word{say("enter", entered)}
	case event.NamespaceDestroy:
		return []word{say("destroy", destroyed)}
	case event.NamespacePin:
		return []word{say("pin", created)}
	case event.NamespaceUnpin:
		return []word{say("unpin", destroyed)}
	case event.SysctlWrite:
		return []word{say("sysctl", written)}
	case event.NetdevMove:
		return []word{say("netdev", moved)}
	case event.SysctlDrift:
		return []word{say("drift", doubtful)}
	case event.NamespaceAppeared:
		return []word{say("appear", doubtful)}
	case event.NamespaceGone:
		return []word{say("gone", doubtful)}
	case event.TraceLoss:
		return []word{say("!! LOST", alarm)}
	case event.TraceTamper:
		return []word{say("!! SELF", alarm)}
	case event.TraceGap:
		return []word{say("gap", doubtful)}
	}
	// A kind that this version has no row for is still better seen than not.
	family, _, _ := strings.Cut(string(ev.Type), ".")
	return []word{say(escapeName(family, ""), normal)}
}

// target is which namespace, parameter or device an event is about.
func (t *Table) target(ev *event.Event) []word {
	if t.folds() {
		return t.burst.target(t)
	}
	if l := ev.Loss; ev.Type == event.TraceLoss && l != nil {
		if len(l.Records) == 0 {
			return []word{say("EVENTS", alarm), add("NOT SHOWN", alarm), add("(unknown how many)", alarm)}
		}
		var n uint64
		for _, c := range l.Records {
			n += c
		}
		return []word{say(number(n), alarm), add(plural(n, "EVENT", "EVENTS"), alarm), add("NOT SHOWN", alarm)}
	}
	if tr := ev.Trace; ev.Type == event.TraceGap && tr != nil {
		return []word{say("not watched for", doubtful), say(duration(tr.To.Sub(tr.From)), doubtful)}
	}
	if ev.Type == event.TraceTamper {
		words := []word{say("nstrace", alarm)}
		if ev.Tamper != nil && ev.Tamper.Object != "" {
			words = append(words, say(escapeName(ev.Tamper.Object, ""), alarm))
		}
		return words
	}
	if s := ev.Sysctl; s != nil {
		name := escapeName(s.Name, "")
		words := []word{say(name, strong)}
		switch {
		case s.Namespace == nil && strings.HasPrefix(s.Name, "net."):
			// Every net.* parameter is some network namespace's.
			words = append(words, say("in net "+unknown, doubtful))
		case s.Namespace != nil && !t.isHost(s.Namespace):
			w := t.namespace(s.Namespace)
			w[0].text = "in " + w[0].text
			words = append(words, w...)
		}
		return words
	}
	if ev.Netdev != nil {
		return t.device(ev.Netdev)
	}
	if ev.Namespace != nil {
		return t.namespace(ev.Namespace)
	}
	if ev.Type == event.NamespaceEnter || ev.Type == event.NamespaceCreate {
		return []word{say(unknown, doubtful)}
	}
	return nil
}

// namespace is "net 4026532281 name" as far as it is known.
func (t *Table) namespace(ns *event.Namespace) []word {
	var id []string
	if ns.Type != "" {
		id = append(id, escapeName(string(ns.Type), ""))
	}
	if ns.ID != 0 {
		id = append(id, number(ns.ID))
	}
	if len(id) == 0 {
		id = append(id, unknown)
	}
	words := []word{say(strings.Join(id, " "), strong)}
	if ns.Name != "" {
		words = append(words, add(escapeName(ns.Name, `" ()`), normal))
	}
	if t.isHost(ns) {
		words = append(words, add("(host)", normal))
	}
	return words
}

func (t *Table) isHost(ns *event.Namespace) bool {
	return ns.Host || ns.ID != 0 && t.opts.HostNS[ns.Type] == ns.ID
}

// change is what happened: from what to what, and whether it did.
func (t *Table) change(ev *event.Event) []word {
	if t.folds() {
		return t.burst.change()
	}
	var words []word
	if ev.Outcome == event.Failure {
		words = append(words, say("FAILED", failed))
		if ev.Error != "" {
			words = append(words, add(escapeName(ev.Error, ""), failed))
		}
	}
	switch ev.Type {
	case event.NamespaceCreate:
		if !t.opts.Wide && ev.Via != "" {
			words = append(words, say(escapeName(ev.Via, ""), normal))
		}
		if ev.ChildPID != 0 {
			words = append(words, say("child "+number(ev.ChildPID), normal))
		}
	case event.NamespaceEnter:
		words = append(words, t.origin(ev)...)
	case event.NamespaceDestroy:
		words = append(words, lifetime(ev.Namespace)...)
	case event.NamespacePin, event.NamespaceUnpin:
		words = append(words, mounted(ev.Namespace)...)
	case event.SysctlWrite, event.SysctlDrift:
		words = append(words, t.values(ev)...)
		words = append(words, t.unwritten(ev)...)
	case event.TraceTamper:
		switch a := ev.Tamper; {
		case a == nil:
		case a.Signal != "":
			words = append(words, say(escapeName(a.Signal, ""), alarm))
		default:
			words = append(words, say(escapeName(a.Action, ""), alarm))
		}
	case event.NetdevMove:
		words = append(words, t.left(ev.Netdev)...)
	case event.TraceLoss:
		if ev.Loss != nil {
			words = append(words, say(escapeName(strings.ReplaceAll(ev.Loss.Reason, "_", " "), ""), alarm))
		}
	}
	if ev.Outcome == "" && (ev.Type == event.NamespaceCreate || ev.Type == event.NamespaceEnter || ev.Type == event.SysctlWrite) {
		words = append(words, say(unknown, doubtful))
	}
	if ev.Count > 1 {
		words = append(words, say("×"+number(ev.Count), strong))
		if d := ev.LastTime.Sub(ev.Time); !ev.LastTime.IsZero() && d > 0 {
			words = append(words, say("in "+duration(d), normal))
		}
	}
	return words
}

// device is "veth0 → eth0 to net 4026532116 web", or "in" for one that was made there.
func (t *Table) device(d *event.Netdev) []word {
	words := []word{say(escapeName(d.Name, arrow), strong)}
	if d.NewName != "" {
		words = append(words, add(arrow+" "+escapeName(d.NewName, arrow), strong))
	}
	to := "to "
	if d.Created {
		to = "in "
	}
	switch {
	case d.To == nil:
		return append(words, say(to+"net "+unknown, doubtful))
	case t.isHost(d.To):
		return append(words, say(to+"host", strong))
	}
	w := t.namespace(d.To)
	w[0].text = to + w[0].text
	return append(words, w...)
}

// left is where a device came from, or who asked for it.
func (t *Table) left(d *event.Netdev) []word {
	if d == nil {
		return nil
	}
	var words []word
	from := "from "
	if d.Created {
		from = "made from "
	}
	switch {
	case d.From == nil || d.From.ID == 0:
		return append(words, say(from+unknown, doubtful))
	case t.isHost(d.From):
		return append(words, say(from+"host", normal))
	}
	words = append(words, say(from+number(d.From.ID), normal))
	if d.From.Name != "" {
		words = append(words, add(escapeName(d.From.Name, `" ()`), normal))
	}
	return words
}

// origin is where somebody who entered a namespace came from.
func (t *Table) origin(ev *event.Event) []word {
	ns := ev.Namespace
	switch {
	case ns == nil || ns.From == 0:
		return nil
	case ns.From == ns.ID:
		return []word{say("was in it", normal)}
	case t.opts.HostNS[ns.Type] == ns.From:
		return []word{say("from host", normal)}
	}
	return []word{say("from "+number(ns.From), normal)}
}

func lifetime(ns *event.Namespace) []word {
	if ns == nil {
		return nil
	}
	var words []word
	if ns.LifetimeMS != nil {
		words = append(words, say("lived "+duration(time.Duration(*ns.LifetimeMS)*time.Millisecond), normal))
	}
	if ns.Detected == "scan" {
		words = append(words, say("(seen later)", doubtful))
	}
	return words
}

// mounted is where a namespace is or was kept.
func mounted(ns *event.Namespace) []word {
	if ns == nil {
		return nil
	}
	var words []word
	if ns.Path != "" {
		words = append(words, say(escapeName(ns.Path, ""), normal))
	}
	if ns.Detected == "scan" {
		words = append(words, say("(seen later)", doubtful))
	}
	return words
}

// values is "7200 → 600", with "(now 32767)" behind it where the parameter
// then holds something else than what was written.
func (t *Table) values(ev *event.Event) []word {
	s := ev.Sysctl
	if s == nil {
		return nil
	}
	to := s.New
	if to == nil {
		to = s.After
	}
	var words []word
	if s.Old == nil && to == nil {
		if ev.Outcome != event.Failure {
			words = append(words, say(arrow+" "+unknown, doubtful))
		}
		return t.valueNotes(s, words)
	}

	st := normal
	if s.Old != nil && to != nil && sameValue(*s.Old, *to) {
		st = faint // written, but nothing changed
	}
	switch {
	case s.Old != nil:
		words = append(words, t.value(*s.Old, "", st)...)
	case ev.Outcome != event.Failure:
		words = append(words, say(unknown, doubtful))
	}
	if to == nil {
		words = append(words, say(arrow+" "+unknown, doubtful))
	} else {
		words = append(words, t.value(*to, arrow+" ", st)...)
	}

	if s.After != nil && !sameValue(*s.After, *to) {
		switch {
		case s.Old == nil || !sameValue(*s.After, *s.Old):
			words = append(words, t.value(*s.After, "(now ", doubtful)...)
			words[len(words)-1].text += ")"
		case ev.Outcome != event.Failure:
			words = append(words, t.value(*s.After, "(still ", doubtful)...)
			words[len(words)-1].text += ")"
		}
	}
	return t.valueNotes(s, words)
}

// unwritten says how a parameter changed that nobody wrote to.
func (t *Table) unwritten(ev *event.Event) []word {
	switch ev.Via {
	case "cascade":
		name := unknown
		if s := ev.Sysctl; s != nil && s.Cause != nil && s.Cause.Name != "" {
			name = escapeName(s.Cause.Name, "")
		}
		return []word{say("cascade of", normal), say(name, normal)}
	case "netlink", "device":
		if !t.opts.Wide { // which has a column for it
			return []word{say("via "+ev.Via, normal)}
		}
	}
	return nil
}

func (t *Table) valueNotes(s *event.Sysctl, words []word) []word {
	if s.Truncated {
		words = append(words, say("(cut short)", doubtful))
	}
	return words
}

// value is the words of a value, the first of them behind a prefix.
func (t *Table) value(v, prefix string, st style) []word {
	v = escapeValue(v)
	if !t.opts.Wide {
		v = shorten(v, maxValueLines*t.columns[changeColumn].width)
	}
	var words []word
	for i, text := range strings.Fields(v) {
		if i == 0 {
			words = append(words, say(prefix+text, st))
		} else {
			words = append(words, add(text, st))
		}
	}
	return words
}

// changeColumn is the index of that column in both kinds of table.
const changeColumn = 3

// sameValue compares values as the kernel reads them: it separates the numbers
// of a list by tabs where people write spaces.
func sameValue(a, b string) bool {
	return a == b || slices.Equal(strings.Fields(a), strings.Fields(b))
}

// who is who did it and who was behind that, farthest first:
// "sshd > bash > sudo > sysctl[4712] alice as root".
func (t *Table) who(ev *event.Event) []word {
	if l := ev.Loss; ev.Type == event.TraceLoss && l != nil {
		return t.lost(l)
	}
	if tr := ev.Trace; ev.Type == event.TraceGap && tr != nil {
		return t.gap(tr)
	}
	if ns := ev.Namespace; ev.Type == event.NamespaceDestroy && ns != nil && ns.Creator != nil {
		// The kernel frees a namespace when it gets to it: nobody did that.
		return []word{say("made by", faint), say(actor(ns.Creator.Comm, ns.Creator.PID), normal)}
	}
	if ev.Type == event.NetdevMove && ev.Via == "exit" {
		// A worker of the kernel takes it out of a namespace that ends.
		return []word{say("its namespace ended", faint)}
	}
	if ns := ev.Namespace; ev.Type == event.NamespaceUnpin && ev.Process == nil && ns != nil && ns.Detected == "" {
		return []word{say("nobody: it went with the mounts around it", faint)}
	}
	if ev.Between != nil {
		return t.between(ev.Between)
	}
	if ev.Process == nil {
		return nil
	}
	return append(t.ancestors(ev.Process), self(ev)...)
}

// between is when it happened that nobody watched.
func (t *Table) between(b *event.Between) []word {
	const layout = "2006-01-02 15:04:05"
	from, to := b.From.In(t.opts.Location).Format(layout), b.To.In(t.opts.Location).Format(layout)
	if from[:len(time.DateOnly)] == to[:len(time.DateOnly)] {
		to = to[len("2006-01-02 "):]
	}
	words := []word{say("not watched", doubtful), say("between "+from, normal), say("and "+to, normal)}
	if b.Boot == "different" {
		words = append(words, say("(booted since)", doubtful))
	}
	return words
}

// gap is since when nobody watched, and why.
func (t *Table) gap(tr *event.Trace) []word {
	words := []word{say("since "+tr.From.In(t.opts.Location).Format(time.DateTime), normal)}
	switch tr.Ended {
	case event.GapStopped:
		words = append(words, say("nstrace was stopped", normal))
	case event.GapCrashed:
		words = append(words, say("nstrace was killed", normal))
	}
	if tr.SameBoot != nil && !*tr.SameBoot {
		words = append(words, say("the host was booted", normal))
	}
	return words
}

// fitWho makes who fit into so many lines by leaving out ancestors from the
// middle: the farthest says where it came from (sshd, cron, a container's
// shim), the nearest what did it. The process and its user always stay,
// whatever lines that takes, and there is always one line for the chain: that a
// row is a little taller costs less than not to know who was behind it.
func (t *Table) fitWho(ev *event.Event, width, lines int) [][]word {
	all := wrap(t.who(ev), width)
	if ev.Process == nil {
		return all
	}
	ancestors, self := t.ancestors(ev.Process), self(ev)
	lines = max(lines, 1+len(wrap(self, width)))
	if len(all) <= lines {
		return all
	}
	for drop := 1; drop <= len(ancestors); drop++ {
		var words []word
		if drop < len(ancestors) {
			words = append(words, say(strings.TrimSuffix(ancestors[0].text, next), faint))
		}
		words = append(words, say(ellipsis, faint))
		words = append(words, ancestors[min(1+drop, len(ancestors)):]...)
		if laid := wrap(append(words, self...), width); len(laid) <= lines {
			return laid
		}
	}
	return wrap(self, width)
}

// next stands between the links of a chain.
const next = " >"

// ancestors is the chain behind a process, farthest first. What says nothing
// is left out unless the table is wide: pid 1, which is behind everything, and
// repetitions (sshd forks sshd, a shell forks a subshell).
func (t *Table) ancestors(p *event.Process) []word {
	var words []word
	for i, a := range slices.Backward(p.Ancestors) {
		if t.opts.Wide {
			words = append(words, say(actor(a.Comm, a.PID)+next, faint))
			continue
		}
		child := p.Comm
		if i > 0 {
			child = p.Ancestors[i-1].Comm
		}
		if a.Comm == child || a.PID == 1 && len(p.Ancestors) > 1 {
			continue
		}
		words = append(words, say(escapeComm(a.Comm)+next, faint))
	}
	return words
}

// self is the process and whose it is.
func self(ev *event.Event) []word {
	words := append([]word{say(actor(ev.Process.Comm, ev.Process.PID), strong)}, user(ev.Process)...)
	if in := contained(ev); in != "" {
		words = append(words, say("in", normal), add(escapeName(in, `" ()`), strong))
	}
	return words
}

// shortID is how much of a container's id docker ps shows.
const shortID = 12

// contained is the pod or container that the process is in, as briefly as people call it.
func contained(ev *event.Event) string {
	switch p, c := ev.Pod, ev.Container; {
	case p != nil && p.Name != "" && c != nil && c.Name != "":
		return p.Namespace + "/" + p.Name + "/" + c.Name
	case p != nil && p.Name != "":
		return p.Namespace + "/" + p.Name
	case c != nil && c.Name != "":
		return c.Name
	case c != nil && len(c.ID) == 64:
		return c.ID[:shortID]
	case c != nil:
		return c.ID
	}
	return ""
}

// lost is what was lost and when.
func (t *Table) lost(l *event.Loss) []word {
	kinds := make([]event.Type, 0, len(l.Records))
	for k := range l.Records {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	var words []word
	for i, k := range kinds {
		text := number(l.Records[k]) + " " + escapeName(string(k), "")
		if i < len(kinds)-1 {
			text += ","
		}
		words = append(words, say(text, alarm))
	}
	clock := func(tm time.Time) string { return tm.In(t.opts.Location).Format("15:04:05.000") }
	if !l.From.IsZero() && !l.To.IsZero() {
		words = append(words, say(clock(l.From), alarm), add("to", alarm), add(clock(l.To), alarm))
	}
	return words
}

func actor(comm string, pid uint32) string { return escapeComm(comm) + "[" + number(pid) + "]" }

// user says as whom a process acted, and who logged in before becoming that.
// Nothing means root, and no login of anybody else behind it.
func user(p *event.Process) []word {
	as := userName(p.User, &p.UID)
	login := userName(p.LoginUser, p.LoginUID)
	switch {
	case login != "" && login != as && !(p.LoginUID != nil && *p.LoginUID == p.UID):
		return []word{say(login+" as "+as, normal)}
	case p.UID == 0:
		return nil
	}
	return []word{say(as, normal)}
}

// userName is a user's name, or uid=N where it is not known.
func userName(name string, uid *uint32) string {
	switch {
	case name != "":
		return escapeName(name, `" >[`)
	case uid == nil:
		return ""
	case *uid == 0:
		return "root"
	}
	return "uid=" + number(*uid)
}

func (t *Table) via(ev *event.Event) []word { return text(escape(ev.Via)) }

func (t *Table) tid(ev *event.Event) []word {
	if ev.Process == nil || ev.Process.TID == 0 {
		return nil
	}
	return text(number(ev.Process.TID))
}

func (t *Table) login(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return text(userName(ev.Process.LoginUser, ev.Process.LoginUID))
}

// subject is the namespace that an event is about: itself, its parameter's, or where its
// device went.
func subject(ev *event.Event) *event.Namespace {
	switch {
	case ev.Namespace != nil:
		return ev.Namespace
	case ev.Sysctl != nil && ev.Sysctl.Namespace != nil:
		return ev.Sysctl.Namespace
	case ev.Netdev != nil && ev.Netdev.To != nil:
		return ev.Netdev.To
	}
	return &event.Namespace{}
}

func (t *Table) nsUID(ev *event.Event) []word { return text(escape(subject(ev).UID)) }

func (t *Table) userNS(ev *event.Event) []word {
	if id := subject(ev).UserNS; id != 0 {
		return text(number(id))
	}
	return nil
}

func (t *Table) cgroup(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return text(escape(ev.Process.Cgroup))
}

// ownNS is the namespaces that the process was in, sorted by type.
func (t *Table) ownNS(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	var all []string
	for kind, id := range ev.Process.NS {
		all = append(all, escape(string(kind))+":"+number(id))
	}
	slices.Sort(all)
	return text(strings.Join(all, ","))
}

func (t *Table) exe(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return text(escape(ev.Process.Exe))
}

func (t *Table) args(ev *event.Event) []word {
	if ev.Process == nil {
		return nil
	}
	return text(escapeArgs(ev.Process.Args))
}

// alert is the rules that an event met, for a wide table.
func (t *Table) alert(ev *event.Event) []word {
	var words []word
	for i := range ev.Alert {
		words = append(words, alertWords(&ev.Alert[i])...)
	}
	return words
}

// critical says whether an event met a rule that is.
func critical(ev *event.Event) bool {
	return slices.ContainsFunc(ev.Alert, func(a event.Alert) bool { return a.Severity == "critical" })
}

// alertWords is "!! critical core-pattern: sh set ...".
func alertWords(a *event.Alert) []word {
	mark, st := "!", normal
	switch a.Severity {
	case "critical":
		mark, st = "!!", alarm
	case "warning":
		st = doubtful
	}
	name := escapeName(a.Name, `":`)
	if a.Message != "" {
		name += ":"
	}
	words := []word{say(mark, st), add(escapeName(a.Severity, ""), st), add(name, st)}
	for text := range strings.FieldsSeq(escape(a.Message)) {
		words = append(words, say(text, st))
	}
	return words
}

// text is a cell of one word, or none.
func text(s string) []word {
	if s == "" {
		return nil
	}
	return []word{say(s, normal)}
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// duration shows two significant units at most: "820ms", "3.2s", "4m12s",
// "2h03m", "9d4h".
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
