// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A pin is a bind mount of a namespace's file, which keeps the namespace alive.
type pin struct {
	ns    *liveNS
	path  string
	mntNS uint32       // the mount namespace that it is in, 0 if unknown
	maker *event.Actor // nil if unknown: it is older than the tracer, or a snapshot showed it

	// Where pins are known by mount id: how many mounts of the namespace are on the path, and whether
	// an event said that one of them ended. The kernel copies a mount on a shared one, as
	// ip netns add makes it, and copies end with it.
	mounts int
	ended  bool
}

// A pinTable holds the pins that are known. Where the kernel reports pins it knows them by
// mount id, elsewhere by mount point.
type pinTable struct {
	byMount map[uint32]*pin
	byPoint map[mountPoint]*pin

	mntNS     uint32 // nstrace's own mount namespace
	since     uint64 // when those from before were learned, CLOCK_BOOTTIME
	snapshots bool   // pins are found by comparing snapshots of the mounts
	stale     bool   // the mounts may have changed since the last snapshot
}

func newPinTable() pinTable {
	return pinTable{byMount: map[uint32]*pin{}, byPoint: map[mountPoint]*pin{}}
}

// A mountPoint is where which namespace is mounted.
type mountPoint struct {
	path string
	id   uint32
}

func (p mountPoint) compare(q mountPoint) int {
	return cmp.Or(cmp.Compare(p.path, q.path), cmp.Compare(p.id, q.id))
}

// add notes that ns is mounted at a mount point where nothing was known to be.
func (t *pinTable) add(at mountPoint, ns *liveNS) *pin {
	p := &pin{ns: ns, path: at.path, mntNS: t.mntNS}
	t.byPoint[at] = p
	ns.mountedAt = append(ns.mountedAt, at)
	return p
}

// remove removes and returns the pin at a mount point.
func (t *pinTable) remove(at mountPoint) *pin {
	p := t.byPoint[at]
	delete(t.byPoint, at)
	p.ns.mountedAt = slices.DeleteFunc(p.ns.mountedAt, func(other mountPoint) bool { return other == at })
	return p
}

// removeMount removes a mount and returns its pin, nil if none is known.
func (t *pinTable) removeMount(id uint32) *pin {
	p := t.byMount[id]
	if p != nil {
		delete(t.byMount, id)
		p.mounts--
	}
	return p
}

// learnPins replaces the pins by those that nstrace's own mount namespace has. It emits no
// events. It returns the ids of the mounts whose end the kernel is to report, and the earlier namespaces
// whose inode numbers other namespaces have now.
func (in *interpreter) learnPins(pinned []procfs.Namespace) (mounts []uint32, ended []*liveNS) {
	in.mu.Lock()
	defer in.mu.Unlock()
	boot := in.clock.now()
	clear(in.pins.byMount)
	in.pins.since = boot
	points := map[mountPoint]*pin{}
	for _, p := range pinned {
		ns, old := in.registry.add(p.Type, p.ID, p.KernelID, 0, boot)
		if old != nil {
			ended = append(ended, old)
		}
		in.learnName(ns, boot)
		switch at := (mountPoint{p.Path, p.ID}); {
		case in.pins.snapshots:
			if in.pins.byPoint[at] == nil { // several mounts on one point count as one, see comparePins
				in.pins.add(at, ns)
			}
		case !in.follow: // else no followed process made it
			if points[at] == nil {
				points[at] = &pin{ns: ns, path: p.Path, mntNS: in.pins.mntNS}
			}
			points[at].mounts++
			in.pins.byMount[p.MountID] = points[at]
			mounts = append(mounts, p.MountID)
		}
	}
	return mounts, ended
}

// pinRecords are of calls that pinned or unpinned a namespace, or tried to.
type pinRecords struct {
	in   *interpreter
	typ  event.Type
	wire bpf.NstracePinRecord
	path []byte
}

func newPinRecords(in *interpreter) recordInterpreter {
	return &pinRecords{in: in, typ: event.NamespacePin}
}

