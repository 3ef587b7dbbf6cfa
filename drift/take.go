// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/tracer"
	"golang.org/x/sys/unix"
)

// root is where the parameters are.
const root = "/proc/sys"

// maxRead is how much of a value is kept, for comparison: bitmaps of ports can be long.
const maxRead = 64 << 10

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
		if tracer.MatchSysctl(skipped[i].glob, name) {
			return true
		}
	}
	return false
}

// Take takes a snapshot: it reads the host's parameters, and those of each network
// namespace of seen, from within. What is watched from when seen was looked for on is to
// be given to Apply.
func Take(seen []tracer.Sighting, at time.Time) (*Snapshot, error) {
	s := &Snapshot{Time: at}
	boot, err := os.ReadFile(root + "/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	s.BootID = string(bytes.TrimSpace(boot))
	r := reader{values: map[string]string{}}
	if err := r.walk(""); err != nil {
		return nil, err
	}
	s.Parameters = r.values
	var nets []*Namespace
	paths := map[*Namespace][]string{}
	for i := range seen {
		ns := &Namespace{Namespace: seen[i].Namespace}
		s.Namespaces = append(s.Namespaces, ns)
		if ns.Type == "net" && !ns.Host && len(seen[i].Paths) > 0 {
			nets = append(nets, ns)
			paths[ns] = seen[i].Paths
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
				r := reader{values: map[string]string{}}
				if err := r.walk("net"); err != nil {
					return err
				}
				ns.Parameters = r.values
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
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
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

// A reader reads parameters.
type reader struct {
	values map[string]string
	buf    []byte
}

// walk reads what is below a folder of /proc/sys. What comes and goes meanwhile is as if
// it were not there.
func (r *reader) walk(below string) error {
	dir := root
	if below != "" {
		dir += "/" + below
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if below == "" {
			return err
		}
		return nil
	}
	for _, e := range entries {
		child := e.Name()
		if below != "" {
			child = below + "/" + child
		}
		switch {
		case e.IsDir():
			if child == "fs/binfmt_misc" { // another file system, that is mounted by looking
				continue
			}
			if err := r.walk(child); err != nil {
				return err
			}
		case e.Type().IsRegular():
			r.read(child)
		}
	}
	return nil
}

// readWrite are the bits of a parameter that can be set and read.
const readWrite = 0o600

func (r *reader) read(below string) {
	param := name(below)
	if skip(param) {
		return
	}
	fd, err := unix.Open(root+"/"+below, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&readWrite != readWrite {
		return
	}
	if r.buf == nil {
		r.buf = make([]byte, maxRead)
	}
	n, err := unix.Read(fd, r.buf)
	if err != nil { // such as EIO, for one that has no value
		return
	}
	r.values[param] = strings.TrimSuffix(string(r.buf[:n]), "\n")
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
