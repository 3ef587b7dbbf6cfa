// SPDX-License-Identifier: Apache-2.0

//go:build confinetest

package attribution

import "os"

// A test sets NSTRACE_TEST_GETENT to the program to start in the place of getent. Only a binary with the build
// tag confinetest does that.
func init() {
	if path := os.Getenv("NSTRACE_TEST_GETENT"); path != "" {
		getentProgram = func() (string, error) { return path, nil }
	}
}
