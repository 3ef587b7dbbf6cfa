// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"
	"strings"
	"unsafe"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// A parameter is the name of a kernel parameter and the path of its file.
type parameter struct {
	name, path, device string
	kind               string // the path without the device: all parameters of a kind have the same handler
}

// unknownParameter stands for a parameter whose name did not arrive. The name is sent before
// the first write that refers to it, and both or none are lost, so that is not expected.
var unknownParameter = &parameter{name: "?", path: event.SysctlDir + "/?"}

// parameterRecords are names of parameters.
type parameterRecords struct {
	in   *interpreter
	wire bpf.NstraceParamRecord
	path []byte
}

func newParameterRecords(in *interpreter) recordInterpreter { return &parameterRecords{in: in} }

func (p *parameterRecords) parse(r *record) error {
	if err := fixed(&r.rest, &p.wire); err != nil {
		return err
	}
	p.path, r.rest = r.rest, nil
	return nil
}

func (p *parameterRecords) interpret(r *record) error {
	v := new(parameter)
	v.name, v.path = sysctlName(components(p.path))
	v.device = event.SysctlDevice(v.path)
	v.kind = v.path
	if v.device != "" {
		v.kind = strings.Replace(v.path, "/"+v.device+"/", "/*/", 1)
	}
	p.in.sysctl.parameters.add(p.wire.Id, r.head.Time, v)
	return nil
}

// sysctlName returns the name and the path of a parameter from the components of its path,
// the last one first.
func sysctlName(parts []string) (name, file string) {
	slices.Reverse(parts)
	file = event.SysctlDir + "/" + strings.Join(parts, "/")
	name, _ = event.SysctlName(file)
	return name, file
}

// writeRecords are of writes to parameters, and of parameters that the kernel changed along
// with another one or with a device.
type writeRecords struct {
	in                   *interpreter
	wire                 bpf.NstraceSysctlRecord
	old, new, raw, after []byte
	parameters           epochCache[parameter]
	cascades             cascades

	sysctl event.Sysctl
	text   [3]string // sysctl.Old, New and After
	cause  event.Cause
	values valueReader
	reads  *afterReads // nil: only records show values
}

func newWriteRecords(in *interpreter) recordInterpreter {
	in.sysctl = &writeRecords{in: in, values: newValueReader(0)}
	return in.sysctl
}

func (w *writeRecords) parse(r *record) error {
	if err := fixed(&r.rest, &w.wire); err != nil {
		return err
	}
	for _, p := range [...]struct {
		part *[]byte
		n    uint16
	}{{&w.old, w.wire.OldLen}, {&w.new, w.wire.NewLen}, {&w.raw, w.wire.RawLen}, {&w.after, w.wire.AfterLen}} {
		var err error
		if *p.part, err = cut(&r.rest, int(p.n)); err != nil {
			return err
		}
	}
	return nil
}

func (w *writeRecords) interpret(r *record) error {
	if r.is(bpf.NstraceCallViaVIA_CASCADE) { // the record of its cause comes later
		w.cascades.add(w.wire.WriteId, r.head.Time, r.raw)
		return nil
	}
	id, at := w.wire.WriteId, r.head.Time
	ref, name, err := w.emit(r, nil)
	if err != nil || id == 0 {
		return err
	}
	return w.emitCascade(id, event.Cause{Name: name, Ref: ref}, at)
}

// emit emits the event of the record in hand. cause is what the kernel changed the parameter
// along with, if that is known. emit returns the event's Ref, 0 if the filter dropped it,
// and the parameter's name.
func (w *writeRecords) emit(r *record, cause *event.Cause) (ref uint64, name string, err error) {
	in, who := w.in, w.in.caller(&w.wire.Caller)
	ns, err := in.lookup(&w.wire.Ns, r.head.Time)
	if err != nil {
		return 0, "", err
	}
	if ns != nil {
		if err := in.resolveOwner(ns); err != nil {
			return 0, "", err
		}
	}
	p := w.parameters.find(w.wire.Param)
	if p == nil {
		p = unknownParameter
	}
	if ns == nil && ofWritersPIDNamespace(p.name) {
		if ns, err = w.pidNamespace(r); err != nil {
			return 0, "", err
		}
	}
	e := in.begin(r, event.SysctlWrite, who)
	s := &w.sysctl
	*s = event.Sysctl{}
	e.Sysctl = s
	s.Name, s.Path = p.name, p.path
	w.showValues(r, p, e.Outcome, cause)
	if ns != nil {
		s.Namespace = in.show(ns)
		if p.device != "" && ns.typ == event.NSTypeNet {
			s.Ifindex = in.lookups.deviceIndex(ns.id, p.device, r.head.Time)
		}
	}
	if in.renamed != nil && ns != nil && s.Name == hostNameParameter && in.registry.isHost(ns) {
		defer in.renamed(newName(e))
	}
	w.readAfter(r, p, ns)
	if passed, err := in.offerOf(r, e, nil); err != nil || !passed {
		if w.reads != nil {
			w.reads.next = nil
		}
		return 0, s.Name, err
	}
	return e.Ref, s.Name, nil
}

