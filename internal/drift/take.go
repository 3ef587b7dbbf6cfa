// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// skipped are the parameters that a snapshot leaves out, in addition to those that are not readable
// and writable. They change by themselves, must not be stored, or must not be read.
var skipped = []struct{ glob, why string }{
	{"kernel.ns_last_pid", "each new process sets it"},
	{"kernel.tainted", "the kernel sets it when something is wrong"},
	{"kernel.perf_event_max_sample_rate", "the kernel lowers it when its interrupts take long"},
	{"kernel.sem_next_id", "the kernel resets it when it uses it"},
	{"kernel.shm_next_id", "the kernel resets it when it uses it"},
	{"kernel.msg_next_id", "the kernel resets it when it uses it"},
	{"kernel.hung_task_warnings", "the kernel counts it down"},
	{"kernel.hung_task_detect_count", "the kernel counts it up"},
	{"kernel.kexec_load_limit_*", "the kernel counts it down"},
	{"kernel.sched_domain.*", "the scheduler measures it, and CPUs come and go"},
	{"kernel.sched_latency_ns", "it depends on the number of CPUs"},
	{"kernel.sched_min_granularity_ns", "it depends on the number of CPUs"},
	{"kernel.sched_wakeup_granularity_ns", "it depends on the number of CPUs"},
	{"net.ipv4.tcp_allowed_congestion_control", "a module adds to it when it is loaded"},
	{"net.ipv6.conf.*.mtu", "a router sets it"},
	{"net.ipv6.conf.*.hop_limit", "a router sets it"},
	{"net.ipv6.neigh.*.base_reachable_time*", "a router sets it"},
	{"net.ipv6.neigh.*.retrans_time*", "a router sets it"},
	{"net.ipv4.tcp_fastopen_key", "it is a secret"},
	{"net.ipv6.conf.*.stable_secret", "it is a secret"},
	{"vm.stat_refresh", "reading it has an effect"},
}

// skip reports whether a snapshot leaves a parameter out.
func skip(name string) bool {
	for i := range skipped {
		if event.MatchSysctl(skipped[i].glob, name) {
			return true
		}
	}
	return false
}

// Found is a live namespace.
type Found struct {
	Namespace event.Namespace
	// Paths are files of the namespace. Each can lead elsewhere, or nowhere, by the time it
	// is used.
	Paths []string
}

// Take takes a snapshot: it reads the parameters of the host, and those of each network
// namespace in found. The caller must pass the events since the scan for found to Apply.
func Take(found []Found, at time.Time) (*Snapshot, error) {
	s := &Snapshot{Time: at}
	s.BootID = procfs.BootID()
	if s.BootID == "" {
		return nil, errors.New("cannot read the boot id")
	}
	root, err := params.Open()
	if err != nil {
		return nil, err
	}
	s.Parameters, err = values(root, params.Dir)
	root.Close()
	if err != nil {
		return nil, err
	}
	var nets []*Namespace
	paths := map[*Namespace][]string{}
	for i := range found {
		ns := &Namespace{Namespace: found[i].Namespace}
		s.Namespaces = append(s.Namespaces, ns)
		if ns.Type == event.NSTypeNet && !ns.Host && len(found[i].Paths) > 0 {
			nets = append(nets, ns)
			paths[ns] = found[i].Paths
		}
	}
	if len(nets) > 0 {
		if err := visit(nets, paths); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// visit reads the parameters of network namespaces, all on one thread.
func visit(nets []*Namespace, paths map[*Namespace][]string) error {
	return params.OnThread(func(thread *params.Thread) error {
		for _, ns := range nets {
			root, err := thread.Enter(ns.Type, ns.ID, paths[ns])
			if errors.Is(err, params.ErrNamespaceGone) {
				continue
			}
			if err != nil {
				return err
			}
			identify(ns)
			// A kernel without the folder has no such parameters.
			ns.Parameters, _ = values(root, params.Dir+"/net")
		}
		return nil
	})
}

// readWrite are the permissions of a parameter that can be set and read.
const readWrite = 0o600

// values reads the parameters below a folder of /proc/sys. It leaves out parameters that appear or
// disappear while it reads, and those that cannot be read, for instance because they have no value.
// It reads only the beginning of a very long value, which is enough to compare.
func values(root *params.Root, dir string) (map[string]string, error) {
	all := map[string]string{}
	err := root.Walk(dir, func(file string) {
		name, err := params.Name(file)
		if err != nil || skip(name) {
			return
		}
		if v, err := root.ReadIf(file, readWrite); err == nil {
			all[name] = v.Text
		}
	})
	return all, err
}

// identify corrects the uid of the network namespace that the thread is in. Up to Linux 6.17 the
// uid is the cookie of the namespace, and the inode number can have been reused since the
// tracer saw it. Linux 5.14 and newer return the cookie for a socket (SO_NETNS_COOKIE).
func identify(ns *Namespace) {
	const byCookie = "net:"
	if !strings.HasPrefix(ns.UID, byCookie) {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		ns.UID = byCookie + strconv.FormatUint(cookie, 10)
	}
}
