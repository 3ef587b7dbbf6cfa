// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// pidsCgroup makes a cgroup that can limit the number of its tasks, in either version of cgroups.
func pidsCgroup(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers")); err == nil {
			if !strings.Contains(string(controllers), "pids") {
				continue
			}
			if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+pids"), 0); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(parent, "nstrace-e2e-pids")
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := unix.Rmdir(dir); err != nil {
				t.Errorf("remove %s: %v", dir, err)
			}
		})
		if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
			return dir
		}
	}
	t.Skip("this host has no cgroups that limit the number of tasks")
	return ""
}

// TestOutOfPIDs leaves nstrace no process id for a further thread, as a fork bomb does, and has it do
// what it does on threads. It must go on.
func TestOutOfPIDs(t *testing.T) {
	long(t)
	dir := pidsCgroup(t)
	db := filepath.Join(t.TempDir(), "history")
	for _, args := range [][]string{nil, {"record", "--db", db}} {
		s := startStream(t, args...)
		s.awaitStart(t)
		pid := fmt.Sprint(s.cmd.Process.Pid)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		from := s.len()
		for range 50 {
			actUnder(t, s)
		}
		if n := len(only(s.since(from), event.NamespaceCreate)); n != 50 {
			t.Errorf("%d namespaces were made, want 50", n)
		}
		if events := readFile(t, filepath.Join(dir, "pids.events")); !strings.HasPrefix(events, "max ") {
			t.Errorf("pids.events: %q", events)
		}
		// The process that looks up names is not needed, and comes back when there is room.
		resolver := awaitResolver(t, s, 0)
		if err := unix.Kill(resolver, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, resolver)
		for range 10 {
			actUnder(t, s)
		}
		if now := resolverOf(t, s.cmd.Process.Pid); now != 0 {
			t.Errorf("the limit does not apply: there is process %d", now)
		}
		if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte("max"), 0); err != nil {
			t.Fatal(err)
		}
		awaitResolver(t, s, resolver)
		s.interrupt(t)
		if s.err != nil || strings.Contains(s.stderr.String(), "goroutine") {
			t.Errorf("%v\n%s", s.err, s.stderr.String())
		}
	}
}
