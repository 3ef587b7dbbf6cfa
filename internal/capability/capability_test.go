// SPDX-License-Identifier: Apache-2.0

package capability

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSet checks names against those that the kernel has.
func TestSet(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	last, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if last >= len(names) {
		t.Errorf("the kernel has capabilities up to %d, and %d have names", last, len(names))
	}
	s := Of(unix.CAP_SYS_ADMIN, unix.CAP_CHOWN)
	if text, err := json.Marshal(s); err != nil || string(text) != `["CAP_CHOWN","CAP_SYS_ADMIN"]` || s.String() != "CAP_CHOWN CAP_SYS_ADMIN" {
		t.Errorf("%s %v %v", text, s, err)
	}
}

// TestThread compares the sets with those in /proc.
func TestThread(t *testing.T) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for field, read := range map[string]func() (Set, error){"CapPrm": Permitted, "CapEff": Effective} {
		_, rest, _ := strings.Cut(string(status), field+":\t")
		hex, _, _ := strings.Cut(rest, "\n")
		want, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(); err != nil || got != Set(want) {
			t.Errorf("%s: %v (%v), want %x", field, got, err, want)
		}
	}
}
