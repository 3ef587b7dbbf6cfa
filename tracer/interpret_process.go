// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"slices"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
)

// epoch is EPOCH_NS of bpf/lib/record.h. The kernel describes what a record refers to in the
// same epoch as the record itself, or again.
const epoch = uint64(1) << 30

// An epochCache holds what the kernel described, by id. It forgets what no record can refer
// to any more, so it grows with what happens now and not with the length of the run.
type epochCache[T any] struct {
	since           uint64 // when recent began, CLOCK_BOOTTIME
	recent, earlier map[uint64]*T
}

func (c *epochCache[T]) add(id, boot uint64, v *T) {
	if c.recent == nil || boot > c.since+2*epoch {
		c.since, c.earlier, c.recent = boot, c.recent, map[uint64]*T{}
	}
	c.recent[id] = v
}

// find returns what was described under an id, nil if nothing was.
func (c *epochCache[T]) find(id uint64) *T {
	if v := c.recent[id]; v != nil {
		return v
	}
	return c.earlier[id]
}

// A caller is a process as the kernel described it last.
type caller struct {
	pid, tid uint32
	ns       [len(nsTypes)]uint32 // those in process.NS
	process  *event.Process       // events share it: it never changes
	claim    attribution.Claim
	workload *attribution.Workload
}

func (c *caller) actor() *event.Actor {
	return &event.Actor{PID: c.process.PID, UID: c.process.UID, Comm: c.process.Comm}
}

// caller returns the process that a record refers to, with the namespaces that the record
// has.
func (in *interpreter) caller(r *bpf.NstraceCaller) *caller {
	c := in.processes.find(r.Who)
	if c == nil || c.pid != r.Pid || c.tid != r.Tid {
		// Not expected: if a description is lost the records that refer to it are too.
		c = &caller{pid: r.Pid, tid: r.Tid, process: &event.Process{PID: r.Pid, TID: r.Tid}, workload: attribution.NoWorkload}
	}
	if c.ns != r.Ns || c.process.NS == nil {
		p := *c.process
		p.NS = make(map[event.NSType]uint32, len(nsTypes))
		for kind, id := range r.Ns {
			if id != 0 {
				p.NS[nsTypes[kind]] = id
			}
		}
		c.ns, c.process = r.Ns, &p
		in.registry.claim(c)
	}
	return c
}

// processRecords are descriptions of processes.
type processRecords struct {
	in                        *interpreter
	who                       bpf.NstraceWhoRecord
	ancestors                 []bpf.NstraceActor
	exe, args, cgroup, leader []byte
}

func newProcessRecords(in *interpreter) recordInterpreter { return &processRecords{in: in} }

func (p *processRecords) parse(r *record) (err error) {
	if err := fixed(&r.rest, &p.who); err != nil {
		return err
	}
	if p.ancestors, err = many(&r.rest, int(r.head.Nancestors), p.ancestors); err != nil {
		return err
	}
	if p.exe, err = cut(&r.rest, int(p.who.ExeLen)); err != nil {
		return err
	}
	if p.args, err = cut(&r.rest, int(p.who.ArgsLen)); err != nil {
		return err
	}
	if p.cgroup, err = cut(&r.rest, int(p.who.CgroupLen)); err != nil {
		return err
	}
	p.leader, err = cut(&r.rest, int(p.who.LeaderLen))
	return err
}

