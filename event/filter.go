// SPDX-License-Identifier: Apache-2.0

package event

import (
	"fmt"
	"path"
	"slices"
)

// Filter selects events. An empty field selects all. An event must match every field:
//
//	Types      its type
//	NSTypes    the type of a namespace that it is about; a device is about network namespaces
//	Sysctl     the name of its parameter, or of one of its parameters, if it has any
//	Failed     its outcome
//	PIDs, Comms, UIDs   the process that acted, or else the one that made what ended
//
// Comms selects a process by the name of the thread that acted, or of its main thread.
//
// A Tracer applies most of these rules in the kernel, so that other events do not reach
// user space. MatchTraced applies the rest. MatchStored applies all of them.
type Filter struct {
	Types   map[Type]bool
	NSTypes map[NSType]bool
	Sysctl  []string // globs of parameter names, see MatchSysctl
	PIDs    []uint32 // thread group ids, in the host's PID namespace
	Comms   []string // command names, up to 15 bytes each
	UIDs    []uint32
	Failed  bool // only what is known to have failed
}

// maxFilter is FILTER_ENTRIES of bpf/lib/filter.h.
const maxFilter = 1024

// Validate returns an error that says what is wrong with the filter.
func (f *Filter) Validate() error {
	for _, glob := range f.Sysctl {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("glob %q: %w", glob, err)
		}
	}
	for _, comm := range f.Comms {
		if len(comm) > 15 {
			return fmt.Errorf("command name %q: want at most 15 bytes, which is what the kernel keeps; this has %d", comm, len(comm))
		}
	}
	if max(len(f.PIDs), len(f.Comms), len(f.UIDs)) > maxFilter {
		return fmt.Errorf("too many values: want at most %d processes, %[1]d command names and %[1]d users", maxFilter)
	}
	return nil
}

// ByProcess reports whether the filter selects processes.
func (f *Filter) ByProcess() bool {
	return len(f.PIDs)+len(f.Comms)+len(f.UIDs) > 0
}

// MatchTraced reports whether a Tracer is to emit e. maker is the process that made what e
// is about, nil if unknown; it stands for the process of an event that has none.
//
// The kernel has already checked the process, the outcome and the namespace of an event
// that has a process. It does not check which namespace a parameter belongs to.
func (f *Filter) MatchTraced(e *Event, maker *Actor) bool {
	if !f.matchType(e) {
		return false
	}
	switch {
	case e.Sysctl != nil:
		return (e.Process != nil || f.matchActor(maker)) && f.matchNamespaces(e) && f.matchParameter(e)
	case e.Process != nil:
		return true
	case f.Failed && e.Netdev == nil: // the kernel checks the outcome of each move
		return false
	}
	return f.matchNamespaces(e) && f.matchActor(maker)
}

// MatchStored reports whether the filter selects an event that was stored. It selects all
// events about the trace itself.
func (f *Filter) MatchStored(e *Event) bool {
	if e.Type.Family() == "trace" {
		return true
	}
	if !f.matchType(e) || !f.matchNamespaces(e) || !f.matchParameter(e) || f.Failed && e.Outcome != Failure {
		return false
	}
	if p := e.Process; p != nil {
		return f.matchIDs(p.PID, p.UID) && f.matchComm(p)
	}
	if e.Type == NamespaceDestroy && e.Namespace != nil {
		return f.matchActor(e.Namespace.Creator)
	}
	return f.matchActor(nil)
}

func (f *Filter) matchType(e *Event) bool { return f.Types == nil || f.Types[e.Type] }

func (f *Filter) matchNamespaces(e *Event) bool {
	switch {
	case f.NSTypes == nil:
		return true
	case e.Netdev != nil: // also if neither of its namespaces is known
		return f.NSTypes[NSTypeNet]
	}
	for _, ns := range e.Namespaces() {
		if ns != nil && f.NSTypes[ns.Type] {
			return true
		}
	}
	return false
}

func (f *Filter) matchParameter(e *Event) bool {
	if e.Sysctl == nil || len(f.Sysctl) == 0 {
		return true
	}
	for _, glob := range f.Sysctl {
		if MatchSysctl(glob, e.Sysctl.Name) {
			return true
		}
		matched := false
		e.Sysctl.Parameters.Each(func(name string) bool {
			matched = MatchSysctl(glob, name)
			return !matched
		})
		if matched {
			return true
		}
	}
	return false
}

// matchActor reports whether the filter selects a process. It does not select an unknown
// one if it selects any.
func (f *Filter) matchActor(a *Actor) bool {
	if !f.ByProcess() {
		return true
	}
	return a != nil && f.matchIDs(a.PID, a.UID) && (len(f.Comms) == 0 || slices.Contains(f.Comms, a.Comm))
}

func (f *Filter) matchIDs(pid, uid uint32) bool {
	return (len(f.PIDs) == 0 || slices.Contains(f.PIDs, pid)) && (len(f.UIDs) == 0 || slices.Contains(f.UIDs, uid))
}

// matchComm reports whether the filter selects the name of a process's thread or of its main thread.
func (f *Filter) matchComm(p *Process) bool {
	return len(f.Comms) == 0 || slices.Contains(f.Comms, p.Comm) ||
		p.LeaderComm != "" && slices.Contains(f.Comms, p.LeaderComm)
}
