// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
	"github.com/nstrace/nstrace/schema/schematest"
)

// testPrivileged runs nstrace in privileged containers, or in ones with the capabilities that it needs, with and without the PID namespace of the
// host, and compares its events with those of one that runs on the host.
func (e *engine) testPrivileged(t *testing.T) {
	if testing.Short() && e.runtime != "docker" {
		t.Skip("runs on the host: nstrace starts slowly in a guest")
	}
	static := filepath.Join(t.TempDir(), "nstrace")
	cmd := exec.Command("go", "build", "-o", static, "github.com/nstrace/nstrace/cmd/nstrace")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if runtimetest.IsGuest() { // where it is static, and Go is missing
		cmd = exec.Command("cp", nstraceBin, static)
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	privileged := []string{"--privileged"}
	if !allCapabilities(t) { // then the engine cannot give all of them; CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON
		privileged = []string{"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"}
		for _, c := range []string{"NET_ADMIN", "SYS_ADMIN", "DAC_READ_SEARCH", "SYS_PTRACE"} {
			privileged = append(privileged, "--cap-add", c)
		}
	}
	for _, args := range [][]string{{"--pid=host"}, {}} {
		t.Run(strings.Join(append([]string{"cgroupns"}, args...), " "), func(t *testing.T) {
			name := fmt.Sprint("watcher-", len(args))
			host := e.trace(t)
			e.do(t, slices.Concat([]string{"run", "--detach", "--cgroupns", "private", "--network", e.network,
				"--volume", static + ":/nstrace:ro", "--name", name}, privileged, args, []string{runtimetest.Image, "/nstrace", "-o", "json"})...)
			id := e.inspect(t, name, "{{.Id}}")
			e.made[id] = append(e.made[id], name)
			t.Cleanup(func() { _ = exec.Command(e.command[0], e.args("rm", "--force", id)...).Run() })
			logs := func() (stdout, stderr []byte) {
				var out, errs bytes.Buffer
				cmd := exec.Command(e.command[0], e.args("logs", id)...)
				cmd.Stdout, cmd.Stderr = &out, &errs
				if err := cmd.Run(); err != nil {
					t.Fatalf("%v: %s", err, &errs)
				}
				return out.Bytes(), errs.Bytes()
			}
			runtimetest.Eventually(t, "nstrace has started in the container", func() bool {
				stdout, _ := logs()
				return bytes.IndexByte(stdout, '\n') >= 0
			})
			// The shell is in the cgroup of the test, outside the container's.
			script := `unshare --uts true; nsenter --ipc=/proc/self/ns/ipc true; unshare --net sysctl -qw net.ipv4.ip_default_ttl=61`
			work := exec.Command("sh", "-e", "-c", script)
			if text, err := work.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			pid := uint32(work.Process.Pid)
			mine := func(events []*event.Event) []string {
				var lines []string
				for _, ev := range events {
					if ev.Process != nil && (ev.Process.PID == pid || slices.ContainsFunc(ev.Process.Ancestors, func(a event.Actor) bool { return a.PID == pid })) {
						lines = append(lines, agreed(ev))
					}
				}
				return lines
			}
			var inside []*event.Event
			runtimetest.Eventually(t, "the container's nstrace has reported the write", func() bool {
				stdout, _ := logs()
				inside = nil
				for line := range bytes.Lines(stdout) {
					ev := new(event.Event)
					if json.Unmarshal(line, ev) == nil {
						inside = append(inside, ev)
					}
				}
				return slices.ContainsFunc(inside, func(ev *event.Event) bool {
					return ev.Sysctl != nil && ev.Sysctl.New != nil && *ev.Sysctl.New == "61"
				})
			})
			e.do(t, "kill", "--signal", "INT", id)
			if status := strings.TrimSpace(e.do(t, "wait", id)); status != "0" {
				_, stderr := logs()
				t.Errorf("exit status %s: %s", status, stderr)
			}
			stdout, stderr := logs()
			schematest.Lines(t, stdout)
			if says := bytes.Contains(stderr, []byte("nstrace runs in a PID namespace")); says != (len(args) == 0) {
				t.Errorf("with %q it says %q", args, stderr)
			}
			got, want := mine(inside), mine(host.end())
			if len(want) != 4 || !slices.Equal(got, want) {
				t.Errorf("in the container:\n%s\non the host:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// agreed returns what two nstraces must agree on.
func agreed(ev *event.Event) string {
	s := fmt.Sprint(ev.Host, " ", ev.Type, " ", ev.Via, " pid ", ev.Process.PID, " ", ev.Process.Args, " ", ev.Process.Cgroup, " ", ev.Process.NS)
	if ns := namespace(ev); ns != nil {
		s += fmt.Sprint(" ", ns.Type, " ", ns.ID, " host ", ns.Host)
	}
	if p := ev.Sysctl; p != nil {
		s += fmt.Sprint(" ", p.Name)
		for _, value := range []*string{p.Old, p.New, p.After} {
			if value != nil {
				s += fmt.Sprintf(" %q", *value)
			}
		}
	}
	return s
}
