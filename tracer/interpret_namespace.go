// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// changeRecords is what creations and entries have in common: each record is of one call,
// which can change several namespaces.
type changeRecords struct {
	in      *interpreter
	wire    bpf.NstraceNsRecord
	changes []bpf.NstraceNsChange
}

func (c *changeRecords) parse(r *record) (err error) {
	if err := fixed(&r.rest, &c.wire); err != nil {
		return err
	}
	c.changes, err = many(&r.rest, int(r.head.Nchanges), c.changes)
	return err
}

// createRecords are of calls that made namespaces, or tried to.
type createRecords struct {
	changeRecords
	refusal refusal
}

func newCreateRecords(in *interpreter) recordInterpreter {
	return &createRecords{changeRecords: changeRecords{in: in}}
}

func (c *createRecords) parse(r *record) error {
	if err := c.changeRecords.parse(r); err != nil {
		return err
	}
	return c.refusal.parse(r, &c.wire)
}

func (c *createRecords) interpret(r *record) error {
	in, who := c.in, c.in.caller(&c.wire.Caller)
	refusal := c.refusal.explain(in, r, &c.wire.Caller)
	for i := range c.changes {
		change := &c.changes[i]
		var ns *liveNS
		if !r.failed() {
			var err error
			if ns, err = c.add(r, change, who); err != nil {
				return err
			}
		}
		e := in.begin(r, event.NamespaceCreate, who)
		e.ChildPID, e.Refusal = c.wire.Child, refusal
		e.Namespace = in.showKind(ns, change.Kind)
		if _, err := in.offerOf(r, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// add adds a new namespace to the registry. If one with its inode number is alive there, its
// end was missed.
func (c *createRecords) add(r *record, change *bpf.NstraceNsChange, who *caller) (*liveNS, error) {
	in := c.in
	delete(in.registry.gone, change.Inum)
	switch old := in.registry.remove(change.Inum, 0); {
	case old == nil:
	case old.bootNS > r.head.Time:
		// It is this one, and a record of another CPU about it was read before.
		if old.is(nsType(change.Kind), change.NsId) {
			old.bootNS = r.head.Time
			in.registry.put(old)
			if old.name != "" {
				in.registry.rename(old, old.name)
			}
		}
	case change.NsId == 0 || old.kernel != change.NsId:
		if err := in.inferEnd(old, r.head.Time); err != nil {
			return nil, err
		}
	}
	ns, err := in.lookup(change, r.head.Time)
	if err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, fmt.Errorf("%w: a new namespace without an inode number", ErrRecord)
	}
	ns.created, ns.creator, ns.follow = in.clock.wall(r.head.Time), who.actor(), true
	// These calls make namespaces that only a descriptor keeps alive.
	if in.ends != nil && r.is(bpf.NstraceCallViaVIA_OPEN_TREE, bpf.NstraceCallViaVIA_OPEN_TREE_ATTR, bpf.NstraceCallViaVIA_FSMOUNT) {
		in.ends.watch()
	}
	ns.ownership.made(who, r.has(bpf.NstraceRecordFlagF_CHILD_CGROUP))
	return ns, nil
}

// enterRecords are of calls that entered namespaces, or tried to.
type enterRecords struct {
	changeRecords
	path []byte // of the mount of the namespace file, if the call failed
}

func newEnterRecords(in *interpreter) recordInterpreter {
	return &enterRecords{changeRecords: changeRecords{in: in}}
}

func (c *enterRecords) parse(r *record) (err error) {
	if err := c.changeRecords.parse(r); err != nil {
		return err
	}
	c.path, err = cut(&r.rest, int(c.wire.Nlimits))
	return err
}

// request returns what a call that failed asked for, nil if that is unknown.
func (c *enterRecords) request(r *record) *event.Request {
	if !r.failed() {
		return nil
	}
	q := event.Request{PID: c.wire.Child}
	if len(c.changes) > 0 { // all changes of a call have the same
		for kind := range nsTypes {
			if c.changes[0].Wanted&(1<<kind) != 0 {
				q.Types = append(q.Types, nsType(uint8(kind)))
			}
		}
	}
	if len(c.path) > 0 {
		q.Path = absPath(c.path, r.has(bpf.NstraceRecordFlagF_PATH_CUT))
	}
	if q.Types == nil && q.PID == 0 && q.Path == "" {
		return nil
	}
	return &q
}

func (c *enterRecords) interpret(r *record) error {
	in := c.in
	in.scanSoon() // a namespace that the process left may have ended
	who := in.caller(&c.wire.Caller)
	request := c.request(r)
	for i := range c.changes {
		change := &c.changes[i]
		ns, err := in.lookup(change, r.head.Time)
		if err != nil {
			return err
		}
		if ns != nil {
			if !r.failed() {
				ns.ownership.entered(who)
			}
			if err := in.resolveOwner(ns); err != nil {
				return err
			}
		}
		if who.process.PID == in.self { // nstrace reads parameters in namespaces
			in.drop(r)
			continue
		}
		e := in.begin(r, event.NamespaceEnter, who)
		e.Namespace = in.showKind(ns, change.Kind)
		e.Namespace.From = change.From
		e.Request = request
		if _, err := in.offerOf(r, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// destroyRecords are of namespaces that the kernel freed.
type destroyRecords struct {
	in   *interpreter
	wire bpf.NstraceDestroyRecord
}

func newDestroyRecords(in *interpreter) recordInterpreter { return &destroyRecords{in: in} }

func (d *destroyRecords) parse(r *record) error { return fixed(&r.rest, &d.wire) }

func (d *destroyRecords) interpret(r *record) error {
	ns := d.in.registry.remove(d.wire.Inum, d.wire.NsId)
	if ns == nil { // a call that failed gave it back, or the prover left it
		d.in.accounts.filtered++
		return nil
	}
	return d.in.emitEnd(ns, r.head.Time, "")
}
