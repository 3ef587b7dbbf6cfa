// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// OpenNamespace opens the file of a namespace by the first of paths that leads to it, and returns the
// descriptor. Paths are hints: each can lead elsewhere by now. The error is os.ErrNotExist if no path
// leads to the namespace.
//
// A path is a file of /proc, such as /proc/PID/ns/net, or where a namespace is mounted: below
// /proc/PID/root, or in the caller's own mount namespace. OpenNamespace waits neither for a pipe nor for
// the server of a file system, which can be a process of a user (FUSE) or another host.
func OpenNamespace(typ event.NSType, id uint32, paths []string) (int, error) {
	for _, path := range paths {
		fd, err := OpenAnyNamespace(path)
		if err != nil {
			continue
		}
		if found, ok := Identify(fd); ok && found.Type == typ && found.ID == id {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, os.ErrNotExist
}

// OpenAnyNamespace is OpenNamespace for whichever namespace a path leads to. The error is os.ErrInvalid if
// that is another file: to open it could have an effect, or take forever.
func OpenAnyNamespace(path string) (int, error) {
	fd, err := openAt(path)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if _, ok := onNSFS(fd, "", unix.AT_EMPTY_PATH); !ok {
		return -1, os.ErrInvalid
	}
	return unix.Open("/proc/thread-self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// UnmountNamespace unmounts the namespace that is mounted at a path of the calling thread's mount namespace. It does not wait
// for the server of a file system on the way.
func UnmountNamespace(path string) error {
	fd, err := openAt(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, ok := onNSFS(fd, "", unix.AT_EMPTY_PATH); !ok {
		return os.ErrInvalid
	}
	return unix.Unmount("/proc/thread-self/fd/"+strconv.Itoa(fd), unix.MNT_DETACH)
}

// OnNSFS reports whether a file of /proc leads to the file of a namespace. It does not ask the server of a
// network file system, which can take forever. The target of the link does not tell: if the namespace was
// opened at a mount, it is the mount point.
func OnNSFS(path string) bool {
	_, ok := onNSFS(unix.AT_FDCWD, path, 0)
	return ok
}

// MountedAt returns the inode number of the namespace that is mounted at a path. ok is false for any other
// file. It follows no link, and asks no server about the file itself.
func MountedAt(path string) (inode uint32, ok bool) {
	return onNSFS(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW)
}

func onNSFS(fd int, path string, flags int) (inode uint32, ok bool) {
	var st unix.Statx_t
	err := unix.Statx(fd, path, flags|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	return uint32(st.Ino), err == nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == nsfsDevice()
}

// nsfsDevice is the device number of nsfs.
var nsfsDevice = sync.OnceValue(func() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/mnt", &st) != nil {
		return 0 // no device
	}
	return st.Dev
})

// openAt returns an O_PATH descriptor of a file of /proc, or of what is mounted at a path. It does not wait
// for the server of a file system on the way.
func openAt(path string) (int, error) {
	root, below, mounted := splitRoot(path)
	// A link in /proc leads to its target at once, through no directory.
	fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil || !mounted {
		return fd, err
	}
	defer unix.Close(fd)
	return openCached(fd, below)
}

// splitRoot splits a path into the file of /proc that leads to the root of a mount namespace, and the
// path from there. mounted is false if the whole path is a file of /proc.
func splitRoot(path string) (root, below string, mounted bool) {
	if rest, ok := strings.CutPrefix(path, "/proc/"); ok {
		pid, after, _ := strings.Cut(rest, "/")
		if below, ok := strings.CutPrefix(after, "root/"); ok {
			return "/proc/" + pid + "/root", below, true
		}
		if _, err := strconv.ParseUint(pid, 10, 32); err == nil || pid == "self" || pid == "thread-self" {
			return path, "", false
		}
	}
	return "/", strings.TrimPrefix(path, "/"), true
}

// resolveCached is RESOLVE_CACHED of the kernel, since 5.12.
const resolveCached = 0x20

// maxTries limits how often openCached tries again.
const maxTries = 10

// openCached opens what is mounted at a path, as the kernel has it in memory: it has each directory on the
// way to a mount. resolveCached makes it fail rather than ask a server.
func openCached(dir int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: resolveCached | unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS,
	}
	for tries := 1; ; tries++ {
		fd, err := unix.Openat2(dir, path, &how)
		switch {
		case err == unix.EAGAIN && tries < maxTries: // also with a concurrent rename or mount
			continue
		case err == unix.EINVAL && how.Resolve&resolveCached != 0 && inNetnsDir(path):
			how.Resolve &^= resolveCached // an older kernel
			continue
		}
		return fd, err
	}
}

// inNetnsDir reports whether a path, from the root, is in one of NetnsDirs. Only root can mount a file
// system on the way to these in the host's mount namespace.
func inNetnsDir(path string) bool { return NetnsName(filepath.Join("/", path)) != "" }