// ofWritersPIDNamespace reports whether a parameter belongs to the PID namespace of whoever writes it
// (pid_mfd_noexec_dointvec_minmax() since 6.6, pid_ns_ctl_handler()). Its table does not say so.
func ofWritersPIDNamespace(name string) bool {
	return name == "vm.memfd_noexec" || name == "kernel.ns_last_pid"
}

// pidNamespace returns the PID namespace of the writer. If it is not the host's, the memory in the record is that of
// another namespace, and is dropped.
func (w *writeRecords) pidNamespace(r *record) (*liveNS, error) {
	c := bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_PID), Inum: w.wire.Caller.Ns[bpf.NstraceNsKindNS_PID]}
	if c.Inum == 0 {
		return nil, nil
	}
	ns, err := w.in.lookup(&c, r.head.Time)
	if ns != nil && !w.in.registry.isHost(ns) {
		r.head.Flags &^= uint16(bpf.NstraceRecordFlagF_AFTER_KNOWN)
		w.raw, w.after = nil, nil
	}
	return ns, err
}

// readAfter has the value after the write in hand read from its file if its record does not show it.
func (w *writeRecords) readAfter(r *record, p *parameter, ns *liveNS) {
	if w.reads == nil || p == unknownParameter {
		return
	}
	e, s, copyOf := &w.in.event, &w.sysctl, ofParameter(p, ns)
	old := s.Old
	if r.has(bpf.NstraceRecordFlagF_OLD_CUT) {
		old = nil
	}
	if e.Process != nil {
		w.reads.wrote(copyOf, p.name, e.Process.TID, old)
	}
	if s.After != nil || !r.is(bpf.NstraceCallViaVIA_WRITE) || e.Outcome == event.Failure || r.head.Repeatable != 0 || e.Process == nil {
		return
	}
	read := &afterRead{parameterCopy: copyOf, name: p.name, kind: p.kind, in: ns, process: e.Process, time: r.head.Time}
	if ns != nil {
		read.netns = ns.name
	}
	if old != nil {
		read.old, read.known = strings.Clone(*old), true
		read.same = s.New != nil && event.SameValue(*old, *s.New)
	}
	if r.has(bpf.NstraceRecordFlagF_AFTER_KNOWN) && !r.has(bpf.NstraceRecordFlagF_AFTER_CUT) {
		read.raw, read.whole = slices.Clone(w.after), true
	}
	w.reads.want(read)
}

// hostNameParameter is the parameter that sethostname(2) sets, too.
const hostNameParameter = "kernel.hostname"

// newName returns the host's name after an event of its parameter, "" if it is unknown.
func newName(e *event.Event) string {
	switch s := e.Sysctl; {
	case s.After != nil:
		return strings.Clone(*s.After)
	case e.Outcome == event.Success && e.Via != event.ViaWrite && s.New != nil:
		return strings.Clone(*s.New)
	}
	return ""
}

// showValues sets the values of the event in hand.
func (w *writeRecords) showValues(r *record, p *parameter, outcome event.Outcome, cause *event.Cause) {
	s := &w.sysctl
	s.Offset = w.wire.Pos
	s.Truncated = r.has(bpf.NstraceRecordFlagF_OLD_CUT) || r.has(bpf.NstraceRecordFlagF_NEW_CUT)
	old, written, after := &w.text[0], &w.text[1], &w.text[2]
	if r.has(bpf.NstraceRecordFlagF_OLD_KNOWN) {
		*old, s.Old = value(w.old, &s.Truncated), old
	}
	if r.has(bpf.NstraceRecordFlagF_NEW_KNOWN) {
		*written, s.New = value(w.new, &s.Truncated), written
	}
	if w.wire.WriteId != 0 || r.is(bpf.NstraceCallViaVIA_NETLINK) {
		w.values.learnInt(p.kind)
	}
	switch {
	case r.is(bpf.NstraceCallViaVIA_CASCADE, bpf.NstraceCallViaVIA_NETLINK, bpf.NstraceCallViaVIA_DEVICE):
		// No process wrote a text. The memory before and after is one number.
		if text, ok := w.values.number(w.raw); ok {
			*old, s.Old = string(text), old
		}
		if text, ok := w.values.number(w.after); ok {
			*after, s.After = string(text), after
		}
		s.Cause = cause
	case r.has(bpf.NstraceRecordFlagF_AFTER_KNOWN) && s.Old != nil:
		if text, ok := w.values.after(p.kind, w.raw, *old, int(w.wire.Maxlen), w.after, s.New, outcome); ok {
			*after, s.After = view(text), after
		}
	}
	if s.After != nil && r.has(bpf.NstraceRecordFlagF_AFTER_CUT) && len(*s.After) >= len(w.after) {
		s.Truncated = true
	}
}

// maxValue is VALUE_LEN of bpf/lib/record.h.
const maxValue = 1024

// value returns the value of a parameter without the newline that ends it, and without a NUL
// that a program wrote with it. It sets truncated if the value is longer than maxValue.
func value(b []byte, truncated *bool) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	if len(b) > maxValue {
		b, *truncated = b[:maxValue], true
	}
	return view(b)
}

// view returns b as a string without a copy. It is valid as long as b does not change.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
