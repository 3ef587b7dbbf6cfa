// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A fakeTable is a record of a table.
type fakeTable struct {
	vanish  bool
	tid     uint32
	ns      uint32
	dir     string // net/ipv4/conf/eth0
	names   string // separated by spaces
	device  uint64
	ifindex uint32
	now     string // the name that the device has
	syscall uint32
}

func (f fakeTable) record(boot uint64) []byte {
	w := bpf.NstraceTableRecord{Device: f.device, Ifindex: f.ifindex, Syscall: f.syscall + 1}
	w.Head.Time = boot
	w.Head.Kind = uint16(bpf.NstraceRecordKindREC_SYSCTL_APPEAR)
	if f.vanish {
		w.Head.Kind = uint16(bpf.NstraceRecordKindREC_SYSCTL_VANISH)
	}
	if f.tid != 0 {
		w.Caller.Who, w.Caller.Tid, w.Caller.Pid = 1, f.tid, f.tid
	}
	w.Ns = bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: f.ns}
	for i, c := range []byte(f.now) {
		w.Name[i] = int8(c)
	}
	for i, c := range []byte("veth") {
		w.Kind[i] = int8(c)
	}
	parts := strings.Split(f.dir, "/")
	slices.Reverse(parts)
	dir := strings.Join(parts, "\x00") + "\x00"
	names := strings.Join(strings.Fields(f.names), "\x00") + "\x00"
	w.Nparams = uint32(len(strings.Fields(f.names)))
	w.DirLen, w.NamesLen = uint16(len(dir)), uint16(len(names))
	w.Head.Size = uint32(int(unsafe.Sizeof(w)) + len(dir) + len(names))
	b := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&w)), unsafe.Sizeof(w)))
	return append(append(b, dir...), names...)
}

// tableEnd is the record of the end of a thread.
func tableEnd(tid uint32, boot uint64) []byte {
	h := bpf.NstraceHead{Time: boot, Kind: uint16(bpf.NstraceRecordKindREC_TASK_EXIT), Ret: int32(tid)}
	h.Size = uint32(unsafe.Sizeof(h))
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h)))
}

