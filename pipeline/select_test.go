// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/nstrace/nstrace/event"
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

// TestSelectChanged has writes with and without a change.
func TestSelectChanged(t *testing.T) {
	text := func(s string) *string { return &s }
	s := pipeline.Selection{Changed: true}
	for _, row := range []struct {
		name string
		e    event.Event
		want bool
	}{
		{"another value", event.Event{Sysctl: &event.Sysctl{Old: text("1"), New: text("2")}}, true},
		{"the same value", event.Event{Sysctl: &event.Sysctl{Old: text("1"), New: text("1")}}, false},
		{"the same list", event.Event{Sysctl: &event.Sysctl{Old: text("1\t2"), New: text("1 2")}}, false},
		{"a value that the kernel ignored", event.Event{Sysctl: &event.Sysctl{Old: text("1"), New: text("2"), After: text("1")}}, false},
		{"a value that the kernel changed", event.Event{Sysctl: &event.Sysctl{Old: text("1"), New: text("1"), After: text("2")}}, true},
		{"a refused value", event.Event{Outcome: event.Failure, Sysctl: &event.Sysctl{Old: text("1"), New: text("1")}}, true},
		{"unknown", event.Event{Sysctl: &event.Sysctl{New: text("1")}}, true},
		{"no write", event.Event{}, true},
	} {
		if got := s.Match(&row.e); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}
