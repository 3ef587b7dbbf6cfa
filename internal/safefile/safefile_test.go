// SPDX-License-Identifier: Apache-2.0

package safefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const somebody = 54321

// folders makes folders that others can and cannot change.
func folders(t *testing.T) map[string]string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make files of others")
	}
	dirs := map[string]string{}
	for name, mode := range map[string]os.FileMode{
		"private": 0o755, "sticky": 0o777 | os.ModeSticky, "shared": 0o777, "theirs": 0o755, "group": 0o775, "root's group": 0o775,
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		owner, group := 0, 0
		if name == "theirs" {
			owner = somebody
		}
		if name == "group" {
			group = somebody
		}
		if err := os.Chown(dir, owner, group); err != nil {
			t.Fatal(err)
		}
		dirs[name] = dir
	}
	return dirs
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpen opens what an attacker can put into a folder.
func TestOpen(t *testing.T) {
	dirs := folders(t)
	victim := filepath.Join(t.TempDir(), "victim")
	for _, tt := range []struct {
		name  string
		make  func(path string) error // nil: nothing is there
		wants map[string]error        // by folder; nil if it opens
	}{
		{"new", nil, map[string]error{"private": nil, "sticky": nil, "shared": nil, "theirs": nil, "group": nil}},
		{"own", func(p string) error { return os.WriteFile(p, nil, 0o600) }, map[string]error{"private": nil, "sticky": nil, "shared": nil, "theirs": nil}},
		{"theirs", func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o666), os.Chown(p, somebody, somebody)) },
			map[string]error{"private": nil, "sticky": ErrShared, "shared": ErrShared, "theirs": nil, "group": ErrShared}},
		{"symlink", func(p string) error { return errors.Join(os.Symlink(victim, p), os.Lchown(p, somebody, somebody)) },
			map[string]error{"private": nil, "sticky": ErrShared, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared}},
		{"root's symlink", func(p string) error { return os.Symlink(victim, p) },
			map[string]error{"private": nil, "sticky": nil, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared}},
		{"hard link", func(p string) error { return os.Link(victim, p) },
			map[string]error{"private": nil, "sticky": ErrShared, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared}},
		{"pipe", func(p string) error { return errors.Join(unix.Mkfifo(p, 0o666), os.Chown(p, somebody, somebody)) },
			map[string]error{"sticky": ErrShared, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared}},
		{"own, moved there", func(p string) error { return os.WriteFile(p, nil, 0o644) },
			map[string]error{"private": nil, "sticky": ErrShared, "theirs": nil}},
		{"folder through a link", func(p string) error { return errors.Join(os.Symlink("../..", p), os.Lchown(p, somebody, somebody)) },
			map[string]error{"sticky": ErrShared, "shared": ErrShared, "theirs": ErrShared}},
	} {
		for folder, want := range tt.wants {
			must(t, os.WriteFile(victim, []byte("precious"), 0o600))
			path := filepath.Join(dirs[folder], "events")
			if tt.make != nil {
				must(t, tt.make(path))
			}
			if tt.name == "folder through a link" {
				path += "/events"
			}
			f, err := Open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
			if !errors.Is(err, want) {
				t.Errorf("%s in %s: %v, want %v", tt.name, folder, err, want)
			}
			if err == nil {
				info, statErr := f.Stat()
				must(t, statErr, f.Close())
				if tt.make == nil && info.Mode() != Mode {
					t.Errorf("%s in %s: mode %v", tt.name, folder, info.Mode())
				}
			}
			must(t, os.RemoveAll(filepath.Join(dirs[folder], "events")))
		}
		must(t, os.RemoveAll(victim))
	}
}

// TestFlags checks what os.OpenFile does for each of these flags.
func TestFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := Open(path, os.O_RDWR); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	f, err := Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	must(t, err)
	_, err = f.WriteString("text")
	must(t, err, f.Close())
	if _, err := Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v", err)
	}
	f, err = Open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	must(t, err, f.Close())
	if b, err := os.ReadFile(path); err != nil || len(b) != 0 {
		t.Errorf("%q %v", b, err)
	}
	t.Chdir(filepath.Dir(path))
	for _, relative := range []string{"file", "./file", "..//" + filepath.Base(filepath.Dir(path)) + "/./file"} {
		f, err := Open(relative, os.O_RDONLY)
		must(t, err, f.Close())
	}
	must(t, os.Symlink("loop", "loop"))
	if _, err := Open("loop", os.O_RDONLY); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v", err)
	}
	r, pipe, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer pipe.Close()
	f, err = Open(fmt.Sprintf("/dev/fd/%d", pipe.Fd()), os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	must(t, err)
	_, err = f.WriteString("x")
	must(t, err, f.Close())
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := Open("file/below", os.O_RDONLY); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v", err)
	}
}

// TestRace opens a file while somebody exchanges it with a symbolic link all the time.
func TestRace(t *testing.T) {
	dir := folders(t)["sticky"]
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, nil, 0o600))
	path, link, file := filepath.Join(dir, "events"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	must(t, os.Symlink(victim, link), os.Lchown(link, somebody, somebody), os.WriteFile(file, nil, 0o600), os.WriteFile(path, nil, 0o600))
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		swaps := 0
		for {
			select {
			case <-stop:
				done <- swaps
				return
			default:
			}
			if unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) == nil {
				swaps++
			}
		}
	}()
	opened, refused := 0, 0
	for end := time.Now().Add(time.Minute); (opened < 100 || refused < 100) && time.Now().Before(end); {
		f, err := Open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
		switch {
		case errors.Is(err, ErrShared):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			opened++
			_, err := f.WriteString("x")
			must(t, err, f.Close())
		}
	}
	close(stop)
	if swaps := <-done; swaps == 0 || opened == 0 || refused == 0 {
		t.Errorf("%d exchanges, %d opened, %d refused", swaps, opened, refused)
	}
	if b, err := os.ReadFile(victim); err != nil || len(b) > 0 {
		t.Errorf("the victim has %q, %v", b, err)
	}
}

