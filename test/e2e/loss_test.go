// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// stormFile is a parameter that takes any text. Only the storm, in its own UTS namespace, sees it
// change.
const stormFile = "/proc/sys/kernel/domainname"

// storm writes the values in turn, n in total, and waits for the end.
func storm(t *testing.T, n int, args ...string) {
	t.Helper()
	args = append([]string{"--uts", helper("nswrite"), "-n", strconv.Itoa(n)}, args...)
	if out, want := output(t, "unshare", args...), fmt.Sprintf("ok=%d\nfailed=0", n); out != want {
		t.Fatalf("the storm: %q, want %q", out, want)
	}
}

// startStopped starts nstrace with a ring of that size and stops it from reading.
func startStopped(t *testing.T, b tracer.Backend, ring string) *stream {
	t.Helper()
	// Only the storm has this name.
	s := startStream(t, "--backend", string(b), "--ring-size", ring, "--event", "sysctl", "--comm", "nswrite")
	s.pause(t)
	return s
}

// pause stops s, which was just started, from reading.
func (s *stream) pause(t *testing.T) {
	t.Helper()
	s.awaitStart(t)
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); statusField(t, pid, "State") != "T"; {
		if time.Now().After(deadline) {
			t.Fatal("nstrace does not stop")
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitLoss waits until s has reported this number of events of a type, some of them as lost. The events
// in the ring can come before or after trace.loss. While the ring is full, even the signal that ends s
// is lost.
func (s *stream) awaitLoss(t *testing.T, typ event.Type, events uint64) {
	t.Helper()
	count := func(all []*emitted) (n uint64, lost bool) {
		for _, e := range all {
			switch e.Type {
			case typ:
				n++
			case event.TraceLoss:
				lost = true
				n += e.Loss.Records[typ]
			}
		}
		return n, lost
	}
	whole := func(all []*emitted) bool {
		n, lost := count(all)
		return lost && n >= events
	}
	if canMiss(typ) && !s.comes(0, patience/20, whole) {
		whole = func(all []*emitted) bool { // a missed event can be reported at the end only
			_, lost := count(all)
			return lost
		}
	}
	s.await(t, "trace.loss", whole)
}

// TestLoss stops nstrace from reading while more events happen than its ring holds. trace.loss must
// report every event that did not fit.
func TestLoss(t *testing.T) {
	const writes = 3000
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			s := startStopped(t, b, "64KiB")
			storm(t, writes, "-d", stormFile, "storm-")
			if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			// It reports that without a new event, and continues.
			s.awaitLoss(t, event.SysctlWrite, writes)
			storm(t, 1, stormFile, "calm")
			from := s.len()
			s.interrupt(t)
			sum := s.checkEnd(t, false)

			var written, lost uint64
			last := map[string]time.Time{} // by reason
			for i, e := range s.since(0) {
				switch e.Type {
				case event.SysctlWrite:
					written++
				case event.TraceLoss:
					l := e.Loss
					if l.Reason == "missed" && canMiss(event.SysctlWrite) {
						lost += l.Records[event.SysctlWrite]
						continue
					}
					known := l.Reason == event.LossRingFull || l.Reason == event.LossUserShare && l.UID != nil && *l.UID == 0
					if !known || len(l.Records) != 1 || l.From.IsZero() || l.To.Before(l.From) || l.From.Before(last[l.Reason]) || i >= from {
						t.Errorf("%s", e.line)
					}
					lost += l.Records[event.SysctlWrite]
					last[l.Reason] = l.To
				}
			}
			if lost == 0 || written == 0 {
				t.Errorf("%d written and %d lost: the ring should hold some events and not all", written, lost)
			}
			if written+lost != writes+1 {
				t.Errorf("%d written + %d lost, want %d writes", written, lost, writes+1)
			}
			if sum.Lost != lost {
				t.Errorf("the totals say %d lost, the trace.loss lines say %d", sum.Lost, lost)
			}
			if want := fmt.Sprintf(" %d lost", lost); !strings.Contains(s.stderr.String(), want) {
				t.Errorf("standard error has no %q: %s", want, s.stderr.String())
			}
		})
	}
}

