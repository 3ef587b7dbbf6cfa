// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// settings writes a file for sysctl -p with parameters of a network namespace, and returns their
// number.
func settings(t *testing.T) (file string, n int) {
	t.Helper()
	var sb strings.Builder
	// A change of the default does not change what was set for lo.
	for _, dev := range []string{"all", "lo", "default"} {
		for _, param := range []string{"rp_filter", "log_martians", "accept_redirects", "send_redirects", "arp_ignore", "arp_announce"} {
			fmt.Fprintf(&sb, "net.ipv4.conf.%s.%s = 1\n", dev, param)
			n++
		}
	}
	file = filepath.Join(scratch, filepath.Base(t.TempDir())+".conf")
	if err := os.WriteFile(file, []byte(sb.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, n
}

// TestGroup has sysctl -p set many parameters. They are one line, or a line with the events below
// it.
func TestGroup(t *testing.T) {
	anyKernel(t)
	conf, n := settings(t)
	want := fmt.Sprintf("%d writes net.ipv4.conf.*", n)
	for _, tt := range []struct {
		arg  string
		rows int
	}{{"--group", 1}, {"--group=closed", 1}, {"--group=open", 1 + n}} {
		status, _, stderr := complete(t, []string{"run", tt.arg, "-e", "sysctl", "--", "unshare", "--net", "sysctl", "-q", "-p", conf})
		rows := 0
		for line := range strings.Lines(stderr) {
			if strings.Contains(line, "  sysctl   ") {
				rows++
			}
		}
		if status != 0 || strings.Count(stderr, want) != 1 || rows != tt.rows || !strings.Contains(stderr, "sysctl[") {
			t.Errorf("%s: status %d, %d rows, want %q and %d rows\n%s", tt.arg, status, rows, want, tt.rows, stderr)
		}
	}
	status, _, stderr := complete(t, []string{"run", "-o", "wide", "--group", "-e", "sysctl", "--", "unshare", "--net", "sysctl", "-q", "-p", conf})
	if status != 0 || strings.Count(stderr, want) != 1 || strings.Count(stderr, "\n") != 2 {
		t.Errorf("wide: status %d\n%s", status, stderr)
	}
}

// TestGroupStream checks that the line appears while nothing else happens, long before the end.
func TestGroupStream(t *testing.T) {
	anyKernel(t)
	conf, n := settings(t)
	cmd := exec.Command(nstraceBin, "--group", "-e", "sysctl", "-c", "sysctl")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer end.Stop()
	lines := bufio.NewScanner(out)
	for first := true; lines.Scan(); first = false {
		if first { // the header, which appears once everything is attached
			output(t, "unshare", "--net", "sysctl", "-q", "-p", conf)
		} else if strings.Contains(lines.Text(), fmt.Sprintf("%d writes net.ipv4.conf.*", n)) {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // read everything before Wait
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
}

// TestGroupBlame shows in nstrace blame what sysctl -p set: as one line, or as a line with the
// parameters below it. A parameter that changed since is not part of it.
func TestGroupBlame(t *testing.T) {
	anyKernel(t)
	conf, n := settings(t)
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	name := fmt.Sprintf("nstrace-%d-blame", os.Getpid())
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { output(t, "ip", "netns", "delete", name) })
	output(t, "ip", "netns", "exec", name, "sysctl", "-q", "-p", conf)
	rec.await(t, "the last write", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Sysctl != nil && e.Sysctl.Name == "net.ipv4.conf.default.arp_announce" && e.Process.Comm == "sysctl"
		})
	})
	rec.interrupt(t)
	output(t, "ip", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.conf.lo.arp_ignore=2")
	for _, tt := range []struct {
		args       []string
		fold, rows int
	}{
		{nil, 1, 2},
		{[]string{"--group=closed", "-o", "wide"}, 1, 2},
		{[]string{"--group=open"}, 1, 1 + n},
		{[]string{"--group=off"}, 0, n},
		{[]string{"-o", "wide"}, 0, n},
	} {
		status, stdout, stderr := nstrace(t, append([]string{"blame", "--db", db, "--netns", name}, tt.args...))
		fold := strings.Count(stdout, fmt.Sprintf("%d parameters", n-1))
		if rows := strings.Count(stdout, "sysctl["); status != 0 || fold != tt.fold || rows != tt.rows || strings.Count(stdout, "drifted:")+strings.Count(stdout, "(result unknown)") != 1 {
			t.Errorf("blame %q: status %d, %d folded and %d rows, want %d and %d\n%s%s", tt.args, status, fold, rows, tt.fold, tt.rows, stdout, stderr)
		}
	}
	if all := blame(t, db, "--netns", name); len(all) != n {
		t.Errorf("JSON has %d parameters of %d", len(all), n)
	}
}

// TestGroupMistake has invalid values, and JSON, which has every event.
func TestGroupMistake(t *testing.T) {
	anyKernel(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--group=opn"}, `nstrace: --group: invalid value "opn" (did you mean "open"?): want one of closed, open, off` + "\n"},
		{[]string{"-o", "json", "--group"}, "nstrace: --group needs -o table or -o wide: -o json writes every event\n"},
		{[]string{"blame", "-o", "json", "--group"}, "nstrace: --group needs -o table or -o wide: -o json writes every parameter\n"},
	} {
		if status, stdout, stderr := complete(t, tt.args); status != 2 || stdout != "" || stderr != tt.want {
			t.Errorf("%q: status %d, %q, want %q", tt.args, status, stderr, tt.want)
		}
	}
}
