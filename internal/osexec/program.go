// SPDX-License-Identifier: Apache-2.0

package osexec

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/safefile"
)

// folders have the programs of the system.
var folders = []string{
	"/usr/bin", "/bin", "/usr/sbin", "/sbin",
	"/run/current-system/sw/bin",      // NixOS
	"/run/current-system/profile/bin", // Guix
}

// Program returns the path of a program of the system. Unlike the shell it does not look at PATH. Only root can
// write to the folder and to the program.
func Program(name string) (string, error) { return programIn(folders, name) }

func programIn(folders []string, name string) (string, error) {
	var unsafe error
	for _, folder := range folders {
		path := filepath.Join(folder, name)
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
			continue
		}
		err := safefile.CheckFolder(path)
		if err == nil && (st.Uid != 0 || st.Mode&0o022 != 0) {
			err = errors.New("others than root can write to it")
		}
		if err == nil {
			return path, nil
		}
		unsafe = fmt.Errorf("%s: %w", path, err)
	}
	if unsafe != nil {
		return "", unsafe
	}
	return "", fmt.Errorf("%s: %w in a folder of the system", name, exec.ErrNotFound)
}
