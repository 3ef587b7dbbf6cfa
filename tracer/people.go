// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/nstrace/nstrace/bpf"
)

// whoEpoch is WHO_EPOCH_NS of bpf/record.h: a record's caller was described in
// the same span of time as the record, or it was described anew.
const whoEpoch = uint64(1) << 30

// A caller is a process as the kernel described it last, under the id by which
// records refer to it.
type caller struct {
	pid, tid uint32
	ns       [len(nsTypes)]uint32 // those of p.NS
	p        *Process             // given to handlers: never changed
}

// people knows who the records' ids stand for. It forgets whom nobody referred
// to for a while, so that it grows with what goes on and not with what has been.
type people struct {
	since        uint64 // when now was begun, CLOCK_BOOTTIME
	now, earlier map[uint64]*caller
}

// add learns who id is. Descriptions that are older than two epochs are dropped:
// by then no record refers to them, however long it took on its way.
func (f *people) add(id, boot uint64, c *caller) {
	if f.now == nil || boot > f.since+2*whoEpoch {
		f.since, f.earlier, f.now = boot, f.now, map[uint64]*caller{}
	}
	f.now[id] = c
}

// find returns who a record refers to, with the namespaces that the record has.
func (f *people) find(r *bpf.NstraceCaller) *Process {
	c := f.now[r.Who]
	if c == nil {
		c = f.earlier[r.Who]
	}
	if c == nil || c.pid != r.Pid || c.tid != r.Tid {
		// The description and the reference to it are sent one after the other
		// and both or none are lost, so this is not to be expected.
		c = &caller{pid: r.Pid, tid: r.Tid, p: &Process{PID: r.Pid, TID: r.Tid}}
	}
	if c.ns != r.Ns || c.p.NS == nil {
		p := *c.p
		p.NS = make(map[NSType]uint32, len(nsTypes))
		for kind, id := range r.Ns {
			if id != 0 {
				p.NS[nsTypes[kind]] = id
			}
		}
		c.ns, c.p = r.Ns, &p
	}
	return c.p
}

// describe makes the process of a record that describes one.
func (t *Tracer) describe(r *record) {
	w := &r.who
	p := &Process{
		PID: w.Pid, TID: w.Tid, PPID: w.Ppid, UID: w.Uid, GID: w.Gid,
		StartTime: t.clock.start(w.StartTime),
		Comm:      cString(w.Comm[:]),
		TTY:       cString(w.Tty[:]),
		Exe:       absPath(r.exe, r.has(bpf.NstraceRecordFlagF_EXE_CUT)),
		Cgroup:    absPath(r.cgroup, r.has(bpf.NstraceRecordFlagF_CGROUP_CUT)),
		User:      t.users.name(w.Uid),
	}
	if p.Cgroup == "" {
		p.Cgroup = "/"
	}
	args := r.args
	if r.has(bpf.NstraceRecordFlagF_ARGS_MISSING) {
		args = argsFromProc(w.Pid, w.StartTime)
	}
	p.Args = argv(args)
	if r.has(bpf.NstraceRecordFlagF_LOGINUID) {
		login, session := w.Loginuid, w.Sessionid
		p.LoginUID, p.SessionID = &login, &session
		p.LoginUser = t.users.name(login)
	}
	for i := range r.ancestors {
		a := &r.ancestors[i]
		p.Ancestors = append(p.Ancestors, Actor{PID: a.Pid, Comm: cString(a.Comm[:])})
	}
	t.people.add(w.Id, r.head.Time, &caller{pid: w.Pid, tid: w.Tid, p: p})
}
