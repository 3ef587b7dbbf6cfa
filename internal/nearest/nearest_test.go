// SPDX-License-Identifier: Apache-2.0

package nearest

import "testing"

// TestName has near misses, and words that are only somewhat like a name.
func TestName(t *testing.T) {
	commands := []string{"run", "list", "show", "diff", "graph", "top", "record", "history", "blame", "check"}
	flags := []string{"--event", "--sysctl", "--group", "--since", "--user", "--until"}
	for _, row := range []struct {
		typed, want string
		names       []string
	}{
		{"lst", "list", commands},
		{"rnu", "run", commands},
		{"hist", "history", commands},
		{"histroy", "history", commands},
		{"blam", "blame", commands},
		{"foo", "", commands},
		{"net", "", commands},
		{"x", "", commands},
		{"", "", commands},
		{"--evnt", "--event", flags},
		{"--sinc", "--since", flags},
		{"--us", "", flags},
		{"--color", "", flags},
		{"sysctl.wirte", "sysctl.write", []string{"sysctl", "sysctl.write", "sysctl.drift"}},
		{"network", "net", []string{"mnt", "net", "uts"}},
		{"networks", "", []string{"net", "netw"}},
	} {
		if got := Name(row.typed, row.names); got != row.want {
			t.Errorf("%q: %q, want %q", row.typed, got, row.want)
		}
	}
}
