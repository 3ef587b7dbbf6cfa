// SPDX-License-Identifier: Apache-2.0

//go:build confinetest

package resolver

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/nstrace/nstrace/internal/confine/confinetest"
)

// attemptsVar makes the child try what its profile denies, and write the results to standard error. Only a
// binary with the build tag confinetest does that.
const attemptsVar = "NSTRACE_TEST_RESOLVER_ATTEMPTS"

func init() {
	kept = append(kept, attemptsVar, "NSTRACE_TEST_GETENT")
	confined = func() {
		if os.Getenv(attemptsVar) == "" {
			return
		}
		text, err := json.Marshal(confinetest.Attempt())
		fmt.Fprintln(os.Stderr, "attempts:", string(text), err)
	}
}
