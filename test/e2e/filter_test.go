// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// TestFilter runs one nstrace without a filter, and beside it one for each filter:
// what the latter has is what the former has and the filter lets through.
func TestFilter(t *testing.T) {
	h := watch(t, backends[0])
	all := h.streams[0]
	sitter := h.start(t, "unshare", []string{"--net", "sh", "-c", `echo ready=yes; read x; echo 613 >/proc/sys/net/ipv4/tcp_keepalive_time; echo done=yes; cat`})
	sitter.value(t, "ready")

	types := func(types ...event.Type) func(*emitted) bool {
		return func(e *emitted) bool { return slices.Contains(types, e.Type) }
	}
	// The end of a namespace is its creator's, whom only its making shows in full.
	creators := map[string]*event.Process{}
	by := func(ok func(*event.Process) bool) func(*emitted) bool {
		return func(e *emitted) bool {
			p := e.Process
			if p == nil {
				p = creators[e.Namespace.UID]
			}
			return p != nil && ok(p)
		}
	}
	nsType := func(types ...event.NSType) func(*emitted) bool {
		return func(e *emitted) bool {
			ns := e.Namespace
			if e.Sysctl != nil {
				ns = e.Sysctl.Namespace
			}
			return ns != nil && slices.Contains(types, ns.Type)
		}
	}
	sysctl := func(glob string) func(*emitted) bool {
		return func(e *emitted) bool {
			if e.Sysctl == nil {
				return false
			}
			ok, err := path.Match(glob, e.Sysctl.Name)
			return ok && err == nil
		}
	}
	both := func(a, b func(*emitted) bool) func(*emitted) bool {
		return func(e *emitted) bool { return a(e) && b(e) }
	}
	comm := func(names ...string) func(*emitted) bool {
		return by(func(p *event.Process) bool { return slices.Contains(names, p.Comm) })
	}
	uid := func(uid uint32) func(*emitted) bool {
		return by(func(p *event.Process) bool { return p.UID == uid })
	}
	failed := func(e *emitted) bool { return e.Outcome == event.Failure }
	type row struct {
		args []string
		pass func(*emitted) bool
		s    *stream
	}
	rows := []row{
		{args: []string{"-e", "namespace"}, pass: types(event.NamespaceCreate, event.NamespaceEnter, event.NamespaceDestroy, event.NamespacePin, event.NamespaceUnpin)},
		{args: []string{"-e", "namespace.enter,sysctl.write"}, pass: types(event.NamespaceEnter, event.SysctlWrite)},
		{args: []string{"-e", "namespace.destroy"}, pass: types(event.NamespaceDestroy)},
		{args: []string{"-e", "sysctl", "--sysctl", "net.ipv4.*time"}, pass: both(types(event.SysctlWrite), sysctl("net.ipv4.*time"))},
		{args: []string{"--sysctl", "kernel.domain*"}, pass: sysctl("kernel.domain*")},
		{args: []string{"-t", "net,uts"}, pass: nsType("net", "uts")},
		{args: []string{"-t", "user"}, pass: nsType("user")},
		{args: []string{"-p", strconv.Itoa(sitter.pid)}, pass: by(func(p *event.Process) bool { return int(p.PID) == sitter.pid })},
		{args: []string{"-c", "nsclone", "-c", "sysctl"}, pass: comm("nsclone", "sysctl")},
		{args: []string{"-u", "1000"}, pass: uid(tester)},
		{args: []string{"-u", "root"}, pass: uid(0)},
		{args: []string{"--failed"}, pass: failed},
		{args: []string{"--failed", "-c", "unshare", "-t", "ipc"}, pass: both(both(failed, comm("unshare")), nsType("ipc"))},
	}
	if testing.Short() { // the host tests the others
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.args[len(r.args)-1] != "net,uts" })
	}
	pinned := filepath.Join(scratch, "filtered")
	if all.backend != tracer.Tracepoint { // which does not say whose pins are
		for _, typ := range []event.Type{event.NamespacePin, event.NamespaceUnpin} {
			rows = append(rows, row{args: []string{"-e", string(typ)}, pass: types(typ)})
		}
	}
	for i := range rows {
		rows[i].s = startStream(t, append([]string{"--backend", string(all.backend)}, rows[i].args...)...)
		// A few at a time: attaching is work.
		if i >= 3 {
			rows[i-3].s.awaitStart(t)
		}
	}
	var brief, count *stream
	if !testing.Short() {
		brief, count = startStream(t, "--duration", "1500ms"), startStream(t, "-n", "3")
	}
	for _, r := range rows[max(0, len(rows)-3):] {
		r.s.awaitStart(t)
	}
	for _, s := range []*stream{brief, count} {
		if s != nil {
			s.awaitStart(t)
		}
	}

	works := []*work{
		h.run(t, "unshare", []string{"--net", "sysctl", "-w", "net.ipv4.tcp_keepalive_time=614"}),
		h.run(t, "unshare", []string{"--uts", "sh", "-c", "echo filtered >/proc/sys/kernel/domainname"}),
		h.run(t, helper("nsclone"), []string{"clone", "uts"}),
		h.run(t, "unshare", []string{"--user", "--ipc", "true"}, asUser(tester)),
		h.try(t, "unshare", []string{"--ipc", "--net", "true"}, asUser(tester)),
		h.run(t, helper("nsset"), []string{"file", "/proc/self/ns/net", "net"}),
		h.run(t, helper("nsset"), []string{"fd", "99", "ipc"}),
		h.run(t, "unshare", []string{"--net", "sh", "-c", "echo never >/proc/sys/net/ipv4/tcp_keepalive_time || :"}),
	}
	if all.backend != tracer.Tracepoint {
		works = append(works,
			h.sh(t, fmt.Sprintf("touch %[1]s; %[2]s bind /proc/self/ns/uts %[1]s; %[2]s umount %[1]s", pinned, helper("nsmount"))),
			h.run(t, helper("nsmount"), []string{"bind", "/proc/self/ns/mnt", pinned}))
	}
	if _, err := fmt.Fprintln(sitter.stdin, "go"); err != nil {
		t.Fatal(err)
	}
	sitter.value(t, "done")
	sitter.stop(t)
	works = append(works, sitter)

	// What these did, from when all the others were attached on.
	var mine []*emitted
	from := works[0].from[all]
	for _, w := range works {
		w.ends(t, all, w.all(all))
	}
	for _, e := range only(all.since(from), event.NamespaceCreate) {
		if e.Outcome == event.Success && slices.ContainsFunc(works, func(w *work) bool { return e.of(w.pid) }) {
			creators[e.Namespace.UID] = e.Process
		}
	}
	uids := map[string]bool{} // of the namespaces
	for _, e := range all.since(from) {
		if slices.ContainsFunc(works, func(w *work) bool { return e.of(w.pid) }) {
			mine = append(mine, e)
		} else if e.Type == event.NamespaceDestroy && creators[e.Namespace.UID] != nil {
			mine = append(mine, e)
		}
	}
	for uid := range creators {
		uids[strings.SplitN(uid, ".", 2)[0]] = true
	}
	for _, r := range rows {
		t.Run(strings.Join(r.args, " "), func(t *testing.T) {
			r.s.interrupt(t)
			var want []*emitted
			for _, e := range mine {
				if r.pass(e) {
					want = append(want, e)
				}
			}
			if len(want) == 0 || len(want) == len(mine) {
				t.Fatalf("%d of %d events are to pass: that tests nothing", len(want), len(mine))
			}
			var got []*emitted
			for _, e := range r.s.since(0) {
				if slices.ContainsFunc(works, func(w *work) bool { return e.of(w.pid) }) ||
					(e.Type == event.NamespaceDestroy && uids[strings.SplitN(e.Namespace.UID, ".", 2)[0]]) {
					got = append(got, e)
				}
			}
			lack, unfiltered := r.s.lacking(got, want), all.lacking(want, got)
			r.s.excuse(t, lack...)
			all.excuse(t, unfiltered...)
			r.s.checkEnd(t, true)
			if len(lack)+len(unfiltered) > 0 {
				return
			}
			slices.SortStableFunc(want, order)
			slices.SortStableFunc(got, order)
			if !slices.EqualFunc(got, want, func(a, b *emitted) bool {
				return reflect.DeepEqual(comparable(t, a), comparable(t, b))
			}) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(briefs(got), "\n\t"), strings.Join(briefs(want), "\n\t"))
			}
			for _, e := range r.s.since(0) {
				if (e.Process != nil || e.Namespace != nil) && e.Type != event.TraceStop && !r.pass(e) && (e.Process != nil || creators[e.Namespace.UID] != nil) {
					t.Errorf("it passed: %s", e.line)
				}
			}
		})
	}
	t.Run("-n 3", func(t *testing.T) {
		anyKernel(t)
		count.awaitEnd(t) // by itself
		if sum := count.checkEnd(t, true); sum.Written != 3 {
			t.Errorf("%d events", sum.Written)
		}
	})
	t.Run("--duration", func(t *testing.T) {
		anyKernel(t)
		brief.awaitEnd(t)
		sum := brief.checkEnd(t, true)
		if d := time.Duration(sum.DurationMS) * time.Millisecond; d < 1500*time.Millisecond || d > patience {
			t.Errorf("it took %v", d)
		}
	})
	h.close(t)
}

// order puts the ends of namespaces, which come when they come, behind the rest.
func order(a, b *emitted) int {
	key := func(e *emitted) string {
		if e.Type == event.NamespaceDestroy {
			return fmt.Sprint("destroy ", e.Namespace.ID)
		}
		return ""
	}
	return strings.Compare(key(a), key(b))
}
