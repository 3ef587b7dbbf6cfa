// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"slices"
	"testing"
	"unsafe"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// pinned returns what a snapshot has of net namespaces, by mount point.
func pinned(byPath map[string]uint32) (all []procfs.Namespace) {
	for path, id := range byPath {
		all = append(all, procfs.Namespace{Type: netNS, ID: id, Path: path})
	}
	return all
}

// TestComparePins has pairs of snapshots, and the events of the second.
func TestComparePins(t *testing.T) {
	type mounts = map[string]uint32
	for _, row := range []struct {
		name          string
		before, after mounts
		want          []string
	}{
		{"nothing", mounts{"/a": 7}, mounts{"/a": 7}, nil},
		{"pinned", nil, mounts{"/a": 7}, []string{"pin net 7 /a"}},
		{"unpinned", mounts{"/a": 7}, nil, []string{"unpin net 7 /a"}},
		{"moved", mounts{"/a": 7}, mounts{"/b": 7}, []string{"unpin net 7 /a", "pin net 7 /b"}},
		{"pinned again", mounts{"/a": 7}, mounts{"/a": 7, "/b": 7}, []string{"pin net 7 /b"}},
		{"another namespace on the same point", mounts{"/a": 7}, mounts{"/a": 8}, []string{"unpin net 7 /a", "pin net 8 /a"}},
		{"in the order of their points", mounts{"/b": 7, "/a": 8}, nil, []string{"unpin net 8 /a", "unpin net 7 /b"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			events := newCollect()
			in := offline(&fakeHost{}, events)
			in.pins.snapshots = true
			in.learnPins(pinned(row.before))
			if len(events.events) != 0 {
				t.Fatalf("pins from before the start have events: %q", briefs(events.events))
			}
			if err := in.comparePins(mountSnapshot{at: 1, pinned: pinned(row.after)}); err != nil {
				t.Fatal(err)
			}
			if got := briefs(events.events); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
			for _, e := range events.events {
				if e.Namespace.Detected != event.DetectedScan || e.Process != nil {
					t.Errorf("%s: detected %q, process %v", brief(e), e.Namespace.Detected, e.Process)
				}
			}
			if a := in.accounts; a.inferred != a.matched+a.filtered || a.inferred != uint64(len(row.want)) {
				t.Errorf("the accounts do not balance: %+v", a)
			}
		})
	}
}

// TestComparePinsReused reuses an inode number between a snapshot and its comparison: the new
// namespace was not mounted.
func TestComparePinsReused(t *testing.T) {
	events := newCollect()
	in := offline(&fakeHost{}, events)
	in.pins.snapshots = true
	in.registry.add(netNS, 7, 0, 0, 20)
	if err := in.comparePins(mountSnapshot{at: 10, pinned: pinned(map[string]uint32{"/a": 7})}); err != nil {
		t.Fatal(err)
	}
	if len(events.events) != 0 {
		t.Errorf("%q", briefs(events.events))
	}
}

// TestEndPins ends a namespace of which no snapshot shows yet that its pins ended.
func TestEndPins(t *testing.T) {
	events := newCollect()
	in := offline(&fakeHost{}, events)
	in.pins.snapshots = true
	in.learnPins(pinned(map[string]uint32{"/a": 7}))
	in.pins.stale = false
	if err := in.inferEnds([]*liveNS{in.registry.remove(7, 0)}); err != nil {
		t.Fatal(err)
	}
	if got, want := briefs(events.events), []string{"unpin net 7 /a", "destroy net 7"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !in.pins.stale || len(in.pins.byPoint) != 0 {
		t.Errorf("a snapshot is due: %v, known: %v", in.pins.stale, in.pins.byPoint)
	}
}

// TestLearnPins learns pins where the kernel reports their end: by mount id, without those
// that no followed process made.
func TestLearnPins(t *testing.T) {
	for follow, want := range map[bool][]uint32{false: {30, 31}, true: nil} {
		events := newCollect()
		in := offline(&fakeHost{names: map[uint32]string{7: "web"}}, events)
		in.follow = follow
		got, _ := in.learnPins([]procfs.Namespace{
			{Type: netNS, ID: 7, Path: "/run/netns/web", MountID: 30}, {Type: netNS, ID: 7, Path: "/run/netns/web", MountID: 31},
		})
		if !slices.Equal(got, want) {
			t.Errorf("follow=%v: the kernel reports the ends of %v", follow, got)
		}
		if name := in.registry.live[7].name; name != "web" {
			t.Errorf("follow=%v: it is named %q", follow, name)
		}
	}
}

// TestEndOldPins ends pins from before the start that are two mounts on one point each, as ip netns add makes
// them. They have one end.
func TestEndOldPins(t *testing.T) {
	const web, db = "/run/netns/web", "/run/netns/db"
	events := newCollect()
	in := offline(&fakeHost{}, events)
	var unpin []byte
	for _, b := range records(t, "testdata/6.12.records") {
		if err := in.interpret(b); err != nil {
			t.Fatal(err)
		}
		if bpf.NstraceRecordKind(in.record.head.Kind) == bpf.NstraceRecordKindREC_NS_UNPIN && !in.record.failed() {
			unpin = slices.Clone(b)
		}
	}
	if unpin == nil {
		t.Fatal("no unpin was captured")
	}
	in.learnPins([]procfs.Namespace{
		{Type: netNS, ID: 7, Path: web, MountID: 30}, {Type: netNS, ID: 7, Path: web, MountID: 31},
		{Type: netNS, ID: 8, Path: db, MountID: 32}, {Type: netNS, ID: 8, Path: db, MountID: 33},
	})
	events.events = nil
	end := func(mount uint32) []byte {
		r := bpf.NstracePinEndRecord{MntId: mount}
		r.Head.Size, r.Head.Kind = uint32(unsafe.Sizeof(r)), uint16(bpf.NstraceRecordKindREC_PIN_END)
		return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)))
	}
	binary.NativeEndian.PutUint32(unpin[unsafe.Offsetof(bpf.NstracePinRecord{}.MntId):], 31)
	for _, step := range []struct {
		record []byte
		events int
	}{
		{unpin, 1},   // by a process, of one mount
		{end(30), 0}, // which the other one follows
		{end(32), 0}, // without a process, of one mount
		{end(33), 1}, // and of the other one
	} {
		before := len(events.events)
		if err := in.interpret(step.record); err != nil {
			t.Fatal(err)
		}
		if n := len(events.events) - before; n != step.events {
			t.Errorf("%d events, want %d: %q", n, step.events, briefs(events.events))
		}
	}
	if len(in.pins.byMount) != 0 {
		t.Errorf("known: %v", in.pins.byMount)
	}
}

