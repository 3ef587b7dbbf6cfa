// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// Connect connects to the socket, and returns the descriptor. It does not wait for whoever listens.
//
// A user chooses what is in the user's own directory below /run/user. There, Connect follows no link, and
// enters no other file system: a link could lead to a socket that only root may use, and the server of a
// FUSE file system could let Connect wait for ever.
func (c Candidate) Connect() (fd int, err error) {
	path := c.Path
	defer func() {
		if err != nil {
			err = &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: c.Path, Net: "unix"}, Err: os.NewSyscallError("connect", err)}
		}
	}()
	if c.found() {
		file, err := c.openBeneath()
		if err != nil {
			return -1, err
		}
		defer unix.Close(file)
		path = "/proc/self/fd/" + strconv.Itoa(file)
	}
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// found reports whether nstrace found the socket in the directory of a user.
func (c Candidate) found() bool { return c.UID != 0 && !c.Given }

// stat describes the file of the socket.
func (c Candidate) stat() (fs.FileInfo, error) {
	if !c.found() {
		return os.Stat(c.Path)
	}
	fd, err := c.openBeneath()
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), c.Path)
	defer file.Close()
	return file.Stat()
}

// openBeneath opens the file of a user's socket, for its path only.
func (c Candidate) openBeneath() (int, error) {
	root, rest, _ := strings.Cut(c.Path, "/run/user/")
	user, rest, _ := strings.Cut(rest, "/")
	dir, err := openUserDir(root + "/run/user/" + user)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, rest, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// openUserDir opens the directory of a user, for its path only. It owns the directory, so fusermount(1) lets
// the user mount a FUSE file system on it. Then openUserDir returns an error: systemd mounts a tmpfs there, and
// others nothing. It asks no server of a file system.
func openUserDir(path string) (int, error) {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Statx_t
	err = unix.Statx(dir, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		err = unix.EXDEV
		procfs.EachMount("/proc/thread-self/mountinfo", "tmpfs", func(m procfs.Mountpoint) {
			if uint64(m.ID) == st.Mnt_id {
				err = nil
			}
		})
	}
	if err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}
