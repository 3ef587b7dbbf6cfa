// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// actions are parameters to which even a write of the own value does something, or that show another value each
// time.
var actions = regexp.MustCompile(`^/proc/sys/(` + strings.Join([]string{
	"vm/(drop_caches|compact_memory|stat_refresh|numa_stat|.*hugepages.*|hugetlb.*)", "kernel/(sysrq|random/.*|ns_last_pid|panic.*|.*watchdog.*|ftrace.*|modules_disabled|kexec.*|sched_.*|cad_pid|firmware_config/.*|unprivileged_bpf_disabled|hostname|domainname|core_pattern|perf_.*|print-fatal.*|seccomp/.*|tainted|bpf_stats_enabled|stack_tracer_enabled|traceoff_on_warning|tracepoint_printk)",
	"fs/(binfmt_misc|.*nr$|.*state$|verity/.*|aio-nr|protected.*)", "net/.*(flush|stable_secret|fastopen_key)", "net/core/(bpf_jit.*|flow_limit.*|rps_.*)",
	"net/.*/bridge/.*", "abi/.*", "debug/.*", "dev/.*", "sunrpc/.*", "user/.*",
}, "|") + `)$`)

// others returns values other than a number that a parameter can get for a moment, in a namespace of the test.
func others(old string) []string {
	n, err := strconv.Atoi(old)
	if err != nil {
		return nil
	}
	return []string{strconv.Itoa(n + 1), "0", "1", "-1", "0" + strconv.FormatInt(int64(n), 8), "0x" + strconv.FormatInt(int64(n), 16), "7 7", old}
}

// A writtenText is one write to a parameter, and what its file had before and after.
type writtenText struct{ text, before, after string }

// batch is after how many parameters the events are checked.
const batch = 50

// TestEveryParameter writes to each parameter of the host the value that it has, and to those of a network namespace
// of its own other values too. The value after the write is that of the file, whatever the unit, the layout and the
// spelling are.
func TestEveryParameter(t *testing.T) {
	h := watchWith(t, []string{"-e", "sysctl"}, backends...)
	known, total := map[*stream]int{}, map[*stream]int{}
	from := map[*stream]int{}
	for _, s := range h.streams {
		from[s] = s.len()
	}
	check := func(s *stream, all []*emitted, path string, steps []writtenText) {
		var events []*emitted
		for _, e := range all {
			if e.Sysctl != nil && e.Sysctl.Path == path && int(e.Process.PID) == os.Getpid() && e.Via == event.ViaWrite {
				events = append(events, e)
			}
		}
		if len(events) != len(steps) {
			if !canMiss(event.SysctlWrite) {
				t.Errorf("%v: %d events of %d writes to %s: %s", s, len(events), len(steps), path, dump(events))
			}
			return
		}
		for i, e := range events {
			total[s]++
			v, w := e.Sysctl, steps[i]
			if v.After == nil {
				continue
			}
			known[s]++
			if *v.After != w.after && !v.Truncated {
				t.Errorf("%v: %q written to %q of %s: after %q, but the file has %q\n%s", s, w.text, w.before, path, *v.After, w.after, e.line)
			}
		}
	}
	written := map[string][]writtenText{}
	checkAll := func() {
		h.fence(t)
		for _, s := range h.streams {
			all := s.since(from[s])
			from[s] += len(all)
			for path, steps := range written {
				check(s, all, path, steps)
			}
		}
		clear(written)
	}
	err := inNamespaces(unix.CLONE_NEWNET|unix.CLONE_NEWIPC, func() error {
		return filepath.WalkDir("/proc/sys", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || actions.MatchString(path) {
				return nil
			}
			read := func() (string, bool) {
				b, err := os.ReadFile(path)
				return strings.TrimSuffix(string(b), "\n"), err == nil && len(b) > 0
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return nil
			}
			defer f.Close()
			old, ok := read()
			if !ok {
				return nil
			}
			texts := []string{old}
			if strings.HasPrefix(path, "/proc/sys/net/ipv") && !strings.Contains(path, "/all/") && !strings.Contains(path, "/default/") && !strings.Contains(path, "mem") {
				texts = append(texts, others(old)...)
			}
			var steps []writtenText
			for _, text := range texts {
				w := writtenText{text: text}
				if w.before, ok = read(); !ok {
					return nil
				}
				_, _ = unix.Pwrite(int(f.Fd()), []byte(text), 0) // WriteAt writes the rest of a value that the kernel takes in part
				if w.after, ok = read(); !ok {
					return nil
				}
				steps = append(steps, w)
			}
			written[path] = steps
			if len(written) == batch {
				checkAll()
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	checkAll()
	for _, s := range h.streams {
		t.Logf("%v: after is known of %d of %d writes", s, known[s], total[s])
		most := 9
		if s.backend == tracer.Tracepoint {
			most = 2 // on a slow machine there is no time to read all
		}
		if total[s] < 300 || known[s]*10 < total[s]*most {
			t.Errorf("%v: after is known of %d of %d writes", s, known[s], total[s])
		}
	}
}

// inNamespaces calls do on a thread in namespaces of its own.
func inNamespaces(flags int, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(flags)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// TestPIDParameter writes a parameter that belongs to the PID namespace of the writer. Neither is it one of the host, nor
// does it have the value of the host's.
func TestPIDParameter(t *testing.T) {
	const path = "/proc/sys/vm/memfd_noexec"
	host, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(host)) != "0" {
		t.Skipf("the kernel has no %s, or it is set: %q, %v", path, host, err)
	}
	h := watchWith(t, []string{"-e", "sysctl"}, backends...)
	id := strings.TrimSpace(output(t, "unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo 1 > "+path+"; stat -Lc %i /proc/self/ns/pid"))
	h.fence(t)
	for _, s := range h.streams {
		all := writesOf(s.since(0), "vm.memfd_noexec")
		if len(all) != 1 {
			t.Errorf("%v: %s", s, dump(all))
			continue
		}
		v := all[0].Sysctl
		if ns := v.Namespace; ns == nil || ns.Type != event.NSTypePID || fmt.Sprint(ns.ID) != id || ns.Host || v.After != nil && *v.After != "1" {
			t.Errorf("%v: %s, want a write in PID namespace %s", s, all[0].line, id)
		}
	}
}
