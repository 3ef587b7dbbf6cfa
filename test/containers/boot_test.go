// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// setting is what systemd-sysctl says that it does.
var setting = regexp.MustCompile(`^Setting '([^']*)' to '([^']*)'`)

// TestBootRecorded looks at the boot of a guest that started nstrace as its unit does, with the files in testdata/boot:
// what systemd-sysctl, udev and systemd-networkd wrote is in the history, although /var was mounted later.
func TestBootRecorded(t *testing.T) {
	if state, _ := exec.Command("systemctl", "is-enabled", "nstrace.service").Output(); !runtimetest.IsGuest() || !strings.HasPrefix(string(state), "enabled") {
		t.Skip("needs a guest that records its boot: NSTRACE_TEST_ALL=1 go test ./test/vm -run TestSystemdBoot")
	}
	show := func(unit, property string) string {
		t.Helper()
		return runtimetest.Output(t, "systemctl", "show", "--property="+property, "--value", unit)
	}
	at := func(unit, property string) time.Duration {
		t.Helper()
		usec, err := strconv.ParseInt(show(unit, property), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(usec) * time.Microsecond
	}
	history := func(args ...string) (all []*event.Event) {
		t.Helper()
		for l := range strings.Lines(runtimetest.Output(t, nstraceBin, append([]string{"history", "-o", "json", "--boot"}, args...)...)) {
			e := new(event.Event)
			if err := json.Unmarshal([]byte(l), e); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			all = append(all, e)
		}
		return all
	}
	runtimetest.Eventually(t, "the history is there", func() bool {
		_, err := os.Stat("/var/lib/nstrace/history.db")
		return err == nil
	})
	active := at("nstrace.service", "ActiveEnterTimestampMonotonic")
	for _, unit := range []string{"systemd-sysctl.service", "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-networkd.service"} {
		if began := at(unit, "ExecMainStartTimestampMonotonic"); began < active {
			t.Errorf("%s began at %v, and nstrace was active at %v", unit, began, active)
		}
	}
	mounted := at("var.mount", "ActiveEnterTimestampMonotonic")
	if mounted < active {
		t.Errorf("/var was mounted at %v, and nstrace was active at %v", mounted, active)
	}
	t.Logf("nstrace: started at %v, active at %v; /var mounted at %v; default.target at %v; CPU time %s ns", at("nstrace.service", "ExecMainStartTimestampMonotonic"),
		active, mounted, at("default.target", "ActiveEnterTimestampMonotonic"), show("nstrace.service", "CPUUsageNSec"))
	if info, err := os.Stat("/var/lib/nstrace"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}

	// What udev and systemd-networkd do goes on in the background.
	settings := map[string]string{
		"systemd-udevd.service":    "net.ipv4.conf.lo.rp_filter=2",
		"systemd-networkd.service": "net.ipv4.conf.boot0.proxy_arp=1",
	}
	for unit, want := range settings {
		name, value, _ := strings.Cut(want, "=")
		runtimetest.Eventually(t, unit+" sets "+want, func() bool {
			now, err := os.ReadFile(event.SysctlPath(name))
			return err == nil && strings.TrimSpace(string(now)) == value
		})
	}

	all := history()
	if len(all) == 0 || all[0].Type != event.TraceStart || all[0].Seq != 1 {
		t.Fatalf("the history does not begin with the start: %d events", len(all))
	}
	for i, e := range all {
		if e.Type == event.TraceLoss || e.Seq != uint64(i+1) {
			t.Errorf("event %d: %s", i+1, line(e))
		}
	}
	writes := pick(all, func(e *event.Event) bool {
		return e.Type == event.SysctlWrite && e.Outcome == event.Success && e.Sysctl.New != nil
	})
	by := func(unit string) (found []string) {
		for _, e := range writes {
			if e.Unit == unit && e.Via == "write" {
				found = append(found, e.Sysctl.Name+"="+*e.Sysctl.New)
			}
		}
		return found
	}

	// What systemd-sysctl says in the journal.
	var said []string
	for l := range strings.Lines(runtimetest.Output(t, "journalctl", "--unit", "systemd-sysctl.service", "--output", "cat")) {
		if m := setting.FindStringSubmatch(l); m != nil {
			name, ok := event.SysctlName(m[1])
			if !ok {
				t.Errorf("%q is no parameter", l)
			}
			said = append(said, name+"="+m[2])
		}
	}
	got := by("systemd-sysctl.service")
	if len(said) < 4 || !slices.Equal(got, said) {
		t.Errorf("systemd-sysctl says\n%q, and wrote\n%q", said, got)
	}
	for unit, want := range settings {
		if got := by(unit); !slices.Contains(got, want) {
			t.Errorf("%s wrote %q, want %s", unit, got, want)
		}
	}

	verdict := runtimetest.Output(t, nstraceBin, "explain", "vm.swappiness")
	if last := verdict[strings.LastIndex(verdict, "\n")+1:]; !regexp.MustCompile(`declared 43 in /etc/sysctl.d/60-boot.conf:1; applied by systemd-sysctl\[\d+\] at [\d:]+; is as declared`).MatchString(last) {
		t.Errorf("explain: %s", verdict)
	}
	// Nothing here writes it, and what came before the system's root is unknown.
	verdict = runtimetest.Output(t, nstraceBin, "explain", "kernel.panic")
	if last := verdict[strings.LastIndex(verdict, "\n")+1:]; !strings.Contains(last, ", when the history of this boot begins") {
		t.Errorf("explain: %s", verdict)
	}

	if out := runtimetest.Output(t, "journalctl", "--output", "cat", "_PID=1"); strings.Contains(out, "ordering cycle") {
		t.Errorf("the units depend on each other in a circle:\n%s", out)
	}

	// At shutdown, nstrace ends before systemd unmounts the folder's file system.
	runtimetest.Output(t, "systemctl", "stop", "nstrace-folder.service")
	if state := show("nstrace.service", "ActiveState"); state != "inactive" {
		t.Errorf("nstrace is %s", state)
	}
	if all := history(); all[len(all)-1].Type != event.TraceStop {
		t.Errorf("the last event: %s", line(all[len(all)-1]))
	}
	if out := runtimetest.Output(t, nstraceBin, "history", "verify"); !strings.Contains(out, "nothing was removed or changed") {
		t.Error(out)
	}
}
