// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
)

// cgroupPath returns the path of the cgroup with an id (of kernfs), given the path that /proc shows
// for a process which was in it, "" if that process is elsewhere by now.
func (m *mountThread) cgroupPath(shown string, id uint64) string {
	root, err := m.cgroup2()
	switch {
	case err != nil:
		return shown // nothing tells whether it is the same cgroup
	case root.inside:
		return root.path(id)
	}
	if root.idOf(shown) != id {
		if v1Controller() == "" {
			return ""
		}
	}
	return shown
}

// idOf returns the id of the cgroup at a path, 0 if there is none. A user can have a folder of the
// hierarchy, and mount a file system of their own on it: idOf enters no other file system.
func (r *cgroupRoot) idOf(path string) uint64 {
	// From the root, so without the slash at the start.
	fd, err := unix.Openat2(r.fd, cmp.Or(strings.TrimPrefix(path, "/"), "."), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

// path returns the path of the cgroup with an id, "" if it cannot be found out. On a host whose
// containers are in v1 hierarchies the id can be of one of these.
func (r *cgroupRoot) path(id uint64) string {
	if r.foreign != nil || v1Controller() != "" {
		return ""
	}
	fd, err := procfs.OpenCgroup(r.fd, id)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	// The path of the root is where it is mounted, or "(unreachable)/" if it is above the mount
	// (prepend_path() in fs/d_path.c).
	top, err1 := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(r.fd))
	path, err2 := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(fd))
	below, ok := strings.CutPrefix(path, strings.TrimSuffix(top, "/"))
	if err1 != nil || err2 != nil || !ok {
		return ""
	}
	return cmp.Or(below, "/")
}

// cgroupDirs returns the directories of cgroups, also those that only this thread has mounted.
func (m *mountThread) cgroupDirs() *attribution.CgroupDirs {
	dirs := attribution.HostCgroupDirs()
	root, err := m.cgroup2()
	if err != nil || root.foreign != nil {
		return dirs
	}
	own := ""
	if root.inside {
		own = root.path(root.own)
	} else if text, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		own = attribution.ParseProcCgroup(string(text))
	}
	return dirs.With(root.fd).Within(own)
}

// v1Controllers are the controllers of cgroup v1 in whose hierarchies runtimes put
// containers. All runtimes use the first one.
var v1Controllers = []string{"pids", "memory", "cpu", "devices"}

// v1Controller returns the first of v1Controllers that has a hierarchy, "" for none.
var v1Controller = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/cgroups") // #subsys_name hierarchy num_cgroups enabled
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 4 && f[1] != "0" {
			used[f[0]] = true
		}
	}
	for _, c := range v1Controllers {
		if used[c] {
			return c
		}
	}
	return ""
})

// v1Subsys returns the index of v1Controller in the kernel's css_set.subsys, -1 for none.
func (k *kernel) v1Subsys() int32 {
	var ids *btf.Enum
	controller := v1Controller()
	if controller == "" || k.btf.TypeByName("cgroup_subsys_id", &ids) != nil {
		return -1
	}
	for _, v := range ids.Values {
		if v.Name == controller+"_cgrp_id" {
			return int32(v.Value)
		}
	}
	return -1
}
