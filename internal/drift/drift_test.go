// SPDX-License-Identifier: Apache-2.0

package drift_test

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
)

func ptr[T any](v T) *T { return &v }

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// what returns "sysctl.drift net.ipv4.ip_forward 0 → 1 in 7", or "namespace.gone net 7", for each
// event.
func what(events []*event.Event) []string {
	var all []string
	for _, e := range events {
		s := string(e.Type)
		if v := e.Sysctl; v != nil {
			s += fmt.Sprintf(" %s %s → %s", v.Name, *v.Old, *v.After)
			if v.Namespace != nil {
				s += fmt.Sprintf(" in %d", v.Namespace.ID)
			}
		}
		if e.Namespace != nil {
			s += fmt.Sprintf(" %s %d", e.Namespace.Type, e.Namespace.ID)
		}
		all = append(all, s)
	}
	return all
}

func expect(t *testing.T, events []*event.Event, want ...string) {
	t.Helper()
	if got := what(events); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func namespace(typ event.NSType, id uint32, uid string, values map[string]string) *drift.Namespace {
	return &drift.Namespace{Namespace: event.Namespace{Type: typ, ID: id, UID: uid}, Parameters: values}
}

// sample is a host with some namespaces.
func sample() *drift.Snapshot {
	host := namespace("net", 1, "net:1", nil)
	host.Host = true
	return &drift.Snapshot{
		BootID: "a", Time: start,
		Parameters: map[string]string{
			"vm.swappiness": "60", "net.ipv4.ip_forward": "0", "net.ipv4.tcp_rmem": "4096\t131072\t6291456", "kernel.core_pattern": "\xffcore",
			"net.ipv4.conf.all.forwarding": "0", "net.ipv4.conf.eth0.forwarding": "0", "vm.dirty_bytes": "0", "vm.dirty_ratio": "20",
		},
		Namespaces: []*drift.Namespace{
			host,
			namespace("net", 7, "net:7", map[string]string{"net.ipv4.ip_forward": "0"}),
			namespace("mnt", 8, "mnt:8", nil),
			namespace("pid", 9, "9.100", nil),
			namespace("uts", 10, "", nil),
		},
	}
}

// kept returns a snapshot after it was encoded and decoded.
func kept(t *testing.T, s *drift.Snapshot) *drift.Snapshot {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := drift.Decode(drift.Version, b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, back) {
		t.Errorf("got %+v, want %+v", back, s)
	}
	return back
}

func TestCompare(t *testing.T) {
	before, after := kept(t, sample()), sample()
	after.Time = start.Add(time.Hour)
	expect(t, drift.Compare(before, after))

	after.Parameters["vm.swappiness"] = "1"
	after.Parameters["net.ipv4.ip_forward"] = "1"
	after.Parameters["net.ipv4.tcp_rmem"] = "4096 131072 6291456" // the same
	after.Parameters["kernel.new"] = "1"                          // came with a module
	delete(after.Parameters, "net.ipv4.conf.eth0.forwarding")     // went with its device
	after.Namespaces[1].Parameters["net.ipv4.ip_forward"] = "1"
	after.Namespaces[2] = namespace("mnt", 8, "mnt:80", nil)   // another namespace has the number
	after.Namespaces[3] = namespace("pid", 9, "9.200", nil)    // another tracer's uid for the same namespace
	after.Namespaces[4] = namespace("user", 10, "user:5", nil) // a namespace of another type has the number
	after.Namespaces = append(after.Namespaces, namespace("net", 11, "net:11", map[string]string{"net.ipv4.ip_forward": "1"}))
	events := drift.Compare(before, after)
	expect(t, events,
		"sysctl.drift net.ipv4.ip_forward 0 → 1 in 1", "sysctl.drift vm.swappiness 60 → 1",
		"sysctl.drift net.ipv4.ip_forward 0 → 1 in 7",
		"namespace.gone mnt 8", "namespace.gone uts 10",
		"namespace.appeared mnt 8", "namespace.appeared user 10", "namespace.appeared net 11")
	for _, e := range events {
		want := event.Between{From: start, To: start.Add(time.Hour), Boot: "same"}
		if *e.Between != want || !e.Time.Equal(want.To) {
			t.Errorf("at %v, between %v", e.Time, *e.Between)
		}
	}
	if s := events[1].Sysctl; s.Path != "/proc/sys/vm/swappiness" {
		t.Errorf("path %s", s.Path)
	}

	// After a boot, all namespaces are new, even with the same numbers.
	after = sample()
	after.BootID = "b"
	after.Parameters["vm.swappiness"] = "1"
	events = drift.Compare(before, after)
	expect(t, events, "sysctl.drift vm.swappiness 60 → 1",
		"namespace.gone net 7", "namespace.gone mnt 8", "namespace.gone pid 9", "namespace.gone uts 10",
		"namespace.appeared net 7", "namespace.appeared mnt 8", "namespace.appeared pid 9", "namespace.appeared uts 10")
	for _, e := range events {
		want := "" // of the run
		if e.Type == event.NamespaceGone {
			want = "a"
		}
		if e.Between.Boot != "different" || e.BootID != want {
			t.Errorf("%s of boot %q after a %s boot, want %q", e.Type, e.BootID, e.Between.Boot, want)
		}
	}
}

// TestCompareLong compares values that are longer than those in events.
func TestCompareLong(t *testing.T) {
	before, after := sample(), sample()
	long := strings.Repeat("1,", 2000)
	before.Parameters["net.ipv4.ip_local_reserved_ports"], after.Parameters["net.ipv4.ip_local_reserved_ports"] = long+"1", long+"2"
	events := drift.Compare(before, after)
	if len(events) != 1 || !events[0].Sysctl.Truncated || len(*events[0].Sysctl.Old) != 1024 || len(*events[0].Sysctl.After) != 1024 {
		t.Errorf("%q", what(events))
	}
}

// TestApplyBoots applies events of a later boot, whose recorder left no snapshot. Its namespaces are not those of
// the snapshot, whatever their numbers, and have not ended with that boot.
func TestApplyBoots(t *testing.T) {
	before, after := sample(), sample()
	after.BootID, after.Namespaces = "b", append(after.Namespaces[:1], namespace("net", 11, "net:11", nil))
	value := "1"
	for _, e := range []*event.Event{
		{Type: event.NamespaceGone, BootID: "a", Namespace: &before.Namespaces[2].Namespace},
		{Type: event.NamespaceAppeared, BootID: "b", Namespace: &event.Namespace{Type: event.NSTypeNet, ID: 11, UID: "net:11"}},
		{Type: event.NamespaceCreate, BootID: "b", Namespace: &event.Namespace{Type: event.NSTypeUTS, ID: 10}},
		{Type: event.NamespaceDestroy, BootID: "b", Namespace: &event.Namespace{Type: event.NSTypePID, ID: 9, UID: "9.100"}},
		{Type: event.SysctlWrite, BootID: "b", Sysctl: &event.Sysctl{Name: "vm.swappiness", New: &value, After: &value}},
	} {
		e.Time = start.Add(time.Minute)
		before.Apply(e.Clone())
	}
	expect(t, drift.Compare(before, after), "sysctl.drift vm.swappiness 1 → 60",
		"namespace.gone net 7", "namespace.gone pid 9", "namespace.gone uts 10", "namespace.appeared net 11")
}

func TestApply(t *testing.T) {
	s := sample()
	written := func(name string, outcome event.Outcome, written, after *string, ns *event.Namespace) {
		s.Apply(&event.Event{Type: event.SysctlWrite, Time: start.Add(time.Second), Outcome: outcome, Sysctl: &event.Sysctl{Name: name, New: written, After: after, Namespace: ns}})
	}
	hostNet := &event.Namespace{Type: "net", ID: 1, Host: true}
	written("vm.swappiness", event.Success, ptr("1000"), ptr("100"), nil)
	written("net.ipv4.tcp_rmem", "", ptr("1 2 3"), nil, hostNet)
	written("kernel.core_pattern", event.Failure, ptr("|/x"), nil, nil)
	written("net.ipv4.ip_forward", event.Success, ptr("1"), ptr("1"), &event.Namespace{Type: "net", ID: 7})
	written("kernel.left_out", event.Success, ptr("1"), ptr("1"), nil)
	now := sample()
	now.Parameters["vm.swappiness"] = "100"
	now.Parameters["net.ipv4.tcp_rmem"] = "1\t2\t3"
	now.Namespaces[1].Parameters["net.ipv4.ip_forward"] = "1"
	if !s.Time.Equal(start.Add(time.Second)) {
		t.Errorf("watched until %v", s.Time)
	}
	expect(t, drift.Compare(s, now))

	// Not compared: parameters that the kernel sets along with another one, and a value that the
	// kernel can print in another form.
	written("net.ipv4.ip_forward", event.Success, ptr("1"), ptr("1"), hostNet)
	written("vm.dirty_bytes", event.Success, ptr("4096"), ptr("4096"), nil)
	written("vm.swappiness", "", ptr("0x10"), nil, nil)
	for name, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.forwarding": "1", "net.ipv4.conf.eth0.forwarding": "1",
		"vm.dirty_bytes": "4096", "vm.dirty_ratio": "0", "vm.swappiness": "16",
	} {
		now.Parameters[name] = value
	}
	expect(t, drift.Compare(s, now))

	// Differences that were found before.
	s.Apply(&event.Event{Type: event.SysctlDrift, Sysctl: &event.Sysctl{Name: "kernel.core_pattern", After: ptr("|/x")}})
	now.Parameters["kernel.core_pattern"] = "|/x"
	s.Apply(&event.Event{Type: event.NamespaceAppeared, Namespace: &event.Namespace{Type: "net", ID: 21, UID: "net:21"}})
	s.Apply(&event.Event{Type: event.NamespaceGone, Namespace: &event.Namespace{Type: "net", ID: 21, UID: "net:21"}})
	expect(t, drift.Compare(s, now))

	// Not compared: what happened while a snapshot was taken.
	both := []*drift.Snapshot{s, now}
	for _, e := range []*event.Event{
		{Type: event.SysctlWrite, Sysctl: &event.Sysctl{Name: "vm.swappiness"}},
		{Type: event.NamespaceCreate, Namespace: &event.Namespace{Type: "net", ID: 22}},
	} {
		for _, s := range both {
			s.Parameters["vm.swappiness"] = fmt.Sprintf("%p", s)
			s.Namespaces = append(s.Namespaces, namespace("net", 22, fmt.Sprintf("%p", s), nil))
		}
		for _, s := range both {
			s.Forget(e)
		}
	}
	s.Forget(&event.Event{Type: event.SysctlWrite, Sysctl: &event.Sysctl{Name: "vm.swappiness"}})
	s.Forget(&event.Event{Type: event.NamespaceCreate, Namespace: &event.Namespace{Type: "net", ID: 22}})
	expect(t, drift.Compare(s, now))

	// Namespaces that were made, and one that ended.
	s.Apply(&event.Event{Type: event.NamespaceCreate, Outcome: event.Success, Namespace: &event.Namespace{Type: "net", ID: 20, UID: "net:20"}})
	s.Apply(&event.Event{Type: event.NamespaceCreate, Outcome: event.Failure, Namespace: &event.Namespace{Type: "net"}})
	s.Apply(&event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "mnt", ID: 8}})
	expect(t, drift.Compare(s, now), "namespace.gone net 20", "namespace.appeared mnt 8")
}