// TestFlood has a user without privileges fill the ring while nstrace does not read. The namespaces that
// root makes after that must all be there, and trace.loss must name the user.
func TestFlood(t *testing.T) {
	const (
		calls    = 4000
		creates  = 20
		nobody   = 65534
		subuid   = 100_000
		innocent = "innocent"
	)
	flood := []string{helper("nsflood"), strconv.Itoa(calls)}
	for name, args := range map[string][]string{
		"user": append([]string{"setpriv", "--reuid", strconv.Itoa(nobody), "--clear-groups"}, flood...),
		// A subordinate user counts as the one who owns the user namespace.
		"subordinate": append([]string{"nsenter", "--user", "--setuid", "0", "--setgid", "0", "--target"}, flood...),
	} {
		for _, b := range backends {
			t.Run(string(b)+"/"+name, func(t *testing.T) {
				argv := args
				if name == "subordinate" {
					argv = slices.Insert(slices.Clone(args), 7, strconv.Itoa(subordinate(t, nobody, subuid)))
				}
				s := startStream(t, "--backend", string(b), "--ring-size", "256KiB", "--event", "namespace.create,namespace.enter")
				s.pause(t)
				if out, want := output(t, argv[0], argv[1:]...), fmt.Sprintf("failed=%d", calls); out != want {
					t.Fatalf("the flood: %q, want %q", out, want)
				}
				for range creates {
					output(t, "unshare", "--uts", "sh", "-c", "echo "+innocent+" >/proc/self/comm")
				}
				if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				s.interrupt(t)
				sum := s.checkEnd(t, false)

				var shown, lost, missed, made uint64
				for _, e := range s.since(0) {
					switch {
					case e.Type == event.NamespaceEnter && e.Outcome == event.Failure:
						shown++
					case e.Type == event.NamespaceCreate && e.Process.UID == 0 && e.Process.Comm == "unshare":
						made++
					case e.Type == event.TraceLoss && e.Loss.Reason == event.LossMissed:
						missed += e.Loss.Records[event.NamespaceEnter] + e.Loss.Records[event.NamespaceCreate]
					case e.Type == event.TraceLoss:
						if l := e.Loss; l.Reason != event.LossUserShare || l.UID == nil || *l.UID != nobody || len(l.Records) != 1 {
							t.Errorf("want only uid %d to lose events: %s", nobody, e.line)
						}
						lost += e.Loss.Records[event.NamespaceEnter]
					}
				}
				if missed > 0 && !canMiss(event.NamespaceEnter) {
					t.Errorf("%d missed", missed)
				}
				if shown == 0 || lost == 0 || shown+lost > calls+1 || shown+lost+missed < calls {
					t.Errorf("%d of %d calls are shown, %d lost, %d missed", shown, calls, lost, missed)
				}
				if made > creates || made+missed < creates {
					t.Errorf("%d of %d innocent creates are shown, %d missed", made, creates, missed)
				}
				if sum.Lost < lost {
					t.Errorf("the totals say %d lost, trace.loss says %d", sum.Lost, lost)
				}
			})
		}
	}
}

// TestFloodContainers has root in a container flood the ring, from as many cgroups as it likes below that of
// the container. Containers without user namespaces have the same users. So their cgroups tell whose events
// are lost.
func TestFloodContainers(t *testing.T) {
	const (
		calls   = 4000
		creates = 20
	)
	for _, tt := range []struct {
		name, flooder, innocent string // cgroups; at most one number goes into the first
		cgroups                 int
	}{
		{"pods", "kubepods.slice/kubepods-burstable.slice/pod1/%d", "kubepods.slice/kubepods-burstable.slice/pod2", 12},
		{"lxc", "lxc.payload.one/%d", "lxc.payload.two", 12},
		{"scopes", "nstrace-e2e.slice/one.scope/%d", "nstrace-e2e.slice/two.scope", 12},
	} {
		for _, b := range backends {
			t.Run(string(b)+"/"+tt.name, func(t *testing.T) {
				var floods []string
				for i := range tt.cgroups {
					floods = append(floods, newCgroup(t, fmt.Sprintf(tt.flooder, i)))
				}
				innocent := newCgroup(t, tt.innocent)
				s := startStream(t, "--backend", string(b), "--ring-size", "256KiB", "--event", "namespace.create,namespace.enter")
				s.pause(t)
				in := func(dir, script string) string {
					return output(t, "sh", "-c", "echo $$ >"+dir+"/cgroup.procs; "+script)
				}
				for _, dir := range floods {
					if out, want := in(dir, fmt.Sprintf("exec %s %d", helper("nsflood"), calls/tt.cgroups)), fmt.Sprintf("failed=%d", calls/tt.cgroups); out != want {
						t.Fatalf("the flood: %q, want %q", out, want)
					}
				}
				for range creates {
					in(innocent, "exec unshare --uts true")
				}
				if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				s.interrupt(t)
				s.checkEnd(t, false)
				var made, lost, missed uint64
				for _, e := range s.since(0) {
					switch {
					case e.Type == event.NamespaceCreate && e.Process.Comm == "unshare":
						made++
					case e.Type == event.TraceLoss && e.Loss.Reason == event.LossMissed:
						missed += e.Loss.Records[event.NamespaceCreate]
					case e.Type == event.TraceLoss:
						lost += e.Loss.Records[event.NamespaceEnter]
						if n := e.Loss.Records[event.NamespaceCreate]; n > 0 {
							t.Errorf("%d innocent creates are lost: %s", n, e.line)
						}
					}
				}
				if lost == 0 {
					t.Error("nothing is lost: the flood is too small")
				}
				if missed > 0 && !canMiss(event.NamespaceCreate) {
					t.Errorf("%d missed", missed)
				}
				if made != creates && made+missed < creates {
					t.Errorf("%d of %d innocent creates are shown, %d missed", made, creates, missed)
				}
			})
		}
	}
}

