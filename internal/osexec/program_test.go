// SPDX-License-Identifier: Apache-2.0

package osexec

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProgram looks for a program in folders that others can write to.
func TestProgram(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changes owners, which only root can")
	}
	dir := t.TempDir()
	program := func(folder string, owner int, mode os.FileMode, programOwner int, programMode os.FileMode) string {
		t.Helper()
		folder = filepath.Join(dir, folder)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, "getent")
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, of := range map[string]struct {
			owner int
			mode  os.FileMode
		}{path: {programOwner, programMode}, folder: {owner, mode}} {
			if err := os.Chown(name, of.owner, 0); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(name, of.mode); err != nil {
				t.Fatal(err)
			}
		}
		return folder
	}
	wrong := []string{
		filepath.Join(dir, "none"),
		program("user", 1000, 0o755, 0, 0o755),
		program("all", 0, 0o777, 0, 0o755),
		program("group", 0, 0o775, 0, 0o755),
		program("users-program", 0, 0o755, 1000, 0o755),
		program("groups-program", 0, 0o755, 0, 0o775),
		program("no-program", 0, 0o755, 0, 0o644),
	}
	if path, err := programIn(wrong, "getent"); err == nil {
		t.Errorf("found %s", path)
	}
	right := program("root", 0, 0o755, 0, 0o755)
	if path, err := programIn(append(wrong, right), "getent"); err != nil || path != filepath.Join(right, "getent") {
		t.Errorf("found %q, %v", path, err)
	}
	t.Setenv("PATH", right)
	if path, err := Program("getent"); err == nil && filepath.Dir(path) == right {
		t.Errorf("found %s by PATH", path)
	}
	if path, err := Program("sh"); err != nil {
		t.Errorf("no shell: %q, %v", path, err)
	}
}
