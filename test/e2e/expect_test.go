// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// brief returns one line about an event, for comparisons that people can read: "create net unshare:
// success", "enter uts setns: EPERM", "write kernel.domainname a -> b = b: success", "destroy net".
func (e *emitted) brief() string {
	var sb strings.Builder
	_, what, _ := strings.Cut(string(e.Type), ".")
	sb.WriteString(what)
	word := func(s string) {
		sb.WriteByte(' ')
		sb.WriteString(s)
	}
	text := func(mark string, s *string) {
		if s != nil {
			word(mark + fmt.Sprintf("%q", *s))
		}
	}
	if e.Namespace != nil && e.Namespace.Type != "" {
		word(string(e.Namespace.Type))
	}
	if s := e.Sysctl; s != nil {
		word(s.Name)
		text("", s.Old)
		text("-> ", s.New)
		if e.Outcome != "" || !s.AfterRead { // otherwise TestEveryParameter checks it
			text("= ", s.After)
		}
	}
	if e.Process != nil {
		if e.Sysctl == nil {
			word(e.Via)
		}
		switch e.Outcome {
		case event.Failure:
			sb.WriteString(": " + e.Error)
		case event.Success:
			sb.WriteString(": success")
		}
	}
	return sb.String()
}

func briefs(events []*emitted) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.brief())
	}
	return all
}

