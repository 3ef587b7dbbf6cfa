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

	"github.com/nstrace/nstrace/internal/safefile"
)

// Rotation configures when an output file is rotated, and which rotated files are kept. The
// zero value never rotates.
//
// The current file always has the name that it was opened with. The name of a rotated file
// has the time in UTC, as in events-2026-11-23T12-04-31.123.json.
type Rotation struct {
	// MaxSize is the maximum size of a file in bytes, rounded up to whole MiB. 0 means no
	// limit.
	MaxSize int64
	// MaxAge is the maximum age of a file, counted from its creation, possibly by an
	// earlier run. 0 means no limit. Write checks it, so no rotated file is empty.
	MaxAge time.Duration

	// Keep is how many rotated files are kept. 0 means all.
	Keep int
	// KeepFor is how long rotated files are kept, rounded up to whole days. 0 means for
	// ever.
	KeepFor time.Duration
	// Compress compresses rotated files with gzip.
	Compress bool

	// Mode is the mode of the file, also of one that exists. 0 means that of OpenFile.
	Mode fs.FileMode
}

func (r Rotation) wanted() bool { return r.MaxSize > 0 || r.MaxAge > 0 }

// OpenFile opens a file to append events to. It creates the file if it does not exist. It
// fails if the file cannot be written or rotated, so that such an error does not appear with
// the first event. A pipe, a device and the like are never rotated.
//
// If another program, such as logrotate(8), moves or removes the file, the next Write opens
// or creates the file at path. No signal is needed.
//
// A file must have one writer only: rotation does not know of others.
//
// Only root can read a new file, because events have the arguments of all users' processes. An existing file
// keeps its mode, also when it is rotated. See [safefile.Open] for a file in a folder that others can write to.
// There is no rotation in such a folder.
func OpenFile(path string, rotation Rotation) (io.WriteCloser, error) {
	f, info, err := openAppend(path, rotation.Mode)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return f, nil
	}
	if !rotation.wanted() {
		return &plainFile{path: path, mode: rotation.Mode, file: f, info: info}, nil
	}
	if err := f.Close(); err != nil {
		return nil, openError(path, err)
	}
	return openRotating(path, rotation)
}

func openAppend(path string, mode fs.FileMode) (*os.File, os.FileInfo, error) {
	f, err := safefile.Open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return nil, nil, openError(path, err)
	}
	info, err := f.Stat()
	if err == nil && mode != 0 && info.Mode().IsRegular() && info.Mode().Perm() != mode {
		err = f.Chmod(mode)
	}
	if err != nil {
		return nil, nil, errors.Join(openError(path, err), f.Close())
	}
	return f, info, nil
}

// A plainFile is a file that only other programs rotate.
type plainFile struct {
	path string
	mode fs.FileMode // 0: as OpenFile makes it
	file *os.File
	info os.FileInfo
}

// Write appends p. It checks first whether the file is still at its path: a file that was
// moved can be compressed and removed at any moment.
func (f *plainFile) Write(p []byte) (int, error) {
	if replaced(f.path, f.info) {
		file, info, err := openAppend(f.path, f.mode)
		if err != nil {
			return 0, err
		}
		old := f.file
		f.file, f.info = file, info // also if old cannot be closed: nothing more goes there
		if err := old.Close(); err != nil {
			return 0, openError(f.path, err)
		}
	}
	return f.file.Write(p)
}

func (f *plainFile) Close() error { return f.file.Close() }

// replaced reports whether the file at path is gone or is not the one of info.
func replaced(path string, info os.FileInfo) bool {
	now, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(info, now))
}

// openError returns an error of one line that names the path.
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

// A rotatingFile rotates with lumberjack, as most Go programs do, and works around what
// version 2.2.1 does unexpectedly:
//   - It opens the file at the first write, creates missing directories, and renames what it
//     cannot open, such as a directory. OpenFile opens the file first, so it fails before
//     that.
//   - It renames a symbolic link instead of its target.
//   - It does not rotate by age: its MaxAge is the age of rotated files.
//   - Its zero MaxSize means 100 MB.
//
// Two things remain. The names of rotated files have milliseconds, and a second file of the
// same millisecond would replace the first: with files of a mebibyte or more, that takes a
// gigabyte of events a second. And Close leaves a goroutine behind, so a program should open
// each file once.
type rotatingFile struct {
	log    lumberjack.Logger
	info   os.FileInfo // of the file at the last write
	mode   fs.FileMode // 0: that of the file before
	maxAge time.Duration
	birth  time.Time
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
	if err := safefile.CheckFolder(path); err != nil {
		return nil, fmt.Errorf("output file %q cannot be rotated: %w; put it into a directory that only its owner can write, such as /var/log/nstrace", path, errors.Unwrap(err))
	}
	r := &rotatingFile{
		log: lumberjack.Logger{
			Filename:   path,
			MaxSize:    roundUp(rotation.MaxSize, 1<<20),
			MaxAge:     roundUp(int64(rotation.KeepFor), int64(24*time.Hour)),
			MaxBackups: rotation.Keep,
			Compress:   rotation.Compress,
		},
		mode:   rotation.Mode,
		maxAge: rotation.MaxAge,
		birth:  birthTime(path),
		now:    time.Now,
	}
	if rotation.MaxSize <= 0 {
		r.log.MaxSize = math.MaxInt >> 20
	}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, r.log.Close())
	}
	return r, nil
}

// open makes lumberjack open the file, by an empty write, and notes which file it is.
func (r *rotatingFile) open() (err error) {
	if _, err = r.log.Write(nil); err == nil {
		r.info, err = os.Stat(r.log.Filename)
	}
	if err == nil && r.mode != 0 && r.info.Mode().Perm() != r.mode {
		err = os.Chmod(r.log.Filename, r.mode)
	}
	if err != nil {
		return openError(r.log.Filename, err)
	}
	return nil
}

// Write appends p. It rotates the file first if that is due.
func (r *rotatingFile) Write(p []byte) (int, error) {
	if replaced(r.log.Filename, r.info) { // by another program, or rotated by the last write
		if err := r.log.Close(); err != nil {
			return 0, openError(r.log.Filename, err)
		}
		if err := r.open(); err != nil {
			return 0, err
		}
		r.birth = birthTime(r.log.Filename)
	}
	if now := r.now(); r.maxAge > 0 && now.Sub(r.birth) >= r.maxAge && len(p) > 0 {
		if err := r.log.Rotate(); err != nil {
			return 0, err
		}
		if err := r.open(); err != nil {
			return 0, err
		}
		r.birth = now
	}
	return r.log.Write(p)
}

func (r *rotatingFile) Close() error { return r.log.Close() }

// birthTime returns when a file was created, or, if the file system does not keep that, when
// it was last changed. An empty file counts as new.
func birthTime(path string) time.Time {
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

// roundUp returns n in whole units, rounded up.
func roundUp(n, unit int64) int {
	if n <= 0 {
		return 0
	}
	return int((n-1)/unit + 1)
}
