// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// The kernel can skip a program. It counts that in several places:
//
//	bpf_prog_info.recursion_misses  fentry, fexit (5.12) and tp_btf (6.2): the program was
//	                                already running on the CPU
//	                                kprobe and tracepoint (6.7): any such program of any tool
//	                                was running on the CPU, or bpf(2) changed a map there
//	bpf_link_info .kprobe.missed    a kprobe in the handler of another one, a kretprobe
//	                                without a free instance (6.7)
//
// Before 5.12 and 6.2 the kernel skips no fentry and tp_btf program. Before 6.7 it does not count
// what it skips of kprobes and tracepoints.
//
// nstrace reads these counts every readSkipsEvery, and reports what was skipped since the last time.

// readSkipsEvery is how often a run reads how many programs the kernel skipped. One reading takes
// some two system calls for each program.
const readSkipsEvery = 2 * time.Second

// A skipEffect is what it means that the kernel skipped a program.
type skipEffect int

const (
	// skipLoses: what the program would have reported is lost.
	skipLoses skipEffect = iota
	// skipLeaves: the entry of the call stays in a map. If the program at the entry was skipped
	// as well, there is none, and that one counts.
	skipLeaves
	// skipHidesEnd: a namespace ended. A scan finds which one.
	skipHidesEnd
	// skipHarmless: nothing is lost.
	skipHarmless
)

// skipEffects has the programs whose effect is not skipLoses.
var skipEffects = map[string]skipEffect{
	bpf.NstraceProgFexitUnshare:     skipLeaves,
	bpf.NstraceProgKretprobeUnshare: skipLeaves,
	bpf.NstraceProgTpCallExit:       skipLeaves,
	bpf.NstraceProgKretprobeClone:   skipLeaves,
	bpf.NstraceProgFexitSetns:       skipLeaves,
	bpf.NstraceProgKretprobeSetns:   skipLeaves,
	tpSetnsExit:                     skipLeaves,
	bpf.NstraceProgFexitOpenTree:    skipLeaves,
	bpf.NstraceProgFexitFsmount:     skipLeaves,

	bpf.NstraceProgKretprobeOpenTree: skipLeaves,
	bpf.NstraceProgKretprobeFsmount:  skipLeaves,

	bpf.NstraceProgFexitMount:     skipLeaves,
	bpf.NstraceProgFexitMoveMount: skipLeaves,
	bpf.NstraceProgFexitUmount:    skipLeaves,
	bpf.NstraceProgKretprobePin:   skipLeaves,
	kretprobeUmount:               skipLeaves,

	bpf.NstraceProgFexitWrite:        skipLeaves,
	bpf.NstraceProgKretprobeWrite:    skipLeaves,
	bpf.NstraceProgFexitHostname:     skipLeaves,
	fexitDomainname:                  skipLeaves,
	bpf.NstraceProgKretprobeHostname: skipLeaves,
	bpf.NstraceProgTpHostnameExit:    skipLeaves,

	bpf.NstraceProgFexitNewlink:     skipLeaves,
	fexitSetlink:                    skipLeaves,
	bpf.NstraceProgKretprobeNewlink: skipLeaves,
	bpf.NstraceProgFexitMove:        skipLeaves,
	bpf.NstraceProgFexitMove513:     skipLeaves,
	bpf.NstraceProgFexitMove510:     skipLeaves,
	bpf.NstraceProgKretprobeMove:    skipLeaves,

	bpf.NstraceProgFentryNsFree:   skipHidesEnd,
	bpf.NstraceProgFentryFreeInum: skipHidesEnd,
	bpf.NstraceProgKprobeNsFree:   skipHidesEnd,
	bpf.NstraceProgKprobeFreeInum: skipHidesEnd,

	bpf.NstraceProgTpFork: skipHarmless, // tp_call_exit notices it
	bpf.NstraceProgTpExit: skipHarmless, // the next scan finds the end
}

// effectOf returns the effect of skipping a program, which can be a copy.
func effectOf(program string) skipEffect {
	if e, ok := skipEffects[program]; ok {
		return e
	}
	return skipEffects[original(program)]
}

// lossTypes are the types of events whose calls have an entry and an end.
var lossTypes = []event.Type{
	event.NamespaceCreate, event.NamespaceEnter, event.NamespacePin, event.NamespaceUnpin, event.SysctlWrite, event.NetdevMove,
}

// A skipCounter is one count of the kernel.
type skipCounter struct {
	program string
	ofLink  bool // the kernel counts by link
	typ     event.Type
	effect  skipEffect
	read    func() (uint64, error)
	last    uint64 // what it was at the last reading
}

