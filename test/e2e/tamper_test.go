// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestTamper tampers with nstrace, as somebody would who wants to hide from it. nstrace must report
// that, and who did it.
func TestTamper(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			s := startStream(t, "--backend", string(b))
			s.awaitStart(t)
			pid := fmt.Sprint(s.cmd.Process.Pid)
			var by []int // the programs, one after the other
			do := func(program string, args ...string) {
				t.Helper()
				cmd := exec.Command(program, args...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s %q: %v\n%s", program, args, err, out)
				}
				by = append(by, cmd.Process.Pid)
			}
			do("kill", "-STOP", pid)
			do("kill", "-CONT", pid) // which is harmless
			maps, links := s.kernelObjects(t)
			key, value := strings.Fields("1 2 0 0"), "1"
			do("bpftool", slices.Concat([]string{"map", "update", "id", maps["tracees"], "key"}, key, []string{"value", value})...)
			do("bpftool", slices.Concat([]string{"map", "lookup", "id", maps["tracees"], "key"}, key)...) // also harmless
			do("bpftool", slices.Concat([]string{"map", "delete", "id", maps["tracees"], "key"}, key)...)
			do("bpftool", "link", "detach", "id", links["cgroup"])
			do("kill", "-TERM", pid)
			s.awaitEnd(t)

			harm := func(by int, via string, what event.Tamper) string {
				return fmt.Sprintf("%d %s %+v", by, via, what)
			}
			want := []string{
				harm(by[0], "kill", event.Tamper{Action: "signal", Signal: "SIGSTOP"}),
				harm(by[2], "bpf", event.Tamper{Action: "map_update", Object: "tracees"}),
				harm(by[4], "bpf", event.Tamper{Action: "map_delete", Object: "tracees"}),
				harm(by[5], "bpf", event.Tamper{Action: "link_detach", Object: "cgroup_sysctl"}),
			}
			var got []string
			for _, e := range s.since(0) {
				if e.Type != event.TraceTamper {
					continue
				}
				if e.Process == nil {
					t.Fatalf("the event has no process: %s", e.line)
				}
				got = append(got, harm(int(e.Process.PID), e.Via, *e.Tamper))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			last := s.since(s.len() - 1)[0]
			if last.Type != event.TraceStop || last.Trace.Signal != "SIGTERM" || last.Process == nil || int(last.Process.PID) != by[6] || last.Process.Comm != "kill" {
				t.Errorf("want the end by SIGTERM of %d: %s", by[6], last.line)
			}
			checkNotes(t, s) // they say which hook the kernel did not run in the end
		})
	}
}

// TestDetached detaches a program of nstrace in a way that the tracepoint of bpf(2) does not show. nstrace
// must report that once, attach again, and see what happens from then on.
func TestDetached(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			s := startStream(t, "--backend", string(b), "--event", "sysctl")
			s.awaitStart(t)
			_, links := s.kernelObjects(t)
			output(t, helper("nsdetach"), links["cgroup"])
			tampered := func(all []*emitted) (n int) {
				for _, e := range only(all, event.TraceTamper) {
					if *e.Tamper == (event.Tamper{Action: "link_detach", Object: "cgroup_sysctl"}) {
						n++
					}
				}
				return n
			}
			s.await(t, "trace.tamper", func(all []*emitted) bool { return tampered(all) > 0 })
			attached := func() bool {
				_, now := s.kernelObjects(t)
				return now["cgroup"] != "" && now["cgroup"] != links["cgroup"]
			}
			s.await(t, "that nstrace reports the silent hook", func(all []*emitted) bool {
				return slices.ContainsFunc(only(all, event.TraceLoss), func(e *emitted) bool { return e.Loss.Reason == event.LossHookSilent })
			})
			if !attached() {
				t.Error("the program is not attached again")
			}
			from := s.len()
			again := "again-" + string(b) // the other backends' tests write at the same time
			storm(t, 1, stormFile, again)
			s.awaitFrom(t, from, "the write after that", func(all []*emitted) bool {
				writes := slices.DeleteFunc(only(all, event.SysctlWrite), func(e *emitted) bool { return e.Sysctl.New == nil || *e.Sysctl.New != again })
				return len(writes) == 1 && writes[0].Sysctl.Old != nil
			})
			s.interrupt(t)
			s.awaitEnd(t)
			if n := tampered(s.since(0)); n != 1 {
				t.Errorf("nstrace reported %d times that its program was detached, want once", n)
			}
		})
	}
}

var (
	mapID  = regexp.MustCompile(`(?m)^map_id:\s+(\d+)$`)
	linkID = regexp.MustCompile(`(?m)^link_type:\s+(\S+)\s[^\x00]*?^link_id:\s+(\d+)$`)
)

// kernelObjects returns the ids of s's maps, by name, and of its links, by type, from the kernel's
// information about its descriptors.
func (s *stream) kernelObjects(t *testing.T) (maps, links map[string]string) {
	t.Helper()
	maps, links = map[string]string{}, map[string]string{}
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // closed in between
		}
		if m := mapID.FindSubmatch(text); m != nil {
			var about struct{ Name string }
			if err := json.Unmarshal([]byte(output(t, "bpftool", "-j", "map", "show", "id", string(m[1]))), &about); err != nil {
				t.Fatal(err)
			}
			maps[about.Name] = string(m[1])
		}
		if m := linkID.FindSubmatch(text); m != nil {
			links[string(m[1])] = string(m[2])
		}
	}
	return maps, links
}
