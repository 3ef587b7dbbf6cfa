// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// TestTaskExit checks that a task that ends inside a call leaves nothing in nstrace's maps of calls
// in progress. These maps have a fixed size: once they are full, nstrace sees no further calls.
func TestTaskExit(t *testing.T) {
	with := backends
	if testing.Short() { // the programs are the same with each
		with = backends[:1]
	}
	h := &exitHost{host: watch(t, with...), maps: map[*stream]map[string]string{}}
	for _, s := range h.streams {
		h.maps[s], _ = s.kernelObjects(t)
	}
	t.Run("failed exec", func(t *testing.T) { testFailedExec(t, h) })
	t.Run("exec by a thread", func(t *testing.T) { testThreadExec(t, h) })
	t.Run("killed", func(t *testing.T) { testKilledInCall(t, h) })
	t.Run("long value", func(t *testing.T) { testLongValue(t, h) })
	for _, s := range h.streams {
		s.interrupt(t)
		s.checkEnd(t, true)
	}
}

// An exitHost knows the maps of each stream.
type exitHost struct {
	*host
	maps map[*stream]map[string]string
}

// inProgress names the maps of tasks inside a call. Their keys are thread ids or process ids.
var inProgress = []string{"execs", "long_values", "ns_calls", "open_checks", "pin_calls", "refused_clones", "rtnl_calls", "writes"}

// mostCalls is the number of entries of the largest of these maps.
const mostCalls = 8192

// needEnterByExec skips a test on kernels before 6.3. There execve(2) enters no namespace, and a
// task with a time namespace for its children cannot share its memory with one of them.
func needEnterByExec(t *testing.T) {
	t.Helper()
	if !entersByExec() {
		t.Skip("execve(2) enters time namespaces from 6.3 on")
	}
}

// testFailedExec has an ordinary user run an exec that fails after the point of no return. Then it
// checks that nstrace still sees a namespace. On the host, this happens more often than the maps
// have entries. A guest is too slow for that.
func testFailedExec(t *testing.T, h *exitHost) {
	needEnterByExec(t)
	many := mostCalls + 100
	if testing.Short() {
		many = 300
	}
	for _, tt := range []struct {
		by string
		n  int
	}{{"vfork", many}, {"thread", 30}} {
		t.Run(tt.by, func(t *testing.T) {
			w := h.run(t, helper("nsexec"), []string{tt.by, strconv.Itoa(tt.n)}, asUser(tester))
			if died := w.printed("died"); !slices.Equal(died, []string{strconv.Itoa(tt.n)}) {
				t.Fatalf("%d processes should have died: %q", tt.n, died)
			}
			for _, s := range h.streams {
				s.calls += uint64(tt.n)
			}
			h.checkFreed(t)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				for _, e := range events {
					if e.Type == event.NamespaceEnter {
						t.Errorf("no namespace was entered: %s", e.line)
					}
				}
			})
		})
	}
	w := h.run(t, "unshare", []string{"--uts", "true"})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, creates("unshare", "success", "uts")...)
	})
}

// testThreadExec calls execve(2) in a thread other than the first. The kernel gives that thread the
// first one's id in the middle of the call (de_thread() in fs/exec.c).
func testThreadExec(t *testing.T, h *exitHost) {
	needEnterByExec(t)
	w := h.run(t, helper("nsexec"), []string{"run", "sh", "-c", "echo time=$(readlink /proc/self/ns/time)"})
	pid, in := w.printed("pid")[0], parseID(t, w.printed("time")[0])
	h.checkFreed(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		same(t, events, append(creates("unshare", "success", "time"), "enter time execve: success")...)
		if t.Failed() {
			return
		}
		e := events[1]
		if ns := e.Namespace; ns.ID != in || ns.From != h.ns["time"] || e.Process.NS["time"] != ns.From {
			t.Errorf("from %d to %d, want from %d to %d: %s", ns.From, ns.ID, h.ns["time"], in, e.line)
		}
		if got := e.Process; fmt.Sprint(got.PID) != pid || got.TID != got.PID || got.Comm != "sh" {
			t.Errorf("process %d, thread %d, %s; want sh in the only thread of %s", got.PID, got.TID, got.Comm, pid)
		}
	})
}

