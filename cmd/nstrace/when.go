// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// timeForms are the forms of systemd.time(7) with a date or a time of day. Without a date, the
// time is today.
var timeForms = []string{
	"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02", "15:04:05", "15:04",
}

// span is one part of a time span such as "1h 30min".
var span = regexp.MustCompile(`^\s*([0-9]+)\s*([a-z]*)\s*`)

// timeUnits are the units of systemd.time(7).
var timeUnits = map[string]time.Duration{
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// parseWhen parses a time in the forms that journalctl accepts.
func parseWhen(text string, now time.Time) (time.Time, error) {
	bad := fmt.Errorf(`invalid time %q: want for example "2012-10-30 18:17:16", "18:17", "yesterday", "today", "now", "-1h", "1 hour ago" or RFC 3339`, text)
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
	return now, bad
}

// before returns the time that is a time span before now, or after it if sign is 1.
func before(now time.Time, text string, sign int, bad error) (time.Time, error) {
	var d time.Duration
	for text != "" {
		m := span.FindStringSubmatch(text)
		if m == nil {
			return now, bad
		}
		n, err := strconv.ParseInt(m[1], 10, 32)
		unit, known := timeUnits[m[2]]
		if err != nil || !known {
			return now, bad
		}
		d += time.Duration(n) * unit
		if d < 0 {
			return now, bad
		}
		text = text[len(m[0]):]
	}
	return now.Add(time.Duration(sign) * d), nil
}
