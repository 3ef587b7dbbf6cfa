// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/internal/confine"
)

// checkThreads compares what the kernel says of each thread of a process with what the profile keeps.
func checkThreads(t *testing.T, pid int, w confine.Work) {
	t.Helper()
	own, err := capability.Permitted()
	if err != nil {
		t.Fatal(err)
	}
	w.User = 1
	hex := fmt.Sprintf("%016x", uint64(own&confine.Tracing(w).Capabilities()))
	none := fmt.Sprintf("%016x", 0)
	want := map[string]string{"CapPrm": hex, "CapEff": hex, "CapBnd": hex, "CapInh": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, thread.Name()))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
			if wanted, ok := want[name]; ok && value != wanted {
				t.Errorf("thread %s has %s %s, want %s", thread.Name(), name, value, wanted)
			}
		}
	}
	if len(threads) < 20 {
		t.Errorf("only %d threads", len(threads))
	}
}

// TestConfined checks what the processes that trace can still do.
func TestConfined(t *testing.T) {
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		s := startStream(t)
		s.awaitStart(t)
		checkThreads(t, s.cmd.Process.Pid, confine.Work{})
		output(t, "unshare", "--net", "true") // it makes threads that look names up
		checkThreads(t, s.cmd.Process.Pid, confine.Work{})
		s.interrupt(t)
		s.checkEnd(t, false)
	})
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		s := startStream(t, "record", "--db", filepath.Join(dir, "history.db"), "-O", filepath.Join(dir, "events"), "--rotate-size", "1MiB")
		awaitText(t, filepath.Join(dir, "events"), `"type":"trace.start"`)
		checkThreads(t, s.cmd.Process.Pid, confine.Work{Files: true})
		s.interrupt(t)
	})
	t.Run("run", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "events")
		cmd := exec.Command(nstraceBin, "run", "-o", "json", "-O", file, "--", "cat")
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer stdin.Close() // ends cat
		awaitText(t, file, `"type":"trace.start"`)
		checkThreads(t, cmd.Process.Pid, confine.Work{Files: true, Child: true})
	})
}

// awaitText waits until a file has a text.
func awaitText(t *testing.T, path, text string) {
	t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s has no %s after %v:\n%s", path, text, patience, b)
		}
	}
}

