// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestExpression runs one nstrace without a filter, and one for each expression. Each of the latter
// must have the events of the former for which the same question, written in Go, is true.
func TestExpression(t *testing.T) {
	anyKernel(t)
	h := watch(t, backends[0])
	all := h.streams[0]
	net := func(e *emitted) bool { return e.Namespace != nil && e.Namespace.Type == event.NSTypeNet }
	write := func(e *emitted) bool { return e.Sysctl != nil && e.Sysctl.Name == "net.ipv4.tcp_keepalive_time" }
	rows := []struct {
		expr string
		pass func(*emitted) bool
		s    *stream
	}{
		{expr: `type == "namespace.create" && namespace.type == "net" && process.uid == 0`, pass: func(e *emitted) bool {
			return net(e) && e.Type == event.NamespaceCreate && e.Process.UID == 0
		}},
		{expr: `glob("net.ipv4.*", sysctl.name) and sysctl.namespace.id == process.ns.net and sysctl.new in ["621", "622"]`, pass: func(e *emitted) bool {
			return write(e) && e.Sysctl.Namespace.ID == e.Process.NS["net"] && (*e.Sysctl.New == "621" || *e.Sysctl.New == "622")
		}},
		{expr: `outcome == "failure" or process == nil and namespace.lifetime_ms != nil`, pass: func(e *emitted) bool {
			return e.Outcome == event.Failure || e.Process == nil && e.Namespace.LifetimeMS != nil
		}},
		{expr: `any(process.ancestors, .comm == "nsexpression") and "--net" in process.args`, pass: func(e *emitted) bool {
			return e.Process != nil && slices.Contains(e.Process.Args, "--net") &&
				slices.ContainsFunc(e.Process.Ancestors, func(a event.Actor) bool { return a.Comm == "nsexpression" })
		}},
	}
	for i := range rows {
		rows[i].s = startStream(t, "--backend", string(all.backend), "--filter", rows[i].expr)
		rows[i].s.awaitStart(t)
	}
	first := startStream(t, "--backend", string(all.backend), "-n", "2", "--filter", `sysctl.new in ["621", "623"]`)
	first.awaitStart(t)

	unshare := `unshare --net sh -c 'for v in 621 622 623; do echo $v >/proc/sys/net/ipv4/tcp_keepalive_time; done'`
	works := []*work{h.sh(t, unshare)}
	first.awaitEnd(t) // so that it does not detach while the next one runs
	works = append(works,
		h.sh(t, `printf nsexpression >/proc/self/comm; `+unshare+`; unshare --uts true; :`),
		h.try(t, "unshare", []string{"--net", "true"}, asUser(tester)))
	made := map[uint32]bool{}
	for _, w := range works {
		w.ends(t, all, w.all(all))
		for _, e := range only(w.all(all), event.NamespaceCreate) {
			made[e.Namespace.ID] = e.Outcome == event.Success
		}
	}
	mine := func(events []*emitted) []*emitted {
		return slices.Collect(func(yield func(*emitted) bool) {
			for _, e := range events {
				ended := e.Type == event.NamespaceDestroy && made[e.Namespace.ID] && !own(e)
				if (ended || slices.ContainsFunc(works, func(w *work) bool { return e.of(w.pid) })) && !yield(e) {
					return
				}
			}
		})
	}
	unfiltered := mine(all.since(works[0].from[all]))
	for _, r := range rows {
		t.Run(r.expr, func(t *testing.T) {
			r.s.interrupt(t)
			var want []*emitted
			for _, e := range unfiltered {
				if r.pass(e) {
					want = append(want, e)
				}
			}
			if len(want) == 0 || len(want) == len(unfiltered) {
				t.Fatalf("%d of %d events should pass, which tests nothing", len(want), len(unfiltered))
			}
			got := mine(r.s.since(0))
			lack, more := r.s.lacking(got, want), all.lacking(want, got)
			r.s.excuse(t, lack...)
			all.excuse(t, more...)
			if sum := r.s.checkEnd(t, true); sum.Filtered == 0 {
				t.Errorf("totals %+v: nothing was filtered", *sum)
			}
			if len(lack)+len(more) > 0 {
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
				if (e.Process != nil || e.Namespace != nil) && e.Type != event.TraceStop && !r.pass(e) {
					t.Errorf("an event passed that should not: %s", e.line)
				}
			}
		})
	}
	t.Run("-n 2", func(t *testing.T) {
		if sum := first.checkEnd(t, true); sum.Written != 2 || sum.Filtered == 0 {
			t.Errorf("totals %+v, want 2 written of more", *sum)
		}
	})
	h.close(t)
}

// TestExpressionRun filters a command's events, which go to a file.
func TestExpressionRun(t *testing.T) {
	anyKernel(t)
	file := filepath.Join(t.TempDir(), "events.json")
	text, err := exec.Command(nstraceBin, "run", "-o", "json", "-O", file, "--filter", `namespace.type == "uts" && process != nil`,
		"--", "unshare", "--net", "--uts", "true").CombinedOutput()
	if err != nil || len(text) > 0 {
		t.Fatalf("%v: %s", err, text)
	}
	events := readEvents(t, file)
	if len(events) != 3 || events[1].Type != event.NamespaceCreate || events[1].Namespace.Type != event.NSTypeUTS {
		t.Errorf("nstrace wrote\n%s", dump(events))
	}
	if sum := events[len(events)-1].Trace.Totals; sum.Filtered == 0 {
		t.Errorf("totals %+v", *sum)
	}
}

// TestExpressionMistake has expressions with a mistake, which nstrace reports before it attaches.
// It also prints the help, which needs no command.
func TestExpressionMistake(t *testing.T) {
	anyKernel(t)
	for _, args := range [][]string{{}, {"run"}} {
		bad := append(slices.Clone(args), "--filter", `procss.comm == "sh"`)
		if len(args) > 0 {
			bad = append(bad, "--", "true")
		}
		cmd := exec.Command(nstraceBin, bad...)
		out, _ := cmd.CombinedOutput()
		if got := string(out); exitStatus(cmd.ProcessState) != 2 || strings.Count(got, "\n") != 1 ||
			!strings.Contains(got, `unknown field "procss" at column 1`) || !strings.Contains(got, `did you mean "process"?`) {
			t.Errorf("%q: %v: %s", bad, cmd.ProcessState, got)
		}
		if help := output(t, nstraceBin, append(slices.Clone(args), "--filter", "help")...); !strings.Contains(help, "\nprocess.comm ") {
			t.Errorf("help is %s", help)
		}
	}
}
