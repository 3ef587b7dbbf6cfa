// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"testing"
	"time"
)

func TestBootOffset(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"monotonic           0         0\nboottime            0         0\n": 0,
		"monotonic        3600         0\nboottime        86400         5\n": 24*time.Hour + 5,
		// A negative offset has the nanoseconds of timespec64, which are not negative.
		"monotonic           0         0\nboottime           -2 500000000\n": -1500 * time.Millisecond,
		"monotonic        3600         0\n":                                  0,
		"boottime x 0\n":                                                     0,
		"boottime 99999999999999999999 0\n":                                  0,
		"":                                                                   0,
	} {
		if got := bootOffset(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
