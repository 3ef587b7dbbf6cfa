// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestWhen(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 3, 1, 15, 4, 5, 600, zone)
	for text, want := range map[string]time.Time{
		"2012-10-30 18:17:16":       time.Date(2012, 10, 30, 18, 17, 16, 0, zone),
		"2012-10-30 18:17:16.5":     time.Date(2012, 10, 30, 18, 17, 16, 5e8, zone),
		"2012-10-30 18:17":          time.Date(2012, 10, 30, 18, 17, 0, 0, zone),
		"2012-10-30":                time.Date(2012, 10, 30, 0, 0, 0, 0, zone),
		"2012-10-30 18:17:16 UTC":   time.Date(2012, 10, 30, 18, 17, 16, 0, time.UTC),
		"2012-10-30T18:17:16Z":      time.Date(2012, 10, 30, 18, 17, 16, 0, time.UTC),
		"2012-10-30T18:17:16+05:00": time.Date(2012, 10, 30, 13, 17, 16, 0, time.UTC),
		"18:17":                     time.Date(2026, 3, 1, 18, 17, 0, 0, zone),
		"18:17:16":                  time.Date(2026, 3, 1, 18, 17, 16, 0, zone),
		"now":                       now,
		"today":                     time.Date(2026, 3, 1, 0, 0, 0, 0, zone),
		"yesterday":                 time.Date(2026, 2, 28, 0, 0, 0, 0, zone),
		"tomorrow":                  time.Date(2026, 3, 2, 0, 0, 0, 0, zone),
		"-1h":                       now.Add(-time.Hour),
		"-1h30min":                  now.Add(-90 * time.Minute),
		"+2d":                       now.Add(48 * time.Hour),
		"1 hour ago":                now.Add(-time.Hour),
		"2 weeks 1 day ago":         now.Add(-15 * 24 * time.Hour),
		"-30":                       now.Add(-30 * time.Second),
		"1h":                        now.Add(-time.Hour),
		"1d12h":                     now.Add(-36 * time.Hour),
		"-1.5h":                     now.Add(-90 * time.Minute),
		"@1351620000":               time.Unix(1351620000, 0),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, want %v (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"", "soon", "30", "2012", "-", "-1x", "-h", "2012-13-40", "25:00", "@x", "99999999999999999999 days ago", "ago", "- 1h -2h"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("%q is accepted as %v", text, got)
		} else if err != nil && (!strings.Contains(err.Error(), "yesterday") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Compare with systemd, if this host has it.
func TestWhenIsThatOfSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze")
	}
	for _, text := range []string{
		"2012-10-30 18:17:16", "2012-10-30 18:17", "2012-10-30", "yesterday", "today", "tomorrow", "-1h", "1 hour ago", "-1h30min", "2 weeks 1 day ago",
		"+2d", "@1351620000", "18:17", "2012-10-30 18:17:16 UTC",
	} {
		out, err := exec.Command("systemd-analyze", "timestamp", "--", text).Output()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		_, rest, _ := strings.Cut(string(out), "UNIX seconds: @")
		seconds, _, _ := strings.Cut(rest, "\n")
		want, err := time.ParseDuration(strings.TrimSpace(seconds) + "s")
		if err != nil {
			t.Fatalf("%q: %v in %s", text, err, out)
		}
		got, err := parseWhen(text, time.Now())
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if d := got.Sub(time.Unix(0, int64(want))).Abs(); d > 10*time.Second {
			t.Errorf("%q is %v, to systemd %s", text, got, out)
		}
	}
}

// TestSpan has the forms of a time span, which all flags that take one accept.
func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "500ms": time.Second / 2, "30s": 30 * time.Second, "1h": time.Hour, "3d": 72 * time.Hour, "2w": 14 * 24 * time.Hour,
		"1d12h": 36 * time.Hour, "1h 30min": 90 * time.Minute, "1.5h": 90 * time.Minute, "-1s": -time.Second,
	} {
		var d time.Duration
		if err := (*spanValue)(&d).Set(text); err != nil || d != want {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "-", "30", "1h30", "1 2", "1y", "1h-1m", "h", "1e3s", "999999999999w", "9999999999999999999999s"} {
		var d time.Duration
		if err := (*spanValue)(&d).Set(text); err == nil || !strings.Contains(err.Error(), "want for example") || d != 0 {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
}
