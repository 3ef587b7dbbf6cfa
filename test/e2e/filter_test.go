// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
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

// A filterRow is a command line's filter, and the events of the works of TestFilter that it lets
// through: "WORK EVENT TARGET". EVENT is the type without its family. See TestFilter for the works.
type filterRow struct {
	args string
	want []string
	s    *stream
}

// filterRows are the rows of TestFilter. %d stands for the pid of the work wait.
var filterRows = []filterRow{
	{args: "-e namespace", want: []string{
		"net create net", "net destroy net", "uts create uts", "uts destroy uts", "clone create uts", "clone destroy uts",
		"user create user", "user create ipc", "user destroy ipc", "user destroy user", "refused create ipc", "refused create net",
		"enter enter net", "badfd enter ipc", "invalid create net", "invalid destroy net", "wait destroy net",
		"pin pin uts", "pin unpin uts", "nopin pin mnt",
	}},
	{args: "-e namespace.enter,sysctl.write", want: []string{
		"enter enter net", "badfd enter ipc", "net write net.ipv4.tcp_keepalive_time", "uts write kernel.domainname",
		"invalid write net.ipv4.tcp_keepalive_time", "wait write net.ipv4.tcp_keepalive_time",
	}},
	{args: "-e namespace.destroy", want: []string{
		"net destroy net", "uts destroy uts", "clone destroy uts", "user destroy ipc", "user destroy user", "invalid destroy net", "wait destroy net",
	}},
	{args: "-e namespace.pin", want: []string{"pin pin uts", "nopin pin mnt"}},
	{args: "-e namespace.unpin", want: []string{"pin unpin uts"}},
	{args: "-e sysctl --sysctl net.ipv4.*time", want: []string{
		"net write net.ipv4.tcp_keepalive_time", "invalid write net.ipv4.tcp_keepalive_time", "wait write net.ipv4.tcp_keepalive_time",
	}},
	{args: "--sysctl kernel.domain*", want: []string{"uts write kernel.domainname"}},
	{args: "-t net,uts", want: []string{
		"net create net", "net write net.ipv4.tcp_keepalive_time", "net destroy net",
		"uts create uts", "uts write kernel.domainname", "uts destroy uts", "clone create uts", "clone destroy uts",
		"refused create net", "enter enter net", "invalid create net", "invalid write net.ipv4.tcp_keepalive_time", "invalid destroy net",
		"wait write net.ipv4.tcp_keepalive_time", "wait destroy net", "pin pin uts", "pin unpin uts",
	}},
	{args: "-t user", want: []string{"user create user", "user destroy user"}},
	// A tracer that did not see who made the namespace does not attribute its end to this process.
	{args: "-p %d", want: []string{"wait write net.ipv4.tcp_keepalive_time"}},
	{args: "-c nsclone -c sysctl", want: []string{"clone create uts", "clone destroy uts", "net write net.ipv4.tcp_keepalive_time"}},
	{args: "-u 1000", want: []string{
		"user create user", "user create ipc", "user destroy ipc", "user destroy user", "refused create ipc", "refused create net",
	}},
	{args: "-u root", want: []string{
		"net create net", "net write net.ipv4.tcp_keepalive_time", "net destroy net", "uts create uts", "uts write kernel.domainname", "uts destroy uts",
		"clone create uts", "clone destroy uts", "enter enter net", "badfd enter ipc", "invalid create net", "invalid write net.ipv4.tcp_keepalive_time",
		"invalid destroy net", "wait write net.ipv4.tcp_keepalive_time", "pin pin uts", "pin unpin uts", "nopin pin mnt",
	}},
	{args: "--failed", want: []string{
		"refused create ipc", "refused create net", "badfd enter ipc", "invalid write net.ipv4.tcp_keepalive_time", "nopin pin mnt",
	}},
	{args: "--failed -c unshare -t ipc", want: []string{"refused create ipc"}},
}

// filterGroup is how many rows TestFilter runs at once. The kernel attaches at most 38 programs
// to the trampoline of a function (BPF_MAX_TRAMP_LINKS), and each nstrace attaches two.
const filterGroup = 5

