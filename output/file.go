// SPDX-License-Identifier: Apache-2.0

package output

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"
)

// Rotation says when an output file is set aside for a new one, and what
// becomes of those set aside. The zero value never rotates.
//
// The file that is written always has the name it was opened with. One that is
// set aside gets the time in UTC into its name, as in
// events-2026-11-23T12-04-31.123.json.
type Rotation struct {
	// MaxSize is how many bytes a file may hold, counted in whole MiB and
	// rounded up; 0 means any number.
	MaxSize int64
	// MaxAge is how old a file may get, counted from when it was made, by an
	// earlier run if need be; 0 means any age. It is looked at when there is
	// something to write, so no file set aside is empty.
	MaxAge time.Duration

	// Keep is how many files set aside are kept; 0 means all.
	Keep int
	// KeepFor is how long they are kept, counted in whole days and rounded
	// up; 0 means for ever.
	KeepFor time.Duration
	// Compress has them compressed with gzip.
	Compress bool
}

func (r Rotation) wanted() bool { return r.MaxSize > 0 || r.MaxAge > 0 }

// fileMode keeps what processes did, with which arguments, between root and
// itself. Whoever wants others to read it makes the file beforehand: the mode
// of an existing file is kept, also when it is rotated.
const fileMode = 0o600

// OpenFile opens a file that events are appended to, made if it is not there.
// Whatever stands in the way of writing or of rotating it is an error here and
// not when the first event comes. What is not a regular file, such as a pipe
// or /dev/stderr, is written to but never rotated.
//
// Where somebody else, such as logrotate(8), moves or removes the file, what is written
// next goes to the one that is at path then, made if there is none: nobody has to be told.
//
// One file must have one writer: rotation does not know of others.
func OpenFile(path string, rotation Rotation) (io.WriteCloser, error) {
	f, info, err := openAppend(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return f, nil
	}
	if !rotation.wanted() {
		return &plainFile{path: path, file: f, info: info}, nil
	}
	if err := f.Close(); err != nil {
		return nil, openError(path, err)
	}
	return openRotating(path, rotation)
}

func openAppend(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
	if err != nil {
		return nil, nil, openError(path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(openError(path, err), f.Close())
	}
	return f, info, nil
}

// A plainFile is one that only others rotate.
type plainFile struct {
	path string
	file *os.File
	info os.FileInfo
}

// Write appends p. It is looked each time whether the file is still where it was: once it is
// moved it may be compressed and removed at any moment.
func (f *plainFile) Write(p []byte) (int, error) {
	if replaced(f.path, f.info) {
		file, info, err := openAppend(f.path)
		if err != nil {
			return 0, err
		}
		if err := f.file.Close(); err != nil {
			return 0, errors.Join(openError(f.path, err), file.Close())
		}
		f.file, f.info = file, info
	}
	return f.file.Write(p)
}

func (f *plainFile) Close() error { return f.file.Close() }

// replaced says whether path has no file any more, or another one than info is of.
func replaced(path string, info os.FileInfo) bool {
	now, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(info, now))
}

// openError says what is wrong with a path in one line.
func openError(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	dir := filepath.Dir(path)
	if _, statErr := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && errors.Is(statErr, fs.ErrNotExist) {
		return fmt.Errorf("output file %q: directory %q: %w", path, dir, err)
	}
	return fmt.Errorf("output file %q: %w", path, err)
}

// rotatingFile is lumberjack, which most Go programs rotate their logs with,
// kept from the following surprises of version 2.2.1:
//   - it opens the file at the first write, makes missing directories, and
//     what it cannot open it renames (a directory, for one): OpenFile has
//     opened the file before, so what could go wrong has gone wrong by then;
//   - it renames a symbolic link instead of the file behind it;
//   - it does not rotate by age (its MaxAge is about the files set aside);
//   - its zero MaxSize is 100 MB.
//
// It names what it sets aside by the millisecond, and a second file of the same
// millisecond would replace the first: with a size of at least a mebibyte, that
// takes a gigabyte of events a second.
// It also leaves a goroutine behind when closed, which is why a program should
// open as many of these as it has files and no more.
type rotatingFile struct {
	log    lumberjack.Logger
	info   os.FileInfo // of the file that was there at the last write
	maxAge time.Duration
	made   time.Time
	now    func() time.Time
}

func openRotating(path string, rotation Rotation) (*rotatingFile, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, openError(path, err)
	}
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("output file %q cannot be rotated: directory %q: %w", path, dir, err)
	}
	r := &rotatingFile{
		log: lumberjack.Logger{
			Filename:   path,
			MaxSize:    roundUp(rotation.MaxSize, 1<<20),
			MaxAge:     roundUp(int64(rotation.KeepFor), int64(24*time.Hour)),
			MaxBackups: rotation.Keep,
			Compress:   rotation.Compress,
		},
		maxAge: rotation.MaxAge,
		made:   birth(path),
		now:    time.Now,
	}
	if rotation.MaxSize <= 0 {
		r.log.MaxSize = math.MaxInt >> 20
	}
	if err := r.opened(); err != nil {
		return nil, errors.Join(err, r.log.Close())
	}
	return r, nil
}

// opened has the file opened, by writing nothing to it, if it is not, and notes which it is.
func (r *rotatingFile) opened() (err error) {
	if _, err = r.log.Write(nil); err == nil {
		r.info, err = os.Stat(r.log.Filename)
	}
	if err != nil {
		return openError(r.log.Filename, err)
	}
	return nil
}

// Write appends p, to a new file where the present one is due.
func (r *rotatingFile) Write(p []byte) (int, error) {
	if replaced(r.log.Filename, r.info) { // by others, or by the last write
		if err := r.log.Close(); err != nil {
			return 0, openError(r.log.Filename, err)
		}
		if err := r.opened(); err != nil {
			return 0, err
		}
		r.made = birth(r.log.Filename)
	}
	if now := r.now(); r.maxAge > 0 && now.Sub(r.made) >= r.maxAge && len(p) > 0 {
		if err := r.log.Rotate(); err != nil {
			return 0, err
		}
		if err := r.opened(); err != nil {
			return 0, err
		}
		r.made = now
	}
	return r.log.Write(p)
}

func (r *rotatingFile) Close() error { return r.log.Close() }

// birth returns when a file was made, as far as the file system keeps that, or
// else last changed. A file without content is as good as new.
func birth(path string) time.Time {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME|unix.STATX_MTIME|unix.STATX_SIZE, &st)
	switch {
	case err != nil || st.Size == 0:
		return time.Now()
	case st.Mask&unix.STATX_BTIME != 0:
		return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
	}
	return time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))
}

// roundUp returns n in units, rounded up.
func roundUp(n, unit int64) int {
	if n <= 0 {
		return 0
	}
	return int((n-1)/unit + 1)
}
