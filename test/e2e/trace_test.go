// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestTrace watches everything with one nstrace for each backend, all at the same time, from the
// first program to the last.
func TestTrace(t *testing.T) {
	h := watch(t, backends...)
	for _, section := range []struct {
		name string
		run  func(*testing.T, *host)
	}{
		{"create", testCreate},
		{"enter", testEnter},
		{"destroy", testDestroy},
		{"pin", testPin},
		{"sysctl", testSysctl},
		{"open", testOpen},
		{"calls", testOtherCalls},
		{"netdev", testNetdev},
		{"netconf", testNetconf},
		{"tables", testTables},
		{"who", testWho},
		{"container", testContainer},
		{"witness", testWitness},
	} {
		t.Run(section.name, func(t *testing.T) { section.run(t, h) })
	}
	h.close(t)
}

// close ends the streams and checks them as a whole.
func (h *host) close(t *testing.T) {
	t.Helper()
	// All processes on this machine, of the tests or not. But nstrace itself enters namespaces when it likes: between the
	// moments at which two streams have the last fence, too.
	h.fence(t)
	own := map[uint32]bool{}
	for _, s := range h.streams {
		if s.cmd != nil {
			own[uint32(s.cmd.Process.Pid)] = true
		}
	}
	by := map[*stream][]*emitted{}
	for _, s := range h.streams {
		events := s.since(h.from[s])
		last := slices.IndexFunc(events, func(e *emitted) bool { return e.fence() == h.nfences })
		by[s] = slices.DeleteFunc(slices.Clone(events[:last+1]), func(e *emitted) bool { return e.Process != nil && own[e.Process.PID] })
	}
	compareStreams(t, by)
	for _, s := range h.streams {
		s.interrupt(t)
		s.checkEnd(t, true)
		s.checkLives(t, h)
	}
}

// checkLives checks the order of events about namespaces: a namespace ends only if it was made
// before or existed at the start. None ends twice, and none is mounted or unmounted after its end.
func (s *stream) checkLives(t *testing.T, h *host) {
	t.Helper()
	made, ended := map[string]bool{}, map[string]bool{}
	for _, e := range s.since(0) {
		switch {
		case e.Type == event.NamespaceCreate && e.Outcome == event.Success:
			if made[e.Namespace.UID] {
				t.Errorf("%v: made twice: %s%s", s, e.line, s.life(e))
			}
			made[e.Namespace.UID] = true
		case e.Type == event.NamespaceDestroy:
			if ended[e.Namespace.UID] {
				t.Errorf("%v: ended twice: %s%s", s, e.line, s.life(e))
			}
			ended[e.Namespace.UID] = true
			if made[e.Namespace.UID] != (e.Namespace.Creator != nil) {
				t.Errorf("%v: made at %v, but its end is %s%s", s, made[e.Namespace.UID], e.line, s.life(e))
			}
		case e.isPin() && ended[e.Namespace.UID]:
			t.Errorf("%v: an event after the end: %s%s", s, e.line, s.life(e))
		}
	}
}

// life returns the last events about namespaces with the number of that of e.
func (s *stream) life(e *emitted) string {
	same := slices.DeleteFunc(slices.Clone(s.since(0)), func(other *emitted) bool {
		return other.Namespace == nil || other.Namespace.ID != e.Namespace.ID || other.Seq > e.Seq
	})
	return "after\n" + dump(same[max(0, len(same)-8):])
}

// TestAlone runs each backend without another one, which could hide a fault.
func TestAlone(t *testing.T) {
	if len(backends) == 1 {
		t.Skipf("the kernel has one backend, %s, which TestTrace runs alone", backends[0])
	}
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			h := watch(t, b)
			w := h.sh(t, `unshare --net --uts sh -c 'echo 608 >/proc/sys/net/ipv4/tcp_keepalive_time'
				`+helper("nsclone")+` clone3 pid,ipc
				`+helper("nsset")+` file /proc/self/ns/net net
				`+helper("nsset")+` fd 99 net`)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				want := slices.Concat(
					creates("unshare", "success", "net", "uts"),
					[]string{write{name: "net.ipv4.tcp_keepalive_time", old: "7200", new: "608"}.on(s)},
					creates("clone3", "success", "pid", "ipc"),
					enters("success", "net"),
					enters("EBADF", "net"))
				same(t, events, want...)
				w.ends(t, s, events)
			})
			h.close(t)
		})
	}
}

// TestBackends checks that nstrace finds all backends of the kernel: no test here would run a
// backend that it overlooks.
func TestBackends(t *testing.T) {
	_, err := os.Stat("/sys/bus/event_source/devices/kprobe")
	if offered := err == nil; has("kprobe") != offered {
		t.Errorf("kprobes: nstrace reports %v, the kernel has %v", has("kprobe"), offered)
	}
	// Every kernel of a distribution has both or none. arm64 has fentry from 6.4 on
	// (DYNAMIC_FTRACE_WITH_DIRECT_CALLS).
	if has("kprobe") && !has("fentry") && (runtime.GOARCH != "arm64" || kernelFrom(6, 4)) {
		t.Error("the kernel has kprobes, but nstrace finds no fentry")
	}
	for _, name := range []string{"btf", "tracefs", "cgroup2"} {
		if !has(name) {
			t.Errorf("nstrace finds no %s", name)
		}
	}
	for _, o := range report.Observations {
		checkObservation(t, o, autoBackend())
	}
}
