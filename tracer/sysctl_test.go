// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// writeOf returns a captured record of a write with another time, via and id.
func writeOf(b []byte, boot uint64, via bpf.NstraceCallVia, id uint64) []byte {
	b = slices.Clone(b)
	binary.NativeEndian.PutUint64(b[unsafe.Offsetof(bpf.NstraceHead{}.Time):], boot)
	b[unsafe.Offsetof(bpf.NstraceHead{}.Via)] = byte(via)
	binary.NativeEndian.PutUint64(b[unsafe.Offsetof(bpf.NstraceSysctlRecord{}.WriteId):], id)
	return b
}

// repeatable returns a captured record as the first of a fold.
func repeatable(b []byte, key uint64, slot uint32) []byte {
	b = binary.NativeEndian.AppendUint64(slices.Clone(b), key)
	b = binary.NativeEndian.AppendUint32(b, slot)
	b = append(b, 0, 0, 0, 0)
	b[unsafe.Offsetof(bpf.NstraceHead{}.Repeatable)] = 1
	binary.NativeEndian.PutUint32(b[unsafe.Offsetof(bpf.NstraceHead{}.Size):], uint32(len(b)))
	return b
}

// afterWrites returns an interpreter that knows the processes of a real run, one record of a
// write in it and the time of that.
func afterWrites(t *testing.T, host *fakeHost) (in *interpreter, events *collect, write []byte, boot uint64) {
	events = newCollect()
	in = offline(host, events)
	for _, b := range records(t, "testdata/6.12.records") {
		if err := in.interpret(b); err != nil {
			t.Fatal(err)
		}
		if in.kinds[in.record.head.Kind] == recordInterpreter(in.sysctl) {
			write, boot = b, in.record.head.Time
		}
	}
	events.events = nil
	return in, events, write, boot
}

// TestCascade has what the kernel changed along with a write: its records come before that of
// the write, its events come after.
func TestCascade(t *testing.T) {
	in, events, write, boot := afterWrites(t, &fakeHost{})
	cascade := writeOf(write, boot-5, bpf.NstraceCallViaVIA_CASCADE, 9)
	cause := writeOf(write, boot, bpf.NstraceCallViaVIA_WRITE, 9)
	interpret := func(all ...[]byte) []*event.Event {
		t.Helper()
		events.events = nil
		for _, b := range all {
			if err := in.interpret(b); err != nil {
				t.Fatal(err)
			}
		}
		return events.events
	}
	got := interpret(cascade, cascade, writeOf(write, boot, bpf.NstraceCallViaVIA_WRITE, 8), cause)
	if len(got) != 4 || got[0].Via != event.ViaWrite || got[1].Via != event.ViaWrite {
		t.Fatalf("%d events", len(got))
	}
	for _, e := range got[2:] {
		c := e.Sysctl.Cause
		if e.Via != event.ViaCascade || c == nil || c.Name != got[1].Sysctl.Name || c.Ref != got[1].Ref || !e.Time.Equal(got[1].Time) {
			t.Errorf("after %+v came %+v with cause %+v", got[1], e, c)
		}
	}

	// The filter drops the write, not what changed with it: the cause has no Ref.
	in.filter = &event.Filter{Sysctl: []string{"none"}}
	before := in.accounts.filtered
	if got := interpret(cascade, cause); len(got) != 0 || in.accounts.filtered != before+2 {
		t.Errorf("%d events, %d filtered", len(got), in.accounts.filtered-before)
	}
	in.filter = &event.Filter{}

	// The record of the write is lost.
	interpret(cascade)
	for _, now := range []uint64{boot, boot - 5 + epoch} {
		in.clock.now = func() uint64 { return now }
		if err := in.idle(); err != nil || len(events.events) != 0 {
			t.Fatalf("%d events before it is late, %v", len(events.events), err)
		}
	}
	in.clock.now = func() uint64 { return boot + epoch }
	if err := in.idle(); err != nil || len(events.events) != 1 {
		t.Fatalf("%d events of an orphan, %v", len(events.events), err)
	}
	if e := events.events[0]; e.Sysctl.Cause.Ref != 0 || e.Sysctl.Cause.Name != "" || !e.Time.Equal(in.clock.wall(boot-5)) {
		t.Errorf("%+v with cause %+v", e, e.Sysctl.Cause)
	}
	interpret(cascade)
	if err := in.flush(); err != nil || len(events.events) != 1 {
		t.Errorf("%d events at the end of the run, %v", len(events.events), err)
	}
}

