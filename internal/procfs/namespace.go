// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// nsID is a namespace as /proc shows it, net:[4026531840].
type Namespace struct {
	Type     event.NSType
	ID       uint32
	KernelID uint64 // its 64-bit id, 0 if not known
	Path     string // where it is mounted
	MountID  uint32 // the number of that mount
}

func ParseNSLink(s string) (Namespace, bool) {
	typ, rest, ok := strings.Cut(s, ":[")
	num, closed := strings.CutSuffix(rest, "]")
	if !ok || !closed {
		return Namespace{}, false
	}
	id, err := strconv.ParseUint(num, 10, 32)
	if err != nil {
		return Namespace{}, false
	}
	return Namespace{Type: event.NSType(strings.TrimSuffix(typ, "_for_children")), ID: uint32(id)}, true
}

// pinned returns the namespaces that are bind mounted in the caller's mount
// namespace.
func Pinned() []Namespace {
	all := PinnedIn(OwnMountinfo)
	for i := range all {
		all[i].KernelID = HandleID(all[i].Path)
	}
	return all
}

// pinnedIn does the same for a process's mountinfo, but for the kernel's ids.
func PinnedIn(mountinfo string) (all []Namespace) {
	EachMount(mountinfo, "nsfs", func(m Mountpoint) {
		if ns, ok := ParseNSLink(m.Root); ok {
			ns.Path, ns.MountID = m.Point, m.ID
			all = append(all, ns)
		}
	})
	return all
}

// ownMountinfo is nstrace's own view. Not /proc/self: that is its first thread's, which can
// be the one with the private mounts (see mounts).
const OwnMountinfo = "/proc/thread-self/mountinfo"

// nsfsRoot is FD_NSFS_ROOT, and fileIDNSFS is FILEID_NSFS, of 6.18.
const (
	nsfsRoot   = -10003
	fileIDNSFS = 0xf1
)

// handleUID asks the kernel for the 64-bit id of the namespace mounted at path
// (6.18), 0 where it does not tell.
func HandleID(path string) uint64 {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil || h.Type() != fileIDNSFS || h.Size() < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(h.Bytes())
}

// cloneFlag is the type as nsfs handles have it.
var CloneFlags = map[event.NSType]uint32{
	"mnt": unix.CLONE_NEWNS, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC, "user": unix.CLONE_NEWUSER,
	"pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
}

// nsAlive asks the kernel for a namespace by its handle (6.18): nil if it is
// alive, ESTALE if not, ENOSYS where the kernel has no such handles.
func Alive(ns Namespace) error {
	// struct nsfs_file_handle: ns_id, ns_type, ns_inum
	b := make([]byte, 0, 16)
	b = binary.NativeEndian.AppendUint64(b, ns.KernelID)
	b = binary.NativeEndian.AppendUint32(b, CloneFlags[ns.Type])
	b = binary.NativeEndian.AppendUint32(b, ns.ID)
	fd, err := unix.OpenByHandleAt(nsfsRoot, unix.NewFileHandle(fileIDNSFS, b), unix.O_RDONLY|unix.O_CLOEXEC)
	switch err {
	case nil:
		unix.Close(fd)
		return nil
	case unix.EBADF, unix.EOPNOTSUPP:
		return unix.ENOSYS
	}
	return err
}
