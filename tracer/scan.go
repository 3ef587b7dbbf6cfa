// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A scanner finds the namespaces that ended by looking, for kernels where
// nothing can be attached to what frees them.
type scanner struct {
	t       *Tracer
	wanted  bool      // something happened that can end a namespace
	since   time.Time // when the first such thing since the last look was read
	looked  time.Time
	held    bool   // at the last look some namespace was alive without a task
	missed  uint64 // ends of tasks that the kernel did not tell of, at the last look
	handles bool   // the kernel tells by a handle whether a namespace is alive
}

// How long after something happened it is looked for what it ended (the kernel
// frees a network namespace some 10 ms later, in a worker), and how often it is
// looked where a mount or a descriptor keeps a namespace, since nothing tells
// when that goes away.
const (
	scanAfter = 50 * time.Millisecond
	scanEvery = time.Second
)

func newScanner(t *Tracer) *scanner {
	return &scanner{t: t, looked: time.Now(), held: true, handles: procfs.Alive(procfs.Namespace{}) != unix.ENOSYS}
}

// soon has it look after a moment.
func (s *scanner) soon() {
	if !s.wanted {
		s.wanted, s.since = true, time.Now()
	}
}

// keep has it look now and then: a namespace was made that no task is in, and no end of a
// task will tell of its own.
func (s *scanner) keep() { s.held = true }

// next is when to look again, zero for not before something happens.
func (s *scanner) next() time.Time {
	switch {
	case s.wanted:
		return s.since.Add(scanAfter)
	case s.foreign():
		return s.looked.Add(scanEvery)
	}
	return time.Time{}
}

// foreign says whether any namespace but the host's own is alive.
func (s *scanner) foreign() bool {
	for _, ns := range s.t.reg.live {
		if s.t.reg.host[ns.typ] != ns.id {
			return true
		}
	}
	return false
}

// missedExits is how often the kernel could not run tp_exit.
func (s *scanner) missedExits() uint64 {
	stats, err := s.t.loaded.coll.Programs[bpf.NstraceProgTpExit].Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}

// run looks, and reports what is gone.
func (s *scanner) run(h Handler) error {
	t := s.t
	missed := s.missedExits()
	look := s.wanted || s.held || missed != s.missed
	s.looked, s.missed = time.Now(), missed
	if !look {
		return nil
	}
	s.wanted, s.held = false, false
	if t.watch != nil {
		t.watch.look.Store(true) // where nothing tells of changes
	}
	used := map[*liveNS]bool{}
	// The end of one that is leaving was told when it still had its namespaces.
	leaving := false
	tasks, err := t.tasks()
	if err != nil {
		return err
	}
	for i := range tasks {
		leaving = leaving || tasks[i].Exiting != 0
		for c := range namespaces(&tasks[i]) {
			if ns := t.reg.live[c.Inum]; ns != nil && ns.is(nsType(c.Kind), c.NsId) {
				used[ns] = true
			}
		}
	}
	var unused []*liveNS
	for _, ns := range t.reg.live {
		if !used[ns] && t.reg.host[ns.typ] != ns.id {
			unused = append(unused, ns)
		}
	}
	gone := s.gone(unused)
	s.held = leaving || len(gone) < len(unused)
	// A namespace before its owner, in the order of their creation.
	slices.SortFunc(gone, func(a, b *liveNS) int {
		if (a.typ == "user") != (b.typ == "user") {
			if a.typ == "user" {
				return 1
			}
			return -1
		}
		return int(int64(a.id) - int64(b.id))
	})
	boot := bootNow()
	for _, ns := range gone {
		t.reg.foundGone(ns, boot)
		if err := t.inferEnd(h, ns, boot); err != nil {
			return err
		}
	}
	return nil
}

// gone returns those of the namespaces without a task that nothing else keeps.
func (s *scanner) gone(unused []*liveNS) []*liveNS {
	if len(unused) == 0 {
		return nil
	}
	if s.handles {
		return slices.DeleteFunc(slices.Clone(unused), func(ns *liveNS) bool {
			return procfs.Alive(procfs.Namespace{Type: ns.typ, ID: ns.id, KernelID: ns.kernel}) != unix.ESTALE
		})
	}
	held := procfs.HeldByFiles()
	free := slices.DeleteFunc(slices.Clone(unused), func(ns *liveNS) bool { return held[ns.id] != nil })
	return withoutOwners(free, s.t.reg)
}

// withoutOwners leaves out the user namespaces that own one that is alive.
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
