// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// readEvents reads a file of events. It checks each against the schema, and checks the numbers and
// the totals.
func readEvents(t *testing.T, file string) []*emitted {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parseEvents(t, string(text))
}

func parseEvents(t *testing.T, text string) []*emitted {
	t.Helper()
	var events []*emitted
	for line := range strings.Lines(text) {
		e, err := parseEvent([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if events = append(events, e); e.Seq != uint64(len(events)) {
			t.Errorf("seq %d on line %d", e.Seq, len(events))
		}
	}
	if len(events) < 2 || events[0].Type != event.TraceStart || events[len(events)-1].Type != event.TraceStop {
		t.Fatalf("the first and last lines are not trace.start and trace.stop:\n%s", dump(events))
	}
	sum := events[len(events)-1].Trace.Totals
	if sum.Lost != 0 || sum.Seen != sum.Written+sum.Filtered || sum.Written != uint64(len(events)-2) {
		t.Errorf("totals %+v for %d events", sum, len(events)-2)
	}
	return events
}

// TestRunStatus checks that the exit status is the command's.
func TestRunStatus(t *testing.T) {
	anyKernel(t)
	plain := filepath.Join(scratch, "not-a-program")
	if err := os.WriteFile(plain, []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		cmd    []string
		status int
		says   bool // nstrace prints a message
	}{
		{"success", []string{"true"}, 0, false},
		{"failure", []string{"sh", "-c", "exit 3"}, 3, false},
		{"killed", []string{"sh", "-c", "kill -KILL $$"}, 137, false},
		{"terminated", []string{"sh", "-c", "kill -TERM $$"}, 143, false},
		{"not found", []string{"no-such-program"}, 127, true},
		{"no such path", []string{"/nonexistent/program"}, 127, true},
		{"not executable", []string{plain}, 126, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "events")
			status, stdout, stderr := complete(t, append([]string{"run", "-o", "json", "-O", file, "--"}, tt.cmd...))
			if status != tt.status || stdout != "" {
				t.Errorf("status %d, want %d; standard output %q", status, tt.status, stdout)
			}
			if tt.says {
				if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "nstrace: ") {
					t.Errorf("standard error %q", stderr)
				}
				return
			}
			if stderr != "" {
				t.Errorf("standard error %q", stderr)
			}
			if events := readEvents(t, file); len(events) != 2 {
				t.Errorf("events:\n%s", dump(events))
			}
		})
	}
}

// TestRunFirst checks that nstrace traces the command from its first call.
func TestRunFirst(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "events")
			status, _, stderr := complete(t, []string{"run", "--backend", string(b), "-o", "json", "-O", file, "--", helper("nsfirst")})
			if status != 7 || stderr != "" {
				t.Fatalf("status %d, standard error %q", status, stderr)
			}
			events := readEvents(t, file)
			same(t, events[1:len(events)-1], "create uts unshare: success", "destroy uts")
			if t.Failed() {
				return
			}
			if p := events[1].Process; p.Comm != "nsfirst" || p.Exe != helper("nsfirst") {
				t.Errorf("%s", events[1].line)
			}
		})
	}
}

