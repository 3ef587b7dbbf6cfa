// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"strconv"
	"time"
)

const (
	ellipsis = "…"
	arrow    = "→"
	unknown  = "?"
)

func number[T ~uint32 | ~uint64](n T) string { return strconv.FormatUint(uint64(n), 10) }

func plural(n uint64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// duration formats a time span with at most two units: "820ms", "3.2s", "4m12s", "2h03m",
// "9d4h".
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// Age formats an age in at most six columns, in its largest unit: "12s", "4m", "2h", "9d".
func Age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// offset formats the time from the first event of a burst on.
func offset(d time.Duration) string { return fmt.Sprintf("%+.3fs", d.Seconds()) }
