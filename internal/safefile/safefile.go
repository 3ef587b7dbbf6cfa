// SPDX-License-Identifier: Apache-2.0

// Package safefile opens and creates files in folders that other users can write to.
//
// Such a user can put a symbolic or hard link, a file or a pipe of their own where a privileged program expects
// its file. The program then writes into a file that the user chose, or the user reads what it writes. The
// kernel prevents part of that, in folders with the sticky bit, if fs.protected_symlinks,
// fs.protected_hardlinks and fs.protected_regular are set. This package does not depend on them.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode is for files that have what processes of all users did.
const Mode fs.FileMode = 0o600

// ErrShared means that other users could lead nstrace to another file.
var ErrShared = errors.New("other users can write to its directory")

// maxLinks is how many symbolic links a path can go through, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// Open opens a file as os.OpenFile does, with Mode if it creates it.
//
// In a folder that others can write to, it follows no symbolic link, except one of root or of the caller in a
// folder with the sticky bit, and opens no file with several hard links. There it opens only files of root, of
// the caller and of the folder's owner, in a folder with the sticky bit only the first two. Otherwise it returns
// an error that wraps [ErrShared].
func Open(path string, flags int) (*os.File, error) {
	f, err := open(path, flags)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// CheckFolder returns an error that wraps [ErrShared] if other users can make the path of a file lead elsewhere
// later, or add files to its folder. A program that uses the path again and again needs that.
func CheckFolder(path string) error {
	return checkAt(path, func(w *walked) error {
		if w.moved || w.shared != private {
			return ErrShared
		}
		return nil
	})
}

// CheckFiles is for a program that opens several files of a folder by name. It returns an error that wraps
// [ErrShared] if others can make the path lead elsewhere, or can remove files from the folder, or if one of the
// files is there that Open would not open. In a folder with the sticky bit they can still make a file that is
// not there yet, between this check and the program's open.
func CheckFiles(path string, suffixes ...string) error {
	return checkAt(path, func(w *walked) error {
		if w.moved || w.shared == shared {
			return ErrShared
		}
		for _, suffix := range suffixes {
			var st unix.Stat_t
			err := unix.Fstatat(w.dir, w.name+suffix, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == nil {
				err = w.check(&st)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %w", w.name+suffix, err)
			}
		}
		return nil
	})
}

// checkAt checks the folder of a file.
func checkAt(path string, check func(*walked) error) error {
	w, err := walk(path)
	if err == nil {
		err = check(w)
		unix.Close(w.dir)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}

// How others can change a folder.
type sharing int

const (
	private sharing = iota
	sticky          // they can add entries, but not remove those of others
	shared
)

// sharingOf returns how users other than root and the caller can change a folder. Any group can have other
// members, also root's, and with an access control list the bits of the group stand for all users in the list
// (acl(5)).
func sharingOf(st *unix.Stat_t) sharing {
	others := st.Mode&0o022 != 0
	switch {
	case !trusted(st.Uid):
		return shared // its owner can do everything
	case !others:
		return private
	case st.Mode&unix.S_ISVTX != 0:
		return sticky
	}
	return shared
}

func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// A walked is the folder of a file.
type walked struct {
	dir    int // descriptor
	name   string
	owner  uint32 // of the folder
	shared sharing
	moved  bool // others can replace a folder on the way
	magic  bool // the name is a link whose text is no path, such as /proc/self/fd/1
}

// changes reports whether others can replace an entry of the folder that belongs to a user.
func (w *walked) changes(uid uint32) bool {
	return w.shared == shared || w.shared == sticky && !trusted(uid)
}

// inProc reports whether a folder is of procfs.
func inProc(dir int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(dir, &st) == nil && uint32(st.Type) == unix.PROC_SUPER_MAGIC
}

// walk goes to the folder of a file, one name after another, and through a symbolic link at the end.
func walk(path string) (*walked, error) {
	dir, err := start(path)
	if err != nil {
		return nil, err
	}
	w := &walked{dir: dir}
	if err := w.follow(strings.Split(path, "/")); err != nil {
		unix.Close(w.dir)
		return nil, err
	}
	return w, nil
}

// follow goes on along names.
func (w *walked) follow(names []string) error {
	for links := 0; ; {
		var st unix.Stat_t
		if err := unix.Fstat(w.dir, &st); err != nil {
			return err
		}
		w.owner, w.shared = st.Uid, sharingOf(&st)
		for len(names) > 1 && (names[0] == "" || names[0] == ".") {
			names = names[1:]
		}
		w.name = names[0]
		var entry unix.Stat_t
		err := unix.Fstatat(w.dir, w.name, &entry, unix.AT_SYMLINK_NOFOLLOW)
		if len(names) == 1 && (errors.Is(err, unix.ENOENT) || err == nil && entry.Mode&unix.S_IFMT != unix.S_IFLNK) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.Mode&unix.S_IFMT == unix.S_IFLNK {
			if len(names) == 1 && inProc(w.dir) {
				w.magic = true
				return nil
			}
			if links++; links > maxLinks {
				return unix.ELOOP
			}
			if w.changes(entry.Uid) {
				return fmt.Errorf("%s is a symbolic link, and %w", w.name, ErrShared)
			}
			to, err := readlink(w.dir, w.name)
			if err != nil {
				return err
			}
			names = append(strings.Split(to, "/"), names[1:]...)
			if strings.HasPrefix(to, "/") {
				root, err := start(to)
				if err != nil {
					return err
				}
				unix.Close(w.dir)
				w.dir = root
			}
			continue
		}
		next, err := unix.Openat(w.dir, w.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		w.moved = w.moved || w.changes(entry.Uid)
		unix.Close(w.dir)
		w.dir = next
		names = names[1:]
	}
}

// start opens the folder where a path begins.
func start(path string) (int, error) {
	from := "."
	if strings.HasPrefix(path, "/") {
		from = "/"
	}
	return unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func readlink(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	if n == 0 || n == len(b) {
		return "", unix.ENAMETOOLONG
	}
	return string(b[:n]), nil
}

func open(path string, flags int) (*os.File, error) {
	w, err := walk(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(w.dir)
	flags |= unix.O_CLOEXEC
	if w.magic {
		fd, err := unix.Openat(w.dir, w.name, flags&^os.O_CREATE, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	const tries = 10 // somebody can make and remove the file all the time
	for range tries {
		fd, err := unix.Openat(w.dir, w.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && flags&os.O_CREATE != 0 {
			fd, err = unix.Openat(w.dir, w.name, flags|unix.O_EXCL|unix.O_NOFOLLOW, uint32(Mode))
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), path)
			if err := f.Chmod(Mode); err != nil { // whatever the umask
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		f, err := w.reopen(fd, path, flags)
		unix.Close(fd)
		return f, err
	}
	return nil, fmt.Errorf("%w, and somebody makes and removes it", ErrShared)
}

// reopen opens what a descriptor is for, if nobody else can have put it there.
func (w *walked) reopen(fd int, path string, flags int) (*os.File, error) {
	if flags&os.O_EXCL != 0 {
		return nil, unix.EEXIST
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if err := w.check(&st); err != nil {
		return nil, err
	}
	// Not by name: the name can be another file by now. But /proc need not be there.
	flags &^= os.O_CREATE
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
	if errors.Is(err, unix.ENOENT) && w.shared != shared { // nobody can have replaced what was checked
		again, err = unix.Openat(w.dir, w.name, flags|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(again), path), nil
}

// check returns an error if somebody else can have put a file into the folder.
func (w *walked) check(st *unix.Stat_t) error {
	switch {
	case w.shared == private:
	case st.Mode&unix.S_IFMT == unix.S_IFLNK: // for Open: since the walk
		return fmt.Errorf("it is a symbolic link, and %w", ErrShared)
	case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1:
		return fmt.Errorf("it has %d hard links, and %w", st.Nlink, ErrShared)
	case !trusted(st.Uid) && (w.shared == sticky || st.Uid != w.owner):
		return fmt.Errorf("it belongs to user %d, and %w", st.Uid, ErrShared)
	}
	return nil
}