// newCgroup makes a cgroup with that path in the v2 hierarchy, and returns its directory.
func newCgroup(t *testing.T, path string) string {
	t.Helper()
	dir := cgroup2(t)
	for part := range strings.SplitSeq(path, "/") {
		made := filepath.Join(dir, part)
		dir = made
		switch err := os.Mkdir(made, 0o755); {
		case err == nil:
			t.Cleanup(func() {
				if err := unix.Rmdir(made); err != nil {
					t.Errorf("remove %s: %v", made, err)
				}
			})
		case !errors.Is(err, fs.ErrExist):
			t.Fatal(err)
		}
	}
	return dir
}

// TestStuckWrites has a user without privileges make more writes than nstrace can follow at once, none of
// which ends. A write of root must be there nevertheless, and trace.loss must name the user.
func TestStuckWrites(t *testing.T) {
	const follows = 512 + 1024 // MAX_WRITES and USER_CALLS in bpf
	device := fuseDevice(t)
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			threads := follows + 200
			if b == tracer.Kprobe {
				threads = 900 // a kretprobe follows 1,024
			}
			testStuckWrites(t, b, device, threads, max(0, threads-follows))
		})
	}
}

func testStuckWrites(t *testing.T, b tracer.Backend, device string, threads, refused int) {
	h := watch(t, b)
	stuck := h.start(t, helper("nsstuck"), []string{device, "/proc/sys/net/ipv4/tcp_keepalive_time", strconv.Itoa(threads)}, asUser(somebody))
	if n := stuck.value(t, "stuck"); n != strconv.Itoa(threads) {
		t.Fatalf("%s writes are stuck", n)
	}
	w := h.run(t, "unshare", []string{"--uts", helper("nswrite"), "-n", "1", stormFile, "innocent"})
	stuck.stdin.Close()
	if _, err := io.Copy(io.Discard, stuck.out); err != nil { // read everything before Wait
		t.Error(err)
	}
	stuck.end(t)
	for _, s := range h.streams {
		s.interrupt(t)
		s.checkEnd(t, false)
		writes := only(w.all(s), event.SysctlWrite)
		if len(writes) != 1 || *writes[0].Sysctl.New != "innocent" || writes[0].Sysctl.Old == nil {
			t.Errorf("%v: want one write by root:\n%s", s, dump(writes))
		}
		var lost, missed uint64
		for _, e := range only(s.since(0), event.TraceLoss) {
			if e.Loss.Reason != event.LossUserShare {
				missed += e.Loss.Records[event.SysctlWrite]
				continue
			}
			if e.Loss.UID == nil || *e.Loss.UID != somebody {
				t.Errorf("%v: want only uid %d to lose events: %s", s, somebody, e.line)
			}
			lost += e.Loss.Records[event.SysctlWrite]
		}
		// The tracepoint way reports a write at once. It has no state to run out of.
		if want := uint64(refused); s.backend != tracer.Tracepoint && (lost > want || lost+missed < want) {
			t.Errorf("%v: %d writes are lost and %d missed, want %d", s, lost, missed, want)
		}
	}
}

// subordinate starts a process in a user namespace that owner owns and whose root is another user of the
// host. It returns its PID.
func subordinate(t *testing.T, owner, root uint32) int {
	t.Helper()
	cmd := exec.Command("unshare", "--user", "sh", "-c", "echo; cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // it is in its namespace
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), fmt.Appendf(nil, "0 %d 1000\n", root), 0); err != nil {
			t.Fatal(err)
		}
	}
	return pid
}

// TestFold does the same with repeats of a few writes. The kernel side counts them, and none is
// lost.
func TestFold(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) { testFold(t, b, "64KiB", 20_000, 2) })
	}
	// So many that some need the same slot.
	t.Run("many", func(t *testing.T) {
		anyKernel(t)
		testFold(t, backends[0], "512KiB", 60_000, 100)
	})
}