// TestCheckFolder checks folders, and those above them.
func TestCheckFolder(t *testing.T) {
	dirs := folders(t)
	for name, want := range map[string]error{"private": nil, "sticky": ErrShared, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared, "root's group": ErrShared} {
		if err := CheckFolder(filepath.Join(dirs[name], "file")); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		below := filepath.Join(dirs[name], "below")
		must(t, os.Mkdir(below, 0o700))
		if name == "sticky" {
			want = nil // nobody can replace a folder of root there
		}
		if err := CheckFolder(filepath.Join(below, "file")); !errors.Is(err, want) {
			t.Errorf("below %s: %v, want %v", name, err, want)
		}
	}
}

// TestHoldFiles has others put a file beside a database.
func TestHoldFiles(t *testing.T) {
	dirs := folders(t)
	for name, want := range map[string]error{"private": nil, "sticky": nil, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared} {
		path := filepath.Join(dirs[name], "db")
		held, err := HoldFiles(path, "-wal", "")
		if !errors.Is(err, want) || held != (name == "sticky") {
			t.Errorf("%s: %v, want %v; held %v", name, err, want, held)
		}
		if want != nil {
			continue
		}
		for _, file := range []string{path, path + "-wal"} {
			info, err := os.Stat(file)
			if held != (err == nil) || held && (info.Mode() != Mode || info.Size() != 0) {
				t.Errorf("%s: %v %v", name, info, err)
			}
		}
		must(t, os.WriteFile(path, nil, 0o600), os.WriteFile(path+"-wal", nil, 0o600))
		if _, err := HoldFiles(path, "-wal", ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		must(t, os.Chown(path+"-wal", somebody, somebody))
		if name == "sticky" {
			want = ErrShared
		}
		if _, err := HoldFiles(path, "-wal", ""); !errors.Is(err, want) {
			t.Errorf("%s, with a file of somebody else: %v, want %v", name, err, want)
		}
	}
}

// TestMkdirAll makes folders, but not where others decide what the path leads to.
func TestMkdirAll(t *testing.T) {
	dirs := folders(t)
	for name, want := range map[string]error{"private": nil, "sticky": nil, "shared": ErrShared, "theirs": ErrShared, "group": ErrShared} {
		for range 2 {
			path := filepath.Join(dirs[name], "a", "b", "file")
			if err := MkdirAll(path); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			if info, err := os.Stat(filepath.Dir(path)); (err == nil) != (want == nil) || err == nil && !info.IsDir() {
				t.Errorf("%s: %v", name, err)
			}
		}
		link, elsewhere := filepath.Join(dirs[name], "link"), t.TempDir()
		must(t, os.Symlink(elsewhere, link), os.Lchown(link, somebody, somebody))
		if name != "private" {
			want = ErrShared
		}
		if err := MkdirAll(filepath.Join(link, "c", "file")); !errors.Is(err, want) {
			t.Errorf("%s, through a link: %v, want %v", name, err, want)
		}
		if _, err := os.Stat(filepath.Join(elsewhere, "c")); (err == nil) != (want == nil) {
			t.Errorf("%s, through a link: %v", name, err)
		}
	}
}

// TestProcLinks opens files through links of procfs, whose text is no path.
func TestProcLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to change the root directory")
	}
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755), os.WriteFile(filepath.Join(root, "file"), []byte("inside"), 0o600))
	for _, uid := range []uint32{0, somebody} {
		in, out, err := os.Pipe()
		must(t, err)
		// It waits for its input with another root directory.
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stdin = []string{waitEnv + "=" + root, fmt.Sprintf("SAFEFILE_UID=%d", uid)}, in
		ready, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		_, err = io.ReadFull(ready, make([]byte, 1))
		must(t, err)
		f, err := Open(fmt.Sprintf("/proc/%d/root/file", cmd.Process.Pid), os.O_RDONLY)
		switch {
		case uid != 0 && !errors.Is(err, ErrShared):
			t.Errorf("through a process of somebody else: %v", err)
		case uid == 0 && err != nil:
			t.Error(err)
		case uid == 0:
			if b, err := io.ReadAll(f); string(b) != "inside" {
				t.Errorf("it reads %q: %v", b, err)
			}
		}
		if f != nil {
			f.Close()
		}
		must(t, out.Close(), in.Close())
		_ = cmd.Wait()
	}
}

const waitEnv = "SAFEFILE_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(waitEnv)
	if root == "" {
		os.Exit(m.Run())
	}
	uid, err := strconv.Atoi(os.Getenv("SAFEFILE_UID"))
	if err := errors.Join(err, unix.Chroot(root), syscall.Setuid(uid)); err != nil {
		panic(err)
	}
	fmt.Print(".")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// TestMessages names the directory that is the problem.
func TestMessages(t *testing.T) {
	dirs := folders(t)
	below := filepath.Join(dirs["shared"], "below")
	must(t, os.Mkdir(below, 0o700))
	path := filepath.Join(below, "file")
	for _, check := range []func() error{
		func() error { return CheckFolder(path) },
		func() error { _, err := HoldFiles(path, ""); return err },
	} {
		if err := check(); !errors.Is(err, ErrShared) || !strings.Contains(err.Error(), "replace the directory below") {
			t.Errorf("%v", err)
		}
	}
}
