// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/store/storetest"
)

// TestFleet records a write, sends it to a real log store, and asks that who it was.
func TestFleet(t *testing.T) {
	anyKernel(t)
	store := storetest.Start(t)
	dir := t.TempDir()
	s := startStream(t, "record", "--db", dir+"/history.db", "--runtime-socket", "none", "--spool", dir+"/spool",
		"--sink", "otlp:"+store.URL+"/insert/opentelemetry/v1/logs")
	s.awaitStart(t)
	const name = "kernel.threads-max"
	value := strings.TrimSpace(readFile(t, "/proc/sys/kernel/threads-max"))
	cmd := exec.Command("sysctl", "-qw", name+"="+value)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ours := func(e *emitted) bool {
		return e.Type == event.SysctlWrite && e.Sysctl.Name == name && int(e.Process.PID) == cmd.Process.Pid
	}
	s.await(t, "write", func(events []*emitted) bool { return slices.ContainsFunc(events, ours) })
	s.interrupt(t)
	s.awaitEnd(t)
	events := s.since(0)
	want := string(events[slices.IndexFunc(events, ours)].line)
	store.Flush()

	host := events[0].Host
	var row struct {
		Parameter, State string
		Value            *string
		Recorded         string
		Event            json.RawMessage
	}
	line := output(t, nstraceBin, "blame", "--store", store.URL, "--host", host, "-o", "json", name)
	if err := json.Unmarshal([]byte(line), &row); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if row.Parameter != name || row.State != "stored" || row.Value != nil || row.Recorded != value || string(row.Event)+"\n" != want {
		t.Errorf("got %swant the event %s", line, want)
	}
	if got := output(t, nstraceBin, "history", "--store", store.URL, "-o", "json"); got != strings.TrimSpace(linesOf(events)) {
		t.Errorf("the store has\n%swant\n%s", got, linesOf(events))
	}
	table := output(t, nstraceBin, "blame", "--store", store.URL, name)
	if !strings.Contains(table, "HOST") || strings.Contains(table, "NOW") || !strings.Contains(table, host) {
		t.Errorf("the table is\n%s", table)
	}
}