func testFold(t *testing.T, b tracer.Backend, ring string, writes, nvalues int) {
	const calm = 50
	values := make([]string, nvalues)
	for i := range values {
		values[i] = fmt.Sprintf("storm-%d", i)
	}
	s := startStopped(t, b, ring)
	begin := time.Now()
	storm(t, writes, append([]string{stormFile}, values...)...)
	end := time.Now()
	if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// It reports that without a new event, and continues.
	s.await(t, "an event with a count", func(all []*emitted) bool { return all[len(all)-1].Count > 0 })
	// A write that changes nothing is also a write.
	storm(t, calm, stormFile, "calm")
	s.interrupt(t)
	sum := s.checkEnd(t, true)

	counted := map[string]uint64{}
	var folded, missed, total uint64
	pids := map[uint32]bool{}
	for _, e := range s.since(0) {
		switch e.Type {
		case event.SysctlWrite:
			if e.Sysctl.New == nil {
				t.Fatalf("%s", e.line)
			}
			if *e.Sysctl.New != "calm" {
				pids[e.Process.PID] = true
			}
			counted[*e.Sysctl.New] += max(1, e.Count)
			total += max(1, e.Count)
			folded += e.Count
			if e.Count > 0 && (e.Time.Before(begin) || e.LastTime.Before(e.Time) || e.LastTime.After(end)) {
				t.Errorf("want the time from %v to %v: %s", begin, end, e.line)
			}
		case event.TraceLoss:
			missed += e.Loss.Records[event.SysctlWrite]
		}
	}
	if missed > 0 && !canMiss(event.SysctlWrite) {
		t.Errorf("%d missed", missed)
	}
	if total+missed != uint64(writes+calm) {
		t.Errorf("%d writes counted and %d missed, want %d", total, missed, writes+calm)
	}
	for _, v := range append(values, "calm") {
		want := uint64(writes / nvalues)
		if v == "calm" {
			want = calm
		}
		if n := counted[v]; n > want || n+missed < want {
			t.Errorf("%d writes of %s and %d missed, want %d", n, v, missed, want)
		}
	}
	if len(pids) != 1 {
		t.Errorf("the storm has the processes %v", pids)
	}
	if folded == 0 || sum.Folded != folded {
		t.Errorf("the totals say %d folded, the events say %d", sum.Folded, folded)
	}
}

// TestFoldFailed has calls that fail, one like the other, while nstrace does not read. The kernel side
// counts them, and none is lost.
func TestFoldFailed(t *testing.T) {
	const calls = 20_000
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			for _, tt := range []struct {
				call string
				want []string // one event each of every call
			}{
				{"setns", []string{"namespace.enter net EBADF", "namespace.enter uts EBADF"}},
				{"unshare", []string{"namespace.create ipc EPERM", "namespace.create uts EPERM"}},
				{"mount", []string{"namespace.pin uts ENOTDIR"}},
			} {
				t.Run(tt.call, func(t *testing.T) {
					args := []string{helper("nsflood"), fmt.Sprint(calls), tt.call}
					switch {
					case tt.call == "unshare":
						args = append([]string{"setpriv", "--reuid", "1000", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, args...)
					case tt.call == "mount" && b == tracer.Tracepoint:
						t.Skip("this backend finds pins, not calls that fail to make one")
					}
					s := startStream(t, "--backend", string(b), "--ring-size", "64KiB", "--event", "namespace", "--comm", "nsflood")
					s.pause(t)
					begin := time.Now()
					if out, want := output(t, args[0], args[1:]...), fmt.Sprintf("failed=%d", calls); out != want {
						t.Fatalf("the flood: %q, want %q", out, want)
					}
					end := time.Now()
					if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
						t.Fatal(err)
					}
					s.await(t, "an event with a count", func(all []*emitted) bool { return all[len(all)-1].Count > 0 })
					s.interrupt(t)
					sum := s.checkEnd(t, true)

					counted := map[string]uint64{}
					var folded uint64
					for _, e := range s.since(0) {
						if e.Namespace == nil {
							continue
						}
						counted[fmt.Sprintf("%s %s %s", e.Type, e.Namespace.Type, e.Error)] += max(1, e.Count)
						folded += e.Count
						if e.Count > 0 && (e.Time.Before(begin) || e.LastTime.Before(e.Time) || e.LastTime.After(end)) {
							t.Errorf("want the time from %v to %v: %s", begin, end, e.line)
						}
					}
					for _, want := range tt.want {
						n := counted[want]
						delete(counted, want)
						if n != calls && !(n < calls && canMiss(event.NamespaceCreate)) {
							t.Errorf("%d of %q, want %d", n, want, calls)
						}
					}
					if len(counted) > 0 {
						t.Errorf("other events: %v", counted)
					}
					if folded == 0 || sum.Folded != folded {
						t.Errorf("the totals say %d folded, the events say %d", sum.Folded, folded)
					}
				})
			}
		})
	}
}
