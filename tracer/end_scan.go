// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"slices"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// An endScanner finds the namespaces that ended, for kernels in which no program can be
// attached to what frees them.
type endScanner struct {
	in     *interpreter
	wanted bool      // something happened that can end a namespace
	since  time.Time // when the first such thing since the last scan was read
	ran    time.Time // the last scan
	held   bool      // a namespace may be alive without a task
	missed uint64    // missedExits at the last scan

	// asked are the namespaces that no task was in at askedAt. A search of the files that began later
	// tells which of them ended. asked is nil if nothing waits for a search, and asks is how often its
	// result was not there yet. last says to wait for it, because the run ends.
	asked   map[*liveNS]bool
	askedAt time.Time
	asks    int
	last    bool

	// handles says that the kernel tells by a handle whether a namespace is alive.
	handles bool

	// suspects, if not nil, are the namespaces that were gone at the last scan that had a result. Only
	// the next one reports their end, if a record has not done so by then: umount(2) can still be in a
	// call that ended one, and the event of the call comes first.
	suspects map[*liveNS]bool

	// catchUp, if not nil, interprets the records in the ring. A record of a new namespace that has the inode
	// number of one that the scan finds gone can be there, and the end came before it.
	catchUp func() error
}

const (
	// scanAfter is how long after an event a scan runs. The kernel frees a network namespace
	// some 10 ms after its last user, in a worker.
	scanAfter = 50 * time.Millisecond
	// scanEvery is how often a scan runs while a mount or a descriptor keeps a namespace
	// alive, since no event says when that ends.
	scanEvery = time.Second
	// scanAgain is how long after a scan the next one makes sure, where a record can report the end in
	// between. It is also the least time between two such scans.
	scanAgain = 5 * time.Second
)

func newEndScanner(in *interpreter) *endScanner {
	_, handles := in.lookups.ended(procfs.Namespace{})
	return &endScanner{in: in, ran: time.Now(), held: true, handles: handles}
}

// soon makes a scan run after a moment.
func (s *endScanner) soon() {
	if !s.wanted {
		s.wanted, s.since = true, time.Now()
	}
}

// watch makes the next scan due look for ends although no task ended: a namespace was made
// that no task is in.
func (s *endScanner) watch() { s.held = true }

// next returns when to scan next, the zero time for not before something happens.
func (s *endScanner) next() time.Time {
	switch {
	case s.wanted:
		return s.since.Add(scanAfter)
	case s.asked != nil:
		return s.ran.Add(s.resultAfter())
	case s.in.registry.foreign():
		return s.ran.Add(scanEvery)
	}
	return time.Time{}
}

// run scans, and emits the ends that it finds. in.mu is held.
func (s *endScanner) run() error {
	in := s.in
	missed := in.lookups.missedExits()
	needed := s.wanted || s.held || s.asked != nil || missed != s.missed
	s.ran, s.missed = time.Now(), missed
	if !needed {
		return nil
	}
	s.wanted, s.held = false, false
	in.pins.stale = in.pins.snapshots // the mounts may have changed without a notice
	used := map[*liveNS]bool{}
	exiting := false // a task is, and had its namespaces when it said so
	tasks, err := in.tasks()
	if err != nil {
		s.held = true
		return fatal(err)
	}
	for i := range tasks {
		exiting = exiting || tasks[i].Exiting != 0
		for c := range namespacesOf(&tasks[i]) {
			if ns := in.registry.live[c.Inum]; ns != nil && ns.is(nsType(c.Kind), c.NsId) {
				used[ns] = true
			}
		}
	}
	var unused []*liveNS
	for _, ns := range in.registry.live {
		if !used[ns] && !in.registry.isHost(ns) {
			unused = append(unused, ns)
		}
	}
	gone, known := s.gone(unused)
	if s.suspects != nil && known {
		gone = s.confirmed(gone)
	}
	s.held = exiting || len(gone) < len(unused)
	slices.SortFunc(gone, endOrder)
	if len(gone) > 0 && s.catchUp != nil {
		in.mu.Unlock()
		err := s.catchUp()
		in.mu.Lock()
		if err != nil {
			return err
		}
	}
	boot := in.clock.now()
	for _, ns := range gone {
		if in.registry.live[ns.id] != ns { // a record told of its end meanwhile
			continue
		}
		in.registry.removeGone(ns, boot)
		if err := in.inferEnd(ns, boot); err != nil {
			return err
		}
	}
	return nil
}

// confirmed returns those that were gone at the last scan too.
func (s *endScanner) confirmed(gone []*liveNS) (again []*liveNS) {
	suspects := map[*liveNS]bool{}
	for _, ns := range gone {
		if s.suspects[ns] {
			again = append(again, ns)
		} else {
			suspects[ns] = true
		}
	}
	s.suspects = suspects
	return again
}

// endOrder sorts namespaces before the user namespaces that can own them, and by inode
// number, which is mostly the order of their creation.
func endOrder(a, b *liveNS) int {
	if aUser, bUser := a.typ == event.NSTypeUser, b.typ == event.NSTypeUser; aUser != bUser {
		if aUser {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.id, b.id)
}

// gone returns the namespaces that ended, of those that no task is in. known is false while the search
// of the files that tells it goes on.
func (s *endScanner) gone(unused []*liveNS) (gone []*liveNS, known bool) {
	if len(unused) == 0 || !s.in.lookups.knowsEnds() {
		return nil, true
	}
	if s.handles {
		return slices.DeleteFunc(slices.Clone(unused), func(ns *liveNS) bool {
			ended, _ := s.in.lookups.ended(procfs.Namespace{Type: ns.typ, ID: ns.id, KernelID: ns.kernel})
			return !ended
		}), true
	}
	if s.asked == nil {
		s.asked, s.askedAt, s.asks = map[*liveNS]bool{}, time.Now(), 0
		for _, ns := range unused {
			s.asked[ns] = true
		}
	}
	held, known := s.in.lookups.heldByFiles(s.askedAt, s.last)
	if !known {
		s.asks++
		return nil, false
	}
	asked := s.asked
	s.asked = nil
	free := slices.DeleteFunc(slices.Clone(unused), func(ns *liveNS) bool { return held[ns.id] || !asked[ns] })
	return withoutOwners(free, s.in.registry), true
}

// again returns how long after the last scan the next one tells more about what ended, 0 if it tells
// nothing more.
func (s *endScanner) again() time.Duration {
	switch {
	case s.asked != nil:
		return s.resultAfter()
	case len(s.suspects) > 0:
		return scanAgain
	}
	return 0
}

// resultAfter returns how long after the last scan the search of the files can have a result.
func (s *endScanner) resultAfter() time.Duration {
	return min(scanAfter<<min(s.asks, 10), scanEvery)
}

// withoutOwners removes the user namespaces that own a namespace which is alive, for these
// are alive too.
func withoutOwners(gone []*liveNS, reg *registry) []*liveNS {
	dead := map[uint32]bool{}
	for _, ns := range gone {
		dead[ns.id] = true
	}
	for again := true; again; {
		again = false
		for _, ns := range reg.live {
			if !dead[ns.id] && dead[ns.userNS] {
				delete(dead, ns.userNS)
				again = true
			}
		}
	}
	return slices.DeleteFunc(gone, func(ns *liveNS) bool { return !dead[ns.id] })
}