// skips is what nstrace knows of skipped programs.
type skips struct {
	counters []skipCounter
	at       time.Time // of the last reading; first the start

	// hidesEnds says that the kernel can skip the program for the end of a namespace without
	// counting that.
	hidesEnds bool

	lost  map[event.Type]uint64 // events that are lost for good
	ends  map[event.Type]uint64 // skipped programs at the ends of calls since the last reading
	ended bool                  // a namespace ended unseen

	// pending are the skipped programs at the ends of calls that were found before the last
	// reading, and of which no entry has been found so far. They happened after since.
	pending map[event.Type]uint64
	since   map[event.Type]time.Time
	// entries are what the maps of calls had at the last reading, by map.
	entries map[string]map[string][]byte
	settled map[event.Type]uint64 // entries of calls that BPF programs found so far
}

func newSkips() *skips {
	return &skips{
		at: time.Now(), lost: map[event.Type]uint64{}, ends: map[event.Type]uint64{},
		pending: map[event.Type]uint64{}, since: map[event.Type]time.Time{}, settled: map[event.Type]uint64{},
	}
}

// count makes s count the programs of l, which were just attached.
func (s *skips) count(l *loaded) {
	before := s.counters
	s.counters, s.hidesEnds = nil, false
	add := func(c skipCounter) {
		if i := slices.IndexFunc(before, func(b skipCounter) bool { return l.kept[b.program] && b.program == c.program && b.ofLink == c.ofLink }); i >= 0 {
			c.last = before[i].last
		}
		s.counters = append(s.counters, c)
	}
	asked := map[string]bool{}
	for _, c := range l.picks {
		for _, name := range c.programs {
			typ, effect := c.obs.feed[0], effectOf(name)
			if effect == skipHarmless {
				continue
			}
			if effect == skipHidesEnd && !l.countsSkips && l.program(name).Type() == ebpf.Kprobe {
				s.hidesEnds = true
			}
			// The count of a program that is attached in several places is for all of them.
			if of := original(name); !asked[of] {
				asked[of] = true
				prog := l.program(name)
				add(skipCounter{program: name, typ: typ, effect: effect, read: func() (uint64, error) {
					stats, err := prog.Stats()
					if err != nil {
						return 0, err
					}
					return stats.RecursionMisses, nil
				}})
			}
			lk := l.links[name]
			if lk == nil || l.program(name).Type() != ebpf.Kprobe {
				continue
			}
			missed := func() (uint64, error) {
				info, err := lk.Info()
				if err != nil {
					return 0, err
				}
				if pe := info.PerfEvent(); pe != nil {
					if k := pe.Kprobe(); k != nil {
						return k.Missed, nil
					}
				}
				return 0, ebpf.ErrNotSupported
			}
			if _, err := missed(); err == nil {
				add(skipCounter{program: name, ofLink: true, typ: typ, effect: effect, read: missed})
			}
		}
	}
}

// read adds what the kernel skipped since the last reading.
func (s *skips) read() {
	for i := range s.counters {
		c := &s.counters[i]
		n, err := c.read()
		if err != nil || n <= c.last { // it was detached
			continue
		}
		d := n - c.last
		c.last = n
		switch c.effect {
		case skipLoses:
			s.lost[c.typ] += d
		case skipLeaves:
			s.ends[c.typ] += d
		case skipHidesEnd:
			s.ended = true
		}
	}
}

// takeEnded reports whether a namespace ended unseen since it was last asked.
func (s *skips) takeEnded() bool {
	ended := s.ended
	s.ended = false
	return ended
}

// settle finds the calls whose end no program saw. unended are those that BPF programs found so far:
// the thread began another call, or ended. The entries of the others are still there at the next
// reading. last says that there is none.
//
// from has the types of events of which some may have been lost before the last reading, and since
// when; the zero time if that is unknown.
func (s *skips) settle(a *attachment, unended map[event.Type]uint64, last bool) (from map[event.Type]time.Time, err error) {
	from = map[event.Type]time.Time{}
	fresh := s.ends
	s.ends = map[event.Type]uint64{}
	look := false
	for _, typ := range lossTypes {
		found := unended[typ] - s.settled[typ]
		s.settled[typ] = unended[typ]
		if n := min(found, s.pending[typ]); n > 0 {
			from[typ] = s.since[typ]
			s.pending[typ] -= n
			found -= n
		}
		n := min(found, fresh[typ])
		fresh[typ] -= n
		if found > n { // the kernel does not count what it skips
			from[typ] = time.Time{}
		}
		if last && fresh[typ] > 0 {
			if s.pending[typ] == 0 {
				s.since[typ] = s.at
			}
			s.pending[typ] += fresh[typ]
			fresh[typ] = 0
		}
		look = look || s.pending[typ]+fresh[typ] > 0
	}
	before := s.entries
	s.entries = nil
	if !look {
		return from, nil
	}
	s.entries = map[string]map[string][]byte{}
	for name, eventsOf := range callEvents {
		m := a.loaded.coll.Maps[name]
		entries, err := entriesOf(m)
		if err != nil {
			return from, err
		}
		s.entries[name] = entries
		for key, value := range entries {
			typ, n, owner := eventsOf(value)
			if n == 0 || s.pending[typ] == 0 || (!last && !bytes.Equal(before[name][key], value)) {
				continue
			}
			// If the call is still under way after all, its end finds nothing to report.
			if err := m.Delete([]byte(key)); err != nil {
				continue // its end came just now
			}
			if err := a.releaseShare(owner); err != nil {
				return from, err
			}
			delete(entries, key)
			s.pending[typ]--
			s.lost[typ] += n
			from[typ] = s.since[typ]
		}
	}
	// What is pending has no entry: the program at the entry was skipped as well, which counts.
	s.pending = fresh
	for typ := range fresh {
		s.since[typ] = s.at
	}
	return from, nil
}

