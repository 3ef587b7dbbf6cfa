// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// tamperActions is the name of each command of bpf(2) by which a process can take something
// from a tracer (enum bpf_cmd of include/uapi/linux/bpf.h).
var tamperActions = map[uint32]string{
	2: "map_update", 3: "map_delete", 9: "prog_detach", 21: "map_delete", 22: "map_freeze",
	26: "map_update", 27: "map_delete", 29: "link_update", cmdLinkDetach: "link_detach",
}

// cmdLinkDetach is BPF_LINK_DETACH of enum bpf_cmd.
const cmdLinkDetach = 34

// noteTampered notes that somebody did something to one of nstrace's objects in the kernel. The hooks are
// proven soon after that.
func (in *interpreter) noteTampered(key bpf.NstraceOwnKey) {
	if in.tampered == nil {
		in.tampered = map[bpf.NstraceOwnKey]bool{}
	}
	in.tampered[key] = true
	in.proofs.suspect = true
}

// A stopSignal is the signal that ended a run, and the process that sent it.
type stopSignal struct {
	signal string
	sender *caller // nil: the kernel, as for ^C on a terminal
}

// describe adds the signal to a trace.stop.
func (s *stopSignal) describe(e *event.Event) {
	e.Trace.Signal = s.signal
	if c := s.sender; c != nil {
		e.Via = event.ViaKill
		e.Process, e.Container, e.Pod, e.Unit = c.process, c.workload.Container, c.workload.Pod, c.workload.Unit
	}
}

// tamperRecords are of what processes did to nstrace itself: signals, and commands of bpf(2)
// on its programs, maps and links.
type tamperRecords struct {
	in   *interpreter
	wire bpf.NstraceTamperRecord
}

func newTamperRecords(in *interpreter) recordInterpreter { return &tamperRecords{in: in} }

func (t *tamperRecords) parse(r *record) error { return fixed(&r.rest, &t.wire) }

func (t *tamperRecords) interpret(r *record) error {
	var who *caller
	if t.wire.Caller.Who != 0 {
		who = t.in.caller(&t.wire.Caller)
	}
	switch sig := unix.Signal(t.wire.Signal); sig {
	case unix.SIGINT, unix.SIGTERM: // a request to end: trace.stop reports it
		t.in.accounts.filtered++
		t.in.stop = stopSignal{signal: unix.SignalName(sig), sender: who}
		return nil
	case 0:
		key := bpf.NstraceOwnKey{Object: t.wire.Object, Id: t.wire.Id}
		t.in.noteTampered(key)
		return t.emit(r, who, event.ViaBPF, &event.Tamper{Action: tamperActions[t.wire.Cmd], Object: t.in.lookups.ownObject(key)})
	default:
		return t.emit(r, who, event.ViaKill, &event.Tamper{Action: "signal", Signal: signalName(sig)})
	}
}

// emit emits a trace.tamper, which no filter drops.
func (t *tamperRecords) emit(r *record, who *caller, via string, tamper *event.Tamper) error {
	e := &event.Event{Type: event.TraceTamper, Time: t.in.clock.wall(r.head.Time)}
	if who != nil {
		e = t.in.begin(r, event.TraceTamper, who)
	}
	e.Via, e.Tamper = via, tamper
	return t.in.emit(e)
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(sig))
}
