// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// TestConnectUser connects to the sockets of users, who choose what is in their directories.
func TestConnectUser(t *testing.T) {
	runtimetest.Need(t) // it mounts file systems
	root := t.TempDir()
	at := func(path string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mount := func(fstype, dir string) {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", at(dir), fstype, 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at(dir), unix.MNT_DETACH) })
	}
	listen(t, at("run/secret.sock"))
	listen(t, at("run/user/1000/docker.sock"))
	mount("tmpfs", "run/user/1001")
	listen(t, at("run/user/1001/podman/podman.sock"))
	if err := os.MkdirAll(at("run/user/1002"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../secret.sock", at("run/user/1002/docker.sock")); err != nil {
		t.Fatal(err)
	}
	mount("tmpfs", "run/user/1003/podman") // stands for a FUSE file system
	listen(t, at("run/user/1003/podman/podman.sock"))
	mount("tmpfs", "run/user/1004")
	mount("ramfs", "run/user/1004") // over the one of systemd
	listen(t, at("run/user/1004/docker.sock"))
	var want []Candidate
	for _, row := range []struct {
		Candidate
		err error
	}{
		{Candidate{Docker, at("run/user/1000/docker.sock"), 1000}, nil},
		{Candidate{Podman, at("run/user/1001/podman/podman.sock"), 1001}, nil},
		{Candidate{Docker, at("run/user/1002/docker.sock"), 1002}, unix.ELOOP},
		{Candidate{Podman, at("run/user/1003/podman/podman.sock"), 1003}, unix.EXDEV},
		{Candidate{Docker, at("run/user/1004/docker.sock"), 1004}, unix.EXDEV},
		{Candidate{Docker, at("run/secret.sock"), 0}, nil},
		{Candidate{Docker, at("run/none.sock"), 0}, unix.ENOENT},
	} {
		fd, err := row.Connect()
		if !errors.Is(err, row.err) {
			t.Errorf("%v: %v, want %v", row.Candidate, err, row.err)
		}
		if err == nil {
			unix.Close(fd)
			if row.UID != 0 {
				want = append(want, row.Candidate)
			}
		}
	}
	if found := wellKnownIn(root); !slices.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
}