// TestApplyNewer checks that a namespace that is newer than the snapshot has the parameters that
// were written.
func TestApplyNewer(t *testing.T) {
	s, now := sample(), sample()
	ns := &event.Namespace{Type: "net", ID: 20, UID: "net:20"}
	create := &event.Event{Type: event.NamespaceCreate, Outcome: event.Success, Namespace: ns}
	write := func(name, value string) {
		s.Apply(&event.Event{Type: event.SysctlWrite, Outcome: event.Success, Sysctl: &event.Sysctl{Name: name, New: &value, After: &value, Namespace: ns}})
	}
	s.Apply(create)
	write("net.ipv4.tcp_keepalive_time", "600")
	write("net.ipv4.tcp_fastopen_key", "1-2-3-4") // which no snapshot has
	now.Namespaces = append(now.Namespaces, namespace("net", 20, "net:20", map[string]string{"net.ipv4.tcp_keepalive_time": "601", "net.ipv4.ip_forward": "1"}))
	expect(t, drift.Compare(s, now), "sysctl.drift net.ipv4.tcp_keepalive_time 600 → 601 in 20")

	// The namespace was made while the snapshot was taken, and is in it.
	s = sample()
	s.Namespaces = append(s.Namespaces, namespace("net", 20, "net:20", map[string]string{"net.ipv4.ip_forward": "0"}))
	s.Apply(create)
	expect(t, drift.Compare(s, now), "sysctl.drift net.ipv4.ip_forward 0 → 1 in 20")

	// The destroy event of the namespace that had the number before arrives late.
	s.Apply(&event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "mnt", ID: 20, UID: "mnt:2"}})
	expect(t, drift.Compare(s, now), "sysctl.drift net.ipv4.ip_forward 0 → 1 in 20")
	s.Apply(&event.Event{Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 20, UID: "net:19"}})
	expect(t, drift.Compare(s, now), "sysctl.drift net.ipv4.ip_forward 0 → 1 in 20")
	s.Apply(&event.Event{Type: event.NamespaceDestroy, Namespace: ns})
	expect(t, drift.Compare(s, now), "namespace.appeared net 20")
}

