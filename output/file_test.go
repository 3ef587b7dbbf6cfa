// SPDX-License-Identifier: Apache-2.0

package output

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// files returns the contents of the files in a directory by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// appendLine opens a file, writes a line to it and closes it.
func appendLine(t *testing.T, path string, rotation Rotation) {
	t.Helper()
	f, err := OpenFile(path, rotation)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("line\n")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

var rotations = map[string]Rotation{"plain": {}, "rotated": {MaxSize: 1 << 20, MaxAge: time.Hour}}

// TestSharedFolder has others write to the folder of the output.
func TestSharedFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(filepath.Join(dir, "rotated"), rotations["rotated"]); err == nil || !strings.Contains(err.Error(), "cannot be rotated: other users can write to its directory; put it into") {
		t.Errorf("%v", err)
	}
	path := filepath.Join(dir, "plain")
	f, err := OpenFile(path, Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if mode := mode(t, path); mode != 0o600 {
		t.Errorf("mode %v", mode)
	}
	// Somebody has another file be written to, once by a hard link.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.Link(victim, path)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("line\n")); err == nil || !strings.Contains(err.Error(), "hard links, and other users can write to its directory") {
		t.Errorf("%v", err)
	}
	if info, err := os.Stat(victim); err != nil || info.Size() != 0 {
		t.Errorf("the victim has %d bytes, %v", info.Size(), err)
	}
}

func TestOpenFileAppends(t *testing.T) {
	for name, rotation := range rotations {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events.json")
			defer syscall.Umask(syscall.Umask(0))
			for range 2 {
				appendLine(t, path, rotation)
			}
			if got := files(t, filepath.Dir(path)); len(got) != 1 || got["events.json"] != "line\nline\n" {
				t.Errorf("%q", got)
			}
			if m := mode(t, path); m != 0o600 {
				t.Errorf("mode %v", m)
			}
		})
	}
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, rotation := range rotations {
		for _, tt := range []struct {
			what, path string
			want       error
			says       string
		}{
			{"missing directory", filepath.Join(dir, "no/such/events.json"), fs.ErrNotExist, `directory "` + dir + `/no/such": no such file or directory`},
			{"directory", dir, syscall.EISDIR, "is a directory"},
			{"below a file", filepath.Join(file, "events.json"), syscall.ENOTDIR, "not a directory"},
			{"read-only place", "/proc/sys/kernel/nstrace.json", nil, "output file"},
			{"nothing", "", fs.ErrNotExist, "output file"},
		} {
			f, err := OpenFile(tt.path, rotation)
			if err == nil {
				f.Close()
				t.Errorf("%s, %s: opened", name, tt.what)
				continue
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %v", name, tt.what, err)
			}
		}
	}
	if m := mode(t, dir); !m.IsDir() {
		t.Error("the directory is gone")
	}
	if _, err := os.Stat(filepath.Join(dir, "no")); err == nil {
		t.Error("the missing directory was made")
	}
}

func TestOpenFileUnwritableDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere")
	}
	path := filepath.Join(t.TempDir(), "events.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Dir(path), 0o700)
	if f, err := OpenFile(path, Rotation{}); err != nil {
		t.Errorf("without rotation: %v", err)
	} else {
		f.Close()
	}
	if _, err := OpenFile(path, Rotation{MaxSize: 1}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("with rotation: %v", err)
	}
}

// TestRotatedByOthers moves the file away, as logrotate(8) does, or removes it between two
// lines, with and without a new file in its place.
func TestRotatedByOthers(t *testing.T) {
	for name, rotation := range rotations {
		dir := t.TempDir()
		path := filepath.Join(dir, "events.json")
		f, err := OpenFile(path, rotation)
		if err != nil {
			t.Fatal(err)
		}
		for i, between := range []string{"mv events.json events.json.1", "mv events.json events.json.2; echo new >events.json", "rm events.json", "true"} {
			if _, err := fmt.Fprintf(f, "line %d\n", i); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-e", "-c", between)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", between, err, out)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"events.json.1": "line 0\n", "events.json.2": "line 1\n", "events.json": "line 3\n"}
		if got := files(t, dir); !maps.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRotateBySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.json")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, Rotation{MaxSize: 1<<20 - 5})
	if err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat("0123456789abcde\n", 4096)
	for range 40 { // 2.5 MiB
		if _, err := f.Write([]byte(block)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	total := 0
	all := files(t, filepath.Dir(path))
	for name, content := range all {
		total += len(content)
		if len(content) > 1<<20 || !strings.HasSuffix(content, "\n") {
			t.Errorf("%s: %d bytes", name, len(content))
		}
		if m := mode(t, filepath.Join(filepath.Dir(path), name)); m != 0o640 {
			t.Errorf("%s: mode %v, not that of the first", name, m)
		}
	}
	if len(all) != 3 || total != 40*len(block) {
		t.Errorf("%d files with %d bytes, want 3 with %d", len(all), total, 40*len(block))
	}
}

func TestRotateByAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.json")
	f, err := OpenFile(path, Rotation{MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f.(*rotatingFile).now = func() time.Time { return now }
	for i, want := range []int{1, 1, 2, 2, 3} {
		if _, err := f.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		if got := files(t, filepath.Dir(path)); len(got) != want {
			t.Errorf("write %d: %d files, want %d", i, len(got), want)
		}
		now = now.Add(40 * time.Minute)
		time.Sleep(2 * time.Millisecond) // the names of rotated files have milliseconds
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range files(t, filepath.Dir(path)) {
		if content == "" {
			t.Errorf("%s is empty", name)
		}
	}
}

// TestRotateByAgeAcrossRuns checks that the age of a file does not start again with a new run.
func TestRotateByAgeAcrossRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.json")
	for range 2 {
		appendLine(t, path, Rotation{MaxAge: 50 * time.Millisecond})
		time.Sleep(60 * time.Millisecond)
	}
	if got := files(t, filepath.Dir(path)); len(got) != 2 {
		t.Errorf("%d files, want 2", len(got))
	}
}

func TestRotateBehindLink(t *testing.T) {
	dir, logs := t.TempDir(), t.TempDir()
	link := filepath.Join(dir, "events.json")
	if err := os.Symlink(filepath.Join(logs, "real.json"), link); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(link, Rotation{MaxAge: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		time.Sleep(2 * time.Millisecond) // the names of rotated files have milliseconds
		if _, err := f.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files beside the link", n)
	}
	if n := len(files(t, logs)); n < 2 {
		t.Errorf("%d files where it points, want 2 or more", n)
	}
}

func TestDeviceIsNotRotated(t *testing.T) {
	f, err := OpenFile("/dev/null", Rotation{MaxSize: 1, MaxAge: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 20 {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if m := mode(t, "/dev/null"); m&fs.ModeCharDevice == 0 {
		t.Fatal("/dev/null was rotated")
	}
}

func TestFullDisk(t *testing.T) {
	f, err := OpenFile("/dev/full", Rotation{})
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("line\n")); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}
