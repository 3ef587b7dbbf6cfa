// SPDX-License-Identifier: Apache-2.0

// Package procfs reads /proc: the namespaces of tasks, the places where namespaces are
// mounted, and everything else that keeps a namespace alive.
//
// All of it is under the control of other users. Names, counts and timing can be
// anything, and what a path leads to can change between two calls.
package procfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// NetnsDirs are the directories in which network namespaces are mounted under a name: that of
// ip netns (NETNS_RUN_DIR of iproute2) and CNI, and that of Docker.
var NetnsDirs = []string{"/run/netns", "/run/docker/netns"}

// NetnsName returns the name of a network namespace that is mounted at a path of the host, "" if
// the path is in none of NetnsDirs. Docker's "default" is the host's own namespace, for containers
// that use the host's network.
func NetnsName(path string) string {
	dir, name := filepath.Split(path)
	i := slices.Index(NetnsDirs, strings.TrimSuffix(dir, "/"))
	if i < 0 || i > 0 && name == "default" {
		return ""
	}
	return name
}

// BootID returns the kernel's random id of this boot, "" if it cannot be read.
func BootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// PIDs returns the numbers of all processes that /proc shows.
func PIDs() ([]uint32, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []uint32
	for _, name := range names {
		if pid, err := strconv.ParseUint(name, 10, 32); err == nil {
			all = append(all, uint32(pid))
		}
	}
	return all, nil
}

// NamespaceOf returns the inode number of the namespace of a type that a process is in.
// pid is a number or "self".
func NamespaceOf(pid string, t event.NSType) (uint32, error) {
	if !slices.Contains(event.NSTypes(), t) { // it becomes part of a path
		return 0, fmt.Errorf("unknown namespace type %q", t)
	}
	path := fmt.Sprintf("/proc/%s/ns/%s", pid, t)
	link, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	ns, ok := ParseNSLink(link)
	if !ok {
		return 0, fmt.Errorf("%s: the target %q is no namespace", path, link)
	}
	return ns.ID, nil
}

// NamespacesOf returns the namespaces of a process, by their types. It leaves out what the
// caller may not see and what the kernel does not have.
func NamespacesOf(pid string) map[event.NSType]uint32 {
	all := map[event.NSType]uint32{}
	for _, t := range event.NSTypes() {
		if id, err := NamespaceOf(pid, t); err == nil {
			all[t] = id
		}
	}
	return all
}
