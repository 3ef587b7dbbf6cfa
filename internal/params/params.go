// SPDX-License-Identifier: Apache-2.0

// Package params reads kernel parameters, also in other namespaces. Paths can come from a history or
// an event and are not trusted: it opens only files of /proc/sys.
//
//	root, err := params.Open()
//	value, err := root.Read("/proc/sys/net/ipv4/ip_forward")
package params

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// Dir is the directory of the parameters.
const Dir = event.SysctlDir

// MaxValue is the maximum number of bytes that are read of a value. The longest values are bitmaps
// of ports, which have some kilobytes.
const MaxValue = 64 << 10

// binfmtMisc is another file system, which can be an automount point. Its files are not parameters,
// and no event is about them.
const binfmtMisc = "fs/binfmt_misc"

// ErrPath is wrapped by the error for a path that cannot be that of a parameter.
var ErrPath = errors.New("not the path of a parameter")

// ErrFile is wrapped by the error for a file that is not a parameter, such as one that is mounted
// over the path of a parameter.
var ErrFile = errors.New("not a parameter")

// ErrWriteOnly is wrapped by the error for a file that nobody can read, because writing to it is an
// action and it has no value.
var ErrWriteOnly = errors.New("the parameter can only be written")

// A Root is /proc/sys in the namespaces of the thread that opened it. Only that thread can use it.
type Root struct {
	fd  int
	dev uint64 // the device of /proc, which is that of all its parameters
	buf []byte
}

// Open opens /proc/sys.
func Open() (*Root, error) {
	fd, err := unix.Open(Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: Dir, Err: err}
	}
	if err := onProc(fd, Dir); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: Dir, Err: err}
	}
	return &Root{fd: fd, dev: st.Dev}, nil
}

// Close closes the Root.
func (r *Root) Close() { _ = unix.Close(r.fd) }

// onProc returns an error if an open file is not on procfs.
func onProc(fd int, name string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("%q: %w: not on procfs", name, ErrFile)
	}
	return nil
}

// Name returns the name of the parameter at a path, see event.SysctlName. Unlike that it checks the
// path, which must be in its shortest form.
func Name(file string) (string, error) {
	if _, err := below(file); err != nil {
		return "", err
	}
	name, _ := event.SysctlName(file)
	return name, nil
}

// below returns the part of the path of a parameter that follows Dir.
func below(file string) (string, error) {
	rest, ok := strings.CutPrefix(file, Dir+"/")
	if !ok || rest == "" || len(file) >= unix.PathMax || strings.Contains(file, "\x00") || path.Clean(file) != file ||
		rest == binfmtMisc || strings.HasPrefix(rest, binfmtMisc+"/") {
		if len(file) > 100 {
			file = file[:100] + "..."
		}
		return "", fmt.Errorf("%q: %w", file, ErrPath)
	}
	return rest, nil
}

// maxTries limits how often open tries again after EAGAIN, with which openat2(2) reports a concurrent
// rename or mount.
const maxTries = 10

// open opens a file below Dir. It follows no link, and does not block on a pipe.
func (r *Root) open(below string, flags uint64) (int, error) {
	for tries := 1; ; tries++ {
		fd, err := unix.Openat2(r.fd, below, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_CLOEXEC | flags,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case (errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)) && tries < maxTries:
			continue
		case err != nil:
			return -1, &os.PathError{Op: "open", Path: Dir + "/" + below, Err: err}
		}
		return fd, nil
	}
}

// A Value is the value of a parameter.
type Value struct {
	Text string // without the last newline
	Cut  bool   // the value is longer, and Text has its first MaxValue bytes
}

// Read reads the parameter at a path, which must be in its shortest form. The error wraps ErrPath or
// ErrFile if no parameter can be at the path, and os.ErrNotExist if none is.
func (r *Root) Read(file string) (Value, error) { return r.ReadIf(file, 0) }

// ReadIf is Read for a file that has all permissions in mode. Otherwise it reads nothing and returns
// os.ErrPermission.
func (r *Root) ReadIf(file string, mode uint32) (v Value, err error) {
	name, err := below(file)
	if err != nil {
		return v, err
	}
	fd, err := r.open(name, 0)
	if err != nil {
		if errors.Is(err, unix.EACCES) && r.writeOnly(name) {
			return v, fmt.Errorf("%q: %w", file, ErrWriteOnly)
		}
		return v, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return v, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return v, fmt.Errorf("%q: %w: not a regular file", file, ErrFile)
	}
	if st.Dev != r.dev {
		if err := onProc(fd, file); err != nil {
			return v, err
		}
	}
	if st.Mode&mode != mode {
		return v, os.ErrPermission
	}
	if r.buf == nil {
		r.buf = make([]byte, MaxValue+1)
	}
	// One read returns the whole value: most parameters return nothing to a second one.
	n, err := unix.Read(fd, r.buf)
	if err != nil {
		return v, &os.PathError{Op: "read", Path: file, Err: err}
	}
	if n > MaxValue {
		return Value{string(r.buf[:MaxValue]), true}, nil
	}
	return Value{Text: strings.TrimSuffix(string(r.buf[:n]), "\n")}, nil
}

// writeOnly reports whether no user may read a file. The kernel allows reading nothing to root that
// the permissions do not allow (test_perm() in fs/proc/proc_sysctl.c).
func (r *Root) writeOnly(below string) bool {
	var st unix.Stat_t
	return unix.Fstatat(r.fd, below, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o444 == 0
}

// Walk calls do with the path of each file below a directory, which is Dir or below Dir. It skips
// files that are gone and directories that cannot be listed. It returns an error if dir itself
// cannot be listed, and that of ctx if it ends: each device has its own parameters, and users can
// make any number of devices.
func (r *Root) Walk(ctx context.Context, dir string, do func(file string)) error {
	name := "."
	if dir != Dir {
		var err error
		if name, err = below(dir); err != nil {
			return err
		}
	}
	fd, err := r.open(name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), dir)
	err = onProc(fd, dir)
	var entries []os.DirEntry
	if err == nil {
		entries, err = f.ReadDir(-1)
	}
	_ = f.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		child := dir + "/" + e.Name()
		switch {
		case e.IsDir():
			_ = r.Walk(ctx, child, do)
		case e.Type().IsRegular():
			do(child)
		}
	}
	return ctx.Err()
}
