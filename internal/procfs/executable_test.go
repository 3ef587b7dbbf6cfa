// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// waiting starts a program that waits, and returns its PID and its start time.
func waiting(t *testing.T, cmd *exec.Cmd) (pid uint32, start uint64) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs the program by now
		t.Fatal(err)
	}
	ticks, err := startTicks(uint32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(cmd.Process.Pid), ticks*uint64(ClockTick) - uint64(BootOffset())
}

// TestHostFiles has processes that run a file of the host, and others.
func TestHostFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changes owners and mounts, which only root can")
	}
	cat, err := filepath.EvalSymlinks("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copied := func(name string, mode os.FileMode, uid int) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots, users, writable := copied("root", 0o755, 0), copied("user", 0o755, 1000), copied("group", 0o775, 0)
	in := func(script string, args ...string) *exec.Cmd {
		cmd := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		return cmd
	}
	var h HostFiles
	for name, tt := range map[string]struct {
		cmd  *exec.Cmd
		path string
		want bool
	}{
		"the host's":                       {exec.Command(cat), cat, true},
		"the host's, of root":              {exec.Command(roots), roots, true},
		"the host's, in another namespace": {in(`exec "$1"`, cat), cat, true},
		"another file":                     {exec.Command(cat), roots, false},
		"no file":                          {exec.Command(cat), dir + "/none", false},
		"no absolute path":                 {exec.Command(cat), "...", false},
		"a user's file":                    {exec.Command(users), users, false},
		"a group can write to it":          {exec.Command(writable), writable, false},
		"mounted over the host's":          {in(`mount --bind "$1" "$2"; exec "$2"`, users, roots), roots, false},
		"in a file system of its own": {in(`mount -t tmpfs none "$1"; cp "$2" "$1/root"; exec "$1/root"`, dir, cat),
			roots, false},
	} {
		pid, start := waiting(t, tt.cmd)
		if got := h.Runs(pid, start, tt.path); got != tt.want {
			t.Errorf("%s: %s: %v, want %v", name, tt.path, got, tt.want)
		}
		if h.Runs(pid, start+2*uint64(ClockTick), tt.path) {
			t.Errorf("%s: a process with the same PID", name)
		}
		if got, want := RunsPath(pid, start, tt.path), name != "another file" && name != "no file" && name != "no absolute path"; got != want {
			t.Errorf("%s: runs the path %s: %v, want %v", name, tt.path, got, want)
		}
		if RunsPath(pid, start+2*uint64(ClockTick), tt.path) {
			t.Errorf("%s: runs the path, with the same PID", name)
		}
	}
}
