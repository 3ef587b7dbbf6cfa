// SPDX-License-Identifier: Apache-2.0

//go:build confinetest

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/confine/confinetest"
)

// These are for tests, and only in a binary with the build tag confinetest:
//
//	NSTRACE_TEST_KEEP     numbers of the capabilities to keep instead of those of the profile
//	NSTRACE_TEST_ALONE    refuse execs and forks
//	NSTRACE_TEST_ATTEMPTS try what a profile denies, and write the results to this file
func init() {
	adjust = func(p *confine.Profile) {
		if keep, ok := os.LookupEnv("NSTRACE_TEST_KEEP"); ok {
			p.Keep = nil
			for _, number := range strings.Fields(keep) {
				n, err := strconv.ParseUint(number, 10, 6)
				if err != nil {
					panic(err)
				}
				p.Keep = append(p.Keep, confine.Kept{Capability: capability.Capability(n), Why: "a test"})
			}
		}
		if os.Getenv("NSTRACE_TEST_ALONE") != "" {
			p.Exec = false
		}
	}
	confined = func() {
		file := os.Getenv("NSTRACE_TEST_ATTEMPTS")
		if file == "" {
			return
		}
		text, err := json.Marshal(confinetest.Attempt())
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "attempts:", err)
		}
	}
}
