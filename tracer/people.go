// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// epoch is EPOCH_NS of bpf/lib/record.h: what a record refers to was described in the
// same span of time as the record itself, or anew.
const epoch = uint64(1) << 30

// said holds what the kernel described under ids. It forgets what no record can
// refer to any more, however long it took on its way: it grows with what goes on
// and not with what has been.
type said[T any] struct {
	since        uint64 // when now was begun, CLOCK_BOOTTIME
	now, earlier map[uint64]*T
}

func (s *said[T]) add(id, boot uint64, v *T) {
	if s.now == nil || boot > s.since+2*epoch {
		s.since, s.earlier, s.now = boot, s.now, map[uint64]*T{}
	}
	s.now[id] = v
}

// find returns what was described under id, nil for nothing.
func (s *said[T]) find(id uint64) *T {
	if v := s.now[id]; v != nil {
		return v
	}
	return s.earlier[id]
}

// A param is a parameter as sysctl(8) and as the file system name it.
type param struct{ name, path string }

// unnamed stands for a parameter whose name did not come. It is sent before the
// first write that refers to it, and both or none are lost, so that is not to be
// expected.
var unnamed = &param{name: "?", path: "/proc/sys/?"}

// A caller is a process as the kernel described it last.
type caller struct {
	pid, tid uint32
	ns       [len(nsTypes)]uint32 // those of p.NS
	p        *event.Process       // given to handlers: never changed
	place    *place
}

// caller returns who a record refers to, with the namespaces that the record has.
func (t *Tracer) caller(r *bpf.NstraceCaller) *caller {
	c := t.people.find(r.Who)
	if c == nil || c.pid != r.Pid || c.tid != r.Tid {
		// As with unnamed.
		c = &caller{pid: r.Pid, tid: r.Tid, p: &event.Process{PID: r.Pid, TID: r.Tid}, place: nowhere}
	}
	if c.ns != r.Ns || c.p.NS == nil {
		p := *c.p
		p.NS = make(map[event.NSType]uint32, len(nsTypes))
		for kind, id := range r.Ns {
			if id != 0 {
				p.NS[nsTypes[kind]] = id
			}
		}
		c.ns, c.p = r.Ns, &p
		t.reg.inhabit(c)
	}
	return c
}

// describe makes the process of a record that describes one.
func (t *Tracer) describe(r *record) {
	w := &r.who
	p := &event.Process{
		PID: w.Pid, TID: w.Tid, PPID: w.Ppid, UID: w.Uid, GID: w.Gid,
		StartTime: t.clock.start(w.StartTime),
		Comm:      cString(w.Comm[:]),
		TTY:       cString(w.Tty[:]),
		Exe:       absPath(r.exe, r.has(bpf.NstraceRecordFlagF_PATH_CUT)),
		Cgroup:    absPath(r.cgroup, r.has(bpf.NstraceRecordFlagF_CGROUP_CUT)),
		User:      t.users.Name(w.Uid),
	}
	if p.Cgroup == "" {
		p.Cgroup = "/"
	}
	args := r.args
	if r.has(bpf.NstraceRecordFlagF_ARGS_MISSING) {
		pid, start := w.Pid, w.StartTime // t.rec has another record by the time of a late read
		args = t.reads.try(func() []byte { return argsFromProc(pid, start) })
	}
	p.Args = argv(args)
	if r.has(bpf.NstraceRecordFlagF_LOGINUID) {
		login, session := w.Loginuid, w.Sessionid
		p.LoginUID, p.SessionID = &login, &session
		p.LoginUser = t.users.Name(login)
	}
	for i := range r.ancestors {
		a := &r.ancestors[i]
		p.Ancestors = append(p.Ancestors, event.Actor{PID: a.Pid, UID: a.Uid, Comm: cString(a.Comm[:])})
	}
	if uid, ok := sudoUID(p); ok {
		p.SudoUID, p.SudoUser = &uid, t.users.Name(uid)
	}
	p.Role = attribution.Role(p.Comm, p.Exe, p.Args, comms(p.Ancestors))
	t.people.add(w.Id, r.head.Time, &caller{pid: w.Pid, tid: w.Tid, p: p, place: t.places.at(p.Cgroup)})
}

// Programs by which somebody becomes somebody else.
var sudos = []string{"sudo", "su", "doas", "pkexec", "runuser"}

// sudoUID returns who called the nearest of p's ancestors that is one of sudos: the user
// of that one's parent.
func sudoUID(p *event.Process) (uint32, bool) {
	for i, a := range p.Ancestors {
		if !slices.Contains(sudos, a.Comm) {
			continue
		}
		// sudo can have children of its own that wait for the command.
		for _, b := range p.Ancestors[i+1:] {
			if !slices.Contains(sudos, b.Comm) {
				return b.UID, true
			}
		}
		break
	}
	return 0, false
}

func comms(actors []event.Actor) []string {
	var all []string
	for _, a := range actors {
		all = append(all, a.Comm)
	}
	return all
}
