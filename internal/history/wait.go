// SPDX-License-Identifier: Apache-2.0

package history

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A waitError says why a recorder waits for the folder of its database.
type waitError struct {
	dir string
	err error
}

func (e *waitError) Error() string {
	if errors.Is(e.err, unix.EROFS) {
		return e.dir + " is on a read-only file system"
	}
	return fmt.Sprintf("there is no folder %q", e.dir)
}

func (e *waitError) Unwrap() error { return e.err }

func isWaiting(err error) bool {
	var wait *waitError
	return errors.As(err, &wait)
}

// folderReady returns a waitError while the folder of a database is missing or its file system is read-only. The
// database says what else is wrong.
func folderReady(path string) error {
	dir := filepath.Dir(path)
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EROFS) {
		return &waitError{dir, err}
	}
	return nil
}
