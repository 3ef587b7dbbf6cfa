// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// copyProgram copies a program to a path.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestVisitors enters a network namespace by commands of nstrace, which the recorder does not report, and by others
// that pose as nstrace, which it does.
func TestVisitors(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) { testVisitors(t, string(b)) })
	}
}

func testVisitors(t *testing.T, backend string) {
	dir := t.TempDir()
	db := filepath.Join(dir, "history.db")
	rec := startStream(t, "record", "--backend", backend, "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	name := fmt.Sprintf("visited%d", os.Getpid())
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	path := "/run/netns/" + name
	id, err := nsID(path)
	if err != nil {
		t.Fatal(err)
	}
	output(t, "ip", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.tcp_keepalive_time=613")
	enters := func(comm string) func([]*emitted) bool {
		return func(all []*emitted) bool {
			return slices.ContainsFunc(all, func(e *emitted) bool {
				return e.Type == event.NamespaceEnter && e.Namespace.ID == id && e.Process.Comm == comm
			})
		}
	}
	from := rec.len()
	if got := blame(t, db, "--netns", name); len(got) != 1 || got[0].Value == nil || *got[0].Value != "613" {
		t.Errorf("blame: %+v, want the value", got)
	}
	for _, args := range [][]string{{"show", name, "--db", db, "--runtime-socket", "none"}, {"graph", "--db", db, "--runtime-socket", "none"}} {
		if status, _, stderr := nstrace(t, args); status != 0 {
			t.Errorf("%q: %s", args, stderr)
		}
	}
	// It calls itself nstrace, and does not ask the recorder.
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Fatal(err)
	}
	posing := filepath.Join(dir, filepath.Base(nstraceBin))
	if err := os.MkdirAll(filepath.Dir(posing), 0o755); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, nsenter, posing)
	output(t, posing, "--net="+path, "true")
	rec.awaitFrom(t, from, "the enter of a program with nstrace's name", enters(filepath.Base(posing)))
	for _, e := range rec.since(from) {
		if e.Type == event.NamespaceEnter && e.Process.Exe == nstraceBin {
			t.Errorf("nstrace reports its own visit: %s", e.line)
		}
	}
	// It asks the recorder, and is another file. Who can make it ask can have made it do anything.
	from = rec.len()
	other := filepath.Join(dir, "other")
	copyProgram(t, nstraceBin, other)
	output(t, other, "blame", "--db", db, "--netns", name)
	rec.awaitFrom(t, from, "the enter of another program that asks the recorder", enters("other"))
	rec.interrupt(t)
	// Not checkEnd: a slow machine has no time for a snapshot at the end, and the recorder says so.
	all := rec.since(0)
	last := all[len(all)-1]
	if last.Type != event.TraceStop || last.Trace.Totals == nil {
		t.Fatalf("no totals: %s", last.line)
	}
	if sum := last.Trace.Totals; sum.Filtered == 0 || sum.Seen != sum.Written+sum.Filtered+sum.Lost {
		t.Errorf("the visits are not counted: %+v", sum)
	}
}
