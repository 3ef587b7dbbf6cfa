// SPDX-License-Identifier: Apache-2.0

package coverage

import (
	"strings"
	"testing"
)

func TestRanges(t *testing.T) {
	all := strings.Fields("5.10 6.1 6.12 7.0 7.1 arm64-5.10 arm64-6.12")
	for some, want := range map[string]string{
		"6.1":           "6.1",
		"7.1":           "7.1",
		"7.0 7.1":       "from 7.0",
		"5.10 6.1":      "5.10 to 6.1",
		"5.10 6.12 7.0": "5.10, 6.12 to 7.0",
		"6.1 7.0 7.1":   "6.1, from 7.0",

		"7.1 arm64-5.10":            "7.1, arm64-5.10",
		"7.0 7.1 arm64-6.12":        "from 7.0, arm64-6.12",
		"7.1 arm64-5.10 arm64-6.12": "7.1, from arm64-5.10",
	} {
		if got := ranges(strings.Fields(some), all); got != want {
			t.Errorf("%s: %q, want %q", some, got, want)
		}
	}
}
