// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A Namespace is a namespace as /proc shows it, net:[4026531840].
type Namespace struct {
	Type     event.NSType
	ID       uint32
	KernelID uint64 // its 64-bit id, 0 if unknown
	Path     string // its mount point, if it was found there
	MountID  uint32 // the id of that mount
}

// ParseNSLink parses the target of a link in /proc/PID/ns, or the root of a mount of nsfs.
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

// Pinned returns the namespaces that are bind mounted in the caller's mount namespace, with
// the kernel's ids.
func Pinned() []Namespace {
	all := PinnedIn(OwnMountinfo)
	for i := range all {
		all[i].KernelID = HandleID(all[i].Path)
	}
	return all
}

// PinnedIn returns the namespaces that are bind mounted as a mountinfo file shows it, without
// the kernel's ids.
func PinnedIn(mountinfo string) []Namespace {
	file, err := os.Open(mountinfo)
	if err != nil {
		return nil
	}
	defer file.Close()
	return PinnedFrom(file)
}

// PinnedFrom is PinnedIn for an open file.
func PinnedFrom(mountinfo io.Reader) (all []Namespace) {
	eachMount(mountinfo, "nsfs", func(m Mountpoint) {
		if ns, ok := ParseNSLink(m.Root); ok {
			ns.Path, ns.MountID = m.Point, m.ID
			all = append(all, ns)
		}
	})
	return all
}

// OwnMountinfo shows the mount namespace of the calling thread. /proc/self is that of the
// first thread, which can have mounts of its own in a tracer.
const OwnMountinfo = "/proc/thread-self/mountinfo"

// nsfsRoot is FD_NSFS_ROOT of 6.18.
const nsfsRoot = -10003

// fileIDNSFS is FILEID_NSFS, the type of the handles of namespaces, of 6.18.
const fileIDNSFS = 0xf1

// HandleID returns the kernel's 64-bit id of the namespace that is mounted at path, 0 if the
// kernel does not say it (before 6.18).
func HandleID(path string) uint64 {
	fd, err := openAt(path)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	return HandleIDOf(fd)
}

// HandleIDOf is HandleID for the open file of a namespace.
func HandleIDOf(fd int) uint64 {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil || h.Type() != fileIDNSFS || h.Size() < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(h.Bytes())
}

// cloneFlags are the types as the kernel's handles and NS_GET_NSTYPE have them.
var cloneFlags = map[event.NSType]uint32{
	event.NSTypeMnt:    unix.CLONE_NEWNS,
	event.NSTypeUTS:    unix.CLONE_NEWUTS,
	event.NSTypeIPC:    unix.CLONE_NEWIPC,
	event.NSTypeUser:   unix.CLONE_NEWUSER,
	event.NSTypePID:    unix.CLONE_NEWPID,
	event.NSTypeNet:    unix.CLONE_NEWNET,
	event.NSTypeCgroup: unix.CLONE_NEWCGROUP,
	event.NSTypeTime:   unix.CLONE_NEWTIME,
}

// CloneFlag returns the CLONE_NEW* flag that makes namespaces of a type, 0 for an unknown type.
func CloneFlag(typ event.NSType) uint32 { return cloneFlags[typ] }

// Identify returns the type and the ID of the namespace whose file is open, false if the file is not
// that of a namespace.
func Identify(fd int) (Namespace, bool) {
	flag, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return Namespace{}, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino == 0 {
		return Namespace{}, false
	}
	for typ, f := range cloneFlags {
		if f == uint32(flag) {
			return Namespace{Type: typ, ID: uint32(st.Ino)}, true
		}
	}
	return Namespace{}, false
}

// Alive asks the kernel for a namespace by its handle. It returns nil if the namespace is
// alive, ESTALE if it is not, and ENOSYS if the kernel has no such handles (before 6.18).
func Alive(ns Namespace) error {
	f, err := OpenHandle(ns)
	if err == nil {
		f.Close()
	}
	return err
}

// OpenHandle opens a namespace by its handle. The error is ESTALE if the namespace is gone, and
// ENOSYS if the kernel has no such handles (before 6.18). KernelID must be set. With an ID of 0 the
// namespace may have any type and inode number.
func OpenHandle(ns Namespace) (*os.File, error) {
	// struct nsfs_file_handle: ns_id, ns_type, ns_inum
	b := make([]byte, 0, 16)
	b = binary.NativeEndian.AppendUint64(b, ns.KernelID)
	flag := cloneFlags[ns.Type]
	if ns.ID == 0 { // nsfs_fh_to_dentry() in fs/nsfs.c wants both or neither
		flag = 0
	}
	b = binary.NativeEndian.AppendUint32(b, flag)
	b = binary.NativeEndian.AppendUint32(b, ns.ID)
	fd, err := unix.OpenByHandleAt(nsfsRoot, unix.NewFileHandle(fileIDNSFS, b), unix.O_RDONLY|unix.O_CLOEXEC)
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), "namespace "+strconv.FormatUint(ns.KernelID, 10)), nil
	case unix.EBADF, unix.EOPNOTSUPP:
		return nil, unix.ENOSYS
	}
	return nil, err
}
