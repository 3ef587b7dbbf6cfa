// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// part is one part of a time span such as "1h 30min".
var part = regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zµ]*)\s*`)

// timeUnits are the units of systemd.time(7) up to weeks, and those of Go.
var timeUnits = map[string]time.Duration{
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"ns": time.Nanosecond, "nsec": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "usec": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// wantSpan says what a time span looks like.
const wantSpan = "want for example 500ms, 30s, 10m, 1h, 3d or 1d12h"

// parseSpan parses a time span: "1h", "3d", "1d12h", "1h 30min". A number without a unit is in seconds.
func parseSpan(text string) (time.Duration, error) {
	bad := fmt.Errorf("invalid time %q: %s", text, wantSpan)
	rest := strings.TrimSpace(text)
	if rest == "" {
		return 0, bad
	}
	var d time.Duration
	for rest != "" {
		m := part.FindStringSubmatch(rest)
		if m == nil {
			return 0, bad
		}
		n, err := strconv.ParseFloat(m[1], 64)
		unit, known := timeUnits[m[2]]
		if err != nil || !known || n*float64(unit) > math.MaxInt64/2 {
			return 0, bad
		}
		if d += time.Duration(math.Round(n * float64(unit))); d < 0 || d > math.MaxInt64/2 {
			return 0, bad
		}
		rest = rest[len(m[0]):]
	}
	return d, nil
}

// A spanValue is the value of a flag that takes a time span. Unlike parseSpan it takes no number without a
// unit except 0, because that could be of days as well as of seconds. A minus is for the checks of each flag.
type spanValue time.Duration

// spanVar adds a flag that takes a time span.
func spanVar(fs *pflag.FlagSet, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	fs.Var((*spanValue)(to), name, usage)
}

// Set parses a time span.
func (s *spanValue) Set(text string) error {
	rest, negative := strings.CutPrefix(text, "-")
	d, err := parseSpan(rest)
	if err == nil && d != 0 && strings.TrimRight(rest, "0123456789. ") != rest { // it ends in a number
		err = fmt.Errorf("%q has no unit: %s", text, wantSpan)
	}
	if err != nil {
		return err
	}
	if negative {
		d = -d
	}
	*s = spanValue(d)
	return nil
}

// String returns the span, "0" for none, which --help does not show as a default.
func (s *spanValue) String() string {
	if *s == 0 {
		return "0"
	}
	return time.Duration(*s).String()
}

// Type is the name of the value in --help.
func (s *spanValue) Type() string { return "duration" }
