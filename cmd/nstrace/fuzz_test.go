// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

// FuzzWhen parses times. A time that is printed in RFC 3339 is the same time, and a span has the same length with a unit
// of Go.
func FuzzWhen(f *testing.F) {
	for _, text := range []string{
		"2012-10-30 18:17:16", "18:17", "yesterday", "now", "1h", "1d12h", "1 hour ago", "2026-01-02T03:04:05Z", "@1700000000", "-3w", "+1.5h",
		"2012-10-30 UTC", "@-9223372036854775808", "1e9s", "9999999999999w", "0.0000000001ns", "µs",
	} {
		f.Add(text)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if at, err := parseWhen(text, now); err == nil && at.Year() > 0 && at.Year() < 10000 {
			again, err := parseWhen(at.Format(time.RFC3339Nano), now)
			if err != nil || !again.Equal(at) {
				t.Errorf("%q is %v, and that is %v, %v", text, at, again, err)
			}
		}
		d, err := parseSpan(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Errorf("%q is %v", text, d)
		}
		// Float64 has 53 bits.
		if again, err := parseSpan(d.String()); err != nil || (again-d).Abs() > max(1, d>>50) {
			t.Errorf("%q is %v, and that is %v, %v", text, d, again, err)
		}
	})
}
