// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
)

// liveNS is a namespace that is known to be alive.
type liveNS struct {
	typ     event.NSType
	id      uint32
	uid     string
	kernel  uint64 // the kernel's own id, 0 while not known
	userNS  uint32
	name    string    // last known of ip netns
	created time.Time // zero: before the tracer started
	bootNS  uint64    // created, CLOCK_BOOTTIME
	creator *event.Actor
	ended   uint64 // when it was found gone, CLOCK_BOOTTIME
	follow  bool   // made by a traced process

	places []pinPlace // where it is mounted, if that is found by looking

	owner     *event.Owner
	orphan    bool   // whose it is is to be found by who lives in it
	runtime   string // only a container of this runtime can have it; empty for any
	tries     int    // how often nobody was found
	again     uint64 // when to look again, CLOCK_BOOTTIME
	adoptable bool   // will be of the first container that enters
}

// is says whether the namespace that now has the number of ns can be ns: it is of
// the same type and its id in the kernel, where both are known, the same.
func (ns *liveNS) is(typ event.NSType, kernelUID uint64) bool {
	return ns.typ == typ && (kernelUID == 0 || ns.kernel == 0 || ns.kernel == kernelUID)
}

// registry holds the namespaces that are alive, and no others: what it takes
// grows with what is alive, not with what has been.
type registry struct {
	live map[uint32]*liveNS // by inode number, of which there is one pool for all types
	// gone are those that were found to have ended while records of before may still
	// come, by inode number.
	gone map[uint32]*liveNS
	host map[event.NSType]uint32
	// perType is set where the kernel's ids are not one series for all types:
	// before 6.18 there are the cookies of net and the sequence of mnt.
	perType bool
}

func newRegistry() *registry {
	return &registry{live: map[uint32]*liveNS{}, gone: map[uint32]*liveNS{}, host: map[event.NSType]uint32{}}
}

// uidText gives a namespace's never reused id: the kernel's own, or, where it
// has none, the inode number with the time when the tracer first saw it, so that
// a number used again has another one.
func (r *registry) uidText(typ event.NSType, kernel uint64, id uint32, seenBoot uint64) string {
	switch {
	case kernel == 0:
		return strconv.FormatUint(uint64(id), 10) + event.ObservedUIDMark + strconv.FormatUint(seenBoot, 10)
	case r.perType:
		return string(typ) + ":" + strconv.FormatUint(kernel, 10)
	}
	return strconv.FormatUint(kernel, 10)
}

// see returns the entry of a namespace that exists now, made if it is new, and
// the one that had its number before and whose end was not seen, if any.
// kernelUID is 0 where the kernel has none or it is not known here.
func (r *registry) see(typ event.NSType, id uint32, kernelUID uint64, userNS uint32, boot uint64) (ns, ended *liveNS) {
	if id == 0 {
		return nil, nil
	}
	ns = r.live[id]
	if ns != nil && ns.is(typ, kernelUID) {
		// A mount does not tell the kernel's id and the owner, and a network namespace of 5.10
		// has one only once somebody asks: what events called it stays.
		if ns.kernel == 0 {
			ns.kernel = kernelUID
		}
		if ns.userNS == 0 {
			ns.userNS = userNS
		}
		return ns, nil
	}
	if old := r.gone[id]; old != nil && old.is(typ, kernelUID) && (boot <= old.ended || (kernelUID != 0 && kernelUID == old.kernel)) {
		return old, nil
	}
	ended = ns
	ns = &liveNS{
		typ: typ, id: id, uid: r.uidText(typ, kernelUID, id, boot), kernel: kernelUID, userNS: userNS, bootNS: boot,
		orphan: r.host[typ] != id, // the host's are nobody's
	}
	r.live[id] = ns
	return ns, ended
}

// show fills into with the namespace as an event shows it.
func (r *registry) show(ns *liveNS, into *event.Namespace) *event.Namespace {
	*into = event.Namespace{
		Type: ns.typ, ID: ns.id, UID: ns.uid, Name: ns.name, UserNS: ns.userNS,
		Host: r.host[ns.typ] == ns.id, Owner: ns.owner,
	}
	return into
}

// end removes a namespace that the kernel freed. It returns nil for one that was
// not known to be alive: an allocation that a failed call gave back. kernelUID is
// 0 where it is not known; otherwise an entry with another one is a later user of
// the same inode number, and stays.
func (r *registry) end(id uint32, kernelUID uint64) *liveNS {
	ns := r.live[id]
	if ns == nil || (kernelUID != 0 && ns.kernel != 0 && ns.kernel != kernelUID) {
		return nil
	}
	delete(r.live, id)
	return ns
}

// lateRecords is for how long a record of something that happened before is waited
// for: much longer than a task is preempted between the event and the ring.
const lateRecords = uint64(10 * time.Second)

// foundGone removes a namespace that was found to have ended by the time boot. What
// another with its number does comes after the record of that one's creation.
func (r *registry) foundGone(ns *liveNS, boot uint64) {
	for id, old := range r.gone {
		if old.ended+lateRecords < boot {
			delete(r.gone, id)
		}
	}
	delete(r.live, ns.id)
	ns.ended = boot
	r.gone[ns.id] = ns
}

// following says whether a namespace that a traced process made is alive.
func (r *registry) following() bool {
	for _, ns := range r.live {
		if ns.follow {
			return true
		}
	}
	return false
}