// TestTables makes events of tables: one for each cause.
func TestTables(t *testing.T) {
	conf := fakeTable{tid: 7, ns: 1, dir: "net/ipv4/conf/v0", names: "a b", device: 1, ifindex: 3, now: "v0", syscall: unix.SYS_SENDMSG}
	neigh := conf
	neigh.dir = "net/ipv6/neigh/v0"
	gone := func(f fakeTable) fakeTable { f.vanish = true; return f }
	as := func(f fakeTable, name string) fakeTable {
		f.dir, f.now = strings.Replace(f.dir, "v0", name, 1), name
		return f
	}
	in := func(f fakeTable, ns, ifindex uint32) fakeTable { f.ns, f.ifindex = ns, ifindex; return f }
	by := func(f fakeTable, tid uint32) fakeTable { f.tid = tid; return f }
	module := fakeTable{tid: 8, ns: 1, dir: "net/netfilter", names: "max count", syscall: unix.SYS_FINIT_MODULE}
	worker := by(gone(conf), 0)
	renamed := gone(conf)
	renamed.now = "w0"
	for _, tt := range []struct {
		name   string
		tables []fakeTable
		want   []string
	}{
		{"device", []fakeTable{conf, neigh}, []string{"appear net.*.{conf,neigh}.v0.* 4 in 1 by 7 netlink: v0 3"}},
		{"made and removed", []fakeTable{conf, neigh, gone(conf), gone(neigh), conf}, []string{
			"appear net.*.{conf,neigh}.v0.* 4 in 1 by 7 netlink: v0 3", "vanish net.*.{conf,neigh}.v0.* 4 in 1 by 7 netlink: v0 3", "appear net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 3",
		}},
		{"two devices", []fakeTable{conf, as(conf, "v1")}, []string{"appear net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 3", "appear net.ipv4.conf.v1.* 2 in 1 by 7 netlink: v1 3"}},
		{"two threads", []fakeTable{conf, by(neigh, 9)}, []string{"appear net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 3", "appear net.ipv6.neigh.v0.* 2 in 1 by 9 netlink: v0 3"}},
		{"renamed", []fakeTable{renamed, as(conf, "w0"), as(neigh, "w0")}, []string{
			"vanish net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 > w0 3", "appear net.*.{conf,neigh}.w0.* 4 in 1 by 7 netlink: v0 > w0 3",
		}},
		{"renamed, and the rest lost", []fakeTable{renamed}, []string{"vanish net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 > w0 3"}},
		{"moved", []fakeTable{gone(conf), in(conf, 2, 5)}, []string{
			"vanish net.ipv4.conf.v0.* 2 in 1 by 7 netlink: v0 3 > 5 from 1 to 2", "appear net.ipv4.conf.v0.* 2 in 2 by 7 netlink: v0 3 > 5 from 1 to 2",
		}},
		{"module in two namespaces", []fakeTable{module, in(module, 2, 0)}, []string{"appear net.netfilter.* 2 in 1 and 2 by 8 finit_module"}},
		{"a worker", []fakeTable{worker}, []string{"vanish net.ipv4.conf.v0.* 2 in 1 netlink: v0 3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := newCollect()
			i := offline(&fakeHost{}, events)
			for n, f := range tt.tables {
				if err := i.interpret(f.record(epoch*3 + uint64(n))); err != nil {
					t.Fatal(err)
				}
			}
			if err := i.idle(); err != nil || len(events.events) != 0 {
				t.Fatalf("%d events come too early, %v", len(events.events), err)
			}
			if i.due().IsZero() {
				t.Error("nothing is due")
			}
			i.tables.now = func() time.Time { return time.Now().Add(moduleQuiet) }
			if err := i.idle(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range events.events {
				got = append(got, tableText(e))
			}
			if a := i.accounts; uint64(len(tt.tables)) != a.matched+a.filtered+a.joined {
				t.Errorf("%d records do not balance with %+v", len(tt.tables), a)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%q, want\n%q", got, tt.want)
			}
		})
	}

	t.Run("the thread ends", func(t *testing.T) {
		events := newCollect()
		i := offline(&fakeHost{}, events)
		for _, b := range [][]byte{conf.record(epoch * 3), by(as(conf, "v1"), 9).record(epoch * 3), tableEnd(7, epoch*3+1)} {
			if err := i.interpret(b); err != nil {
				t.Fatal(err)
			}
		}
		if len(events.events) != 1 || events.events[0].Netdev.Name != "v0" {
			t.Errorf("%d events", len(events.events))
		}
	})
	t.Run("too many of one thread", func(t *testing.T) {
		events := newCollect()
		i := offline(&fakeHost{}, events)
		if err := i.interpret(module.record(epoch * 3)); err != nil {
			t.Fatal(err)
		}
		for n := range 1000 { // the parameters of a device appear and vanish
			f := conf
			f.vanish = n%2 == 1
			if err := i.interpret(f.record(epoch*3 + uint64(n))); err != nil {
				t.Fatal(err)
			}
			if len(i.tables.waiting) > maxTableEventsOf+1 {
				t.Fatalf("%d events wait after %d records", len(i.tables.waiting), n)
			}
		}
		if slices.ContainsFunc(events.events, func(e *event.Event) bool { return e.Process.TID != conf.tid }) {
			t.Error("the event of another thread went")
		}
	})
	t.Run("too many", func(t *testing.T) {
		events := newCollect()
		i := offline(&fakeHost{}, events)
		for n := range 3 * maxTableEvents {
			if err := i.interpret(as(conf, fmt.Sprint("v", n)).record(epoch * 3)); err != nil {
				t.Fatal(err)
			}
			if len(i.tables.waiting) > maxTableEvents {
				t.Fatalf("%d events wait", len(i.tables.waiting))
			}
		}
		if err := i.flush(); err != nil || len(events.events) != 3*maxTableEvents {
			t.Errorf("%d events, %v", len(events.events), err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		i := offline(&fakeHost{}, newCollect())
		b := conf.record(epoch * 3)
		for n := range b {
			if _, err := i.parse(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes are a record", n, len(b))
			}
		}
	})
}

func tableText(e *event.Event) string {
	s := e.Sysctl
	text := fmt.Sprintf("%s %s %d in %d", strings.TrimPrefix(string(e.Type), "sysctl."), s.Name, s.Parameters.Count, s.Namespace.ID)
	if s.Parameters.Namespaces == 2 {
		text += " and 2"
	}
	if e.Process != nil {
		text += fmt.Sprint(" by ", e.Process.TID)
	}
	text += " " + e.Via
	d := e.Netdev
	if d == nil {
		return text
	}
	text += ": " + d.Name
	if d.NewName != "" {
		text += " > " + d.NewName
	}
	text += fmt.Sprint(" ", d.Ifindex)
	if d.NewIfindex != 0 {
		text += fmt.Sprint(" > ", d.NewIfindex)
	}
	if d.From != nil && d.To != nil {
		text += fmt.Sprintf(" from %d to %d", d.From.ID, d.To.ID)
	}
	return text
}

// TestUnmet has the values of parameters that appear read, while their event waits: those of the host that runs the
// test.
func TestUnmet(t *testing.T) {
	own := procfs.NamespacesOf("self")[event.NSTypeNet]
	lo := fakeTable{tid: 7, ns: own, dir: "net/ipv4/conf/lo", names: "rp_filter tag", device: 1, ifindex: 1, now: "lo", syscall: unix.SYS_SENDMSG}
	expected := func(name string, value func() (string, bool)) *event.Unmet {
		text, ok := value()
		if !ok {
			return nil
		}
		return &event.Unmet{Name: name, Value: text}
	}
	start := func(unmet UnmetFunc) (*interpreter, *collect) {
		events := newCollect()
		i := offline(&fakeHost{}, events)
		i.registry.host[event.NSTypeNet] = own
		i.tables.unmet = &unmetReader{unmet: unmet, host: i.registry.host}
		t.Cleanup(i.tables.unmet.close)
		return i, events
	}
	take := func(t *testing.T, i *interpreter, records ...[]byte) {
		t.Helper()
		for _, b := range records {
			if err := i.interpret(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	// settle calls idle when the interpreter asks for it, until nothing waits.
	settle := func(t *testing.T, i *interpreter) {
		t.Helper()
		for due := i.due(); !due.IsZero(); due = i.due() {
			time.Sleep(time.Until(due))
			if err := i.idle(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("the host's", func(t *testing.T) {
		i, events := start(expected)
		take(t, i, lo.record(epoch*3), tableEnd(lo.tid, epoch*3+1))
		if len(events.events) != 0 {
			t.Fatal("the event does not wait")
		}
		settle(t, i)
		if len(events.events) != 1 {
			t.Fatalf("%d events", len(events.events))
		}
		var got []string
		for _, u := range events.events[0].Sysctl.Parameters.Unmet {
			want, err := os.ReadFile(event.SysctlPath(u.Name))
			if err != nil || u.Value != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("%s is %q, want %q, %v", u.Name, u.Value, want, err)
			}
			got = append(got, u.Name)
		}
		if want := []string{"net.ipv4.conf.lo.rp_filter", "net.ipv4.conf.lo.tag"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("of another namespace", func(t *testing.T) {
		i, events := start(expected)
		other := lo
		other.ns = 1
		take(t, i, other.record(epoch*3))
		settle(t, i)
		if len(events.events) != 1 || events.events[0].Sysctl.Parameters.Unmet != nil {
			t.Errorf("%d events", len(events.events))
		}
	})
	t.Run("gone at once", func(t *testing.T) {
		stuck := make(chan struct{})
		t.Cleanup(func() { close(stuck) })
		i, events := start(func(string, func() (string, bool)) *event.Unmet { <-stuck; return nil })
		gone := lo
		gone.vanish, gone.tid = true, 8
		take(t, i, lo.record(epoch*3), tableEnd(lo.tid, epoch*3+1), gone.record(epoch*3+2), tableEnd(gone.tid, epoch*3+3))
		if len(events.events) != 2 || events.events[0].Type != event.SysctlAppear || events.events[1].Type != event.SysctlVanish {
			t.Errorf("%d events, or not in order", len(events.events))
		}
	})
	t.Run("no answer", func(t *testing.T) {
		stuck := make(chan struct{})
		t.Cleanup(func() { close(stuck) })
		i, events := start(func(string, func() (string, bool)) *event.Unmet { <-stuck; return nil })
		began := time.Now()
		take(t, i, lo.record(epoch*3), tableEnd(lo.tid, epoch*3+1))
		settle(t, i)
		if took := time.Since(began); len(events.events) != 1 || took < unmetHold {
			t.Errorf("%d events after %s", len(events.events), took)
		}
	})
}
