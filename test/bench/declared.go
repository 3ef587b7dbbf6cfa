// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/params"
)

const (
	declaredParameters = 1500
	declaredFiles      = 40
)

// sysctlFolders are the folders of which declare replaces the content.
var sysctlFolders = []string{"/etc", "/run", "/usr/local/lib", "/usr/lib/sysctl.d"}

// declare makes files that declare parameters: those of this host as they are, until there are enough, and then
// parameters of devices that do not exist. The history has no write of the value of lookedUp.
func declare(ctx context.Context, dir string) error {
	root, err := params.Open()
	if err != nil {
		return err
	}
	defer root.Close()
	lines := []string{lookedUp + " = 100000"}
	err = root.Walk(ctx, params.Dir, func(file string) {
		if name, err := params.Name(file); err == nil && name != lookedUp && len(lines) < declaredParameters {
			if v, err := root.ReadIf(file, 0o200); err == nil && !v.Cut && !strings.Contains(v.Text, "\n") {
				lines = append(lines, name+" = "+v.Text)
			}
		}
	})
	if err != nil {
		return err
	}
	for n := 0; len(lines) < declaredParameters; n++ {
		lines = append(lines, fmt.Sprintf("net.ipv4.conf.bench%d.rp_filter = 1", n))
	}
	texts := make([]string, declaredFiles)
	for i, line := range lines {
		texts[i%len(texts)] += "# " + line + "\n" + line + "\n"
	}
	for _, folder := range sysctlFolders {
		if err := os.MkdirAll(filepath.Join(dir, folder, "sysctl.d"), 0o755); err != nil {
			return err
		}
	}
	for i, text := range texts {
		folder := []string{"etc/sysctl.d", "usr/lib/sysctl.d"}[i%2]
		if err := os.WriteFile(filepath.Join(dir, folder, fmt.Sprintf("%02d-bench.conf", i)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// declaring calls do on a thread whose processes see these files as those of the host.
func declaring(dir string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever, so that the thread ends
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("mount: %w", err)
			}
			for _, folder := range sysctlFolders {
				if err := unix.Mount(filepath.Join(dir, folder), folder, "", unix.MS_BIND, ""); err != nil {
					return fmt.Errorf("mount over %s: %w", folder, err)
				}
			}
			return do()
		}()
	}()
	return <-done
}
