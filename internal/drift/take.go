// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"context"
	"errors"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/share"
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
		if match(skipped[i].glob, name) {
			return true
		}
	}
	return false
}

// Leaves reports whether a Snapshot leaves a parameter out whatever its file's permissions are.
func Leaves(name string) bool { return skip(name) }

// match is event.MatchSysctl for one of the patterns in this package. It is faster for the names that
// do not match, which are nearly all.
func match(glob, name string) bool {
	before, _, _ := strings.Cut(glob, "*")
	return strings.HasPrefix(name, before) && event.MatchSysctl(glob, name)
}

// limits are how long reading the parameters of network namespaces may take. Users can make any number
// of them, each with any number of devices, and each device has some 130 parameters.
var limits = share.Limits{Total: 20 * time.Second, User: time.Second, Item: 250 * time.Millisecond}

// hostTime is how long reading the host's own parameters may take.
const hostTime = 10 * time.Second

// Found is a live namespace.
type Found struct {
	Namespace event.Namespace
	// User is the user who made the namespace, 0 for root. See Limits of the package share.
	User uint32
	// Paths are files of the namespace. Each can lead elsewhere, or nowhere, by the time it
	// is used.
	Paths []string
}

// Take takes a snapshot: it reads the parameters of the host, and those of each network namespace in
// found. The caller must pass the events since at, which is before the scan for found, to Apply. If the
// time is over or ctx ends, the snapshot has what was read by then, and says so.
func Take(ctx context.Context, found []Found, at time.Time) (*Snapshot, error) {
	s := &Snapshot{Time: at}
	s.BootID = procfs.BootID()
	if s.BootID == "" {
		return nil, errors.New("cannot read the boot id")
	}
	root, err := params.Open()
	if err != nil {
		return nil, err
	}
	host, cancel := context.WithTimeout(ctx, hostTime)
	before := devices()
	s.Parameters, s.Cut, err = values(host, root, params.Dir)
	s.Devices = kept(before, devices())
	cancel()
	root.Close()
	if err != nil {
		return nil, err
	}
	var nets []netNS
	for i := range found {
		ns := &Namespace{Namespace: found[i].Namespace}
		s.Namespaces = append(s.Namespaces, ns)
		if ns.Type == event.NSTypeNet && !ns.Host && len(found[i].Paths) > 0 {
			ns.Cut = true // until it was read
			nets = append(nets, netNS{ns, &found[i]})
		}
	}
	if len(nets) > 0 {
		if err := visit(ctx, nets); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// A netNS is a network namespace, whose parameters are to be read.
type netNS struct {
	*Namespace
	found *Found
}

// visit reads the parameters of network namespaces, all on one thread.
func visit(ctx context.Context, nets []netNS) error {
	return params.OnThread(func(thread *params.Thread) (err error) {
		share.Each(ctx, limits, nets, func(ns netNS) uint32 { return ns.found.User }, func(ctx context.Context, ns netNS) {
			if err == nil {
				err = ns.read(ctx, thread)
			}
		})
		return err
	})
}

func (ns netNS) read(ctx context.Context, thread *params.Thread) error {
	root, err := thread.Enter(ns.Type, ns.ID, ns.found.Paths)
	if errors.Is(err, params.ErrNamespaceGone) {
		ns.Cut = false
		return nil
	}
	if err != nil {
		return err
	}
	identify(ns.Namespace)
	// A kernel without the folder has no such parameters.
	var before map[string]int
	if ns.found.User == 0 { // others could make any number of devices, and the kernel lists them all at once
		before = devices()
	}
	ns.Parameters, ns.Cut, _ = values(ctx, root, params.Dir+"/net")
	if before != nil {
		ns.Devices = kept(before, devices())
	}
	return nil
}

// devices returns the indexes of the devices in the network namespace of the thread, by name. nil: they
// cannot be read.
func devices() map[string]int {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	indexes := make(map[string]int, len(all))
	for i := range all {
		indexes[all[i].Name] = all[i].Index
	}
	return indexes
}

// kept returns the devices that were there before their parameters were read and after.
func kept(before, after map[string]int) map[string]int {
	maps.DeleteFunc(before, func(name string, index int) bool { return after[name] != index })
	return before
}

// readWrite are the permissions of a parameter that can be set and read.
const readWrite = 0o600

// values reads the parameters below a folder of /proc/sys. It leaves out parameters that appear or
// disappear while it reads, and those that cannot be read, for instance because they have no value.
// It reads only the beginning of a very long value, which is enough to compare. cut says that ctx ended
// before everything was read.
func values(ctx context.Context, root *params.Root, dir string) (all map[string]string, cut bool, err error) {
	all = map[string]string{}
	err = root.Walk(ctx, dir, func(file string) {
		name, err := params.Name(file)
		if err != nil || skip(name) {
			return
		}
		if v, err := root.ReadIf(file, readWrite); err == nil {
			all[name] = v.Text
		}
	})
	if ctx.Err() != nil {
		return all, true, nil
	}
	return all, false, err
}

// identify corrects the uid of the network namespace that the thread is in. Up to Linux 6.17 the
// uid is the cookie of the namespace, and the inode number can have been reused since the
// tracer saw it. The tracer does not know the cookie of a namespace that it found by its mount.
// Linux 5.14 and newer return the cookie for a socket (SO_NETNS_COOKIE).
func identify(ns *Namespace) {
	const byCookie = "net:"
	if ns.KernelUID() && !strings.HasPrefix(ns.UID, byCookie) || procfs.HandleID("/proc/thread-self/ns/net") != 0 {
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