// TestPinRecords pins and ends pins by the captured records of a real run, and by the same
// records with another outcome or mount id.
func TestPinRecords(t *testing.T) {
	events := newCollect()
	in := offline(&fakeHost{}, events)
	var pinRecord []byte
	for _, b := range records(t, "testdata/6.12.records") {
		if err := in.interpret(b); err != nil {
			t.Fatal(err)
		}
		if pinRecord == nil && bpf.NstraceRecordKind(in.record.head.Kind) == bpf.NstraceRecordKindREC_NS_PIN && !in.record.failed() {
			pinRecord = slices.Clone(b)
		}
	}
	if pinRecord == nil {
		t.Fatal("no pin was captured")
	}
	if len(in.pins.byMount) != 0 {
		t.Errorf("all pins of the run ended: %v", in.pins.byMount)
	}
	const mount = 4242
	with := func(ret int32) []byte {
		b := slices.Clone(pinRecord)
		binary.NativeEndian.PutUint32(b[unsafe.Offsetof(bpf.NstraceHead{}.Ret):], uint32(ret))
		binary.NativeEndian.PutUint32(b[unsafe.Offsetof(bpf.NstracePinRecord{}.MntId):], mount)
		return b
	}
	end := bpf.NstracePinEndRecord{MntId: mount}
	end.Head.Size, end.Head.Kind = uint32(unsafe.Sizeof(end)), uint16(bpf.NstraceRecordKindREC_PIN_END)
	endRecord := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&end)), unsafe.Sizeof(end)))

	last := func(records ...[]byte) (*event.Event, int) {
		before := len(events.events)
		for _, b := range records {
			if err := in.interpret(b); err != nil {
				t.Fatal(err)
			}
		}
		return events.events[len(events.events)-1], len(events.events) - before
	}
	if e, n := last(with(-1), endRecord); n != 1 || e.Outcome != event.Failure || len(in.pins.byMount) != 0 {
		t.Errorf("a failed pin: %d events, %+v, known %v", n, e, in.pins.byMount)
	}
	if in.accounts.filtered == 0 {
		t.Error("the end of an unknown pin is not counted")
	}
	pin, _ := last(with(0))
	e, n := last(endRecord)
	if n != 1 || e.Type != event.NamespaceUnpin || e.Namespace.Path != pin.Namespace.Path || e.Process != nil || e.Namespace.Detected != "" {
		t.Errorf("the end of a pin: %d events, %+v", n, e)
	}
	// The maker of a pin stands for the process that is behind its end.
	in.filter = &event.Filter{PIDs: []uint32{pin.Process.PID}}
	if _, n := last(with(0), endRecord); n != 2 {
		t.Errorf("%d events for the maker's pid", n)
	}
	in.filter = &event.Filter{PIDs: []uint32{pin.Process.PID + 1}}
	last(with(0))
	if _, n := last(endRecord); n != 0 {
		t.Errorf("%d events for another pid", n)
	}
}

// TestLearnPinsEnded has a namespace end while nothing is attached. The one that is mounted has its inode
// number.
func TestLearnPinsEnded(t *testing.T) {
	for _, snapshots := range []bool{false, true} {
		events := newCollect()
		in := offline(&fakeHost{}, events)
		in.pins.snapshots = snapshots
		was := procfs.Namespace{Type: netNS, ID: 7, KernelID: 70, Path: "/a", MountID: 5}
		if _, ended := in.learnPins([]procfs.Namespace{was}); len(ended) > 0 {
			t.Errorf("ended at first: %d", len(ended))
		}
		now := was
		now.KernelID = 71
		_, ended := in.learnPins([]procfs.Namespace{now})
		if err := in.inferEnds(ended); err != nil {
			t.Fatal(err)
		}
		want := []string{"destroy net 7"}
		if snapshots {
			want = []string{"unpin net 7 /a", "destroy net 7"}
		}
		if got := briefs(events.events); !slices.Equal(got, want) {
			t.Errorf("snapshots %v: got %q, want %q", snapshots, got, want)
		}
	}
}

