// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"testing"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

const (
	netNS  = event.NSTypeNet
	mntNS  = event.NSTypeMnt
	userNS = event.NSTypeUser
)

// TestRegistryAdd has a row for each way in which the registry meets an inode number again.
func TestRegistryAdd(t *testing.T) {
	type look struct {
		typ    event.NSType
		kernel uint64
		boot   uint64
	}
	for _, row := range []struct {
		name          string
		first, second look
		gone          uint64 // when a scan found that the first ended, 0 for never
		same, ended   bool   // the second is the first; the first ended unseen
		uid           string // of the second
	}{
		{"the same id", look{netNS, 5, 10}, look{netNS, 5, 20}, 0, true, false, "5"},
		{"an unknown id", look{netNS, 5, 10}, look{netNS, 0, 20}, 0, true, false, "5"},
		{"the id becomes known", look{netNS, 0, 10}, look{netNS, 5, 20}, 0, true, false, "5"},
		{"another id", look{netNS, 5, 10}, look{netNS, 6, 20}, 0, false, true, "6"},
		{"another type", look{netNS, 0, 10}, look{mntNS, 0, 20}, 0, false, true, "7.20"},

		{"gone, a late record", look{netNS, 0, 10}, look{netNS, 0, 20}, 30, true, false, "7.10"},
		{"gone, a later record", look{netNS, 0, 10}, look{netNS, 0, 40}, 30, false, false, "7.40"},
		{"gone, a later record with its id", look{netNS, 5, 10}, look{netNS, 5, 40}, 30, true, false, "5"},
		{"gone, a late record of another one", look{netNS, 5, 10}, look{netNS, 6, 20}, 30, false, false, "6"},
		{"gone, a late record of another type", look{netNS, 0, 10}, look{mntNS, 0, 20}, 30, false, false, "7.20"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRegistry()
			first, _ := r.add(row.first.typ, 7, row.first.kernel, 0, row.first.boot)
			if row.gone != 0 {
				r.removeGone(first, row.gone)
			}
			second, ended := r.add(row.second.typ, 7, row.second.kernel, 3, row.second.boot)
			if (second == first) != row.same {
				t.Errorf("the same namespace: %v", second == first)
			}
			if (ended == first) != row.ended || ended != nil && ended != first {
				t.Errorf("ended: %+v", ended)
			}
			if second.uid != row.uid {
				t.Errorf("uid %s, want %s", second.uid, row.uid)
			}
			if want := uint32(3); row.gone == 0 && second.userNS != want {
				t.Errorf("user namespace %d, want %d", second.userNS, want)
			}
		})
	}
	if ns, ended := newRegistry().add(netNS, 0, 5, 0, 1); ns != nil || ended != nil {
		t.Error("a namespace without an inode number was added")
	}
}