// TestRunFollow checks that nstrace follows all descendants of the command, and nothing else.
func TestRunFollow(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "events")
			fifo := map[string]*os.File{}
			for _, name := range []string{"ready", "go", "daemon"} {
				path := filepath.Join(dir, name)
				if err := unix.Mkfifo(path, 0o600); err != nil {
					t.Fatal(err)
				}
				// Open for reading and writing, to not wait for the other end.
				f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				fifo[name] = f
			}
			script := `cd "$0"
				unshare --uts true
				echo >ready; read x <go
				# A daemon: its parent is gone before it does anything.
				sh -c '( sleep 0; while [ -d /proc/$$ ]; do :; done; unshare --ipc true; echo >daemon ) &'
				read x <daemon
				unshare --net sh -c "echo 611 >/proc/sys/net/ipv4/tcp_keepalive_time"
				exec unshare --cgroup true`
			done := make(chan struct{})
			var status int
			var stdout, stderr string
			go func() {
				defer close(done)
				defer fifo["ready"].SetReadDeadline(time.Now())
				status, stdout, stderr = nstrace(t, []string{"run", "--backend", string(b), "-o", "json", "-O", file, "--", "sh", "-e", "-c", script, dir})
			}()
			// At the same time, other processes do the same.
			if _, err := fifo["ready"].Read(make([]byte, 1)); err != nil {
				<-done
				t.Fatalf("the command did not run: %v; status %d\n%s", err, status, stderr)
			}
			output(t, "unshare", "--net", "--pid", "--fork", "sh", "-c", "echo 612 >/proc/sys/net/ipv4/tcp_keepalive_time")
			if _, err := fifo["go"].WriteString("\n"); err != nil {
				t.Fatal(err)
			}
			<-done
			if status == 0 && strings.Contains(stderr, " filtered + ") && canMiss(event.NamespaceCreate) {
				// It reports losses, and prints nothing otherwise.
				t.Skipf("the kernel skipped a program, and nstrace reported it: %s", stderr)
			}
			if status != 0 || stdout != "" || stderr != "" {
				t.Fatalf("status %d, %q, %q", status, stdout, stderr)
			}
			events := readEvents(t, file)
			own := slices.DeleteFunc(slices.Clone(events[1:len(events)-1]), func(e *emitted) bool { return e.Type == event.NamespaceDestroy })
			same(t, own,
				"create uts unshare: success",
				"create ipc unshare: success",
				"create net unshare: success",
				write{name: "net.ipv4.tcp_keepalive_time", old: "7200", new: "611"}.on(&stream{backend: b}),
				"create cgroup unshare: success")
			for _, e := range only(events, event.NamespaceCreate) {
				if destroyOf(events, e.Namespace) == nil {
					t.Errorf("no end of %s", e.line)
				}
			}
			if t.Failed() {
				t.Logf("%s", dump(events))
			}
		})
	}
}

// TestRunTable checks the output for people: it has all facts, and nothing that controls a
// terminal.
func TestRunTable(t *testing.T) {
	eventLine := regexp.MustCompile(`^(TIME  .*|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d\.\d{3}  .*)$`)
	anyKernel(t)
	for _, format := range []string{"table", "wide"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "events")
			script := `readlink /proc/self/ns/net
				sysctl -q -w net.ipv4.tcp_keepalive_time=612
				! echo never >/proc/sys/net/ipv4/tcp_fin_timeout
				printf '\033[31mred\a' >/proc/sys/kernel/domainname`
			status, stdout, stderr := complete(t, []string{"run", "-o", format, "-O", file, "--", "unshare", "--net", "--uts", "sh", "-c", script})
			if status != 0 {
				t.Fatalf("status %d\n%s", status, stderr)
			}
			text := readFile(t, file)
			id := fmt.Sprint(parseID(t, strings.TrimSpace(stdout)))
			for _, want := range []string{
				id, "create", "destroy", "uts", "unshare", "net.ipv4.tcp_keepalive_time", "7200", "612",
				"net.ipv4.tcp_fin_timeout", "60", "never", "kernel.domainname", "red", "sysctl",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("the table lacks %q", want)
				}
			}
			if failed := strings.Contains(text, "EINVAL"); failed != (backends[0] != tracer.Tracepoint) {
				t.Errorf("the table has EINVAL: %v", failed)
			}
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				if strings.ContainsFunc(line, unicode.IsControl) {
					t.Errorf("control characters: %q", line)
				}
				if format == "table" && !eventLine.MatchString(line) {
					t.Errorf("not one line for an event: %s", line)
				}
			}
			if t.Failed() {
				t.Logf("\n%s", text)
			}
		})
	}
}

// TestRunStreams checks the streams without an output file: the command has its own standard
// output, and the events go to standard error.
func TestRunStreams(t *testing.T) {
	status, stdout, stderr := complete(t, []string{"run", "-o", "json", "--", "unshare", "--uts", "echo", "its own words"})
	if status != 0 || stdout != "its own words\n" {
		t.Errorf("status %d, standard output %q", status, stdout)
	}
	events := parseEvents(t, stderr)
	same(t, events[1:len(events)-1], "create uts unshare: success", "destroy uts")
}