func (p *processRecords) interpret(r *record) error {
	w, host := &p.who, p.in.lookups
	proc := &event.Process{
		PID: w.Pid, TID: w.Tid, PPID: w.Ppid, UID: w.Uid, GID: w.Gid,
		StartTime: p.in.clock.start(w.StartTime),
		Comm:      cString(w.Comm[:]),
		TTY:       cString(w.Tty[:]),
		Exe:       absPath(p.exe, r.has(bpf.NstraceRecordFlagF_PATH_CUT)),
		Cgroup:    absPath(p.cgroup, r.has(bpf.NstraceRecordFlagF_CGROUP_CUT)),
		User:      host.userName(w.Uid),
	}
	if proc.Cgroup == "" {
		proc.Cgroup = "/"
	}
	if leader, _, _ := bytes.Cut(p.leader, []byte{0}); string(leader) != proc.Comm {
		proc.LeaderComm = string(leader)
	}
	args := p.args
	if r.has(bpf.NstraceRecordFlagF_ARGS_MISSING) {
		args = host.commandLine(w.Pid, w.StartTime, proc.Exe)
	}
	proc.Args = procfs.SplitArgs(args)
	if r.has(bpf.NstraceRecordFlagF_LOGINUID) {
		login, session := w.Loginuid, w.Sessionid
		proc.LoginUID, proc.SessionID = &login, &session
		proc.LoginUser = host.userName(login)
	}
	for i := range p.ancestors {
		a := &p.ancestors[i]
		proc.Ancestors = append(proc.Ancestors, event.Actor{PID: a.Pid, UID: a.Uid, Comm: cString(a.Comm[:])})
	}
	if proc.SudoUID = p.caller(proc); proc.SudoUID != nil {
		proc.SudoUser = host.userName(*proc.SudoUID)
	}
	claim := attribution.Role(proc.Comm, proc.Exe, proc.Args, proc.Ancestors)
	proc.Role = p.role(claim, proc.Exe)
	p.in.processes.add(w.Id, r.head.Time, &caller{
		pid: w.Pid, tid: w.Tid, process: proc, claim: claim, workload: p.in.workloads.Of(proc.Cgroup),
	})
	return nil
}

// role returns what a process is. It believes root, and of other users only what they cannot make up.
func (p *processRecords) role(claim attribution.Claim, exe string) string {
	switch {
	case claim.Role == "", p.who.Uid == 0, claim.Evidence == attribution.ByAncestor:
		return claim.Role
	case claim.Evidence == attribution.ByFile && p.in.lookups.runsHostFile(p.who.Pid, p.who.StartTime, exe):
		return claim.Role
	}
	return ""
}

// sudos are the programs by which a user becomes another one.
var sudos = []string{"sudo", "su", "doas", "pkexec"}

// caller returns the user who became the user of process p, by a program such as sudo; nil if nobody did, or
// it is unknown.
//
// The kernel side knows who executed a set-user-ID program while it ran (bpf/setuid.h). Of programs that are
// older, the ancestors tell. sudo was called by the user of its parent if that is not root: then the program
// cannot have changed its user before. A parent that is root says nothing, for it can have started
// sudo as anybody. Only root can use runuser.
func (p *processRecords) caller(proc *event.Process) *uint32 {
	if p.who.Caller != 0 {
		uid := p.who.Caller - 1
		return &uid
	}
	for i, a := range proc.Ancestors {
		if a.Comm == "runuser" && a.UID == 0 && proc.UID != 0 {
			return new(uint32)
		}
		if !slices.Contains(sudos, a.Comm) {
			continue
		}
		// sudo can have children of its own that wait for the command.
		for _, b := range proc.Ancestors[i+1:] {
			if slices.Contains(sudos, b.Comm) {
				continue
			}
			if b.UID == 0 || b.UID == proc.UID {
				return nil
			}
			return &b.UID
		}
	}
	return nil
}

// exitRecords say that a task ended which was in namespaces other than the host's, or that a thread ended which
// registered tables of parameters or took some away.
type exitRecords struct{ in *interpreter }

func newExitRecords(in *interpreter) recordInterpreter { return &exitRecords{in} }

func (*exitRecords) parse(*record) error { return nil }

func (x *exitRecords) interpret(r *record) error {
	if tid := uint32(r.head.Ret); tid != 0 {
		x.in.tables.ended(tid, r.head.Time)
		return x.in.emitTables(x.in.tables.takeDue())
	}
	x.in.scanSoon()
	return nil
}
