// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// Options configure a Tracer.
type Options struct {
	Backend  Backend // "" is Auto
	RingSize int     // bytes, a power of two and whole pages; 0 is DefaultRingSize
	Filter   event.Filter
	Follow   bool // trace only the processes given to Track, and their descendants
	// Linger is how long Run goes on after its context has ended, while namespaces that
	// traced processes made are alive. The kernel frees them a moment after their last
	// process.
	Linger time.Duration
	// ProveEvery is how often Run makes calls of its own that show whether the hooks work, unless
	// events show it. 0 is DefaultProveEvery; below 0 it makes them only at the start and the end.
	ProveEvery time.Duration
	// Partial makes New accept that it can observe only a part: with the error ErrPartial it
	// otherwise refuses to trace without the creates, the enters or the sysctl writes that the
	// filter asks for.
	Partial bool
	// SysctlFirst makes New attach only what sees writes to parameters, and parameters that appear and
	// vanish, which takes a part of the time. Run attaches the rest in the background, and then emits a
	// trace.attach. Until then, trace.start says which observations are missing. SysctlFirst has no
	// effect with Follow, or if the filter wants no writes.
	SysctlFirst bool
	Version     string // for trace.start
	// Notify takes a sentence, without a newline, about what is unusual in the run: that
	// ftrace is off, or was turned off, and what nstrace did about it. Trace.Notes has the
	// same sentences. New, Run, Close and Check call it, on any goroutine, and wait for it.
	Notify func(message string)
	// Resolver looks up what other users control. Without one, the Tracer does.
	Resolver Resolver
	// Unmet, if not nil, says which parameters of the host appear without their expected values, for
	// Parameters.Unmet.
	Unmet UnmetFunc
	// TakesSignals says that the caller takes SIGHUP, SIGINT, SIGQUIT and SIGTERM (os/signal) at least
	// while Run runs. Otherwise the Tracer holds them back for a moment when it must not end, and then
	// sends them again.
	TakesSignals bool

	translated bool // Filter.PIDs are those of the initial PID namespace
}

// A Resolver looks up what other users control, for example in a process of its own, which can be killed
// if it hangs. The goroutine of Run waits for it.
type Resolver interface {
	// UserName returns the name of a user, "" if it has none, or none that is known soon.
	UserName(uid uint32) string
	// CommandLine returns the first bytes of the command line of a process, as /proc has it, nil if it is
	// not known. The process has the PID pid in /proc, and started at start, in nanoseconds of
	// CLOCK_BOOTTIME. CommandLine can wait for as long as the process wants: another goroutine calls it.
	CommandLine(pid uint32, start uint64) []byte
}

// DefaultRingSize is for some twenty thousand events. The kernel maps the ring twice, so ps(1)
// counts it twice as resident.
const DefaultRingSize = 4 << 20

// ErrOption means that a field of Options has a bad value.
var ErrOption = errors.New("bad option")

// set writes the options into the programs, before they are loaded.
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
		bpf.NstraceVarHasTaskBtf:   direct,
		bpf.NstraceVarHashSeed:     seed,
		bpf.NstraceVarFoldAbove:    uint64(size / 4),
		bpf.NstraceVarRingBytes:    uint64(size),
		bpf.NstraceVarFollow:       o.Follow,
		bpf.NstraceVarFilterPid:    len(f.PIDs) > 0,
		bpf.NstraceVarFilterComm:   len(f.Comms) > 0,
		bpf.NstraceVarFilterUid:    len(f.UIDs) > 0,
		bpf.NstraceVarFilterFailed: f.Failed,
		bpf.NstraceVarNsMask:       mask,
		bpf.NstraceVarWriteHooked:  writeResult,
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

// randomSeed returns a seed for the hashes that the programs make.
func randomSeed() uint64 {
	var seed [8]byte
	rand.Read(seed[:])
	return binary.NativeEndian.Uint64(seed[:])
}

// fill adds the values of the filter to the maps in which the programs look them up.
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

// Limits of the ring's size in bytes. The smallest ring holds a few of the longest records.
const (
	MinRingSize = 64 << 10
	MaxRingSize = 1 << 30
)

// CheckRingSize returns why a ring cannot have that size, in bytes.
func CheckRingSize(size int) error {
	if size < MinRingSize || size > MaxRingSize || size&(size-1) != 0 {
		return fmt.Errorf("want a power of two from %d (64 KiB) to %d (1 GiB)", MinRingSize, MaxRingSize)
	}
	return nil
}
