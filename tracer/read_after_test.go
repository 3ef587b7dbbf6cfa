// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	paramfile "github.com/nstrace/nstrace/internal/params"
)

// reading is a stream whose goroutine is the test.
type reading struct {
	stream
	got []string
}

func newReading(unseen *uint64, alive *bool) *reading {
	r := &reading{}
	r.handler = r
	r.reads = &afterReads{
		unseen: func(string) uint64 { return *unseen }, alive: func(*liveNS) bool { return *alive },
		learn: func(string, []byte, bool, string) {}, pending: map[parameterCopy]*afterRead{},
		wanted: make(chan *afterRead, 8), woken: make(chan struct{}, 1),
	}
	return r
}

func (r *reading) Event(e *event.Event) error {
	text := e.Sysctl.Name
	if s := e.Sysctl; s.After != nil {
		text += fmt.Sprintf("=%s read:%v", *s.After, s.AfterRead)
	}
	r.got = append(r.got, text)
	return nil
}

func (r *reading) Idle() error { return nil }

// write emits the write of a parameter. wanted says that its record does not show the value after it.
func (r *reading) write(t *testing.T, name string, wanted bool) (read *afterRead) {
	t.Helper()
	p := &event.Process{PID: 1, TID: 2}
	if wanted {
		read = &afterRead{parameterCopy: parameterCopy{path: name}, name: name, in: &liveNS{}, process: p, time: bootNow()}
		r.reads.want(read)
	}
	if err := r.emit(&event.Event{Type: event.SysctlWrite, Process: p, Sysctl: &event.Sysctl{Name: name}}); err != nil {
		t.Fatal(err)
	}
	return read
}

func (r *reading) release(t *testing.T, through uint64, all bool, want ...string) {
	t.Helper()
	r.got = nil
	if err := r.stream.releaseRead(through, all); err != nil || !slices.Equal(r.got, want) {
		t.Errorf("%q %v, want %q", r.got, err, want)
	}
}

// answer does what the goroutine does.
func (read *afterRead) answer(text string) {
	read.read, read.ok, read.at = paramfile.Value{Text: text}, true, bootNow()
	read.done.Store(true)
}

// TestReadAfterWrite has events that wait for values, and what makes a value that was read unsure.
func TestReadAfterWrite(t *testing.T) {
	unseen, alive := uint64(0), true
	r := newReading(&unseen, &alive)

	r.write(t, "first", false)
	if len(r.got) != 1 {
		t.Fatalf("an event waits without a need: %q", r.got)
	}
	read := r.write(t, "a", true)
	r.write(t, "behind", false)
	before := bootNow()
	r.release(t, before, false)
	read.answer("1")
	r.release(t, before, false) // a record of another write can still be in the ring
	r.release(t, bootNow(), false, "a=1 read:true", "behind")

	// The next write to the parameter says what it was before that.
	read = r.write(t, "a", true)
	old := "2"
	r.reads.wrote(parameterCopy{path: "a"}, "a", 2, &old)
	read.answer("3")
	r.release(t, 0, false, "a=2 read:true")
	// Another thread began, perhaps before the handler of the first write ran.
	read = r.write(t, "a", true)
	read.early, read.old = true, "2"
	r.reads.wrote(parameterCopy{path: "a"}, "a", 3, &old)
	r.release(t, 0, false, "a")
	// The same in another namespace says nothing.
	read = r.write(t, "a", true)
	r.reads.wrote(parameterCopy{path: "a", ns: 7}, "a", 2, &old)
	r.release(t, 0, false)
	read.answer("4")
	// Nor does a value that the filter hides a write behind, or of a namespace that has ended since.
	unseen = bootNow()
	r.release(t, bootNow(), false, "a")
	unseen = 0
	r.write(t, "a", true).answer("5")
	alive = false
	r.release(t, bootNow(), false, "a")
	alive = true
	read = r.write(t, "a", true) // the file cannot be read
	read.done.Store(true)
	r.release(t, 0, false, "a")

	// The kernel can change the parameter along with another one.
	r.write(t, "vm.dirty_ratio", true).answer("6")
	r.reads.wrote(parameterCopy{path: "vm.dirty_bytes"}, "vm.dirty_bytes", 2, &old)
	r.release(t, bootNow(), false, "vm.dirty_ratio")

	// A long value is cut.
	r.write(t, "a", true).answer(strings.Repeat("x", maxValue+1))
	r.release(t, bootNow(), false, "a="+strings.Repeat("x", maxValue)+" read:true")
	// There is no more time.
	r.write(t, "a", true)
	r.release(t, math.MaxUint64, true, "a")
}

// TestReadAfterStuck has a read that never ends. Its event waits for a while, and no other one does.
func TestReadAfterStuck(t *testing.T) {
	unseen, alive := uint64(0), true
	r := newReading(&unseen, &alive)
	read := r.write(t, "a", true)
	for start := time.Now(); r.reads.waiting(); {
		if err := r.stream.releaseRead(math.MaxUint64, false); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) > time.Minute {
			t.Fatal("the event still waits")
		}
	}
	if !slices.Equal(r.got, []string{"a"}) {
		t.Errorf("%q", r.got)
	}
	r.write(t, "b", true)
	r.release(t, 0, false, "b")
	read.answer("1")
	r.write(t, "c", true).answer("2")
	r.release(t, bootNow(), false, "c=2 read:true")
	// The goroutine has to rest.
	r.reads.rested.Store(time.Now().Add(time.Hour).UnixNano())
	r.write(t, "d", true)
	r.release(t, 0, false, "d")
	// Never more than that wait.
	r.reads.rested.Store(0)
	r.write(t, "e", true)
	for range maxHeld {
		r.write(t, "f", false)
	}
	r.got = nil
	if err := r.stream.releaseRead(0, false); err != nil || len(r.got) != maxHeld+1 {
		t.Errorf("%d events, %v", len(r.got), err)
	}
}

// TestHurry has the ring fill. Few events are held, none waits for a value, and none is lost.
func TestHurry(t *testing.T) {
	unseen, alive := uint64(0), true
	r := newReading(&unseen, &alive)
	r.ordered, r.order.next, r.clock = true, r.pass, &clock{now: bootNow}
	for range maxHeld {
		r.write(t, "held", false)
	}
	if len(r.got) != 0 {
		t.Fatalf("%d events were not held", len(r.got))
	}
	r.begin(bootNow(), true)
	for range maxHeld {
		r.write(t, "wanted", true)
	}
	if n := len(r.order.held); n != hurriedHeld || len(r.got) != 2*maxHeld-hurriedHeld {
		t.Errorf("%d events are held, and %d went", n, len(r.got))
	}
	r.reads.start()
	if n := len(r.reads.wanted); n != 0 || r.reads.waiting() {
		t.Errorf("%d values are to be read, events wait: %v", n, r.reads.waiting())
	}
	// As soon as the ring is empty, values are read again.
	r.begin(bootNow(), false)
	if err := r.order.flush(); err != nil {
		t.Fatal(err)
	}
	if err := r.releaseRead(0, false); err != nil || r.reads.waiting() || len(r.got) != 2*maxHeld {
		t.Errorf("%d events went, %v", len(r.got), err)
	}
	r.write(t, "a", true)
	r.reads.start()
	if n := len(r.reads.wanted); n != 1 {
		t.Errorf("%d values are to be read, want 1", n)
	}
}
