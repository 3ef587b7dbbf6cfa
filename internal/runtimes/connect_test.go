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
		{Candidate{Kind: Docker, Path: at("run/user/1000/docker.sock"), UID: 1000}, nil},
		{Candidate{Kind: Podman, Path: at("run/user/1001/podman/podman.sock"), UID: 1001}, nil},
		{Candidate{Kind: Docker, Path: at("run/user/1002/docker.sock"), UID: 1002}, unix.ELOOP},
		{Candidate{Kind: Podman, Path: at("run/user/1003/podman/podman.sock"), UID: 1003}, unix.EXDEV},
		{Candidate{Kind: Docker, Path: at("run/user/1004/docker.sock"), UID: 1004}, unix.EXDEV},
		{Candidate{Kind: Docker, Path: at("run/secret.sock"), UID: 0}, nil},
		{Candidate{Kind: Docker, Path: at("run/none.sock"), UID: 0}, unix.ENOENT},
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

// TestGivenOwner opens sockets that were named. Who owns one, or a directory that it is in, can listen there.
func TestGivenOwner(t *testing.T) {
	runtimetest.Need(t) // it changes owners
	root := t.TempDir()
	for _, path := range []string{"root/s", "root/theirs", "user/below/s"} {
		listen(t, filepath.Join(root, path))
	}
	for path, uid := range map[string]int{"root/theirs": 1001, "user": 1000} {
		if err := os.Chown(filepath.Join(root, path), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "user/below/s"), filepath.Join(root, "root/link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{
		"root/s": 0, "root/none": 0, "root/theirs": 1001, "user/below/s": 1000, "user/none": 1000, "root/link": 1000,
	} {
		s, err := Open(t.Context(), Podman+":"+filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Owner(); got != want {
			t.Errorf("%s: of user %d, want %d", path, got, want)
		}
		s.Close()
	}
}
