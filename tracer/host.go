// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/procfs"
)

// hostInfo identifies the host and its boot.
type hostInfo struct {
	host, bootID, kernel string
}

func readHostInfo() hostInfo {
	var h hostInfo
	h.host, _ = os.Hostname()
	h.bootID = procfs.BootID()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.kernel = unix.ByteSliceToString(u.Release[:])
	}
	return h
}

// A hostReader is the hostLookups of the running host. It and its Resolver alone parse what others
// wrote: the user database, /proc and mounts. One goroutine uses it.
type hostReader struct {
	resolver Resolver
	reads    procfs.BlockingReads
	netns    netnsNames
	sysctl   sysctlCache
	mounts   *mountThread
	pids     *pidSpace
}

func newHostReader(r Resolver, m *mountThread, p *pidSpace) *hostReader {
	if r == nil {
		r = &ownResolver{}
	}
	return &hostReader{resolver: r, netns: newNetnsNames(), sysctl: sysctlCache{}, mounts: m, pids: p}
}

// An ownResolver is a Resolver in the process of the Tracer.
type ownResolver struct{ users attribution.Users }

func (r *ownResolver) UserName(uid uint32) string { return r.users.Name(uid) }

func (r *ownResolver) CommandLine(pid uint32, start uint64) []byte {
	return procfs.CommandLine(pid, start)
}

func (h *hostReader) userName(uid uint32) string { return h.resolver.UserName(uid) }

func (h *hostReader) commandLine(pid uint32, start uint64) []byte {
	pid, ok := h.pids.proc(pid)
	if !ok {
		return nil
	}
	return h.reads.Try(func() []byte { return h.resolver.CommandLine(pid, start) })
}

func (h *hostReader) cgroupPath(pid uint32, id uint64) string {
	pid, ok := h.pids.proc(pid)
	if !ok {
		return ""
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return h.mounts.cgroupPath(attribution.ParseProcCgroup(string(text)), id)
}

func (h *hostReader) netnsName(id uint32, at uint64) string { return h.netns.find(id, at) }

func (h *hostReader) hostSysctl(name string, at uint64) string { return h.sysctl.value(name, at) }

func (h *hostReader) mountedID(path string) uint64 { return procfs.HandleID(path) }

func (h *hostReader) ended(ns procfs.Namespace) (ended, known bool) {
	err := procfs.Alive(ns)
	return errors.Is(err, unix.ESTALE), !errors.Is(err, unix.ENOSYS)
}

func (h *hostReader) heldByFiles() map[uint32]bool {
	held := map[uint32]bool{}
	inv, err := inventory.Take(context.Background(), inventory.Options{FilesOnly: true})
	if err != nil { // without /proc nothing is held
		return held
	}
	for _, n := range inv.Namespaces() {
		if len(n.Mounts)+len(n.Descriptors) > 0 {
			held[n.ID] = true
		}
	}
	return held
}