// TestPinName pins a namespace at a name that another one had. Only the new one has it then.
func TestPinName(t *testing.T) {
	events := newCollect()
	in := offline(&fakeHost{}, events)
	other, _ := in.registry.add(netNS, 7, 0, 0, 1)
	in.registry.rename(other, "web")
	for _, b := range records(t, "testdata/6.12.records") {
		if err := in.record.open(b); err != nil {
			t.Fatal(err)
		}
		if bpf.NstraceRecordKind(in.record.head.Kind) == bpf.NstraceRecordKindREC_NS_PIN {
			var r bpf.NstracePinRecord
			rest := b
			if err := fixed(&rest, &r); err != nil {
				t.Fatal(err)
			}
			in.registry.host[event.NSTypeMnt] = 9
			from := unsafe.Offsetof(r.Ns) + unsafe.Offsetof(r.Ns.From)
			binary.NativeEndian.PutUint32(b[from:], 9) // a pin in the host's mount namespace
		}
		if err := in.interpret(b); err != nil {
			t.Fatal(err)
		}
		if bpf.NstraceRecordKind(in.record.head.Kind) == bpf.NstraceRecordKindREC_NS_PIN && !in.record.failed() {
			break
		}
	}
	if e := events.events[len(events.events)-1]; e.Type != event.NamespacePin || e.Namespace.Name != "web" {
		t.Fatalf("the last event is %+v", e)
	}
	if other.name != "" {
		t.Errorf("the other namespace still has the name %q", other.name)
	}
}

// TestPinCopy ends pins in a mount namespace, of which nstrace did or did not see everything.
func TestPinCopy(t *testing.T) {
	const mntNS, mount = 9, 4242
	for _, tt := range []struct {
		name  string
		set   func(*interpreter, *bpf.NstracePinRecord)
		copy  bool
		mntNS uint32
	}{
		{"made while nstrace watched", nil, true, mntNS},
		{"a call made the mount", func(_ *interpreter, r *bpf.NstracePinRecord) { r.Known = 1 }, false, mntNS},
		{"the pin was reported", func(in *interpreter, r *bpf.NstracePinRecord) {
			in.pins.byMount[mount] = &pin{ns: in.registry.live[r.Ns.Inum]}
		}, false, mntNS},
		{"made before nstrace watched", func(in *interpreter, _ *bpf.NstracePinRecord) { in.registry.live[mntNS].creator = nil }, false, mntNS},
		{"nstrace was detached since", func(in *interpreter, _ *bpf.NstracePinRecord) { in.pins.since = in.registry.live[mntNS].bootNS + 1 }, false, mntNS},
		{"calls of others are not seen", func(in *interpreter, r *bpf.NstracePinRecord) { in.filter = &event.Filter{UIDs: []uint32{0}} }, false, mntNS},
		{"the mount namespace is unknown", func(_ *interpreter, r *bpf.NstracePinRecord) { r.Ns.From = 0 }, false, 0},
		{"mounts that are not attached", func(_ *interpreter, r *bpf.NstracePinRecord) { r.Ns.From = anonMountNS }, false, 0},
		{"another namespace has its number", func(in *interpreter, _ *bpf.NstracePinRecord) { in.registry.live[mntNS].typ = netNS }, false, mntNS},
	} {
		events := newCollect()
		in := offline(&fakeHost{}, events)
		done := false
		for _, b := range records(t, "testdata/6.12.records") {
			b = slices.Clone(b)
			if err := in.record.open(b); err != nil {
				t.Fatal(err)
			}
			if bpf.NstraceRecordKind(in.record.head.Kind) != bpf.NstraceRecordKindREC_NS_UNPIN || in.record.failed() {
				if err := in.interpret(b); err != nil {
					t.Fatal(err)
				}
				continue
			}
			r := (*bpf.NstracePinRecord)(unsafe.Pointer(&b[0]))
			r.MntId, r.Ns.From = mount, mntNS
			ns, _ := in.registry.add(event.NSTypeMnt, mntNS, 0, 0, r.Head.Time)
			ns.creator = &event.Actor{}
			if tt.set != nil {
				tt.set(in, r)
			}
			if err := in.interpret(b); err != nil {
				t.Fatal(err)
			}
			done = true
			break
		}
		if !done {
			t.Fatal("no unpin was captured")
		}
		e := events.events[len(events.events)-1]
		if e.Type != event.NamespaceUnpin || e.Namespace.Copy != tt.copy || e.Namespace.MntNS != tt.mntNS {
			t.Errorf("%s: %s: copy %v, mnt_ns %d", tt.name, brief(e), e.Namespace.Copy, e.Namespace.MntNS)
		}
	}
}