// TestRunPrivileges checks that the command of nstrace run has what it has without nstrace: its
// privileges, also after it executes a set-user-ID program as another user, its limits, its environment
// and its descriptors.
func TestRunPrivileges(t *testing.T) {
	cat, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	setuid := filepath.Join(scratch, "setuid-cat")
	if err := os.WriteFile(setuid, cat, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(setuid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	const fields = `grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|SigIgn|SigBlk)' /proc/self/status; cat /proc/self/limits; env | grep -v '^_=' | sort; ls /proc/self/fd`
	commands := map[string][]string{
		"root":    {"sh", "-c", fields},
		"setpriv": {"setpriv", "--dump"},
		"setuid":  {"setpriv", "--reuid", "65534", "--clear-groups", setuid, "/proc/self/status"},
		"less":    {"setpriv", "--bounding-set", "-net_raw", "sh", "-c", fields},
	}
	if _, err := exec.LookPath("sudo"); err == nil {
		commands["sudo"] = []string{"sudo", "-n", "sh", "-c", fields}
	}
	if _, err := exec.LookPath("su"); err == nil {
		commands["su"] = []string{"su", "-s", "/bin/sh", "-c", fields, "nobody"}
	}
	relevant := func(text string) string {
		var kept []string
		for line := range strings.Lines(text) {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Name", "Pid", "Tgid", "Ngid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",
				"VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmExe", "VmLib", "VmPTE", "VmStk", "Cpus_allowed", "Mems_allowed", "SigQ", "FDSize":
			default:
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	for name, args := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, plain, said := command(t, args)
			if status != 0 {
				t.Skipf("%q works not even without nstrace: %s", args, said)
			}
			status, traced, said := nstrace(t, append([]string{"run", "-O", filepath.Join(t.TempDir(), "events"), "--"}, args...))
			if status != 0 {
				t.Errorf("status %d: %s", status, said)
			}
			if relevant(traced) != relevant(plain) {
				t.Errorf("traced:\n%s\nwithout nstrace:\n%s", traced, plain)
			}
		})
	}
}

// deniedToAll are the attempts that the filter of each process refuses.
var deniedToAll = []string{"ptrace", "write", "module", "kexec", "reboot", "swapon", "inet", "inet6", "packet", "vsock", "setuid", "setgid", "setgroups", "clock", "keys", "mknod", "fault"}

// checkErrnos compares what a process could not do with want, and with deniedToAll.
func checkErrnos(t *testing.T, errnos map[string]int, want map[string]syscall.Errno) {
	t.Helper()
	for _, name := range deniedToAll {
		want[name] = unix.EPERM
	}
	for name, errno := range want {
		if got := syscall.Errno(errnos[name]); got != errno {
			t.Errorf("%s: %v (%d), want %v", name, got, got, errno)
		}
	}
}

// buildAttempting builds an nstrace that is not released: it tries what it must not do.
func buildAttempting(t *testing.T) string {
	t.Helper()
	if os.Getenv("NSTRACE_BIN") != "" {
		t.Skip("needs a binary of its own: runs where the tests build nstrace")
	}
	bin := filepath.Join(t.TempDir(), "nstrace")
	cmd := exec.Command("go", "build", "-tags", "confinetest", "-o", bin, "github.com/nstrace/nstrace/cmd/nstrace")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return bin
}

// TestDeniedToResolver has a running resolver try what it must not do.
func TestDeniedToResolver(t *testing.T) {
	bin := buildAttempting(t)
	args := []string{"-o", "json"}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "NSTRACE_TEST_RESOLVER_ATTEMPTS=1")
	s := startCommand(t, cmd, args)
	s.awaitStart(t)
	var errnos map[string]int
	for limit := time.Now().Add(patience); errnos == nil; time.Sleep(10 * time.Millisecond) {
		if _, rest, ok := strings.Cut(s.stderr.String(), "attempts: "); ok && strings.Contains(rest, "\n") {
			if err := json.NewDecoder(strings.NewReader(rest)).Decode(&errnos); err != nil {
				t.Fatalf("%v: %s", err, rest)
			}
		}
		if time.Now().After(limit) {
			t.Fatalf("no attempts: %s", s.stderr.String())
		}
	}
	want := map[string]syscall.Errno{
		"shadow": unix.EACCES, "environ": unix.EACCES, "signal": unix.EPERM, "capability": unix.EPERM, "mount": unix.EPERM, "load": unix.EPERM,
		"uring": unix.ENOSYS, "future": unix.ENOSYS, "unix": 0, "start": 0,
	}
	if version, err := landlock.LandlockGetABIVersion(); err == nil && version > 0 {
		want["create"] = unix.EACCES
	}
	checkErrnos(t, errnos, want)
	if err := s.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.awaitEnd(t)
}

// TestDeniedToTracer has a running tracer try what its profile denies. It tests a build that is not
// released, in which it can refuse execs too.
func TestDeniedToTracer(t *testing.T) {
	bin := buildAttempting(t)
	for _, command := range [][]string{nil, {"record"}, {"run"}} {
		for _, alone := range []string{"", "1"} {
			t.Run(strings.Join(append(command, "alone"+alone), " "), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				results := filepath.Join(dir, "results")
				args := append(command[:len(command):len(command)], "-o", "json", "-O", filepath.Join(dir, "events"))
				switch {
				case len(command) == 0:
					args = append(args, "--count", "1")
				case command[0] == "record":
					args = append(args, "--count", "1", "--db", filepath.Join(dir, "history.db"))
				default:
					args = append(args, "--", "unshare", "--uts", "true")
				}
				cmd := exec.Command(bin, args...)
				cmd.Env = append(os.Environ(), "NSTRACE_TEST_ATTEMPTS="+results, "NSTRACE_TEST_ALONE="+alone)
				var said buffer
				cmd.Stderr = &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				for running := true; running; {
					select {
					case err := <-ended:
						if err != nil {
							t.Fatalf("%v: %s", err, said.String())
						}
						running = false
					default:
						output(t, "unshare", "--uts", "true") // until it counts one
					}
				}
				var errnos map[string]int
				if err := json.Unmarshal([]byte(readFile(t, results)), &errnos); err != nil {
					t.Fatal(err)
				}
				want := map[string]syscall.Errno{"uring": unix.ENOSYS, "future": unix.ENOSYS, "unix": 0, "netlink": 0, "shadow": 0, "load": 0, "proof": unix.EINVAL, "start": 0, "fork": 0, "code": 0}
				if alone != "" {
					want["start"], want["fork"], want["code"], want["clone3"] = unix.EPERM, unix.EPERM, unix.EPERM, unix.ENOSYS
				}
				checkErrnos(t, errnos, want)
			})
		}
	}
}
