// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// tamperActions names the commands of bpf(2) that take something from a tracer (enum
// bpf_cmd of include/uapi/linux/bpf.h).
var tamperActions = map[uint32]string{
	2: "map_update", 3: "map_delete", 9: "prog_detach", 21: "map_delete", 22: "map_freeze",
	26: "map_update", 27: "map_delete", 29: "link_update", 34: "link_detach",
}

// watchOwn tells the kernel side what nstrace has in the kernel, so that it knows when
// others lay hands on that.
func (t *Tracer) watchOwn() error {
	m := t.loaded.coll.Maps[bpf.NstraceMapOwnObjects]
	if err := empty(m); err != nil {
		return fmt.Errorf("forget what was nstrace's own: %w", err)
	}
	t.objects = map[bpf.NstraceOwnKey]string{}
	add := func(object bpf.NstraceOwnObject, id uint32, name string) {
		t.objects[bpf.NstraceOwnKey{Object: uint32(object), Id: id}] = name
	}
	for name, lk := range t.loaded.links {
		// Some have no id: what older kernels have in place of links goes with its
		// descriptor, which others cannot have.
		if info, err := lk.Info(); err == nil && info.ID != 0 {
			add(bpf.NstraceOwnObjectOWN_LINK, uint32(info.ID), name)
		}
	}
	for name, p := range t.loaded.coll.Programs {
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("ask for the id of program %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			add(bpf.NstraceOwnObjectOWN_PROGRAM, uint32(id), name)
		}
	}
	for name, m := range t.loaded.coll.Maps {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("ask for the id of map %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			add(bpf.NstraceOwnObjectOWN_MAP, uint32(id), name)
		}
	}
	for key := range t.objects {
		if err := m.Update(key, uint8(1), ebpf.UpdateAny); err != nil {
			return fmt.Errorf("say what is nstrace's own: %w", err)
		}
	}
	return nil
}

// A stopSignal is the signal that ended a run, and who sent it.
type stopSignal struct {
	signal string
	caller *caller // nil: the kernel, such as for a terminal's ^C
}

// into puts it into a trace.stop.
func (s *stopSignal) into(e *event.Event) {
	e.Trace.Signal = s.signal
	if c := s.caller; c != nil {
		e.Via = "kill"
		e.Process, e.Container, e.Pod, e.Unit = c.p, c.place.container, c.place.pod, c.place.unit
	}
}

// handleTamper tells what was done to nstrace. A signal that asks it to end is told with
// its end.
func (t *Tracer) handleTamper(h Handler, r *record) error {
	var who *caller
	if r.tamper.Caller.Who != 0 {
		who = t.caller(&r.tamper.Caller)
	}
	switch sig := unix.Signal(r.tamper.Signal); sig {
	case unix.SIGINT, unix.SIGTERM:
		t.filtered++ // told with trace.stop
		t.stopped = stopSignal{signal: unix.SignalName(sig), caller: who}
		return nil
	case 0:
		e := t.beginTamper(r, who, "bpf")
		e.Tamper = &event.Tamper{
			Action: tamperActions[r.tamper.Cmd],
			Object: t.objects[bpf.NstraceOwnKey{Object: r.tamper.Object, Id: r.tamper.Id}],
		}
		t.matched++
		return t.emit(h, e)
	default:
		e := t.beginTamper(r, who, "kill")
		e.Tamper = &event.Tamper{Action: "signal", Signal: signalName(sig)}
		t.matched++
		return t.emit(h, e)
	}
}

func (t *Tracer) beginTamper(r *record, who *caller, via string) *event.Event {
	e := &event.Event{Type: event.TraceTamper, Time: t.clock.wall(r.head.Time)}
	if who != nil {
		e = t.begin(r, event.TraceTamper, who)
	}
	e.Via = via
	return e
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(sig))
}
