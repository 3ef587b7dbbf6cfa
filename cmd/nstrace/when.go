// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeForms are the forms of systemd.time(7) with a date or a time of day. Without a date, the
// time is today.
var timeForms = []string{
	"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02", "15:04:05", "15:04",
}

// parseWhen parses a time in the forms that journalctl accepts. "1h" alone is an hour ago.
func parseWhen(text string, now time.Time) (time.Time, error) {
	bad := fmt.Errorf(`invalid time %q: want for example "2012-10-30 18:17:16", "18:17", "yesterday", "today", "now", "1h", "1d12h", "1 hour ago" or RFC 3339`, text)
	s := strings.TrimSpace(text)
	year, month, day := now.Date()
	midnight := func(days int) time.Time { return time.Date(year, month, day+days, 0, 0, 0, 0, now.Location()) }
	switch s {
	case "now":
		return now, nil
	case "today":
		return midnight(0), nil
	case "yesterday":
		return midnight(-1), nil
	case "tomorrow":
		return midnight(1), nil
	case "":
		return now, bad
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if rest, ok := strings.CutPrefix(s, "@"); ok {
		if n, err := strconv.ParseInt(rest, 10, 64); err == nil {
			return time.Unix(n, 0), nil
		}
		return now, bad
	}
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return before(now, rest, -1, bad)
	}
	if rest, ok := strings.CutPrefix(s, "+"); ok {
		return before(now, rest, 1, bad)
	}
	if rest, ok := strings.CutSuffix(s, " ago"); ok {
		return before(now, rest, -1, bad)
	}
	where := now.Location()
	if rest, ok := strings.CutSuffix(s, " UTC"); ok {
		s, where = rest, time.UTC
	}
	for _, form := range timeForms {
		t, err := time.ParseInLocation(form, s, where)
		if err != nil {
			continue
		}
		if !strings.HasPrefix(form, "2006") {
			year, month, day := now.In(where).Date()
			t = time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), where)
		}
		return t, nil
	}
	// A span alone is a time ago, unless it could be a clock time or a date.
	if strings.TrimRight(s, "0123456789.") == s {
		return before(now, s, -1, bad)
	}
	return now, bad
}

// before returns the time that is a time span before now, or after it if sign is 1.
func before(now time.Time, text string, sign int, bad error) (time.Time, error) {
	d, err := parseSpan(text)
	if err != nil {
		return now, bad
	}
	return now.Add(time.Duration(sign) * d), nil
}
