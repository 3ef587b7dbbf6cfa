// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
)

// foreign makes a history of one write, and then changes it by SQL statements.
func foreign(t *testing.T, script ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	value := "x"
	if err := errors.Join(r.Append(&event.Event{
		V: 1, Time: time.Now().UTC(), Seq: 1, BootID: procfs.BootID(), Type: event.SysctlWrite, Outcome: event.Success, Via: "write",
		Sysctl:  &event.Sysctl{Name: "kernel.ostype", Path: "/proc/sys/kernel/ostype", New: &value, After: &value},
		Process: &event.Process{PID: 1, Comm: "x"},
	}), r.Close()); err != nil {
		t.Fatal(err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, statement := range script {
		if err := sqlitex.ExecuteTransient(conn, statement, nil); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return path
}

// TestForeignHistory checks that each command refuses a database with foreign tables, at once and
// with one line.
func TestForeignHistory(t *testing.T) {
	anyKernel(t)
	for _, tt := range []struct {
		want   string
		script []string
	}{
		{"table event is a view", []string{
			"DROP VIEW events", "ALTER TABLE event RENAME TO event_",
			"CREATE VIEW event AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT event_.* FROM event_, c WHERE x < 0",
		}},
		{"table text is a view", []string{
			"DROP VIEW events", "ALTER TABLE text RENAME TO text_", "CREATE VIEW text AS SELECT id, hex(zeroblob(450000000)) AS value FROM text_",
		}},
	} {
		db := foreign(t, tt.script...)
		for _, args := range []string{
			"blame", "blame --all", "history", "history -n 1", "history --follow", "history sysctl kernel.ostype", "history ns 4026531840",
			"history verify", "history export", "history import /dev/null", "record",
		} {
			status, stdout, stderr := nstrace(t, append(strings.Fields(args), "--db", db))
			where := "--db: "
			if strings.Contains(args, "import") {
				where = ""
			}
			want := fmt.Sprintf("nstrace: %s%s: %s: this is not a database that nstrace wrote\n", where, db, tt.want)
			if status != 1 || stdout != "" || stderr != want {
				t.Errorf("%s: status %d, %q %q, want %q", args, status, stdout, stderr, want)
			}
		}
	}
}

// TestForeignRows checks that blame opens no path except those of parameters, and leaves out rows
// that are not writes.
func TestForeignRows(t *testing.T) {
	anyKernel(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := blame(t, foreign(t)); len(got) != 1 || got[0].State != "drifted" || got[0].Value == nil || *got[0].Value != "Linux" {
		t.Errorf("before the change: %+v", got)
	}
	for _, path := range []string{fifo, "/dev/zero", "/proc/sys/kernel/osrelease", "/proc/sys/.." + fifo} {
		got := blame(t, foreign(t, "UPDATE parameter SET path = '"+path+"'"))
		if len(got) != 1 || got[0].State != "unreadable" || got[0].Value != nil {
			t.Errorf("%s: %+v", path, got)
		}
	}
	db := foreign(t, `UPDATE last_write SET line = '{"v":1,"type":"sysctl.write"}'`, `UPDATE event SET line = '{"v":1,"type":"netdev.move"}'`)
	for args, want := range map[string]string{
		"blame":   `skipped 1 row that nstrace cannot have written: the last write to "kernel.ostype": a sysctl.write without sysctl`,
		"history": "skipped 1 row that nstrace cannot have written: event 1: a netdev.move without netdev",
	} {
		status, _, stderr := nstrace(t, append(strings.Fields(args), "--db", db, "-o", "json"))
		if status != 0 || !strings.Contains(stderr, "nstrace: "+db+": "+want+"\n") || strings.Contains(stderr, "panic") {
			t.Errorf("%s: status %d, %q, want %q", args, status, stderr, want)
		}
	}
}

// TestImportInterrupted interrupts an import that waits for its input. Nothing must stay behind.
// Until then, only the owner can read what import has made.
func TestImportInterrupted(t *testing.T) {
	anyKernel(t)
	dir, old := t.TempDir(), foreign(t)
	before := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(before) })
	status, export, stderr := nstrace(t, []string{"history", "export", "--db", old})
	if status != 0 {
		t.Fatal(stderr)
	}
	db := filepath.Join(dir, "history.db")
	cmd := exec.Command(nstraceBin, "history", "import", "-", "--db", db)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(patience); ; {
		if info, err := os.Stat(db + "-wal"); err == nil {
			if m := info.Mode().Perm(); m != 0o600 {
				t.Errorf("the log has mode %o", m)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the import did not start")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	in.Close()
	if !ended.Stop() || exitStatus(cmd.ProcessState) != 1 || fmt.Sprint(cmd.Stderr) != "nstrace: interrupted\n" {
		t.Errorf("%v: %s", err, cmd.Stderr)
	}
	if _, err := os.Stat(db); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the import left a database: %v", err)
	}
	if status, _, stderr := nstrace(t, []string{"history", "import", "-", "--db", db}, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(export) }); status != 0 {
		t.Error(stderr)
	}
	for _, suffix := range []string{"", "-lock"} {
		if info, err := os.Stat(db + suffix); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s%s: %v %v", db, suffix, info.Mode(), err)
		}
	}
}

// TestOutputInterrupted interrupts commands whose output nobody reads, once the pipe is full.
func TestOutputInterrupted(t *testing.T) {
	anyKernel(t)
	db := foreign(t, "UPDATE event SET old = hex(zeroblob(500000))")
	for _, args := range []string{"history -o json", "history export"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(nstraceBin, append(strings.Fields(args), "--db", db)...)
		cmd.Stdout = w
		err = errors.Join(cmd.Start(), w.Close())
		t.Cleanup(func() { cmd.Process.Kill(); r.Close() })
		if err != nil {
			t.Fatal(err)
		}
		size, err := unix.FcntlInt(r.Fd(), unix.F_GETPIPE_SZ, 0)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ); err != nil || n >= size {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s writes nothing", args)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil || !late.Stop() {
			t.Errorf("%s does not end: %v", args, err)
		}
	}
}
