// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// boot returns what systemd-sysctl, a container runtime and the kernel do within a second.
func boot() []*event.Event {
	systemd := asRoot(&event.Process{PID: 233, TID: 233, StartTime: at(0), Comm: "systemd-sysctl", User: "root", Ancestors: []event.Actor{{PID: 1, Comm: "systemd"}}})
	runtime := runc(90311)
	var events []*event.Event
	set := func(ms int, p *event.Process, name string, ns *event.Namespace) *event.Event {
		e := &event.Event{Type: event.SysctlWrite, Time: at(ms), Outcome: event.Success, Process: p, Sysctl: &event.Sysctl{Name: name, Old: ptr("0"), New: ptr("1"), After: ptr("1"), Namespace: ns}}
		events = append(events, e)
		return e
	}
	host := &event.Namespace{Type: "net", ID: hostNS["net"], Host: true}
	set(10, systemd, "kernel.sysrq", nil)
	set(13, systemd, "kernel.core_uses_pid", nil)
	set(15, systemd, "net.ipv4.conf.all.rp_filter", host)
	set(21, systemd, "net.ipv4.conf.lo.rp_filter", host)
	e := set(230, systemd, "vm.swappiness", nil)
	e.Outcome, e.Error = event.Failure, "EINVAL"
	for i, typ := range []event.NSType{"uts", "ipc", "mnt"} {
		events = append(events, &event.Event{Type: event.NamespaceCreate, Time: at(300 + i), Outcome: event.Success, Via: "unshare", Process: runtime, Namespace: &event.Namespace{Type: typ, ID: uint32(4026532300 + i)}})
	}
	events = append(events, &event.Event{Type: event.NamespaceEnter, Time: at(310), Outcome: event.Success, Via: "setns", Process: runtime, Namespace: &event.Namespace{Type: "net", ID: 4026532281, From: hostNS["net"]}})
	e = set(320, runtime, "net.ipv4.ip_forward", &event.Namespace{Type: "net", ID: 4026532281, Name: "web"})
	e.Count, e.LastTime = 4, at(330)
	set(340, systemd, "kernel.sysrq", nil)
	set(341, systemd, "kernel.sysrq", nil)
	set(800, systemd, "kernel.sysrq", nil)
	for i := range 3 {
		set(810+i, runc(90312), fmt.Sprintf("net.ipv4.conf.eth%d/7.forwarding", i), &event.Namespace{Type: "net", ID: 4026532281, Name: "web"})
	}
	for i, typ := range []event.NSType{"uts", "ipc", "mnt"} {
		events = append(events, &event.Event{Type: event.NamespaceDestroy, Time: at(900 + i), Namespace: &event.Namespace{Type: typ, ID: uint32(4026532300 + i), Creator: &event.Actor{PID: 90311, Comm: "runc"}}})
	}
	return events
}

// A lockedRecord is a record for a sink that writes from a goroutine of its own.
type lockedRecord struct {
	mu  sync.Mutex
	rec record
}

func (r *lockedRecord) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.Write(p)
}

func (r *lockedRecord) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rec.err = err
}

func (r *lockedRecord) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.rec.writes, "")
}

func groupSink(table output.TableOptions, opts output.GroupOptions) func(io.Writer) output.Sink {
	return func(w io.Writer) output.Sink { return output.NewGroup(output.NewTable(w, table), opts) }
}

func TestGroup(t *testing.T) {
	table := output.TableOptions{Location: time.UTC, HostNS: hostNS}
	const want = `TIME          EVENT    TARGET                       CHANGE            WHO
12:04:31.133  sysctl   5 writes kernel.* ×2         in 220ms          systemd > systemd-sysctl[233]
                       net.ipv4.conf.* ×2           1 FAILED
                       vm.swappiness
12:04:31.423  burst    3 created uts ipc mnt,       ×8 in 30ms        containerd-shim > runc >
                       1 entered net, 4 writes                        runc:[1:CHILD][90311]
                       net.ipv4.ip_forward
12:04:31.463  sysctl   kernel.sysrq                 0 → 1             systemd > systemd-sysctl[233]
12:04:31.464  sysctl   kernel.sysrq                 0 → 1             systemd > systemd-sysctl[233]
12:04:31.923  sysctl   kernel.sysrq                 0 → 1             systemd > systemd-sysctl[233]
12:04:31.933  sysctl   3 writes net.ipv4.conf.*     in 2ms            containerd-shim > runc >
                       in net 4026532281 web                          runc:[1:CHILD][90312]
12:04:32.023  destroy  3 destroyed uts ipc mnt      in 2ms            made by runc[90311]
`
	if got := write(t, groupSink(table, output.GroupOptions{}), boot()...); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	const open = `TIME          EVENT    TARGET                       CHANGE            WHO
12:04:31.133  sysctl   5 writes kernel.* ×2         in 220ms          systemd > systemd-sysctl[233]
                       net.ipv4.conf.* ×2           1 FAILED
                       vm.swappiness
     +0.000s  sysctl   kernel.sysrq                 0 → 1             systemd > systemd-sysctl[233]
     +0.003s  sysctl   kernel.core_uses_pid         0 → 1             systemd > systemd-sysctl[233]
`
	if got := write(t, groupSink(table, output.GroupOptions{Open: true}), boot()...); !strings.HasPrefix(got, open) {
		t.Errorf("open: got\n%swant\n%s", got, open)
	} else if n := strings.Count(got, "  +0.0"); n != 5+5+3+3-1 {
		t.Errorf("open: %d events of bursts\n%s", n, got)
	}
	wide := write(t, groupSink(output.TableOptions{Wide: true, HostNS: hostNS}, output.GroupOptions{}), boot()...)
	if n := strings.Count(wide, "\n"); n != 8 || !strings.Contains(wide, "5 writes kernel.* ×2 net.ipv4.conf.* ×2 vm.swappiness") {
		t.Errorf("wide: %d lines\n%s", n, wide)
	}
	checkSafe(t, write(t, groupSink(table, output.GroupOptions{Open: true}), append(hostile(), bare()...)...))
}

