// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/fusetest"
)

// mountNet mounts the caller's network namespace on a file.
func mountNet(t *testing.T, file string) {
	t.Helper()
	if err := unix.Mount("/proc/self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
}

// TestOpenNamespace opens a namespace by each kind of path, and other files by none.
func TestOpenNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	id, err := NamespaceOf("self", event.NSTypeNet)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, pipe, link := filepath.Join(dir, "a b\tc"), filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mountNet(t, file)
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/ns/net", link); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	pid := os.Getpid()
	for path, ok := range map[string]bool{
		"/proc/self/ns/net": true, "/proc/thread-self/ns/net": true, fmt.Sprintf("/proc/%d/task/%d/ns/net", pid, pid): true,
		fmt.Sprintf("/proc/%d/fd/%d", pid, open.Fd()): true, file: true, fmt.Sprintf("/proc/%d/root%s", pid, file): true,
		pipe: false, link: false, dir: false, "/proc/self/ns/uts": false, "/proc/self/fd/0": false, "/proc/self/exe": false, "": false,
	} {
		fd, err := OpenNamespace(event.NSTypeNet, id, []string{"/no/such/file", path})
		if (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
		if err == nil {
			if ns, ok := Identify(fd); !ok || ns.ID != id {
				t.Errorf("%q led to %+v", path, ns)
			}
			unix.Close(fd)
		}
		if got, want := HandleID(path), HandleID("/proc/self/ns/net"); ok && got != want {
			t.Errorf("%q has the id %d, want %d", path, got, want)
		}
	}
}

// TestUnmountNamespace unmounts a namespace, and nothing else.
func TestUnmountNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mountNet(t, file)
	for _, path := range []string{"/proc", filepath.Dir(file), "/proc/self/ns/net", file + "x"} {
		if err := UnmountNamespace(path); err == nil {
			t.Errorf("%q was unmounted", path)
		}
	}
	if _, ok := MountedAt(file); !ok {
		t.Fatal("nothing is mounted")
	}
	err := UnmountNamespace(file)
	if _, ok := MountedAt(file); ok || err != nil {
		t.Errorf("it is mounted: %v %v", ok, err)
	}
}

// TestOpenNamespaceHung has a namespace mounted in a file system whose server does not answer any more, and
// a descriptor of another file in that. Nobody waits for the server.
func TestOpenNamespaceHung(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	id, err := NamespaceOf("self", event.NSTypeNet)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "fuse")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	server := fusetest.Mount(t, dir)
	file := filepath.Join(dir, "net")
	mountNet(t, file)
	other, err := unix.Open(filepath.Join(dir, "other"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	server.Silence()
	go func() { // the server is indeed asked, and does not answer
		var st unix.Stat_t
		_ = unix.Stat(file, &st)
	}()
	<-server.Asked()
	done := make(chan struct{})
	go func() {
		defer close(done)
		paths := []string{file, fmt.Sprintf("/proc/%d/root%s", os.Getpid(), file), fmt.Sprintf("/proc/self/fd/%d", other)}
		if fd, err := OpenNamespace(event.NSTypeNet, id, paths); err == nil {
			t.Error("opened a namespace without asking the server")
			unix.Close(fd)
		}
		fd, err := OpenNamespace(event.NSTypeNet, id, append(paths, "/proc/self/ns/net"))
		if err != nil {
			t.Errorf("the last path: %v", err)
		}
		unix.Close(fd)
		for _, path := range paths {
			if got := HandleID(path); got != 0 {
				t.Errorf("%s: id %d", path, got)
			}
		}
		if OnNSFS(paths[2]) {
			t.Error("a file of the server is that of a namespace")
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("waits for the server")
	}
	server.End()
	<-done
}
