// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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
	resolver  Resolver
	reads     procfs.BlockingReads
	hostFiles procfs.HostFiles
	netns     netnsNames
	sysctl    sysctlCache
	mounts    *mountThread
	pids      *pidSpace
	files     fileSearch
	devices   deviceIndexes
}

func newHostReader(r Resolver, m *mountThread, p *pidSpace) *hostReader {
	if r == nil {
		r = &ownResolver{}
	}
	return &hostReader{resolver: r, netns: newNetnsNames(), sysctl: sysctlCache{}, mounts: m, pids: p, files: fileSearch{search: searchFiles}, devices: newDeviceIndexes()}
}

// An ownResolver is a Resolver in the process of the Tracer.
type ownResolver struct{ users attribution.Users }

func (r *ownResolver) UserName(uid uint32) string { return r.users.Name(uid) }

func (r *ownResolver) CommandLine(pid uint32, start uint64) []byte {
	return procfs.CommandLine(pid, start)
}

func (h *hostReader) userName(uid uint32) string { return h.resolver.UserName(uid) }

func (h *hostReader) commandLine(pid uint32, start uint64, exe string) []byte {
	pid, ok := h.pids.proc(pid)
	if !ok {
		return nil
	}
	args := h.reads.Try(func() []byte { return h.resolver.CommandLine(pid, start) })
	// Afterwards: it can run another program by now, which these are the arguments of.
	if args == nil || !procfs.RunsPath(pid, start, exe) {
		return nil
	}
	return args
}

func (h *hostReader) runsHostFile(pid uint32, start uint64, path string) bool {
	pid, ok := h.pids.proc(pid)
	return ok && h.hostFiles.Runs(pid, start, path)
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

func (h *hostReader) deviceIndex(net uint32, name string, at uint64) uint32 {
	return h.devices.find(net, name, at)
}

func (h *hostReader) mountedID(path string) uint64 { return procfs.HandleID(path) }

func (h *hostReader) ended(ns procfs.Namespace) (ended, known bool) {
	err := procfs.Alive(ns)
	return errors.Is(err, unix.ESTALE), !errors.Is(err, unix.ENOSYS)
}

func (h *hostReader) heldByFiles(since time.Time, wait bool) (map[uint32]bool, bool) {
	return h.files.find(since, wait)
}

// A fileSearch finds the namespaces that files keep alive. Users can have millions of descriptors and
// mounts, so it searches in the background, and for a part of the time.
type fileSearch struct {
	search  func() map[uint32]bool // returns nil if there is no time for all
	running chan fileResult        // gets the result, nil if none runs
	rested  time.Time              // when it has rested for all searches so far

	last fileResult
}

// A fileResult is the result of a search: held is nil if there was no time for all files.
type fileResult struct {
	held  map[uint32]bool
	began time.Time
	took  time.Duration
}

const (
	// searchTime is how long a search may take, and searchRest how many times as long it rests for one.
	// Searches that together took searchAhead need not wait for their rest.
	searchTime  = 10 * time.Second
	searchRest  = 10
	searchAhead = 3 * time.Second
	// searchWait is how long the reader of the ring waits for a search, and searchLast how long it does
	// so at the end of a run.
	searchWait = 5 * time.Millisecond
	searchLast = time.Second
)

func (f *fileSearch) find(since time.Time, wait bool) (held map[uint32]bool, known bool) {
	patience := searchWait
	if wait {
		patience = searchLast
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for f.last.held == nil || f.last.began.Before(since) {
		if f.running == nil {
			if now := time.Now(); f.rested.Before(now) {
				f.rested = now
			} else if !wait && f.rested.Sub(now) > searchRest*searchAhead {
				return nil, false
			}
			f.running = make(chan fileResult, 1)
			go func(result chan<- fileResult, began time.Time) {
				held := f.search()
				result <- fileResult{held, began, time.Since(began)}
			}(f.running, time.Now())
		}
		select {
		case f.last = <-f.running:
			f.running = nil
			f.rested = f.rested.Add(searchRest * f.last.took)
		case <-timer.C:
			return nil, false
		}
	}
	return f.last.held, true
}

// searchFiles returns nil if there is no time for all files.
func searchFiles() map[uint32]bool {
	ctx, cancel := context.WithTimeout(context.Background(), searchTime)
	defer cancel()
	held := map[uint32]bool{}
	inv, err := inventory.Take(ctx, inventory.Options{FilesOnly: true})
	if err != nil { // without /proc nothing is held
		return held
	}
	if inv.Cut {
		return nil
	}
	for _, n := range inv.Namespaces() {
		if len(n.Mounts)+len(n.Descriptors) > 0 {
			held[n.ID] = true
		}
	}
	return held
}
