// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/internal/procfs"
)

// maxPins bounds how many namespaces are open at once.
const maxPins = 4096

// openPins are namespaces that are mounted in the caller's mount namespace, opened while the iterators
// walk over open files. The iterators do not find a namespace that only a mount holds. Up to 6.17,
// nothing else tells its id without entering it.
type openPins struct {
	pid uint32
	fds map[uint32]bool
	ids map[Ref]nsRecord
}

// openMounted opens the wanted namespaces, or nothing if the kernel's handles have the ids.
func (b *builder) openMounted() *openPins {
	p := &openPins{pid: uint32(os.Getpid()), fds: map[uint32]bool{}, ids: map[Ref]nsRecord{}}
	if procfs.HandleID("/proc/thread-self/ns/mnt") != 0 {
		return p
	}
	opened := map[Ref]bool{}
	for _, ns := range procfs.PinnedIn(procfs.OwnMountinfo) {
		r := Ref{ns.Type, ns.ID}
		if i := slices.Index(types[:], ns.Type); i < 0 || !b.wanted[i] || opened[r] {
			continue
		}
		if len(p.fds) == maxPins {
			break
		}
		if fd, err := procfs.OpenNamespace(ns.Type, ns.ID, []string{ns.Path}); err == nil {
			opened[r], p.fds[uint32(fd)] = true, true
		}
	}
	return p
}

func (p *openPins) close() {
	for fd := range p.fds {
		unix.Close(int(fd))
	}
}

// take keeps what a row says about a namespace that p opened, and reports whether it is such a row.
func (p *openPins) take(s *bpf.InventoryFileRow) bool {
	if s.Pid != p.pid || !p.fds[s.Fd] {
		return false
	}
	if int(s.Kind) < len(types) {
		p.ids[Ref{types[s.Kind], s.Ns.Inum}] = recordOf(&s.Ns)
	}
	return true
}