func newUnpinRecords(in *interpreter) recordInterpreter {
	return &pinRecords{in: in, typ: event.NamespaceUnpin}
}

// anonMountNS is MNT_NS_ANON_INO of the kernel, the number of every mount namespace of mounts that are not attached. Before
// they had that, they had no number.
const anonMountNS = 4026531831

func (p *pinRecords) parse(r *record) (err error) {
	if err := fixed(&r.rest, &p.wire); err != nil {
		return err
	}
	if p.wire.Ns.From == anonMountNS {
		p.wire.Ns.From = 0
	}
	p.path, err = cut(&r.rest, int(p.wire.PathLen))
	return err
}

func (p *pinRecords) interpret(r *record) error {
	in, who := p.in, p.in.caller(&p.wire.Caller)
	ns, err := in.lookup(&p.wire.Ns, r.head.Time)
	if err != nil {
		return err
	}
	if ns == nil {
		return fmt.Errorf("%w: a pin of a namespace without an inode number", ErrRecord)
	}
	if err := in.resolveOwner(ns); err != nil {
		return err
	}
	var path string
	if r.has(bpf.NstraceRecordFlagF_PATH_AS_GIVEN) {
		path = namedPath(p.path)
	} else {
		path = absPath(p.path, r.has(bpf.NstraceRecordFlagF_PATH_CUT))
	}
	if p.typ == event.NamespacePin && !r.failed() && ns.typ == event.NSTypeNet &&
		p.wire.Ns.From != 0 && p.wire.Ns.From == in.registry.host[event.NSTypeMnt] {
		// By now the name can be gone from the directory.
		if name := procfs.NetnsName(path); name != "" && in.registry.live[ns.id] == ns {
			in.registry.rename(ns, name)
		}
	}
	e := in.begin(r, p.typ, who)
	e.Namespace = in.show(ns)
	e.Namespace.Path, e.Namespace.MntNS = path, p.wire.Ns.From
	if id := p.wire.MntId; id != 0 && !r.failed() {
		e.Namespace.Copy = p.typ == event.NamespaceUnpin && p.wire.Known == 0 && in.isCopy(id, p.wire.Ns.From)
		if old := in.pins.removeMount(id); old != nil {
			old.ended = true
		}
		if p.typ == event.NamespacePin {
			in.pins.byMount[id] = &pin{ns: ns, path: path, mntNS: p.wire.Ns.From, maker: who.actor(), mounts: 1}
		}
	}
	_, err = in.offerOf(r, e, nil)
	return err
}

// isCopy reports whether the kernel made a mount: no call that nstrace saw did, and nstrace has seen all calls since
// the mount namespace was made.
func (in *interpreter) isCopy(mount, mntNS uint32) bool {
	if f := in.filter; in.follow || len(f.PIDs)+len(f.UIDs)+len(f.Comms) > 0 || in.pins.byMount[mount] != nil {
		return false
	}
	ns := in.registry.live[mntNS]
	return ns != nil && ns.typ == event.NSTypeMnt && ns.creator != nil && ns.bootNS > in.pins.since
}

// namedPath returns a path as a caller named it, "" for a relative one, which does not say
// where it is.
func namedPath(b []byte) string {
	if len(b) < 2 || b[0] != '/' {
		return ""
	}
	return string(b[:len(b)-1])
}

// pinEndRecords are of pins that ended without a call of umount: with their mount namespace,
// or the mount below them.
type pinEndRecords struct {
	in   *interpreter
	wire bpf.NstracePinEndRecord
}

func newPinEndRecords(in *interpreter) recordInterpreter { return &pinEndRecords{in: in} }

func (p *pinEndRecords) parse(r *record) error { return fixed(&r.rest, &p.wire) }

func (p *pinEndRecords) interpret(r *record) error {
	in := p.in
	one := in.pins.removeMount(p.wire.MntId)
	if one != nil && (one.ended || one.mounts > 0) {
		in.accounts.filtered++
		return nil
	}
	if one == nil { // the record of the pin was lost
		if one = (&pin{ns: in.registry.live[p.wire.Inum]}); one.ns == nil {
			in.accounts.filtered++
			return nil
		}
	}
	return in.emitPin(event.NamespaceUnpin, one, r.head.Time, "")
}

