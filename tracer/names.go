// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// netnsNames knows the names that network namespaces have in the folders where they are
// kept.
type netnsNames struct {
	dirs []netnsDir
	seen uint64 // when they were looked at last, CLOCK_BOOTTIME
}

// A netnsDir is a folder whose files are network namespaces.
type netnsDir struct {
	path string
	byID map[uint32]string
	read time.Time // the folder's modification time when it was read
	open bool      // a name was there whose namespace was not mounted yet
}

func newNetnsNames() netnsNames {
	return netnsNames{dirs: []netnsDir{
		{path: "/run/netns"},        // of ip netns (NETNS_RUN_DIR of iproute2) and CNI
		{path: "/run/docker/netns"}, // of Docker, by the sandbox's key
	}}
}

// hostSandbox is what Docker calls the host's namespace, for containers on its network.
const hostSandbox = "default"

// learn gives ns the name that it has, if it has one, for an event of the time boot.
// One that it had before stays: by the time that a namespace ends its name is gone.
func (n *netnsNames) learn(ns *liveNS, boot uint64) {
	if ns.typ != "net" {
		return
	}
	// In a storm events wait, and one look is good for all that happened before.
	if boot >= n.seen {
		n.seen = bootNow()
		for i := range n.dirs {
			n.dirs[i].refresh()
		}
	}
	for i := range n.dirs {
		if name := n.dirs[i].byID[ns.id]; name != "" && (i == 0 || name != hostSandbox) {
			ns.name = name
			return
		}
	}
}

// mounted gives ns the name that it was mounted under at path, as the host has it. By the
// time that the event is read the name can be gone.
func (n *netnsNames) mounted(ns *liveNS, path string) {
	if ns.typ != "net" {
		return
	}
	dir, name := filepath.Split(path)
	for i := range n.dirs {
		if dir == n.dirs[i].path+"/" && (i == 0 || name != hostSandbox) {
			ns.name = name
		}
	}
}

// refresh reads the folder again if a name came or went. A name is a file first
// and has its namespace mounted a moment later.
func (d *netnsDir) refresh() {
	st, err := os.Stat(d.path)
	if err != nil {
		d.byID = nil
		return
	}
	if st.ModTime().Equal(d.read) && !d.open {
		return
	}
	d.read, d.open, d.byID = st.ModTime(), false, map[uint32]string{}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return
	}
	for _, e := range entries {
		file := filepath.Join(d.path, e.Name())
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(file, &fs) != nil || unix.Stat(file, &st) != nil {
			continue
		}
		if fs.Type != unix.NSFS_MAGIC {
			d.open = true
			continue
		}
		d.byID[uint32(st.Ino)] = e.Name()
	}
}
