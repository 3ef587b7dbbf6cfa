// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// RunsPath reports whether a process runs the program at a path, as the kernel shows the path to the
// caller. start is the start time of the process.
func RunsPath(pid uint32, start uint64, path string) bool {
	link, err := os.Readlink(exeLink(pid))
	if err != nil || link != path && strings.TrimSuffix(link, " (deleted)") != path {
		return false
	}
	at, err := startTicks(pid)
	return err == nil && at == StartTicks(start)
}

func exeLink(pid uint32) string { return "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/exe" }

// HostFiles compares what processes run with the files of the host. One goroutine uses it. The zero value is
// ready to use.
//
// The process chooses the path. So HostFiles takes only what the kernel knows already, and asks no server of a
// file system. What a process runs is in memory, and so is its path.
type HostFiles struct {
	root   int // the directory, if opened
	opened bool
	err    error
	reads  BlockingReads // before 5.12, which lacks RESOLVE_CACHED
}

// Runs reports whether a process runs the file that the host has at a path, and only root can write to it.
func (h *HostFiles) Runs(pid uint32, start uint64, path string) bool {
	if !h.opened {
		h.opened = true
		h.root, h.err = openHostRoot()
	}
	if h.err != nil {
		return false
	}
	var runs unix.Statx_t
	if statCached(unix.AT_FDCWD, exeLink(pid), &runs) != nil || !h.has(path, &runs) {
		return false
	}
	at, err := startTicks(pid)
	return err == nil && at == StartTicks(start)
}

// has reports whether the host has a file at a path.
func (h *HostFiles) has(path string, file *unix.Statx_t) bool {
	const tries = 3 // a mount or a rename at the same time
	for range tries {
		has, err := h.compare(path, file, resolveCached)
		switch {
		case errors.Is(err, unix.EINVAL):
			return h.reads.Try(func() []byte {
				if has, err := h.compare(path, file, 0); !has || err != nil {
					return nil
				}
				return []byte{1}
			}) != nil
		case !errors.Is(err, unix.EAGAIN):
			return has
		}
	}
	return false
}

// compare is has, with more flags for openat2(2).
func (h *HostFiles) compare(path string, file *unix.Statx_t, resolve uint64) (bool, error) {
	fd, err := unix.Openat2(h.root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	})
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var has unix.Statx_t
	err = statCached(fd, "", &has)
	return err == nil && sameFile(file, &has) && ofRoot(&has), err
}

func sameFile(a, b *unix.Statx_t) bool {
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor
}

// ofRoot reports whether only root can write to a file.
func ofRoot(st *unix.Statx_t) bool { return st.Uid == 0 && st.Mode&0o022 == 0 }

// statCached describes a file by what the kernel knows of it.
func statCached(dir int, path string, st *unix.Statx_t) error {
	flags := unix.AT_STATX_DONT_SYNC
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return unix.Statx(dir, path, flags, unix.STATX_INO|unix.STATX_MODE|unix.STATX_UID, st)
}

// openHostRoot opens the root directory of the host, for its path only.
func openHostRoot() (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	if ShowsAll() {
		if fd, err := unix.Open("/proc/1/root", flags, 0); err == nil {
			return fd, nil
		}
	}
	// The kernel may not show even root what process 1 sees.
	own, err := NamespaceOf("self", event.NSTypeMnt)
	var root unix.Statx_t // in a chroot, / is hardly ever a mount point
	if err != nil || HostNamespaces()[event.NSTypeMnt] != own ||
		unix.Statx(unix.AT_FDCWD, "/", 0, 0, &root) != nil || root.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return -1, errors.New("the root directory of the host is not known")
	}
	return unix.Open("/", flags, 0)
}
