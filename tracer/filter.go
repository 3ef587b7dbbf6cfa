// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/nstrace/nstrace/bpf"
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
func (f *Filter) byProcess() bool {
	return len(f.PIDs)+len(f.Comms)+len(f.UIDs) > 0
}

// matchMaker says whether who has made what ended is a process that is asked for.
func (f *Filter) matchMaker(by *Actor) bool {
	if !f.byProcess() {
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
func (f *Filter) match(e *Event, by *Actor) bool {
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
	if !f.byProcess() {
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

// MatchSysctl says whether a glob, as Filter.Sysctl has them, matches a parameter's
// name. To path.Match a slash is a border, but in a parameter's name it is part of a
// device's (net.ipv4.conf.eth0/100.forwarding).
func MatchSysctl(glob, name string) bool {
	const notSlash = "\x00"
	ok, _ := path.Match(strings.ReplaceAll(glob, "/", notSlash), strings.ReplaceAll(name, "/", notSlash))
	return ok
}

// Options configure a Tracer.
type Options struct {
	Backend  Backend // "" is Auto
	RingSize int     // bytes, a power of two and whole pages; 0 is DefaultRingSize
	Filter   Filter
	Follow   bool // only processes given to Track, and their descendants
	// Linger is how long Run goes on after its context has ended while
	// namespaces that traced processes made are still alive: the kernel frees
	// them a moment after their last process.
	Linger  time.Duration
	Version string // for trace.start
	// Notify is told, in a sentence without a newline, what somebody who watches the run
	// should know: that ftrace is off, or was turned off, and what nstrace did about it.
	// The same sentence is in Trace.Notes. New, Run, Close and Check call it, on any
	// goroutine, and wait for it.
	Notify func(message string)
}

// DefaultRingSize holds some twenty thousand events. It is mapped twice, end to
// end, and counts twice in what ps(1) calls resident.
const DefaultRingSize = 4 << 20

// ErrOption wraps what is wrong with an Options.
var ErrOption = errors.New("bad option")

// set writes the settings into the programs before they are loaded.
func (o *Options) set(spec *ebpf.CollectionSpec, seed uint64, writeResult, direct bool, v1Subsys int32) error {
	f := &o.Filter
	mask := uint32(1<<len(nsTypes) - 1)
	if f.NSTypes != nil {
		mask = 0
		for kind, typ := range nsTypes {
			if f.NSTypes[typ] {
				mask |= 1 << kind
			}
		}
	}
	size := o.RingSize
	if size == 0 {
		size = DefaultRingSize
	}
	for name, value := range map[string]any{
		bpf.NstraceVarDirect:       direct,
		bpf.NstraceVarHashSeed:     seed,
		bpf.NstraceVarFoldAbove:    uint64(size / 4),
		bpf.NstraceVarFollow:       o.Follow,
		bpf.NstraceVarFilterPid:    len(f.PIDs) > 0,
		bpf.NstraceVarFilterComm:   len(f.Comms) > 0,
		bpf.NstraceVarFilterUid:    len(f.UIDs) > 0,
		bpf.NstraceVarFilterFailed: f.Failed,
		bpf.NstraceVarNsMask:       mask,
		bpf.NstraceVarWriteResult:  writeResult,
		bpf.NstraceVarV1Subsys:     v1Subsys,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec.Maps[bpf.NstraceMapRing].MaxEntries = uint32(size)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	spec.Maps[bpf.NstraceMapCounts].MaxEntries = uint32(cpus)
	spec.Maps[bpf.NstraceMapFolds].MaxEntries *= uint32(cpus)
	return nil
}

// randomSeed is one for the hashes that the programs make.
func randomSeed() uint64 {
	var seed [8]byte
	rand.Read(seed[:])
	return binary.NativeEndian.Uint64(seed[:])
}

// fill puts the filters' values where the programs look.
func (o *Options) fill(coll *ebpf.Collection) error {
	one := uint8(1)
	for _, pid := range o.Filter.PIDs {
		if err := coll.Maps[bpf.NstraceMapPids].Put(pid, one); err != nil {
			return fmt.Errorf("filter on pid %d: %w", pid, err)
		}
	}
	for _, uid := range o.Filter.UIDs {
		if err := coll.Maps[bpf.NstraceMapUids].Put(uid, one); err != nil {
			return fmt.Errorf("filter on user id %d: %w", uid, err)
		}
	}
	for _, comm := range o.Filter.Comms {
		var key [16]byte
		copy(key[:15], comm)
		if err := coll.Maps[bpf.NstraceMapComms].Put(key, one); err != nil {
			return fmt.Errorf("filter on command %q: %w", comm, err)
		}
	}
	return nil
}

func (o *Options) validate() error {
	if o.Backend == "" {
		o.Backend = Auto
	}
	if _, err := ParseBackend(string(o.Backend)); err != nil {
		return fmt.Errorf("%w: %w", ErrOption, err)
	}
	if err := CheckRingSize(o.RingSize); o.RingSize != 0 && err != nil {
		return fmt.Errorf("%w: ring size %d: %w", ErrOption, o.RingSize, err)
	}
	if err := o.Filter.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrOption, err)
	}
	return nil
}

// Limits of the ring, in bytes. The smallest holds a few of the longest records.
const (
	MinRingSize = 64 << 10
	MaxRingSize = 1 << 30
)

// CheckRingSize says why the kernel would not take a ring of so many bytes.
func CheckRingSize(size int) error {
	if size < MinRingSize || size > MaxRingSize || size&(size-1) != 0 {
		return fmt.Errorf("it takes a power of two from %d (64 KiB) to %d (1 GiB)", MinRingSize, MaxRingSize)
	}
	return nil
}
