// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/tracer"
)

// as returns the command that runs a program as an ordinary user with some capabilities.
func as(capabilities string) []string {
	names := "+" + strings.ReplaceAll(capabilities, ",", ",+")
	return []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", names, "--ambient-caps", names}
}

// TestLacksCapability runs nstrace without some capabilities. It says what it does not see without them,
// both in a run and in nstrace check, and never only that something is not permitted.
func TestLacksCapability(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before []string
		lacks  []string // that nstrace names
	}{
		{"root without ptrace", []string{"setpriv", "--bounding-set", "-sys_ptrace"}, []string{"CAP_SYS_PTRACE"}},
		{"root without search", []string{"setpriv", "--bounding-set", "-dac_read_search"}, []string{"CAP_DAC_READ_SEARCH"}},
		{"root without admin", []string{"setpriv", "--bounding-set", "-sys_admin"}, []string{"CAP_SYS_ADMIN"}},
		{"root without both admins", []string{"setpriv", "--bounding-set", "-sys_admin,-net_admin"}, []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}},
		{"user with admin", as("sys_admin"), []string{"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}},
		{"user with BPF", as("bpf,perfmon"), []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}},
		{"user without perfmon", as("bpf,net_admin"), nil}, // its programs are refused
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := command(t, append(tt.before[:len(tt.before):len(tt.before)], nstraceBin, "check", "-o", "json"))
			var r tracer.Report
			if err := json.Unmarshal([]byte(stdout), &r); err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr)
			}
			if status != 0 && status != 3 || r.Complete {
				t.Errorf("status %d\n%s", status, stdout)
			}
			if len(r.Observations) == 0 { // nothing could be loaded: the message names what that wants
				tt.lacks = nil
			}
			for _, name := range tt.lacks {
				if !slices.ContainsFunc(r.Missing, func(s string) bool { return strings.Contains(s, name) }) {
					t.Errorf("check does not name %s: %q", name, r.Missing)
				}
			}
			for line := range strings.Lines(stderr) {
				if strings.Contains(line, "not permitted") && !strings.Contains(line, "CAP_") {
					t.Errorf("%s", line)
				}
			}
			started, _, said := command(t, append(tt.before[:len(tt.before):len(tt.before)], nstraceBin, "--duration", "1ms"))
			if started != status {
				t.Errorf("check ends with status %d, and a run with %d: %s", status, started, said)
			}
			for _, missing := range r.Missing {
				if strings.HasPrefix(missing, "not seen without") && !strings.Contains(said, missing) {
					t.Errorf("a run does not say %q:\n%s", missing, said)
				}
			}
		})
	}
}

// TestFewCapabilities traces as an ordinary user with the capabilities that docs/security.md names.
func TestFewCapabilities(t *testing.T) {
	const enough = "bpf,perfmon,net_admin,sys_admin,sys_ptrace,dac_read_search,sys_resource"
	own, err := capability.Permitted()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for name := range strings.SplitSeq(enough, ",") {
		if name != "sys_resource" || own.Has(unix.CAP_SYS_RESOURCE) {
			have = append(have, name)
		}
	}
	before := as(strings.Join(have, ","))
	args := []string{"-o", "json"}
	s := startCommand(t, exec.Command(before[0], append(append(before[1:], nstraceBin), args...)...), args)
	s.awaitStart(t)
	for _, o := range s.since(0)[0].Trace.Observations {
		i := slices.IndexFunc(report.Observations, func(r event.Observation) bool { return r.Name == o.Name })
		if i < 0 || report.Observations[i].Backend != o.Backend || !slices.Equal(report.Observations[i].Missing, o.Missing) {
			t.Errorf("not attached as by root: %+v", o)
		}
	}
	output(t, "unshare", "--net", "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=677")
	s.await(t, "the write", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == "677" && e.Process.User == "root"
		})
	})
	s.interrupt(t)
	s.checkEnd(t, false)
}
