// SPDX-License-Identifier: Apache-2.0

package procfs_test

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// A mount, a remount and an unmount are changes.
func TestMountChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	changes, end := procfs.MountChanges()
	defer end()
	await := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(time.Minute):
			t.Fatalf("%s is no change", what)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	await("a mount")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	await("a remount")
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	await("an unmount")
}