// TestRegistryRemove removes namespaces that the kernel freed.
func TestRegistryRemove(t *testing.T) {
	for _, row := range []struct {
		name         string
		known, freed uint64 // ids in the kernel
		removed      bool
	}{
		{"the same id", 5, 5, true},
		{"the id is unknown to the record", 5, 0, true},
		{"the id is unknown to the registry", 0, 5, true},
		{"a later user of the inode number", 6, 5, false},
	} {
		r := newRegistry()
		ns, _ := r.add(netNS, 7, row.known, 0, 1)
		if got := r.remove(7, row.freed); (got == ns) != row.removed || (r.live[7] == nil) != row.removed {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
	if newRegistry().remove(7, 0) != nil {
		t.Error("an unknown namespace was removed")
	}
}

// TestRegistryAt looks for what an inode number stood for at different times.
func TestRegistryAt(t *testing.T) {
	r := newRegistry()
	first, _ := r.add(userNS, 7, 5, 0, 10)
	if got := r.at(userNS, 7, 20); got != first {
		t.Errorf("alive: %+v", got)
	}
	if got := r.at(netNS, 7, 20); got != nil {
		t.Errorf("another type: %+v", got)
	}
	r.removeGone(first, 30)
	if got := r.at(userNS, 7, 20); got != first {
		t.Errorf("before its end: %+v", got)
	}
	if got := r.at(userNS, 7, 40); got != nil {
		t.Errorf("after its end: %+v", got)
	}
	second, _ := r.add(userNS, 7, 6, 0, 50)
	if got := r.at(userNS, 7, 60); got != second {
		t.Errorf("its number again: %+v", got)
	}
}

// TestRegistryForgets checks that what a scan found gone is forgotten once no late record can
// come.
func TestRegistryForgets(t *testing.T) {
	r := newRegistry()
	for i := range uint32(1000) {
		at := uint64(i) * lateRecords / 10
		ns, _ := r.add(netNS, i+1, 0, 0, at)
		r.removeGone(ns, at)
		if len(r.gone) > 12 {
			t.Fatalf("%d are kept", len(r.gone))
		}
	}
	if len(r.live) != 0 {
		t.Errorf("%d are alive", len(r.live))
	}
}

// TestUID has the ids of kernels with one series of ids, with one for each type, and with none.
func TestUID(t *testing.T) {
	for _, row := range []struct {
		perType bool
		kernel  uint64
		want    string
		ofOne   bool // KernelUID
	}{
		{false, 5, "5", true},
		{true, 5, "net:5", true},
		{true, 0, "7.99", false},
		{false, 0, "7.99", false},
	} {
		r := newRegistry()
		r.perType = row.perType
		ns := event.Namespace{UID: r.uid(netNS, row.kernel, 7, 99)}
		if ns.UID != row.want || ns.KernelUID() != row.ofOne {
			t.Errorf("%+v: %s, of the kernel: %v", row, ns.UID, ns.KernelUID())
		}
	}
}

// TestLearn has namespaces of which a mount shows no id. They get the kernel's id, unless an event had them before.
func TestLearn(t *testing.T) {
	r := newRegistry()
	r.perType = true
	for _, row := range []struct {
		shown bool
		want  string
	}{{false, "net:5"}, {true, "7.99"}} {
		ns, _ := r.add(netNS, 7, 0, 0, 99)
		if row.shown {
			r.show(ns, new(event.Namespace))
		}
		again, ended := r.add(netNS, 7, 5, 3, 100)
		if again != ns || ended != nil || ns.uid != row.want {
			t.Errorf("shown %v: the uid is %s, want %s", row.shown, ns.uid, row.want)
		}
		r.remove(7, 5)
	}
}

// TestDescribe completes namespaces of a scan from the registry.
func TestDescribe(t *testing.T) {
	r := newRegistry()
	r.host[netNS] = 1
	known, _ := r.add(netNS, 7, 5, 3, 1)
	known.name = "web"
	for _, row := range []struct {
		name   string
		ns     event.Namespace
		kernel uint64
		want   event.Namespace
	}{
		{"the host's", event.Namespace{Type: netNS, ID: 1}, 0, event.Namespace{Type: netNS, ID: 1, Host: true}},
		{"known", event.Namespace{Type: netNS, ID: 7}, 5, event.Namespace{Type: netNS, ID: 7, UID: "5", Name: "web", UserNS: 3}},
		{"known, the scan has no id", event.Namespace{Type: netNS, ID: 7, UserNS: 4}, 0, event.Namespace{Type: netNS, ID: 7, UID: "5", Name: "web", UserNS: 4}},
		{"a later user of the inode number", event.Namespace{Type: netNS, ID: 7}, 6, event.Namespace{Type: netNS, ID: 7, UID: "6"}},
		{"unknown", event.Namespace{Type: mntNS, ID: 9}, 0, event.Namespace{Type: mntNS, ID: 9}},
	} {
		got := row.ns
		if r.describe(&got, row.kernel); got != row.want {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
}

// TestNameIsReused gives the name of a namespace, which lives on without it, to another one, and the number of
// one that ended to a named one.
func TestNameIsReused(t *testing.T) {
	host := &fakeHost{names: map[uint32]string{7: "web"}}
	in := offline(host, newCollect())
	of := func(id uint32, kernel, boot uint64) *liveNS {
		t.Helper()
		ns, err := in.lookup(&bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: id, NsId: kernel}, boot)
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	first := of(7, 70, 10)
	if first.name != "web" {
		t.Fatalf("the name is %q", first.name)
	}
	host.names = map[uint32]string{8: "web"}
	if of(7, 70, 20).name != "web" {
		t.Error("it lost its last name, which no other namespace has")
	}
	second := of(8, 80, 30)
	if second.name != "web" || of(7, 70, 40).name != "" {
		t.Errorf("the names are %q and %q, want web for the second one", first.name, second.name)
	}
	in.registry.removeGone(second, 50)
	third := of(8, 81, 60)
	host.names = map[uint32]string{8: "db"}
	of(8, 81, 70)
	if late := of(8, 80, 45); late != second || second.name != "web" || third.name != "db" {
		t.Errorf("after the second one ended, the names are %q and %q", second.name, third.name)
	}
}
