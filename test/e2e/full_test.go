// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// smallDisk mounts a file system of a mebibyte and returns its folder.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := openDir(t, 0o755)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk writes to a file in dir until there is no more space.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// growDisk makes space on a smallDisk.
func growDisk(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m,mode=755"); err != nil {
		t.Fatal(err)
	}
}

// TestOutputOnFullDisk fills the disk of the output file. nstrace and its history go on. Once there is space,
// the file goes on too, with a trace.loss that has the number of events that it lacks.
func TestOutputOnFullDisk(t *testing.T) {
	anyKernel(t)
	for _, recorded := range []bool{false, true} {
		t.Run(fmt.Sprintf("record %v", recorded), func(t *testing.T) {
			dir := smallDisk(t)
			file := filepath.Join(dir, "events")
			db := filepath.Join(t.TempDir(), "history.db")
			args := []string{"-o", "json", "-O", file, "--runtime-socket", "none", "-e", "namespace.create"}
			if recorded {
				args = append([]string{"record", "--db", db}, args...)
			}
			var said buffer
			cmd := exec.Command(nstraceBin, args...)
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { cmd.Process.Kill() })
			says := func(what string) {
				t.Helper()
				for limit := time.Now().Add(patience); !strings.Contains(said.String(), what); time.Sleep(10 * time.Millisecond) {
					select {
					case err := <-ended:
						t.Fatalf("nstrace ended: %v: %s", err, said.String())
					default:
					}
					if time.Now().After(limit) {
						t.Fatalf("nstrace does not say %q: %s", what, said.String())
					}
				}
			}
			awaitText(t, file, `"type":"trace.start"`)
			fillDisk(t, dir)
			const creates = 300 // more than fit into the buffer
			for range creates {
				output(t, "unshare", "--uts", "true")
			}
			says("no space left on device; nstrace goes on")
			growDisk(t, dir)
			says("the output can be written again") // by itself: nothing happens
			output(t, "unshare", "--uts", "true")
			awaitText(t, file, `"reason":"output"`)
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%v: %s", err, said.String())
			}
			count := func(text string) (made, lost uint64, last event.Type) {
				for line := range strings.Lines(text) {
					e, err := parseEvent([]byte(line))
					if err != nil {
						t.Fatal(err)
					}
					if e.Type == event.NamespaceCreate && slices.Equal(e.Process.Args, []string{"unshare", "--uts", "true"}) {
						made++
					}
					if e.Loss != nil && e.Loss.Reason == event.LossOutput {
						lost += e.Loss.Records[event.NamespaceCreate]
					}
					last = e.Type
				}
				return made, lost, last
			}
			made, lost, last := count(readFile(t, file) + "\n")
			if made+lost < creates+1 || lost == 0 || last != event.TraceStop {
				t.Errorf("the file has %d events and lacks %d of %d; its last line is %s", made, lost, creates+1, last)
			}
			if !recorded {
				return
			}
			_, stdout, _ := nstrace(t, []string{"history", "--db", db, "-o", "json"})
			if made, _, last := count(stdout); made != creates+1 || last != event.TraceStop {
				t.Errorf("the history has %d events of %d; its last line is %s", made, creates+1, last)
			}
		})
	}
}

// TestRecordOnFullDisk starts nstrace record on a full disk. The stream continues. Once there is
// space, the history has all events, and before them the gap and the differences.
func TestRecordOnFullDisk(t *testing.T) {
	anyKernel(t)
	dir := smallDisk(t)
	db := filepath.Join(dir, "history.db")
	const param = "/proc/sys/vm/overcommit_ratio"
	ratio := readFile(t, param)
	t.Cleanup(func() {
		if err := os.WriteFile(param, []byte(ratio), 0); err != nil {
			t.Error(err)
		}
	})
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=71")
	first := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	first.awaitStart(t)
	first.awaitSnapshot(t, db)
	first.interrupt(t)
	output(t, "sysctl", "-qw", "vm.overcommit_ratio=72")

	fillDisk(t, dir)
	s := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	s.awaitStart(t)
	if said := s.stderr.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "the disk is full: buffering up to") {
		t.Errorf("nstrace printed %q", said)
	}
	output(t, "unshare", "--net", "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=671")
	s.await(t, "the write", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool { return e.Sysctl != nil && e.Sysctl.New != nil && *e.Sysctl.New == "671" })
	})
	if all := s.since(0); slices.ContainsFunc(all, func(e *emitted) bool { return e.Type == event.TraceGap || e.Between != nil }) {
		t.Errorf("reported before nstrace can know it:\n%s", dump(all))
	}

	// Nothing more happens: nstrace must notice by itself.
	growDisk(t, dir)
	var gap, drift *emitted
	s.await(t, "the gap and what was found", func(all []*emitted) bool {
		for _, e := range all {
			if e.Type == event.TraceGap {
				gap = e
			}
			if e.Type == event.SysctlDrift && e.Sysctl.Name == "vm.overcommit_ratio" {
				drift = e
			}
		}
		return gap != nil && drift != nil
	})
	started, stopped := s.since(0)[0].Time, first.since(0)[first.len()-1].Time
	if g := gap.Trace; g.Ended != event.GapStopped || !g.To.Equal(started) || g.From.Before(stopped) || gap.Time.Before(started) {
		t.Errorf("%s", gap.line)
	}
	if b := drift.Between; *drift.Sysctl.Old != "71" || *drift.Sysctl.After != "72" || b.From.Before(stopped) || b.To.Before(started) || b.To.After(gap.Time) {
		t.Errorf("%s", drift.line)
	}
	for _, e := range s.since(0) {
		if e.Type == event.SysctlDrift && e.Sysctl.Name == "net.ipv4.tcp_keepalive_time" {
			t.Errorf("this change was watched: %s", e.line)
		}
	}
	s.interrupt(t)
	if s.err != nil || !strings.Contains(s.stderr.String(), "recording again, including the buffered events") {
		t.Errorf("%v: %s", s.err, s.stderr.String())
	}
	var lines bytes.Buffer
	for _, e := range append(first.since(0), s.since(0)...) {
		lines.Write(e.line)
	}
	if _, stdout, _ := nstrace(t, []string{"history", "--db", db, "-o", "json"}); stdout != lines.String() {
		t.Errorf("the history differs from the stream:\n%s\nwant\n%s", stdout, lines.String())
	}
	if status, stdout, stderr := nstrace(t, []string{"history", "verify", "--db", db}); status != 0 {
		t.Errorf("verify: %s%s", stdout, stderr)
	}
}

// TestRecordMistakes checks that nstrace record refuses files that cannot be a database.
func TestRecordMistakes(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(fmt.Sprintln("no database", strings.Repeat("at all ", 1000))), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.db")
	output(t, "sqlite3", other, "CREATE TABLE t (a);")
	for _, tt := range []struct {
		db, want string
		status   int
	}{
		{dir, "is a directory", 1},
		{filepath.Join(text, "history.db"), "is not a folder", 2},
		{"/proc/history.db", "no such file or directory", 1},
		{other, "not a database that nstrace wrote", 1},
		{text, "not a database that nstrace wrote", 1},
	} {
		status, stdout, stderr := nstrace(t, []string{"record", "--db", tt.db})
		if status != tt.status || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: status %d, %q, want %d, %q", tt.db, status, stderr, tt.status, tt.want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("files left: %q", left)
	}
}
