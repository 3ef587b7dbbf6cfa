// SPDX-License-Identifier: Apache-2.0

package event

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Filter says which events are wanted. An empty field wants all. What the kernel
// can decide is decided there: events that are not wanted never reach the ring.
type Filter struct {
	Types   map[Type]bool
	NSTypes map[NSType]bool
	// Sysctl are globs, as path.Match takes them, of parameter names; a
	// parameter matches if one does.
	Sysctl []string
	PIDs   []uint32 // processes (thread group ids, in the host's PID namespace)
	Comms  []string // command names, up to 15 bytes
	UIDs   []uint32
	Failed bool // only what is known to have failed
}

// maxFilter is FILTER_ENTRIES of bpf/common.h.
const maxFilter = 1024

// Validate says what is wrong with the filter, nil if nothing.
func (f *Filter) Validate() error {
	for _, glob := range f.Sysctl {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("glob %q: %w", glob, err)
		}
	}
	for _, comm := range f.Comms {
		if len(comm) > 15 {
			return fmt.Errorf("command name %q: the kernel keeps 15 bytes of it, this is %d", comm, len(comm))
		}
	}
	if max(len(f.PIDs), len(f.Comms), len(f.UIDs)) > maxFilter {
		return fmt.Errorf("more than %d values of one kind", maxFilter)
	}
	return nil
}

// byProcess says whether the filter asks for anything of the process.
func (f *Filter) ByProcess() bool {
	return len(f.PIDs)+len(f.Comms)+len(f.UIDs) > 0
}

// matchMaker says whether who has made what ended is a process that is asked for.
func (f *Filter) matchMaker(by *Actor) bool {
	if !f.ByProcess() {
		return true
	}
	if by == nil {
		return false
	}
	return (len(f.PIDs) == 0 || slices.Contains(f.PIDs, by.PID)) &&
		(len(f.Comms) == 0 || slices.Contains(f.Comms, by.Comm)) &&
		(len(f.UIDs) == 0 || slices.Contains(f.UIDs, by.UID))
}

// match decides what the kernel could not: parameter names, and events without a
// process, which match by who has made what ended (by, nil if not known).
func (f *Filter) MatchLive(e *Event, by *Actor) bool {
	if f.Types != nil && !f.Types[e.Type] {
		return false
	}
	switch e.Type {
	case NamespaceDestroy, NamespacePin, NamespaceUnpin:
		if e.Process != nil {
			return true
		}
		if f.Failed || (f.NSTypes != nil && !f.NSTypes[e.Namespace.Type]) {
			return false
		}
		return f.matchMaker(by)
	case NetdevMove:
		return e.Process != nil || f.matchMaker(by)
	case SysctlWrite:
		if f.NSTypes != nil && (e.Sysctl.Namespace == nil || !f.NSTypes[e.Sysctl.Namespace.Type]) {
			return false
		}
		if len(f.Sysctl) == 0 {
			return true
		}
		return slices.ContainsFunc(f.Sysctl, func(glob string) bool { return MatchSysctl(glob, e.Sysctl.Name) })
	}
	return true
}

// Match says whether an event of the past is wanted: what Run gives, the kernel has
// looked at for most of it. Events about the trace itself always are.
func (f *Filter) Match(e *Event) bool {
	family, _, _ := strings.Cut(string(e.Type), ".")
	if family == "trace" {
		return true
	}
	if f.Types != nil && !f.Types[e.Type] {
		return false
	}
	ns := e.Namespace
	if e.Sysctl != nil {
		ns = e.Sysctl.Namespace
		if len(f.Sysctl) > 0 && !slices.ContainsFunc(f.Sysctl, func(glob string) bool { return MatchSysctl(glob, e.Sysctl.Name) }) {
			return false
		}
	}
	if f.NSTypes != nil && (ns == nil || !f.NSTypes[ns.Type]) {
		return false
	}
	if f.Failed && e.Outcome != Failure {
		return false
	}
	if !f.ByProcess() {
		return true
	}
	var who Actor
	switch {
	case e.Process != nil:
		who = Actor{PID: e.Process.PID, UID: e.Process.UID, Comm: e.Process.Comm}
	case e.Type == NamespaceDestroy && ns != nil && ns.Creator != nil:
		who = *ns.Creator
	default:
		return false
	}
	return (len(f.PIDs) == 0 || slices.Contains(f.PIDs, who.PID)) &&
		(len(f.Comms) == 0 || slices.Contains(f.Comms, who.Comm)) &&
		(len(f.UIDs) == 0 || slices.Contains(f.UIDs, who.UID))
}
