// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestUsers compares Users with the output of getent.
func TestUsers(t *testing.T) {
	out, err := exec.Command("getent", "passwd").Output()
	if err != nil {
		t.Fatal(err)
	}
	var users Users
	nobody := uint32(3_999_999_999)
	seen := map[uint32]bool{}
	for line := range strings.Lines(string(out)) {
		entry := strings.Split(line, ":")
		id, err := strconv.ParseUint(entry[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := LookupUID(entry[0]); err != nil || uid != uint32(id) {
			t.Errorf("%s: %d, %v, want %d", entry[0], uid, err, id)
		}
		if uid := uint32(id); !seen[uid] { // the first of several names counts
			if name := users.Name(uid); name != entry[0] {
				t.Errorf("%d: %q, want %q", uid, name, entry[0])
			}
			seen[uid] = true
		}
		if uint32(id) == nobody {
			nobody--
		}
	}
	if name := users.Name(nobody); name != "" {
		t.Errorf("%d: %q", nobody, name)
	}
	if uid, err := LookupUID("nstrace-nobody"); err == nil {
		t.Errorf("nstrace-nobody is %d", uid)
	}
}

// TestUsersSlow checks the waits for a getent that does not answer.
func TestUsersSlow(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "getent"), []byte("#!/bin/sh\necho >>\"$0.called\"\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	useGetent(t, filepath.Join(dir, "getent"))
	var users Users
	begin := time.Now()
	for i := range uint32(1000) {
		if name := users.Name(3_999_000_000 + i); name != "" {
			t.Errorf("%d: %q", i, name)
		}
	}
	took := time.Since(begin)
	if took < userPatience || took > userPatience+took/userShare+5*time.Second {
		t.Errorf("a thousand users took %v, want about %v", took, userPatience)
	}
	if calls, err := os.ReadFile(filepath.Join(dir, "getent.called")); err != nil || len(calls) != 1 {
		t.Errorf("getent was called %d times at once, %v", len(calls), err)
	}
}
