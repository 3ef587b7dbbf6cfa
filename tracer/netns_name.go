// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nstrace/nstrace/internal/procfs"
)

// netnsNames knows the names of network namespaces in procfs.NetnsDirs.
type netnsNames struct {
	dirs []netnsDir
	last uint64 // when the directories were looked at last, CLOCK_BOOTTIME
}

// A netnsDir is a directory whose files are network namespaces.
type netnsDir struct {
	path     string
	byID     map[uint32]netnsFile
	modified time.Time // the directory's modification time when it was read
	bare     []string  // files on which no namespace was mounted yet

	// The directory can have any number of files. So reading it, and looking at the bare files again, takes
	// at most a part of the time.
	changed            time.Time // when a change was seen
	nextRead, nextLook time.Time
}

// A netnsFile is a file on which a namespace was mounted when it was looked at.
type netnsFile struct {
	name   string
	looked uint64 // CLOCK_BOOTTIME
}

const (
	// fresh is how long after a change of a directory its bare files are looked at with each event. A
	// name is an empty file at first, and its namespace is mounted on it a moment later. Other bare
	// files remain from a failure, and lookEvery is how often they are looked at.
	fresh     = time.Second
	lookEvery = time.Second
	// rest is how many times as long as a read of a directory took the next one has to wait.
	rest = 10
)

func newNetnsNames() (n netnsNames) {
	for _, path := range procfs.NetnsDirs {
		n.dirs = append(n.dirs, netnsDir{path: path})
	}
	return n
}

// find returns the name of a namespace, "" for none. It looks at the directories again unless
// it did so after the time at: in a storm, one look is good for all that happened before.
func (n *netnsNames) find(id uint32, at uint64) string {
	look := at >= n.last
	if look {
		n.last = bootNow()
	}
	for i := range n.dirs {
		d := &n.dirs[i]
		if look {
			d.refresh(time.Now())
		}
		if name := d.name(id, at); procfs.NetnsName(d.path+"/"+name) != "" {
			return name
		}
	}
	return ""
}

// name returns the name of a namespace, "" for none, as of a time not before at. The namespace can have been
// unmounted, without a change of the directory, and another one can have the number.
func (d *netnsDir) name(id uint32, at uint64) string {
	file, ok := d.byID[id]
	if !ok || at < file.looked {
		return file.name
	}
	file.looked = bootNow()
	if now, ok := procfs.MountedAt(filepath.Join(d.path, file.name)); !ok || now != id {
		delete(d.byID, id)
		d.bare = append(d.bare, file.name)
		return ""
	}
	d.byID[id] = file
	return file.name
}

// refresh reads the directory again if a name came or went.
func (d *netnsDir) refresh(now time.Time) {
	st, err := os.Stat(d.path)
	if err != nil {
		d.modified, d.byID, d.bare = time.Time{}, nil, nil
		return
	}
	start := time.Now()
	switch {
	case !st.ModTime().Equal(d.modified):
		d.changed = now
		if now.Before(d.nextRead) { // the names can be those of namespaces that have ended
			d.byID, d.bare = nil, nil
			return
		}
		d.modified = st.ModTime()
		d.read()
		d.nextRead = now.Add(rest * time.Since(start))
	case len(d.bare) > 0 && !now.Before(d.nextLook):
		d.bare = d.add(d.bare)
	default:
		return
	}
	d.nextLook = now.Add(rest * time.Since(start))
	if now.Sub(d.changed) > fresh {
		d.nextLook = d.nextLook.Add(lookEvery)
	}
}

func (d *netnsDir) read() {
	d.byID, d.bare = map[uint32]netnsFile{}, nil
	dir, err := os.Open(d.path)
	if err != nil {
		return
	}
	defer dir.Close()
	if names, err := dir.Readdirnames(-1); err == nil {
		slices.Sort(names) // of several names of a namespace, always the same one
		d.bare = d.add(names)
	}
}

// add adds files, and returns those that are no namespaces.
func (d *netnsDir) add(names []string) (bare []string) {
	looked := bootNow()
	for _, name := range names {
		if id, ok := procfs.MountedAt(filepath.Join(d.path, name)); ok {
			d.byID[id] = netnsFile{name, looked}
		} else {
			bare = append(bare, name)
		}
	}
	return bare
}
