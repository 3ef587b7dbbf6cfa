// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

func TestText(t *testing.T) {
	empty := ""
	e := &event.Event{
		Type: event.SysctlWrite, Time: time.Date(2026, 11, 25, 13, 0, 0, 500, time.FixedZone("", 3600)),
		Sysctl:  &event.Sysctl{Name: "vm.swappiness", Old: &empty, Truncated: true},
		Process: &event.Process{Args: []string{"sysctl", "-w"}, NS: map[event.NSType]uint32{"net": 7}},
	}
	for _, tt := range []struct {
		field, want string
		ok          bool
	}{
		{"sysctl.name", "vm.swappiness", true},
		{"sysctl.old", "", true},
		{"sysctl.new", "", false},
		{"sysctl.truncated", "true", true},
		{"process.uid", "0", true},
		{"process.login_uid", "", false},
		{"process.args[-1]", "-w", true},
		{"process.args[2]", "", false},
		{"process.ns.net", "7", true},
		{`process.ns["mnt"]`, "", false},
		{"time", "2026-11-25T12:00:00.0000005Z", true},
		{"container.name", "", false},
		{"count", "", false},
	} {
		text, err := filter.CompileText(tt.field)
		if err != nil {
			t.Errorf("%s: %v", tt.field, err)
			continue
		}
		got, ok := text.Append([]byte("x"), e)
		if ok != tt.ok || string(got) != "x"+tt.want {
			t.Errorf("%s: %q, %v, want %q, %v", tt.field, got, ok, "x"+tt.want, tt.ok)
		}
	}
	for _, bad := range []string{"", "process", "process.args", "process.ns", "1", `"x"`, "proces.uid", "process.uid == 0", "process.uid +"} {
		var mistake *filter.Error
		if text, err := filter.CompileText(bad); text != nil || !errors.As(err, &mistake) {
			t.Errorf("%q: %v, %v", bad, text, err)
		}
	}
}