// TestFoldsCall has the repeats of a failed call that stands for two events.
func TestFoldsCall(t *testing.T) {
	host := &fakeHost{slots: map[uint32]bpf.NstraceFold{}}
	events := newCollect()
	in := offline(host, events)
	var failed []byte
	for _, b := range records(t, "testdata/6.12.records") {
		if err := in.interpret(b); err != nil {
			t.Fatal(err)
		}
		if r := &in.record; bpf.NstraceRecordKind(r.head.Kind) == bpf.NstraceRecordKindREC_NS_CREATE && r.failed() && r.head.Nchanges == 2 {
			failed = b
		}
	}
	if failed == nil {
		t.Fatal("no record of a failed call about two namespaces")
	}
	events.events = nil
	accounts := in.accounts
	if err := in.interpret(repeatable(failed, 9, 4)); err != nil {
		t.Fatal(err)
	}
	host.slots[4] = bpf.NstraceFold{Key: 9, Count: 5, First: 1, Last: 2}
	if err := in.folds.take(in); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events.events {
		got = append(got, fmt.Sprintf("%s %s %s %d", e.Type, e.Namespace.Type, e.Error, e.Count))
	}
	want := []string{
		"namespace.create uts EPERM 0", "namespace.create ipc EPERM 0",
		"namespace.create uts EPERM 5", "namespace.create ipc EPERM 5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if in.accounts.matched-accounts.matched != 12 || in.accounts.folded-accounts.folded != 10 {
		t.Errorf("from %+v to %+v", accounts, in.accounts)
	}
}

// TestFolds has what the kernel counts instead of sending it.
func TestFolds(t *testing.T) {
	host := &fakeHost{slots: map[uint32]bpf.NstraceFold{}}
	in, events, write, boot := afterWrites(t, host)
	take := func(k bpf.NstraceFold) *event.Event {
		t.Helper()
		events.events = nil
		host.slots[4] = k
		if err := in.folds.take(in); err != nil {
			t.Fatal(err)
		}
		if len(events.events) == 0 {
			return nil
		}
		return events.events[0]
	}
	if due := in.due(); !due.IsZero() {
		t.Errorf("due at %v without folds", due)
	}
	if err := in.interpret(repeatable(write, 9, 4)); err != nil {
		t.Fatal(err)
	}
	if due := in.due(); due.IsZero() || time.Until(due) > foldEvery {
		t.Errorf("due at %v", due)
	}
	accounts := in.accounts
	if e := take(bpf.NstraceFold{Key: 8, Count: 3, First: 1, Last: 2}); e != nil {
		t.Errorf("another fold's repeats: %+v", e)
	}
	e := take(bpf.NstraceFold{Key: 9, Count: 1, First: boot + 1, Last: boot + 1})
	if e == nil || e.Count != 0 || !e.LastTime.IsZero() || !e.Time.Equal(in.clock.wall(boot+1)) {
		t.Errorf("one repeat: %+v", e)
	}
	if host.slots[4].Reported != 1 {
		t.Errorf("taken: %+v", host.slots[4])
	}
	e = take(bpf.NstraceFold{Key: 9, Count: 11, Reported: 1, First: boot + 2, Last: boot + 3})
	if e == nil || e.Count != 10 || !e.Time.Equal(in.clock.wall(boot+2)) || !e.LastTime.Equal(in.clock.wall(boot+3)) {
		t.Errorf("ten repeats: %+v", e)
	}
	if got := in.accounts; got.matched != accounts.matched+11 || got.folded != accounts.folded+10 {
		t.Errorf("from %+v to %+v", accounts, got)
	}
	// No repeat can come once the epoch of the process's id is over.
	idle := bpf.NstraceFold{Key: 9, Count: 11, Reported: 11, Last: boot}
	for _, row := range []struct {
		now  uint64
		kept bool
	}{{boot + foldIdle, true}, {boot + foldIdle + 1, false}} {
		in.clock.now = func() uint64 { return row.now }
		if e := take(idle); e != nil || (len(in.folds.bySlot) == 1) != row.kept {
			t.Errorf("%+v: %v, folds %v", row, e, in.folds.bySlot)
		}
	}

	// Repeats of what the filter drops count as filtered.
	in.filter = &event.Filter{Sysctl: []string{"none"}}
	if err := in.interpret(repeatable(write, 9, 4)); err != nil {
		t.Fatal(err)
	}
	accounts = in.accounts
	if e := take(bpf.NstraceFold{Key: 9, Count: 7, First: 1, Last: 2}); e != nil || in.accounts.filtered != accounts.filtered+7 || in.accounts.matched != accounts.matched {
		t.Errorf("%+v, from %+v to %+v", e, accounts, in.accounts)
	}
}