// TestKept checks that an encoded snapshot has the owners of namespaces.
func TestKept(t *testing.T) {
	s := sample()
	s.Namespaces[1].Owner = &event.Owner{Container: &event.Container{ID: "c", Name: "web"}, Source: event.FromNamespace}
	after := kept(t, s)
	s = kept(t, s)
	after.Namespaces = after.Namespaces[:1]
	if events := drift.Compare(s, after); len(events) != 4 || events[0].Namespace.Owner.Container.Name != "web" {
		t.Errorf("%q", what(events))
	}
	for _, bad := range [][]byte{nil, []byte("x"), {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}} {
		if _, err := drift.Decode(drift.Version, bad); err == nil {
			t.Errorf("Decode accepts %q", bad)
		}
	}
	if _, err := drift.Decode(drift.Version+1, nil); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("another version: %v", err)
	}
}

// TestTake checks that Take reads the existing parameters, and that reading does not change them.
func TestTake(t *testing.T) {
	before, err := drift.Take(context.Background(), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	after, err := drift.Take(context.Background(), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(before.Parameters); n < 200 {
		t.Errorf("only %d parameters", n)
	}
	text, err := os.ReadFile("/proc/sys/vm/swappiness")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := before.Parameters["vm.swappiness"], strings.TrimSpace(string(text)); got != want {
		t.Errorf("vm.swappiness %q, want %q", got, want)
	}
	for _, name := range []string{"kernel.random.uuid", "kernel.ns_last_pid", "fs.file-nr", "net.ipv4.route.flush", "net.ipv4.tcp_fastopen_key", "vm.drop_caches"} {
		if _, ok := before.Parameters[name]; ok {
			t.Errorf("the snapshot has %s", name)
		}
	}
	expect(t, drift.Compare(before, after))
}

func BenchmarkTake(b *testing.B) {
	for b.Loop() {
		s, err := drift.Take(context.Background(), nil, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(s.Parameters)), "parameters")
	}
}