// testKilledInCall kills a process whose thread is inside sethostname(2). The call still
// returns before the thread ends, so its failure is an event and nothing is missed.
func testKilledInCall(t *testing.T, h *exitHost) {
	w := h.start(t, helper("nshang"), nil)
	w.value(t, "tid")
	for _, s := range h.streams {
		if !slices.ContainsFunc(h.entries(t, s), func(e entry) bool { return e.of == "writes" }) && s.backend != tracer.Tracepoint {
			t.Errorf("%v: no call is in progress", s)
		}
	}
	if err := syscall.Kill(w.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.end(t)
	w.sync(t)
	h.checkFreed(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if !slices.ContainsFunc(events, func(e *emitted) bool { return e.Via == "sethostname" && e.Error == "EFAULT" }) {
			t.Errorf("no failed sethostname")
		}
	})
}

// testLongValue writes the shortest value that does not fit into an entry of writes, from a task
// that continues to live.
func testLongValue(t *testing.T, h *exitHost) {
	value := strings.Repeat("x", 63) + "y"
	w := h.start(t, "unshare", []string{"--uts", "sh", "-e", "-c", `
		printf %s ` + value + ` > /proc/sys/kernel/domainname
		echo written=$$; read end || true`})
	pid, err := strconv.Atoi(w.value(t, "written"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range h.streams {
		for _, e := range h.entries(t, s) {
			if e.id == pid {
				t.Errorf("%v: the write is over, but the map has %v", s, e)
			}
		}
	}
	w.stop(t)
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		var values []string
		for _, e := range events {
			if e.Sysctl != nil && e.Sysctl.New != nil {
				values = append(values, *e.Sysctl.New)
			}
		}
		if !slices.Equal(values, []string{value}) {
			t.Errorf("nstrace reports the values %q, want %q", values, value)
		}
	})
}

// An entry is an entry of a map of calls in progress.
type entry struct {
	of string // the map
	id int    // of the thread, or of the process for execs
}

// checkFreed checks that every entry belongs to a live task.
func (h *exitHost) checkFreed(t *testing.T) {
	t.Helper()
	for _, s := range h.streams {
		dead := slices.DeleteFunc(h.entries(t, s), func(e entry) bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d", e.id))
			return err == nil
		})
		if len(dead) == 0 {
			continue
		}
		// The call and its task can have ended since the map was read.
		now := h.entries(t, s)
		left := slices.DeleteFunc(dead, func(e entry) bool { return !slices.Contains(now, e) })
		if len(left) > 0 {
			t.Errorf("%v: %d entries of tasks that have ended, such as %v", s, len(left), left[0])
		}
	}
}

// entries returns the entries of the maps of calls in progress, from bpftool.
func (h *exitHost) entries(t *testing.T, s *stream) (all []entry) {
	t.Helper()
	for _, name := range inProgress {
		id := h.maps[s][name]
		if id == "" {
			t.Fatalf("%v has no map %s", s, name)
		}
		var content []struct{ Key []string }
		dump := output(t, "bpftool", "-j", "map", "dump", "id", id)
		if err := json.Unmarshal([]byte(dump), &content); err != nil {
			t.Fatalf("%v: %s", err, dump)
		}
		for _, c := range content {
			e := entry{of: name}
			for i, b := range c.Key {
				n, err := strconv.ParseUint(strings.TrimPrefix(b, "0x"), 16, 8)
				if err != nil {
					t.Fatal(err)
				}
				e.id |= int(n) << (8 * i)
			}
			all = append(all, e)
		}
	}
	return all
}