// callEvents are the maps of calls under way whose entries BPF programs count as missed if they
// find them later. A function returns how many events of which type an entry stands for, and whose share
// it takes.
var callEvents = map[string]func(entry []byte) (event.Type, uint64, bpf.NstraceShareOwner){
	bpf.NstraceMapNsCalls: func(b []byte) (_ event.Type, _ uint64, none bpf.NstraceShareOwner) {
		var c bpf.NstraceNsCall
		if fixed(&b, &c) != nil {
			return "", 0, none
		}
		kinds := bits.OnesCount32(c.TargetMask)
		if kinds == 0 {
			kinds = max(1, bits.OnesCount64(c.Flags&nsFlags))
		}
		return typeOfKind(c.Kind), uint64(kinds), c.Owner
	},
	bpf.NstraceMapPinCalls: func(b []byte) (_ event.Type, _ uint64, none bpf.NstraceShareOwner) {
		var c bpf.NstracePinCall
		if fixed(&b, &c) != nil || nsType(c.Ns.Kind) == "" { // not about a namespace
			return "", 0, none
		}
		return typeOfKind(c.Kind), 1, c.Owner
	},
	bpf.NstraceMapWrites: func([]byte) (event.Type, uint64, bpf.NstraceShareOwner) {
		return event.SysctlWrite, 1, bpf.NstraceShareOwner{}
	},
	bpf.NstraceMapRtnlCalls: func(b []byte) (_ event.Type, _ uint64, none bpf.NstraceShareOwner) {
		var head struct {
			Moving, Pending uint32
			Owner           bpf.NstraceShareOwner
		}
		if fixed(&b, &head) != nil {
			return "", 0, none
		}
		return event.NetdevMove, uint64(head.Moving) + uint64(head.Pending), head.Owner
	},
}

// nsFlags are the flags of clone(2) that make namespaces.
const nsFlags = unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWTIME | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUSER

func typeOfKind(kind uint32) event.Type {
	if int(kind) < len(recordKinds) {
		return recordKinds[kind].event
	}
	return ""
}

// entriesOf returns the entries of a map. Programs change it at the same time, so some can be missing.
func entriesOf(m *ebpf.Map) (map[string][]byte, error) {
	all := map[string][]byte{}
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		all[string(key)] = slices.Clone(value)
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read the map of calls: %w", err)
	}
	return all, nil
}

// countsSkips reports whether the kernel counts what it skips of kprobes and tracepoints: both
// counts came with 6.7.
func (k *kernel) countsSkips() bool {
	var info *btf.Struct
	if k.btf.TypeByName("bpf_link_info", &info) != nil {
		return false
	}
	return deepMember(info.Members, "missed")
}

// deepMember reports whether a struct has a member of that name, in itself or in a member.
func deepMember(members []btf.Member, name string) bool {
	return slices.ContainsFunc(members, func(m btf.Member) bool {
		if m.Name == name {
			return true
		}
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			return deepMember(t.Members, name)
		case *btf.Union:
			return deepMember(t.Members, name)
		}
		return false
	})
}

// uncounted returns the types of events of which the kernel can skip some without counting them.
func (l *loaded) uncounted() (types []event.Type) {
	if l.countsSkips {
		return nil
	}
	for _, c := range l.picks {
		for _, name := range c.programs {
			switch p := l.program(name); {
			case p.Type() != ebpf.Kprobe && p.Type() != ebpf.TracePoint, effectOf(name) != skipLoses:
			case !slices.Contains(types, c.obs.feed[0]):
				types = append(types, c.obs.feed[0])
			}
		}
	}
	slices.Sort(types)
	return types
}
