// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// skipped are the parameters that are left out, besides those that nobody can read and
// write: they change without anybody changing them, or are not to be kept or read.
var skipped = []struct{ glob, why string }{
	{"kernel.ns_last_pid", "each new process sets it"},
	{"kernel.tainted", "the kernel sets it when something is wrong"},
	{"kernel.perf_event_max_sample_rate", "the kernel lowers it when its interrupts take long"},
	{"kernel.sem_next_id", "is taken back by being used"},
	{"kernel.shm_next_id", "is taken back by being used"},
	{"kernel.msg_next_id", "is taken back by being used"},
	{"kernel.hung_task_warnings", "counts down"},
	{"kernel.hung_task_detect_count", "counts"},
	{"kernel.kexec_load_limit_*", "counts down"},
	{"kernel.sched_domain.*", "the scheduler measures, and CPUs come and go"},
	{"kernel.sched_latency_ns", "grows and shrinks with the number of CPUs"},
	{"kernel.sched_min_granularity_ns", "grows and shrinks with the number of CPUs"},
	{"kernel.sched_wakeup_granularity_ns", "grows and shrinks with the number of CPUs"},
	{"net.ipv4.tcp_allowed_congestion_control", "loading a module adds to it"},
	{"net.ipv6.conf.*.mtu", "a router sets it"},
	{"net.ipv6.conf.*.hop_limit", "a router sets it"},
	{"net.ipv6.neigh.*.base_reachable_time*", "a router sets it"},
	{"net.ipv6.neigh.*.retrans_time*", "a router sets it"},
	{"net.ipv4.tcp_fastopen_key", "is a secret"},
	{"net.ipv6.conf.*.stable_secret", "is a secret"},
	{"vm.stat_refresh", "reading it does something"},
}

// skip says whether a parameter is left out.
func skip(name string) bool {
	for i := range skipped {
		if event.MatchSysctl(skipped[i].glob, name) {
			return true
		}
	}
	return false
}

// Found is a namespace that was found alive.
type Found struct {
	Namespace event.Namespace
	// Paths are files that it can be entered by. Each can lead elsewhere, or nowhere, by
	// the time that it is used.
	Paths []string
}

// Take takes a snapshot: it reads the host's parameters, and those of each network
// namespace of found, from within. What is watched from the scan for found on is to
// be given to Apply.
func Take(found []Found, at time.Time) (*Snapshot, error) {
	s := &Snapshot{Time: at}
	s.BootID = procfs.BootID()
	if s.BootID == "" {
		return nil, errors.New("cannot read the id of this boot")
	}
	var err error
	if s.Parameters, err = values(params.Dir); err != nil {
		return nil, err
	}
	var nets []*Namespace
	paths := map[*Namespace][]string{}
	for i := range found {
		ns := &Namespace{Namespace: found[i].Namespace}
		s.Namespaces = append(s.Namespaces, ns)
		if ns.Type == "net" && !ns.Host && len(found[i].Paths) > 0 {
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

// visit reads the parameters of network namespaces. The kernel shows those of the thread
// that asks: one thread goes to all of them, and ends.
func visit(nets []*Namespace, paths map[*Namespace][]string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			for _, ns := range nets {
				err := enter(paths[ns], ns.ID)
				if errors.Is(err, errGone) {
					continue
				}
				if err != nil {
					return err
				}
				identify(ns)
				if ns.Parameters, err = values(params.Dir + "/net"); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	return <-done
}

// errGone says that what had a namespace let go of it meanwhile.
var errGone = errors.New("the namespace is gone")

// enter enters a network namespace by the first of paths that still leads there.
func enter(paths []string, id uint32) error {
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || uint32(st.Ino) != id {
			unix.Close(fd)
			continue
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("enter the network namespace %d to read its parameters: %w", id, err)
		}
		return nil
	}
	return errGone
}

// readWrite are the permissions of a parameter that can be set and read.
const readWrite = 0o600

// values reads the parameters below a folder of /proc/sys, of the namespaces that the thread
// is in. It leaves out what comes and goes meanwhile, and what can't be read, such as one that
// has no value. Of a very long value it has the beginning, which is enough to compare.
func values(dir string) (map[string]string, error) {
	root, err := params.Open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	all := map[string]string{}
	err = root.Walk(dir, func(file string) {
		name, err := params.Name(file)
		if err != nil || skip(name) {
			return
		}
		if v, err := root.ReadIf(file, readWrite); err == nil {
			all[name] = v.Text
		}
	})
	if err != nil && dir == params.Dir {
		return nil, err
	}
	return all, nil // a folder that the kernel does not have has no parameters
}

// identify corrects the id of the network namespace that the thread is in: where the
// kernel has nothing better than its cookie (up to 6.17), the tracer can have seen its number
// last on another one. Linux 5.14 and newer tell it of a socket (SO_NETNS_COOKIE).
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
