// SPDX-License-Identifier: Apache-2.0

// Package safefile opens and creates files in folders that other users can write to.
//
// Such a user can put a symbolic or hard link, a file or a pipe of their own where a privileged program expects
// its file. The program then writes into a file that the user chose, or the user reads what it writes. The
// kernel prevents part of that, in folders with the sticky bit, if fs.protected_symlinks,
// fs.protected_hardlinks and fs.protected_regular are set. This package does not depend on them.
package safefile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode is for files that have what processes of all users did.
const Mode fs.FileMode = 0o600

// ErrShared means that other users could lead nstrace to another file.
var ErrShared = errors.New("other users can write to its directory")

// A sharedError is an ErrShared about something else than the directory of the file.
type sharedError string

func (e sharedError) Error() string        { return string(e) }
func (e sharedError) Is(target error) bool { return target == ErrShared }

// maxLinks is how many symbolic links a path can go through, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// Open opens a file as os.OpenFile does, with Mode if it creates it.
//
// In a folder that others can write to, it follows no symbolic link, except one of root or of the caller in a
// folder with the sticky bit, and opens only regular files with one hard link. There it opens only files of
// root, of the caller and of the folder's owner. In a folder with the sticky bit it opens only files of the
// first two that no other user can read: a file of theirs that others could rename can have been moved there.
// Otherwise it returns an error that wraps [ErrShared].
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
		if w.moved == nil && w.shared != private {
			return ErrShared
		}
		return w.moved
	})
}

// CheckFiles is HoldFiles for a program that reads the files, and makes none. If one is missing in a folder
// with the sticky bit, it returns an error too, because others can make it.
func CheckFiles(path string, suffixes ...string) error {
	return checkAt(path, func(w *walked) error {
		if w.moved != nil || w.shared == shared {
			return cmp.Or(w.moved, ErrShared)
		}
		for _, suffix := range suffixes {
			if err := w.checkName(w.name + suffix); err != nil {
				return fmt.Errorf("%s: %w", w.name+suffix, err)
			}
		}
		return nil
	})
}

// HoldFiles is for a program that opens several files of a folder by name. It returns an error that wraps
// [ErrShared] if others can make the path lead elsewhere, or can remove files from the folder, or if one of the
// files is there that Open would not open. In a folder with the sticky bit it makes the files that are missing:
// otherwise others could make them before the program does. It reports whether the folder is one.
func HoldFiles(path string, suffixes ...string) (held bool, err error) {
	err = checkAt(path, func(w *walked) error {
		if w.moved != nil || w.shared == shared {
			return cmp.Or(w.moved, ErrShared)
		}
		held = w.shared == sticky
		for _, suffix := range suffixes {
			if err := w.hold(w.name + suffix); err != nil {
				return fmt.Errorf("%s: %w", w.name+suffix, err)
			}
		}
		return nil
	})
	return held, err
}

// hold checks one file for HoldFiles, and makes it if that is necessary.
func (w *walked) hold(name string) error {
	if w.shared == sticky {
		fd, err := retry(func() (int, error) {
			return unix.Openat(w.dir, name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, uint32(Mode))
		})
		if err == nil {
			err = errors.Join(unix.Fchmod(fd, uint32(Mode)), unix.Close(fd)) // whatever the umask
			return err
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return w.checkName(name)
}

// checkName checks a file of the folder, which can be missing in a private folder.
func (w *walked) checkName(name string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(w.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT) && w.shared == private:
		return nil
	case errors.Is(err, unix.ENOENT):
		return ErrShared
	case err != nil:
		return err
	}
	return w.check(&st)
}

// MkdirAll makes the folders of a file that are missing. It follows links as Open does, and makes no folder in
// one where others could replace it.
func MkdirAll(path string) error {
	w, err := walkFrom(path, true)
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: filepath.Dir(path), Err: err}
	}
	return unix.Close(w.dir)
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
	moved  error // set if others can replace a folder on the way: an ErrShared
	make   bool  // make folders that are missing
	magic  bool  // the name is a link whose text is no path, such as /proc/self/fd/1
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
func walk(path string) (*walked, error) { return walkFrom(path, false) }

// walkFrom is walk, and makes folders if wanted.
func walkFrom(path string, makes bool) (*walked, error) {
	dir, err := start(path)
	if err != nil {
		return nil, err
	}
	w := &walked{dir: dir, make: makes}
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
		if errors.Is(err, unix.ENOENT) && w.make {
			if w.shared == shared {
				return ErrShared
			}
			// Somebody else can have made it since.
			if err := unix.Mkdirat(w.dir, w.name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
			err = unix.Fstatat(w.dir, w.name, &entry, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return err
		}
		nofollow := unix.O_NOFOLLOW
		if entry.Mode&unix.S_IFMT == unix.S_IFLNK && inProc(w.dir) {
			if w.changes(entry.Uid) {
				return sharedError(fmt.Sprintf("%s is a link of the processes of user %d", w.name, w.owner))
			}
			// The text of such a link need not be a path, as that of /proc/1/root: the kernel follows it.
			if len(names) == 1 {
				w.magic = true
				return nil
			}
			nofollow = 0
		} else if entry.Mode&unix.S_IFMT == unix.S_IFLNK {
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
		next, err := retry(func() (int, error) {
			return unix.Openat(w.dir, w.name, unix.O_PATH|nofollow|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return err
		}
		if w.moved == nil && w.changes(entry.Uid) {
			w.moved = sharedError(fmt.Sprintf("other users can replace the directory %s on the way", w.name))
		}
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
	return retry(func() (int, error) { return unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
}

// retry calls do until no signal interrupts it.
func retry(do func() (int, error)) (int, error) {
	for {
		n, err := do()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
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
		fd, err := retry(func() (int, error) { return unix.Openat(w.dir, w.name, flags&^os.O_CREATE, 0) })
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	const tries = 10 // somebody can make and remove the file all the time
	for range tries {
		fd, err := retry(func() (int, error) {
			return unix.Openat(w.dir, w.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if errors.Is(err, unix.ENOENT) && flags&os.O_CREATE != 0 {
			fd, err = retry(func() (int, error) {
				return unix.Openat(w.dir, w.name, flags|unix.O_EXCL|unix.O_NOFOLLOW, uint32(Mode))
			})
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
	again, err := retry(func() (int, error) { return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0) })
	if errors.Is(err, unix.ENOENT) {
		if w.shared == shared {
			return nil, fmt.Errorf("%w, and without /proc it cannot be opened safely", ErrShared)
		}
		// Nobody can have replaced what was checked.
		again, err = retry(func() (int, error) { return unix.Openat(w.dir, w.name, flags|unix.O_NOFOLLOW, 0) })
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
	case st.Mode&unix.S_IFMT == unix.S_IFDIR: // opening it fails
	case st.Mode&unix.S_IFMT != unix.S_IFREG: // opening a pipe can wait for ever
		return fmt.Errorf("it is not a regular file, and %w", ErrShared)
	case st.Nlink > 1:
		return fmt.Errorf("it has %d hard links, and %w", st.Nlink, ErrShared)
	case !trusted(st.Uid) && (w.shared == sticky || st.Uid != w.owner):
		return fmt.Errorf("it belongs to user %d, and %w", st.Uid, ErrShared)
	case w.shared == sticky && st.Mode&0o077 != 0:
		return fmt.Errorf("its mode is %04o, which lets other users read or write it, and %w (chmod 600)", st.Mode&0o777, ErrShared)
	}
	return nil
}
