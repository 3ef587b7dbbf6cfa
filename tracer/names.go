// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip netns keeps its names (NETNS_RUN_DIR of iproute2).
const netnsDir = "/run/netns"

// netnsNames knows the names that ip netns gave to network namespaces.
type netnsNames struct {
	byID map[uint32]string
	read time.Time // the folder's modification time when it was read
	seen uint64    // when that was looked at last, CLOCK_BOOTTIME
	open bool      // a name was there whose namespace was not mounted yet
}

// learn gives ns the name that it has, if it has one, for an event of the time boot.
// One that it had before stays: by the time that a namespace ends its name is gone.
func (n *netnsNames) learn(ns *liveNS, boot uint64) {
	if ns.typ != "net" {
		return
	}
	// In a storm events wait, and one look is good for all that happened before.
	if boot >= n.seen {
		n.seen = bootNow()
		n.refresh()
	}
	if name := n.byID[ns.id]; name != "" {
		ns.name = name
	}
}

// refresh reads the folder again if a name came or went. A name is a file first
// and has its namespace mounted a moment later.
func (n *netnsNames) refresh() {
	st, err := os.Stat(netnsDir)
	if err != nil {
		n.byID = nil
		return
	}
	if st.ModTime().Equal(n.read) && !n.open {
		return
	}
	n.read, n.open, n.byID = st.ModTime(), false, map[uint32]string{}
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		file := filepath.Join(netnsDir, e.Name())
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(file, &fs) != nil || unix.Stat(file, &st) != nil {
			continue
		}
		if fs.Type != unix.NSFS_MAGIC {
			n.open = true
			continue
		}
		n.byID[uint32(st.Ino)] = e.Name()
	}
}

// nsID is a namespace as /proc shows it, net:[4026531840].
type nsID struct {
	typ    NSType
	id     uint32
	kernel uint64 // its 64-bit id, 0 if not known
	path   string // where it is mounted
}

func parseNSLink(s string) (nsID, bool) {
	typ, rest, ok := strings.Cut(s, ":[")
	num, closed := strings.CutSuffix(rest, "]")
	if !ok || !closed {
		return nsID{}, false
	}
	id, err := strconv.ParseUint(num, 10, 32)
	if err != nil {
		return nsID{}, false
	}
	return nsID{typ: NSType(strings.TrimSuffix(typ, "_for_children")), id: uint32(id)}, true
}

// pinned returns the namespaces that are bind mounted in the caller's mount
// namespace.
func pinned() []nsID {
	all := pinnedIn("/proc/self/mountinfo")
	for i := range all {
		all[i].kernel = handleUID(all[i].path)
	}
	return all
}

// pinnedIn does the same for a process's mountinfo, but for the kernel's ids.
func pinnedIn(mountinfo string) (all []nsID) {
	eachMount(mountinfo, "nsfs", func(root, point string) {
		if ns, ok := parseNSLink(root); ok {
			ns.path = point
			all = append(all, ns)
		}
	})
	return all
}