// same checks that the events are the wanted ones. The namespaces of one call come in any order, so
// same ignores the order. Other tests check the order.
func same(t *testing.T, events []*emitted, want ...string) {
	t.Helper()
	got := briefs(events)
	for i, e := range events {
		// Whether there is time to read a value is not certain.
		if e.Sysctl != nil && e.Sysctl.AfterRead && !slices.Contains(want, got[i]) {
			got[i] = strings.Replace(got[i], fmt.Sprintf(" = %q", *e.Sysctl.After), "", 1)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// creates returns the briefs of one call that made, or failed to make, namespaces.
func creates(via, result string, types ...event.NSType) []string {
	var all []string
	for _, typ := range types {
		all = append(all, fmt.Sprintf("create %s %s: %s", typ, via, result))
	}
	return all
}

func enters(result string, types ...event.NSType) []string {
	var all []string
	for _, typ := range types {
		all = append(all, fmt.Sprintf("enter %s setns: %s", typ, result))
	}
	return all
}

// A write is the expected write to a parameter. after is "-" if it is unknown, and empty if it
// equals new.
type write struct{ name, old, new, after, err string }

// on returns the write's brief for s. With only cgroup/sysctl hooked, s cannot know the result.
func (w write) on(s *stream) string {
	text := fmt.Sprintf("write %s %q -> %q", w.name, w.old, w.new)
	if s.backend == tracer.Tracepoint {
		return text
	}
	switch w.after {
	case "-":
	case "":
		text += fmt.Sprintf(" = %q", w.new)
	default:
		text += fmt.Sprintf(" = %q", w.after)
	}
	if w.err != "" {
		return text + ": " + w.err
	}
	return text + ": success"
}

// only returns the events of one type.
func only(events []*emitted, typ event.Type) []*emitted {
	var some []*emitted
	for _, e := range events {
		if e.Type == typ {
			some = append(some, e)
		}
	}
	return some
}

// ids returns the id of each namespace that events are about, by type.
func ids(events []*emitted) map[event.NSType]uint32 {
	m := map[event.NSType]uint32{}
	for _, e := range events {
		if e.Namespace != nil {
			m[e.Namespace.Type] = e.Namespace.ID
		}
	}
	return m
}

// checkEvent checks what holds for every event of a process.
func (h *host) checkEvent(t *testing.T, e *emitted) {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s\n%s", fmt.Sprintf(format, args...), e.line)
	}
	if e.Host != h.name || e.BootID != h.bootID {
		wrong("host %q, boot %q; it is %q, %q", e.Host, e.BootID, h.name, h.bootID)
	}
	// The clock can be set in between.
	if e.Time.Before(h.started.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
		wrong("it happened at %v, between %v and now", e.Time, h.started)
	}
	p := e.Process
	if p.PID == 0 || p.TID == 0 || p.PPID == 0 || p.Comm == "" || p.Exe == "" || len(p.Args) == 0 || p.Cgroup == "" {
		wrong("the process is not fully described")
	}
	if p.StartTime.IsZero() || p.StartTime.After(e.Time.Add(10*time.Millisecond)) {
		wrong("the process began at %v, the event was at %v", p.StartTime, e.Time)
	}
	if len(p.NS) != len(event.NSTypes()) {
		wrong("the process's namespaces are %v", p.NS)
	}
	if len(p.Ancestors) == 0 || p.Ancestors[0].PID != p.PPID || p.Ancestors[len(p.Ancestors)-1].PID != 1 {
		wrong("the ancestors of a child of %d are %v", p.PPID, p.Ancestors)
	}
	about := []*event.Namespace{e.Namespace}
	if d := e.Netdev; d != nil {
		about = []*event.Namespace{d.From, d.To}
		if e.Sysctl != nil {
			if d.Name == "" || d.Kind == "" || d.Ifindex == 0 || (d.From == nil) != (d.To == nil) {
				wrong("the device of the parameters is not fully described")
			}
		} else if d.From == nil || d.To == nil || d.Ifindex == 0 && !(d.Created && e.Outcome == event.Failure) {
			wrong("the device is not fully described")
		}
	}
	if e.Sysctl != nil {
		about[0] = e.Sysctl.Namespace
		if path := "/proc/sys/" + sysctlPath(e.Sysctl.Name); e.Sysctl.Path != path {
			wrong("path %s, want %s", e.Sysctl.Path, path)
		}
	}
	for _, ns := range about {
		if ns == nil || ns.ID == 0 {
			continue
		}
		if ns.Host != (ns.ID == h.ns[ns.Type]) {
			wrong("host %v, and the host's %s namespace is %d", ns.Host, ns.Type, h.ns[ns.Type])
		}
		if ns.UID == "" {
			wrong("the namespace has no uid")
		}
		if ns.UserNS == 0 && !(ns.Type == event.NSTypeUser && ns.Host) {
			wrong("no user namespace owns it")
		}
	}
}

// sysctlPath returns the file that sysctl(8) writes for a name. If the first separator is a dot,
// dots and slashes change places.
func sysctlPath(name string) string {
	return strings.NewReplacer(".", "/", "/", ".").Replace(name)
}

// ends waits until s has reported the end of each namespace that events made, and checks these
// reports.
func (w *work) ends(t *testing.T, s *stream, events []*emitted) {
	t.Helper()
	for _, e := range events {
		if e.Type == event.NamespaceCreate && e.Outcome == event.Success {
			if d := s.awaitDestroy(t, w.from[s], e.Namespace); d != nil {
				checkDestroy(t, s, e, d)
			}
		}
	}
}

// awaitDestroy waits for the end of a namespace. It returns nil if the stream lacks it. Then the
// end of the stream must report it as missed.
func (s *stream) awaitDestroy(t *testing.T, from int, ns *event.Namespace) *emitted {
	t.Helper()
	var found *emitted
	there := func(events []*emitted) bool {
		found = destroyOf(events, ns)
		return found != nil
	}
	what := fmt.Sprintf("destroy of %s %d", ns.Type, ns.ID)
	// The tracepoint backend scans once a second.
	if s.backend != tracer.Tracepoint && !s.comes(from, patience/3, there) && !s.over() {
		s.mu.Lock()
		s.missing[event.NamespaceDestroy]++
		s.mu.Unlock()
		t.Logf("%v: no %s: trace.loss must report it", s, what)
		return nil
	}
	s.awaitFrom(t, from, what, there)
	return found
}

// destroyOf returns the end of a namespace, nil if there is none. The kernel reuses numbers, but
// not uids.
func destroyOf(events []*emitted, ns *event.Namespace) *emitted {
	for _, e := range events {
		if e.Type == event.NamespaceDestroy && e.Namespace.ID == ns.ID && e.Namespace.UID == ns.UID {
			return e
		}
	}
	return nil
}

// checkDestroy checks the end of the namespace that created made.
func checkDestroy(t *testing.T, s *stream, created, d *emitted) {
	t.Helper()
	wrong := func(what string) {
		t.Helper()
		t.Errorf("%s of the end\n%sof the namespace made by\n%s", what, d.line, created.line)
	}
	c, ns := created.Namespace, d.Namespace
	if ns.Type != c.Type || ns.UserNS != c.UserNS {
		wrong("type or user namespace")
	}
	if ns.Creator == nil || ns.Creator.PID != created.Process.PID || ns.Creator.Comm != created.Process.Comm {
		wrong("creator")
	}
	if !ns.Created.Equal(created.Time) {
		wrong("time of creation")
	}
	life := d.Time.Sub(created.Time)
	if ns.LifetimeMS == nil || *ns.LifetimeMS < 0 ||
		(time.Duration(*ns.LifetimeMS)*time.Millisecond-life).Abs() > 50*time.Millisecond {
		wrong("lifetime")
	}
	if d.Seq < created.Seq {
		wrong("order")
	}
	want := ""
	if s.backend == tracer.Tracepoint {
		want = "scan"
	}
	s.mu.Lock()
	s.ends[string(d.line)] = ns.Detected == "scan"
	s.mu.Unlock()
	if ns.Detected == "scan" && want == "" {
		t.Logf("%v: the kernel skipped the hook, and a scan found the end: %s", s, d.line)
		return // nothing is lost; checkMissed counts
	}
	if ns.Detected != want {
		wrong("detected")
	}
}

// compare checks that fentry and kprobe reported the same about w, field by field.
func (w *work) compare(t *testing.T) {
	t.Helper()
	by := map[*stream][]*emitted{}
	for _, s := range w.host.streams {
		if !s.inner {
			by[s] = w.all(s)
		}
	}
	compareStreams(t, by)
}

// compareStreams compares what two nstraces report about the same processes. The events of each
// thread are in order. Events of different threads can be in another order, because the two hooks
// run at different instants within a call.
func compareStreams(t *testing.T, by map[*stream][]*emitted) {
	t.Helper()
	var fentry, kprobe *stream
	for s := range by {
		switch s.backend {
		case tracer.Fentry:
			fentry = s
		case tracer.Kprobe:
			kprobe = s
		}
	}
	if fentry == nil || kprobe == nil {
		return
	}
	a, b := byThread(by[fentry]), byThread(by[kprobe])
	keys := slices.Sorted(maps.Keys(a))
	for key := range b {
		if _, ok := a[key]; !ok {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		lackA, lackB := fentry.lacking(a[key], b[key]), kprobe.lacking(b[key], a[key])
		if len(lackA)+len(lackB) > 0 {
			fentry.excuse(t, lackA...)
			kprobe.excuse(t, lackB...)
			continue
		}
		for i := range max(len(a[key]), len(b[key])) {
			if i >= len(a[key]) || i >= len(b[key]) {
				t.Errorf("%s: fentry has %d events and kprobe %d:\n%s--\n%s", key, len(a[key]), len(b[key]), dump(a[key]), dump(b[key]))
				break
			}
			x, y := comparable(t, a[key][i]), comparable(t, b[key][i])
			if canMiss(event.SysctlWrite) { // one of them can have missed the write that set a limit
				dropSetters(x)
				dropSetters(y)
			}
			if !reflect.DeepEqual(x, y) {
				t.Errorf("fentry and kprobe differ:\n%s%s", a[key][i].line, b[key][i].line)
			}
		}
	}
}

// dropSetters removes from an event who set the limits that it names.
func dropSetters(e map[string]any) {
	refusals, _ := e["refusal"].([]any)
	for _, r := range refusals {
		delete(r.(map[string]any), "set_by")
	}
}

// byThread returns the events that fentry and kprobe have in common, by thread.
func byThread(events []*emitted) map[string][]*emitted {
	m := map[string][]*emitted{}
	for _, e := range events {
		if e.Process != nil && e.Process.Comm != proofThread {
			key := fmt.Sprintf("thread %d of %d", e.Process.TID, e.Process.PID)
			m[key] = append(m[key], e)
		}
	}
	return m
}

// comparable returns the part of an event that two nstraces must agree on: everything except their
// own numbers and the instants at which they looked. Where the kernel has no id for a namespace,
// its uid depends on such an instant. So does the name that ip-netns(8) had given it by then.
func comparable(t *testing.T, e *emitted) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(e.line, &m); err != nil {
		t.Fatal(err)
	}
	var strip func(m map[string]any)
	strip = func(m map[string]any) {
		for _, name := range []string{"run_id", "seq", "time", "created", "lifetime_ms", "start_time", "late"} {
			delete(m, name)
		}
		if uid, ok := m["uid"].(string); ok {
			m["uid"], _, _ = strings.Cut(uid, ".")
		}
		for _, v := range m {
			switch v := v.(type) {
			case map[string]any:
				strip(v)
			case []any:
				for _, v := range v {
					if v, ok := v.(map[string]any); ok {
						strip(v)
					}
				}
			}
		}
	}
	strip(m)
	if s, ok := m["sysctl"].(map[string]any); ok { // one can have had time to read it
		delete(s, "after")
		delete(s, "after_read")
	}
	if ns, ok := m["namespace"].(map[string]any); ok && e.Type == event.NamespaceCreate {
		delete(ns, "name")
	}
	return m
}
