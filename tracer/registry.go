// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"iter"
	"strconv"
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// liveNS is a namespace that is known to be alive.
type liveNS struct {
	typ     event.NSType
	id      uint32
	uid     string
	kernel  uint64 // the kernel's own id, 0 if unknown
	userNS  uint32
	name    string    // the last known one
	created time.Time // zero: before the tracer started
	bootNS  uint64    // when it was created or first seen, CLOCK_BOOTTIME
	creator *event.Actor
	ended   uint64 // when a scan found that it had ended, CLOCK_BOOTTIME
	follow  bool   // a followed process made it
	shown   bool   // an event had it

	mountedAt []mountPoint // as far as snapshots of mounts show it
	ownership ownership
}

// is reports whether the namespace that has the inode number of ns can be ns: its type is the
// same and, if both are known, its id in the kernel.
func (ns *liveNS) is(typ event.NSType, kernel uint64) bool {
	return ns.typ == typ && (kernel == 0 || ns.kernel == 0 || ns.kernel == kernel)
}

// A registry holds the namespaces that are alive, and no others. Its size grows with how many
// are alive, not with how many have been.
type registry struct {
	live  map[uint32]*liveNS   // by inode number, which is unique among all types
	count map[event.NSType]int // how many are in live
	// gone holds the namespaces that a scan found to have ended while earlier records about
	// them can still come, by inode number.
	gone map[uint32]*liveNS
	host map[event.NSType]uint32
	// named holds the namespaces in live that have a name, by that.
	named map[string]*liveNS
	// perType says that the kernel's ids are unique only within a type. Before 6.18 there
	// are the cookies of network namespaces and the sequence numbers of mount namespaces.
	perType bool
}

func newRegistry() *registry {
	return &registry{live: map[uint32]*liveNS{}, count: map[event.NSType]int{}, gone: map[uint32]*liveNS{}, host: map[event.NSType]uint32{}, named: map[string]*liveNS{}}
}

// uid returns the id of a namespace that is never reused within a boot: the kernel's own, or,
// if it has none, the inode number with the time when the tracer saw the namespace first.
func (r *registry) uid(typ event.NSType, kernel uint64, id uint32, seen uint64) string {
	switch {
	case kernel == 0:
		return strconv.FormatUint(uint64(id), 10) + event.ObservedUIDMark + strconv.FormatUint(seen, 10)
	case r.perType:
		return string(typ) + ":" + strconv.FormatUint(kernel, 10)
	}
	return strconv.FormatUint(kernel, 10)
}

// add returns the entry of a namespace that exists at the time boot, and adds it if it is
// new. ended is the namespace that had its inode number before, if its end was missed.
// kernel is 0 if the kernel has no id of the namespace, or it is unknown here.
func (r *registry) add(typ event.NSType, id uint32, kernel uint64, userNS uint32, boot uint64) (ns, ended *liveNS) {
	if id == 0 {
		return nil, nil
	}
	ns = r.live[id]
	if ns != nil && ns.is(typ, kernel) {
		r.learn(ns, kernel)
		if ns.userNS == 0 {
			ns.userNS = userNS
		}
		return ns, nil
	}
	if old := r.gone[id]; old != nil && old.is(typ, kernel) && (boot <= old.ended || (kernel != 0 && kernel == old.kernel)) {
		return old, nil
	}
	ended = ns
	ns = &liveNS{typ: typ, id: id, uid: r.uid(typ, kernel, id, boot), kernel: kernel, userNS: userNS, bootNS: boot}
	if !r.isHost(ns) {
		ns.ownership.pending = ownerHasTasks
	}
	if ended != nil {
		r.drop(ended)
	}
	r.put(ns)
	return ns, ended
}

// put makes a namespace one of those that are alive.
func (r *registry) put(ns *liveNS) {
	if before := r.live[ns.id]; before != nil {
		r.count[before.typ]--
	}
	r.live[ns.id] = ns
	r.count[ns.typ]++
}

// learn notes the kernel's id of a namespace, 0 if unknown. A mount shows neither that nor the owner, and 5.10 gives a
// network namespace an id only when somebody asks for it. If an event has shown the namespace, its uid stays.
func (r *registry) learn(ns *liveNS, kernel uint64) {
	if ns.kernel != 0 || kernel == 0 {
		return
	}
	ns.kernel = kernel
	if !ns.shown {
		ns.uid = r.uid(ns.typ, kernel, ns.id, ns.bootNS)
	}
}

