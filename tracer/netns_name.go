// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// netnsNames knows the names of network namespaces in procfs.NetnsDirs.
type netnsNames struct {
	dirs []netnsDir
	last uint64 // when the directories were looked at last, CLOCK_BOOTTIME
}

// A netnsDir is a directory whose files are network namespaces.
type netnsDir struct {
	path       string
	byID       map[uint32]string
	modified   time.Time // the directory's modification time when it was read
	incomplete bool      // a file was there on which no namespace was mounted yet
}

func newNetnsNames() (n netnsNames) {
	for _, path := range procfs.NetnsDirs {
		n.dirs = append(n.dirs, netnsDir{path: path})
	}
	return n
}

// find returns the name of a namespace, "" for none. It looks at the directories again unless
// it did so after the time at: in a storm, one look is good for all that happened before.
func (n *netnsNames) find(id uint32, at uint64) string {
	if at >= n.last {
		n.last = bootNow()
		for i := range n.dirs {
			n.dirs[i].refresh()
		}
	}
	for i := range n.dirs {
		if name := n.dirs[i].byID[id]; procfs.NetnsName(n.dirs[i].path+"/"+name) != "" {
			return name
		}
	}
	return ""
}

// refresh reads the directory again if a name came or went. A name is an empty file at first;
// its namespace is mounted on it a moment later.
func (d *netnsDir) refresh() {
	st, err := os.Stat(d.path)
	if err != nil {
		d.byID = nil
		return
	}
	if st.ModTime().Equal(d.modified) && !d.incomplete {
		return
	}
	d.modified, d.incomplete, d.byID = st.ModTime(), false, map[uint32]string{}
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
			d.incomplete = true
			continue
		}
		d.byID[uint32(st.Ino)] = e.Name()
	}
}
