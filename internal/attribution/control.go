// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// A Controller says who can have made the cgroup of a container or a pod. Whoever owns a cgroup chooses the
// names of the cgroups below it: a user can make one whose name has the id of a container of root.
type Controller struct {
	// UserID is the id, in digits, of the user who can have made it; "" if only root can.
	UserID string
	// Container and Pod are false if somebody else than UserID can have made it: root in a container, or
	// somebody unknown.
	Container, Pod bool
}

// CgroupDirs looks up who owns the directories of cgroups. It is safe for concurrent use. A nil CgroupDirs
// takes all directories for root's, except those below the service manager of a user.
type CgroupDirs struct {
	roots func() []*os.File // of the hierarchies
	own   []string          // the names up to the container that this process is in, if it is in one
}

// ShownCgroupDirs returns the directories in all mounted hierarchies, for paths as /proc shows them to this
// process. It opens them when it first needs one.
func ShownCgroupDirs() *CgroupDirs { return shownCgroupDirs }

// HostCgroupDirs is ShownCgroupDirs for the paths of the host. They differ in a cgroup namespace.
func HostCgroupDirs() *CgroupDirs { return hostCgroupDirs }

var (
	shownCgroupDirs = &CgroupDirs{roots: sync.OnceValue(func() []*os.File { return openHierarchies(func(dir *os.File) *os.File { return dir }) })}
	hostCgroupDirs  = &CgroupDirs{roots: sync.OnceValue(func() []*os.File { return openHierarchies(rootOf) })}
)

func openHierarchies(root func(mounted *os.File) *os.File) (roots []*os.File) {
	for _, fstype := range []string{"cgroup2", "cgroup"} {
		procfs.EachMount("/proc/thread-self/mountinfo", fstype, func(m procfs.Mountpoint) {
			if fd, err := unix.Open(m.Point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
				roots = append(roots, root(os.NewFile(uintptr(fd), m.Point)))
			}
		})
	}
	return roots
}

// With returns the directories in one more hierarchy, which is that of the open directory fd.
func (d *CgroupDirs) With(fd int) *CgroupDirs {
	again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return d
	}
	root := os.NewFile(uintptr(again), "cgroup")
	return &CgroupDirs{roots: func() []*os.File { return append(slices.Clip(d.roots()), root) }, own: d.own}
}

// Within returns the directories as a process in the cgroup at a path sees them. Containers in its own container
// are not nested for it: its runtimes are those in that container.
func (d *CgroupDirs) Within(path string) *CgroupDirs {
	_, at := parseCgroup(path)
	if at.outer < 0 || at.relative {
		return d
	}
	return &CgroupDirs{roots: d.roots, own: at.names[:max(at.outer, at.inner)+1]}
}

// rootOf returns the root of the hierarchy that a directory is in. In a cgroup namespace, a mount shows only
// what is below the caller's own cgroup. Without the right to open the root, it returns the directory.
func rootOf(dir *os.File) *os.File {
	var st unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &st) != nil || st.Ino == procfs.RootCgroup {
		return dir
	}
	fd, err := procfs.OpenCgroup(int(dir.Fd()), procfs.RootCgroup)
	if err != nil {
		return dir
	}
	defer dir.Close()
	return os.NewFile(uintptr(fd), dir.Name())
}

// Controller returns who can have made the container and the pod that ParseCgroup finds in a path.
//
// Only the names up to the first cgroup that a user owns come from root. So it looks at the cgroups around the
// outermost container or pod. One that is gone by now, it does not know.
func (d *CgroupDirs) Controller(path string) Controller {
	_, at := parseCgroup(path)
	names := at.names
	if d != nil && len(d.own) > 0 && len(names) > len(d.own) && slices.Equal(names[:len(d.own)], d.own) {
		_, at = parseCgroup("/" + strings.Join(names[len(d.own):], "/"))
	}
	c := Controller{Container: at.inner < 0, Pod: at.outer < 0 || at.pod < at.outer}
	around := at.names[:at.outermost()]
	uid, known := d.owner(names[:len(names)-len(at.names)+len(around)])
	switch user := managedBy(around); {
	case uid != 0:
		c.UserID = strconv.FormatUint(uint64(uid), 10)
	case user != "" && user != "0": // with cgroup v1, a user owns only the directories in some hierarchies
		c.UserID = user
	case !known || at.relative:
		return Controller{}
	}
	return c
}

// managedBy returns the id, in digits, of the user whose service manager a cgroup is below, "" for none.
func managedBy(names []string) string {
	var o CgroupOwner
	o.units(names)
	if uid, ok := between(o.Unit, "user@", ".service"); ok && uid == o.UserID {
		return uid
	}
	return ""
}

// owner returns the first owner other than root of a cgroup and those around it, root if there is none, and
// whether that is known. The path can be of any hierarchy.
func (d *CgroupDirs) owner(names []string) (uid uint32, known bool) {
	if d == nil {
		return 0, true
	}
	for _, root := range d.roots() {
		uid, all := ownerBelow(int(root.Fd()), names)
		if uid != 0 {
			return uid, true
		}
		known = known || all
	}
	return 0, known
}

// ownerBelow is owner for one hierarchy. all says that it has all of the cgroups.
func ownerBelow(root int, names []string) (uid uint32, all bool) {
	for i := range len(names) + 1 {
		var st unix.Stat_t
		if unix.Fstatat(root, path.Join(".", strings.Join(names[:i], "/")), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return 0, false
		}
		if st.Uid != 0 {
			return st.Uid, false
		}
	}
	return 0, true
}
