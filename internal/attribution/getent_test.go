// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGetent has getent answer what a hostile server can make it answer, and checks that it gets no
// environment.
func TestGetent(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"entry":       {"echo someone:x:54333:1::/:/bin/sh", "someone"},
		"none":        {"exit 2", ""},
		"short":       {"echo someone:x:54333", ""},
		"long":        {"while echo -n someone:x:54333:1::/:/bin/sh; do :; done", ""},
		"environment": {"[ -z \"$NSTRACE_TEST_LEAK\" ] && echo clean:x:54333:1::/:/bin/sh", "clean"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "getent"), []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			useGetent(t, filepath.Join(dir, "getent"))
			t.Setenv("NSTRACE_TEST_LEAK", "1")
			if got := Getent(54333); got != tt.want {
				t.Errorf("%.80q, want %q", got, tt.want)
			}
		})
	}
}

// useGetent has a program in the place of getent.
func useGetent(t *testing.T, path string) {
	t.Helper()
	real := getentProgram
	getentProgram = func() (string, error) { return path, nil }
	t.Cleanup(func() { getentProgram = real })
}