// TestGroupLeavesAlone checks that events with alerts, those that move a parameter away from its expected value, and losses
// are not folded, and that events stay in order.
func TestGroupLeavesAlone(t *testing.T) {
	for _, mark := range []func(*event.Event){
		func(e *event.Event) { e.Alert = []event.Alert{{Name: "filter", Severity: "info"}} },
		func(e *event.Event) {
			e.Sysctl.Expected = &event.Expected{State: event.ExpectedAway, Comparison: "equal", Values: []string{"0"}, File: "x"}
		},
	} {
		events := boot()[:5]
		mark(events[2])
		events = append(events, &event.Event{Type: event.TraceLoss, Time: at(240), Loss: &event.Loss{Records: map[event.Type]uint64{event.SysctlWrite: 3}, Reason: "ring_full"}})
		table := output.TableOptions{Location: time.UTC}
		if got, want := write(t, groupSink(table, output.GroupOptions{}), events...), write(t, tableSink(table), events...); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
}

// TestGroupKeeps checks that a Group copies what it keeps, and that it limits how many
// events of an open burst it keeps.
func TestGroupKeeps(t *testing.T) {
	for _, opts := range []output.GroupOptions{{}, {Open: true}} {
		var got bytes.Buffer
		sink := groupSink(output.TableOptions{}, opts)(&got)
		for _, ev := range boot() {
			ev := ev.Clone()
			var value []byte
			if ev.Sysctl != nil {
				value = []byte(*ev.Sysctl.New)
				ev.Sysctl.New = ptr(unsafe.String(&value[0], len(value)))
			}
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
			// A Tracer reuses this memory.
			copy(value, "?")
			if ev.Sysctl != nil {
				*ev.Sysctl.New = ""
				*ev.Sysctl = event.Sysctl{}
			}
			if ev.Namespace != nil {
				*ev.Namespace = event.Namespace{}
			}
			*ev = event.Event{}
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		if want := write(t, groupSink(output.TableOptions{}, opts), boot()...); got.String() != want {
			t.Errorf("got\n%s\nwant\n%s", &got, want)
		}
	}
	many := slicesRepeat(boot()[0], 2500)
	if got := write(t, groupSink(output.TableOptions{}, output.GroupOptions{Open: true}), many...); strings.Count(got, " writes ") != 3 || strings.Count(got, "+0.000s") != 2500 {
		t.Errorf("%d lines for bursts, %d for events", strings.Count(got, " writes "), strings.Count(got, "+0.000s"))
	}
	if got := write(t, groupSink(output.TableOptions{}, output.GroupOptions{}), many...); strings.Count(got, "2500 writes kernel.sysrq") != 1 {
		t.Errorf("got\n%s", got)
	}
}

// TestGroupTime checks that a timer writes the line of a burst, and that Flush, which comes
// after every few events, does not end a burst.
func TestGroupTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &lockedRecord{}
		sink := groupSink(output.TableOptions{}, output.GroupOptions{Hold: output.DefaultHold})(rec)
		put := func() {
			ev := boot()[0]
			ev.Time = time.Now()
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
			if err := sink.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		lines := func() int {
			synctest.Wait()
			return strings.Count(rec.String(), "kernel.sysrq")
		}
		put()
		time.Sleep(output.DefaultGap - time.Nanosecond)
		if n := lines(); n != 0 {
			t.Errorf("%d lines before the time is over", n)
		}
		time.Sleep(time.Nanosecond)
		if n := lines(); n != 1 {
			t.Errorf("%d lines after it", n)
		}
		// A burst that does not end has a line each second, and each event is in one line.
		first := time.Now()
		for time.Since(first) < 10*time.Second {
			put()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(output.DefaultGap)
		if n := lines(); n != 1+10 {
			t.Errorf("%d lines for 10 seconds", n-1)
		}
		all := rec.String()
		if n := strings.Count(all, "10 writes kernel.sysrq"); n != 10 {
			t.Errorf("%d lines for 10 writes\n%s", n, all)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestGroupRecovers checks that a full disk costs no line that fits into memory.
func TestGroupRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &lockedRecord{rec: record{err: syscall.ENOSPC}}
		sink := groupSink(output.TableOptions{}, output.GroupOptions{Hold: output.DefaultHold})(rec)
		for _, ev := range boot()[:5] {
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // the timer has failed to write the burst
		synctest.Wait()
		if sink.Flush() == nil {
			t.Error("the failed write is not reported")
		}
		rec.fail(nil)
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		if all := rec.String(); strings.Count(all, "5 writes") != 1 {
			t.Errorf("got\n%s", all)
		}
	})
}