// TestFilter runs one nstrace without a filter, and one for each of filterRows, a few at a time.
// Each has the events that its row lists, and they are the same as without a filter. The works:
//
//	net      a network namespace, in which sysctl(8) writes a parameter
//	uts      a UTS namespace, in which a shell writes a parameter
//	clone    a UTS namespace by clone(2)
//	user     a user and an IPC namespace, by an unprivileged user
//	refused  an IPC and a network namespace that the kernel refuses to an unprivileged user
//	enter    setns(2)
//	badfd    setns(2) with a descriptor that is not open
//	invalid  a network namespace, in which the kernel refuses a write
//	wait     a process that writes to a parameter of a namespace from before the filters
//	pin      a bind mount of a namespace, and its end
//	nopin    a bind mount of a mount namespace, which the kernel refuses
func TestFilter(t *testing.T) {
	h := watch(t, backends[0])
	rows := slices.Clone(filterRows)
	if testing.Short() { // the host runs the other rows
		rows = slices.DeleteFunc(rows, func(r filterRow) bool { return r.args != "-t net,uts" })
	}
	for group := range slices.Chunk(rows, filterGroup) {
		testFilters(t, h, group)
	}
	if !testing.Short() {
		testLimits(t, h)
	}
	h.close(t)
}

// testFilters is TestFilter for a few rows. h has one nstrace, without a filter.
func testFilters(t *testing.T, h *host, rows []filterRow) {
	all := h.streams[0]
	sitter := h.start(t, "unshare", []string{"--net", "sh", "-c", `echo ready=yes; read x; echo 613 >/proc/sys/net/ipv4/tcp_keepalive_time; echo done=yes; cat`})
	sitter.value(t, "ready")

	// The tracepoint backend knows neither who made a pin nor whether a write failed.
	unseen := func(brief string) bool {
		return all.backend == tracer.Tracepoint && (strings.HasPrefix(brief, "pin ") || strings.HasPrefix(brief, "nopin "))
	}
	for i := range rows {
		r := &rows[i]
		r.args = strings.ReplaceAll(r.args, "%d", strconv.Itoa(sitter.pid))
		r.want = slices.DeleteFunc(slices.Clone(r.want), func(brief string) bool {
			return unseen(brief) || all.backend == tracer.Tracepoint && strings.Contains(r.args, "--failed") && strings.Contains(brief, " write ")
		})
	}
	rows = slices.DeleteFunc(rows, func(r filterRow) bool { return len(r.want) == 0 })
	pinned := filepath.Join(scratch, "filtered")
	for i := range rows {
		rows[i].s = startStream(t, append([]string{"--backend", string(all.backend)}, strings.Fields(rows[i].args)...)...)
		// Not all at once: attaching is work.
		if i >= 3 {
			rows[i-3].s.awaitStart(t)
		}
	}
	for _, r := range rows[max(0, len(rows)-3):] {
		r.s.awaitStart(t)
	}

	names := map[*work]string{sitter: "wait"}
	var works []*work
	add := func(name string, w *work) {
		names[w] = name
		works = append(works, w)
	}
	add("net", h.run(t, "unshare", []string{"--net", "sysctl", "-w", "net.ipv4.tcp_keepalive_time=614"}))
	add("uts", h.run(t, "unshare", []string{"--uts", "sh", "-c", "echo filtered >/proc/sys/kernel/domainname"}))
	add("clone", h.run(t, helper("nsclone"), []string{"clone", "uts"}))
	add("user", h.run(t, "unshare", []string{"--user", "--ipc", "true"}, asUser(tester)))
	add("refused", h.try(t, "unshare", []string{"--ipc", "--net", "true"}, asUser(tester)))
	add("enter", h.run(t, helper("nsset"), []string{"file", "/proc/self/ns/net", "net"}))
	add("badfd", h.run(t, helper("nsset"), []string{"fd", "99", "ipc"}))
	add("invalid", h.run(t, "unshare", []string{"--net", "sh", "-c", "echo never >/proc/sys/net/ipv4/tcp_keepalive_time || :"}))
	if all.backend != tracer.Tracepoint {
		add("pin", h.sh(t, fmt.Sprintf("touch %[1]s; %[2]s bind /proc/self/ns/uts %[1]s; %[2]s umount %[1]s", pinned, helper("nsmount"))))
		add("nopin", h.run(t, helper("nsmount"), []string{"bind", "/proc/self/ns/mnt", pinned}))
	}
	if _, err := fmt.Fprintln(sitter.stdin, "go"); err != nil {
		t.Fatal(err)
	}
	sitter.value(t, "done")
	sitter.stop(t)
	works = append(works, sitter)

	// The works' events, from when all the others were attached. The end of a namespace has no
	// process: it belongs to the work that made the namespace.
	workOf := func(e *emitted) *work {
		for _, w := range works {
			if e.of(w.pid) {
				return w
			}
		}
		return nil
	}
	from := works[0].from[all]
	for _, w := range works {
		w.ends(t, all, w.all(all))
	}
	makers, before := map[uint32]*work{}, uint32(0) // by pid; the namespace from before the filters
	for _, e := range only(all.since(0), event.NamespaceCreate) {
		if w := workOf(e); w != nil && e.Outcome == event.Success {
			makers[e.Process.PID] = w
			if w == sitter {
				before = e.Namespace.ID
			}
		}
	}
	by := func(e *emitted) *work {
		switch {
		case e.Process != nil:
			return workOf(e)
		case e.Type != event.NamespaceDestroy:
			return nil
		case e.Namespace.Creator != nil:
			return makers[e.Namespace.Creator.PID]
		case e.Namespace.ID == before: // no other namespace had the number in between
			return sitter
		}
		return nil
	}
	brief := func(e *emitted) string {
		_, what, _ := strings.Cut(string(e.Type), ".")
		if e.Sysctl != nil {
			return names[by(e)] + " " + what + " " + e.Sysctl.Name
		}
		return names[by(e)] + " " + what + " " + string(e.Namespace.Type)
	}
	// The streams with a filter did not see who made the earlier namespace.
	shown := func(e *emitted) map[string]any {
		m := comparable(t, e)
		if ns, ok := m["namespace"].(map[string]any); ok && e.Type == event.NamespaceDestroy && e.Namespace.ID == before {
			delete(ns, "creator")
		}
		return m
	}
	ours := func(events []*emitted) []*emitted {
		return slices.DeleteFunc(slices.Clone(events), func(e *emitted) bool {
			return e.Namespace == nil && e.Sysctl == nil || by(e) == nil
		})
	}
	mine := ours(all.since(from))
	seen := map[string]bool{}
	for _, e := range mine {
		seen[brief(e)] = true
	}
	for _, r := range rows {
		t.Run(r.args, func(t *testing.T) {
			r.s.interrupt(t)
			want := slices.DeleteFunc(slices.Clone(mine), func(e *emitted) bool { return !slices.Contains(r.want, brief(e)) })
			got := ours(r.s.since(0))
			lack, unfiltered := r.s.lacking(got, want), all.lacking(want, got)
			r.s.excuse(t, lack...)
			all.excuse(t, unfiltered...)
			r.s.checkEnd(t, true)
			if len(lack)+len(unfiltered) > 0 {
				return
			}
			for _, b := range r.want {
				if !seen[b] {
					t.Errorf("nstrace without a filter has no event %q", b)
				}
			}
			slices.SortStableFunc(want, order)
			slices.SortStableFunc(got, order)
			if !slices.EqualFunc(got, want, func(a, b *emitted) bool { return reflect.DeepEqual(shown(a), shown(b)) }) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(briefs(got), "\n\t"), strings.Join(briefs(want), "\n\t"))
			}
		})
	}
}

// testLimits checks that a run ends by itself after -n events and after --duration.
func testLimits(t *testing.T, h *host) {
	short, count := startStream(t, "--duration", "1500ms"), startStream(t, "-n", "3")
	short.awaitStart(t)
	count.awaitStart(t)
	for range 3 {
		h.run(t, "unshare", []string{"--uts", "true"})
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
		short.awaitEnd(t)
		sum := short.checkEnd(t, true)
		if d := time.Duration(sum.DurationMS) * time.Millisecond; d < 1500*time.Millisecond || d > patience {
			t.Errorf("the run took %v", d)
		}
	})
}

// order moves the ends of namespaces, which can come at any time, behind the other events.
func order(a, b *emitted) int {
	key := func(e *emitted) string {
		if e.Type == event.NamespaceDestroy {
			return fmt.Sprint("destroy ", e.Namespace.ID)
		}
		return ""
	}
	return strings.Compare(key(a), key(b))
}