// drop removes a namespace from those that are alive. It keeps its name.
func (r *registry) drop(ns *liveNS) {
	if was := r.live[ns.id]; was != nil {
		r.count[was.typ]--
		delete(r.live, ns.id)
	}
	if r.named[ns.name] == ns {
		delete(r.named, ns.name)
	}
}

// rename gives a namespace that is alive a name, which another one can have had before.
func (r *registry) rename(ns *liveNS, name string) {
	if before := r.named[name]; before != nil && before != ns {
		before.name = ""
	}
	if r.named[ns.name] == ns {
		delete(r.named, ns.name)
	}
	ns.name, r.named[name] = name, ns
}

// at returns the namespace that had an inode number at the time boot, nil if it is unknown. A scan can
// have found its end before the earlier record came.
func (r *registry) at(typ event.NSType, id uint32, boot uint64) *liveNS {
	if old := r.gone[id]; old != nil && old.typ == typ && boot <= old.ended {
		return old
	}
	if ns := r.live[id]; ns != nil && ns.typ == typ {
		return ns
	}
	return nil
}

// isHost reports whether a namespace is the host's own.
func (r *registry) isHost(ns *liveNS) bool { return r.host[ns.typ] == ns.id }

// show sets into to a namespace as events show it, and returns it.
func (r *registry) show(ns *liveNS, into *event.Namespace) *event.Namespace {
	ns.shown = true
	*into = event.Namespace{
		Type: ns.typ, ID: ns.id, UID: ns.uid, Name: ns.name, UserNS: ns.userNS,
		Host: r.isHost(ns), Owner: ns.ownership.owner,
	}
	return into
}

// describe sets the rest of a namespace of which a scan found the type and the id, as events
// show it. kernel is its id in the kernel, 0 if unknown.
func (r *registry) describe(ns *event.Namespace, kernel uint64) {
	ns.Host = r.host[ns.Type] == ns.ID
	if live := r.live[ns.ID]; live != nil && live.is(ns.Type, kernel) {
		r.learn(live, kernel)
		ns.UID, ns.Name, ns.Owner = live.uid, live.name, live.ownership.owner
		if ns.UserNS == 0 {
			ns.UserNS = live.userNS
		}
	} else if kernel != 0 {
		ns.UID = r.uid(ns.Type, kernel, ns.ID, 0)
	}
}

// remove removes and returns a namespace that the kernel freed. It returns nil for one that
// is not known to be alive: a call that failed gave it back. kernel is 0 if unknown;
// an entry with another id is a later user of the inode number, and stays.
func (r *registry) remove(id uint32, kernel uint64) *liveNS {
	ns := r.live[id]
	if ns == nil || (kernel != 0 && ns.kernel != 0 && ns.kernel != kernel) {
		return nil
	}
	r.drop(ns)
	return ns
}

// lateRecords is how long after the end of a namespace an earlier record about it can come.
// It is much longer than a task is preempted between an event and the ring.
const lateRecords = uint64(10 * time.Second)

// removeGone removes a namespace of which a scan found at the time boot that it had ended.
// Records about the next namespace with its inode number come after the record of that one's
// creation.
func (r *registry) removeGone(ns *liveNS, boot uint64) {
	for id, old := range r.gone {
		if old.ended+lateRecords < boot {
			delete(r.gone, id)
		}
	}
	r.drop(ns)
	ns.ended = boot
	r.gone[ns.id] = ns
}

// following reports whether a namespace that a followed process made is alive.
func (r *registry) following() bool {
	for _, ns := range r.live {
		if ns.follow {
			return true
		}
	}
	return false
}

// foreign reports whether a namespace other than the host's is alive.
func (r *registry) foreign() bool {
	for _, ns := range r.live {
		if !r.isHost(ns) {
			return true
		}
	}
	return false
}

// namespacesOf returns the namespaces that a task is in, and those that its children will be
// in.
func namespacesOf(task *bpf.NstraceTaskNs) iter.Seq[*bpf.NstraceNsChange] {
	return func(yield func(*bpf.NstraceNsChange) bool) {
		for i := range task.Ns {
			if !yield(&task.Ns[i]) {
				return
			}
		}
		for i := range task.ForChildren {
			if !yield(&task.ForChildren[i]) {
				return
			}
		}
	}
}
