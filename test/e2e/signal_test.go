// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// TestSignals ends streams by each signal that ends a process in order. None loses its last line.
func TestSignals(t *testing.T) {
	anyKernel(t)
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		for _, command := range []string{"", "record"} {
			t.Run(strings.TrimSpace(command+" "+unix.SignalName(sig)), func(t *testing.T) {
				t.Parallel()
				var args []string
				if command != "" {
					args = []string{command, "--db", filepath.Join(t.TempDir(), "history.db")}
				}
				args = append(args, "-o", "json")
				cmd := exec.Command(nstraceBin, args...)
				if command != "" { // a daemon has no terminal
					inTerminal(t, cmd)
				}
				s := startCommand(t, cmd, args)
				s.awaitStart(t)
				if err := s.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				s.awaitEnd(t)
				if all := s.since(0); s.err != nil || all[len(all)-1].Type != event.TraceStop {
					t.Errorf("%v; the last line is %s\n%s", s.err, all[len(all)-1].Type, s.stderr.String())
				}
			})
		}
	}
}

// inTerminal gives a command a controlling terminal, and leaves its standard output and error alone.
func inTerminal(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	control, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close(); terminal.Close() })
	cmd.Stdin = terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
}

// TestHangup sends SIGHUP to processes that do not end by it. A daemon goes on, with a new file if somebody moved
// the old one. A process goes on if its caller ignores SIGHUP, and so does the command of nstrace run.
func TestHangup(t *testing.T) {
	anyKernel(t)
	t.Run("daemon", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "events")
		args := []string{"record", "--db", filepath.Join(dir, "history.db"), "-o", "json", "-O", file}
		cmd := exec.Command(nstraceBin, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		s := startCommand(t, cmd, args)
		awaitText(t, file, `"type":"trace.start"`)
		if err := unix.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		output(t, "unshare", "--uts", "true")
		awaitText(t, file, `"type":"namespace.create"`)
		s.interrupt(t)
		awaitText(t, file, `"type":"trace.stop"`)
		if s.err != nil {
			t.Errorf("%v: %s", s.err, s.stderr.String())
		}
	})
	t.Run("nohup", func(t *testing.T) {
		args := []string{"-o", "json"}
		s := startCommand(t, exec.Command("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", nstraceBin, args[0], args[1]), args)
		s.awaitStart(t)
		if err := s.cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		output(t, "unshare", "--uts", "true")
		s.await(t, "an event", func(all []*emitted) bool { return len(all) > 1 && all[len(all)-1].Type == event.NamespaceCreate })
		s.interrupt(t)
		s.checkEnd(t, true)
	})
	t.Run("run", func(t *testing.T) {
		out, err := exec.Command("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", nstraceBin, "run", "-O", filepath.Join(t.TempDir(), "events"),
			"--", "sh", "-c", "kill -HUP $$; echo alive").CombinedOutput()
		if err != nil || string(out) != "alive\n" {
			t.Errorf("%v: %s", err, out)
		}
	})
}
