// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	if c.UID != 0 {
		file, err := c.openBeneath()
		switch {
		case errors.Is(err, unix.ENOSYS): // before Linux 5.6, or refused by seccomp
		case err != nil:
			return -1, err
		default:
			defer unix.Close(file)
			path = "/proc/self/fd/" + strconv.Itoa(file)
		}
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

// openBeneath opens the file of a user's socket, for its path only.
func (c Candidate) openBeneath() (int, error) {
	root, rest, _ := strings.Cut(c.Path, "/run/user/")
	user, rest, _ := strings.Cut(rest, "/")
	dir, err := unix.Open(root+"/run/user/"+user, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, rest, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}
