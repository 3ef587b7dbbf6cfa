// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A pidSpace translates PIDs. The programs know processes by their PIDs in the initial PID
// namespace, and events have these. The caller of nstrace, and /proc, can be in another one.
type pidSpace struct {
	walk  *ebpf.Program // iter_pids; nil in the initial PID namespace
	level int           // how deep nstrace's PID namespace is, 0 for the initial one

	// handles says that the kernel tells nstrace by a handle whether any namespace is alive.
	handles bool

	// inProc is how deep the PID namespace is that /proc is of, -1 if unknown.
	inProc int

	mu   sync.Mutex // Tracer.Track is for any goroutine
	own  map[uint32]uint32
	read time.Time // when own was read last
}

// rereadPIDs is how often at most the PIDs are read again for a process that is not known.
const rereadPIDs = 20 * time.Millisecond

// newPIDSpace returns the translation for the programs of coll, of which level is the value that
// the first walk sets.
func newPIDSpace(coll *ebpf.Collection) (*pidSpace, error) {
	p := &pidSpace{walk: coll.Programs[bpf.NstraceProgIterPids]}
	if p.walk == nil {
		return p, nil
	}
	if err := p.reread(); err != nil {
		return nil, err
	}
	var level uint32
	if err := coll.Variables[bpf.NstraceVarSelfPidLevel].Get(&level); err != nil {
		return nil, fmt.Errorf("read how deep the PID namespace is: %w", err)
	}
	var host [len(nsTypes)]uint32
	if err := coll.Variables[bpf.NstraceVarHostNs].Get(&host); err != nil {
		return nil, fmt.Errorf("read the host's namespaces: %w", err)
	}
	var id uint64
	if err := coll.Variables[bpf.NstraceVarHostPidId].Get(&id); err != nil {
		return nil, fmt.Errorf("read the id of the host's PID namespace: %w", err)
	}
	// Some kernels deny that a namespace outside nstrace's PID namespace is alive
	// (may_see_all_namespaces() in kernel/nscommon.c). The host's PID namespace always is.
	p.handles = procfs.Alive(procfs.Namespace{Type: event.NSTypePID, ID: host[bpf.NstraceNsKindNS_PID], KernelID: id}) == nil
	p.level, p.inProc = int(level), -1
	if below, err := procfs.PIDLevels(); err == nil {
		p.inProc = p.level - below
	}
	return p, nil
}

// reread reads the PIDs of all processes that nstrace can see.
func (p *pidSpace) reread() error {
	pairs, err := readIterator[bpf.NstracePidPair](p.walk)
	if err != nil {
		return fmt.Errorf("walk the processes: %w", err)
	}
	p.own, p.read = make(map[uint32]uint32, len(pairs)), time.Now()
	for _, pair := range pairs {
		p.own[pair.Host] = pair.Own
	}
	return nil
}

// nested reports whether nstrace is in another PID namespace than the initial one.
func (p *pidSpace) nested() bool { return p.level > 0 }

// knowsEnds reports whether nstrace can find out by a scan that a namespace ended: it sees all
// tasks, or needs not.
func (p *pidSpace) knowsEnds() bool { return !p.nested() || p.handles }

// host returns the PID that a process of nstrace's PID namespace has in the initial one.
func (p *pidSpace) host(pid uint32) (uint32, error) {
	if !p.nested() {
		return pid, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.reread(); err != nil { // another process can have the PID by now
		return 0, err
	}
	for host, own := range p.own {
		if own == pid {
			return host, nil
		}
	}
	return 0, fmt.Errorf("no process %d in nstrace's PID namespace", pid)
}

// proc returns the PID by which /proc shows a process, false if it does not.
func (p *pidSpace) proc(host uint32) (uint32, bool) {
	switch {
	case !p.nested() || p.inProc == 0:
		return host, true
	case p.inProc != p.level:
		return 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	own, ok := p.own[host]
	if !ok && time.Since(p.read) > rereadPIDs {
		if p.reread() != nil {
			return 0, false
		}
		own, ok = p.own[host]
	}
	return own, ok
}
