// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/pipeline"
)

// TestParseNetSelector has each form of network namespace that --netns accepts.
func TestParseNetSelector(t *testing.T) {
	own, err := procfs.NamespaceInode("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]pipeline.NetSelector{
		"4026531905":              {ID: 4026531905},
		strconv.Itoa(os.Getpid()): {ID: own},
		"/proc/self/ns/net":       {ID: own},
		"blue":                    {Name: "blue"},
	} {
		if got, err := pipeline.ParseNetSelector(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "4194304", "/proc/self/status", "/nonexistent"} {
		if got, err := pipeline.ParseNetSelector(text); err == nil {
			t.Errorf("%q is accepted as %+v", text, got)
		}
	}
}