// emitPin emits the beginning or the end of a pin without a known process.
func (in *interpreter) emitPin(typ event.Type, p *pin, boot uint64, detected string) error {
	e := &in.event
	*e = event.Event{Type: typ, Time: in.clock.wall(boot), Namespace: in.show(p.ns)}
	e.Namespace.Path, e.Namespace.MntNS, e.Namespace.Detected = p.path, p.mntNS, detected
	return in.offer(e, p.maker)
}

// inferPin emits the beginning or the end of a pin that no record reported.
func (in *interpreter) inferPin(typ event.Type, p *pin, boot uint64) error {
	in.accounts.inferred++
	if in.follow && !p.ns.follow {
		in.accounts.filtered++
		return nil
	}
	// The scan saw the namespace at this path, which is its name. learnName can have looked too early for that, and looks
	// again only after a rest.
	if name := procfs.NetnsName(p.path); typ == event.NamespacePin && name != "" && p.ns.name == "" && p.ns.typ == event.NSTypeNet && p.mntNS == in.pins.mntNS {
		in.registry.rename(p.ns, name)
	}
	return in.emitPin(typ, p, boot, event.DetectedScan)
}

// A mountSnapshot is what was mounted in nstrace's own mount namespace at one time.
type mountSnapshot struct {
	at     uint64 // CLOCK_BOOTTIME
	pinned []procfs.Namespace
}

// comparePins emits the pins that came and went since the previous snapshot. Every record of
// before the snapshot must have been interpreted: otherwise a namespace could be mistaken
// for one that ended and had its inode number.
func (in *interpreter) comparePins(s mountSnapshot) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	boot := in.clock.now()
	// ip netns add makes two mounts on one mount point, since /run/netns is mounted on
	// itself. They count as one.
	now := map[mountPoint]procfs.Namespace{}
	for _, p := range s.pinned {
		now[mountPoint{p.Path, p.ID}] = p
	}
	var gone, came []mountPoint
	for at := range in.pins.byPoint {
		if _, ok := now[at]; !ok {
			gone = append(gone, at)
		}
	}
	for at := range now {
		if in.pins.byPoint[at] == nil {
			came = append(came, at)
		}
	}
	slices.SortFunc(gone, mountPoint.compare)
	for _, at := range gone {
		if err := in.inferPin(event.NamespaceUnpin, in.pins.remove(at), boot); err != nil {
			return err
		}
	}
	slices.SortFunc(came, mountPoint.compare)
	for _, at := range came {
		p := now[at]
		ns := in.registry.live[p.ID]
		if ns != nil && ns.bootNS > s.at {
			continue // what was mounted has ended, and this has its inode number
		}
		// To ask for the kernel's id is to open the mount, which is then busy for a process
		// that unmounts it. So ask only if the registry does not have the namespace.
		if ns == nil || ns.typ != p.Type {
			p.KernelID = in.lookups.mountedID(p.Path)
		}
		ns, err := in.lookup(&bpf.NstraceNsChange{Kind: uint8(slices.Index(nsTypes[:], p.Type)), Inum: p.ID, NsId: p.KernelID}, boot)
		if err != nil {
			return err
		}
		if err := in.inferPin(event.NamespacePin, in.pins.add(at, ns), boot); err != nil {
			return err
		}
	}
	return nil
}

// endPins emits the ends of the pins of a namespace that ended, which no snapshot has shown
// yet.
func (in *interpreter) endPins(ns *liveNS, boot uint64) error {
	if len(ns.mountedAt) == 0 {
		return nil
	}
	in.pins.stale = true // another namespace can be at the same mount point
	for len(ns.mountedAt) > 0 {
		if err := in.inferPin(event.NamespaceUnpin, in.pins.remove(ns.mountedAt[0]), boot); err != nil {
			return err
		}
	}
	return nil
}
