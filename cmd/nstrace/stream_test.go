// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSaysNoTerminal(t *testing.T) {
	for err, want := range map[error]bool{
		nil: false, unix.ENXIO: true, unix.ENOTTY: true, unix.EMFILE: false, unix.EACCES: false, unix.ENOENT: false, errors.ErrUnsupported: false,
	} {
		if err != nil {
			err = &fs.PathError{Op: "open", Path: "/dev/tty", Err: err}
		}
		if got := saysNoTerminal(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
