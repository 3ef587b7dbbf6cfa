// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// TestRecordOnFullDisk starts nstrace record on a full disk. The stream continues. Once there is
// space, the history has all events, and before them the gap and the differences.
func TestRecordOnFullDisk(t *testing.T) {
	anyKernel(t)
	dir := filepath.Join(scratch, filepath.Base(t.TempDir())+".full")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
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

	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	fill.Close()
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
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
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
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
	for _, tt := range []struct{ db, want string }{
		{dir, "is a directory"},
		{filepath.Join(text, "history.db"), "not a directory"},
		{"/proc/history.db", "no such file or directory"},
		{other, "not a database that nstrace wrote"},
		{text, "not a database that nstrace wrote"},
	} {
		status, stdout, stderr := nstrace(t, []string{"record", "--db", tt.db})
		if status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: status %d, %q, want %q", tt.db, status, stderr, tt.want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("files left: %q", left)
	}
}
