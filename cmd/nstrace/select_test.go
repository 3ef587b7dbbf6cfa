// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"testing"

	"github.com/nstrace/nstrace/pipeline"
)

// TestParseNet has each kind of network namespace that --netns takes.
func TestParseNet(t *testing.T) {
	own, err := netAt("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]pipeline.NetSelector{
		"4026531905":              {ID: 4026531905},
		strconv.Itoa(os.Getpid()): {ID: own},
		"/proc/self/ns/net":       {ID: own},
		"blue":                    {Name: "blue"},
	} {
		if got, err := parseNet(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "4194304", "/proc/self/status", "/nonexistent"} {
		if got, err := parseNet(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}
