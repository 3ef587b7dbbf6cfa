// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/confine"
)

// lines joins the lines of events as they were written.
func lines(events []*emitted) string {
	var b strings.Builder
	for _, e := range events {
		b.Write(e.line)
	}
	return b.String()
}

// parseLines parses and checks the lines of a sink.
func parseLines(t *testing.T, text string) (events []*emitted) {
	t.Helper()
	for line := range strings.Lines(text) {
		e, err := parseEvent([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// checkSkipped checks that each hole in the numbers of a filtered sink is explained, and that the sink has exactly
// the events of the stream that want holds for.
func checkSkipped(t *testing.T, all, got []*emitted, want func(*emitted) bool) {
	t.Helper()
	var wanted, has []uint64
	for _, e := range all {
		if e.Type.Family() == "trace" || want(e) {
			wanted = append(wanted, e.Seq)
		}
	}
	last := uint64(0)
	for _, e := range got {
		if e.Seq-last-1 != e.Skipped {
			t.Errorf("%d follows %d, skipped %d", e.Seq, last, e.Skipped)
		}
		last = e.Seq
		has = append(has, e.Seq)
	}
	if len(wanted) != len(has) || len(has) == 0 || last != all[len(all)-1].Seq {
		t.Errorf("the sink has %d, want %d", has, wanted)
	}
}

// TestSinks has files besides standard output. Somebody moves one of them.
func TestSinks(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	all, some := filepath.Join(dir, "all"), filepath.Join(dir, "some")
	s := startStream(t, "--runtime-socket", "none", "--sink", "file:"+all+",mode=0640",
		"--sink", "file:"+some+`,size=1MiB,keep=2,filter=type in ["namespace.create", "namespace.pin"]`)
	s.awaitStart(t)
	awaitText(t, all, `"type":"trace.start"`)
	checkThreads(t, s.cmd.Process.Pid, confine.Work{Files: true})
	output(t, "unshare", "--uts", "--net", "true")
	awaitText(t, all, `"type":"namespace.create"`)
	if err := os.Rename(all, all+".1"); err != nil {
		t.Fatal(err)
	}
	output(t, "unshare", "--ipc", "true")
	awaitText(t, all, `"type":"namespace.create"`)
	s.interrupt(t)
	s.checkEnd(t, false)
	events := s.since(0)
	if got := readLines(t, all+".1") + readLines(t, all); got != lines(events) {
		t.Errorf("the sink has\n%swant\n%s", got, lines(events))
	}
	for _, path := range []string{all + ".1", all} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	checkSkipped(t, events, parseLines(t, readLines(t, some)), func(e *emitted) bool {
		return e.Type == event.NamespaceCreate || e.Type == event.NamespacePin
	})
}

// readLines returns a file with its last newline, which readFile cuts.
func readLines(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSinkOnFullDisk fills the disk of a sink. The other sink has each event at once. The first one has them all
// once there is space.
func TestSinkOnFullDisk(t *testing.T) {
	anyKernel(t)
	dir := smallDisk(t)
	full, other := filepath.Join(dir, "events"), filepath.Join(t.TempDir(), "events")
	s := startStream(t, "--runtime-socket", "none", "-e", "namespace.create", "--sink", "file:"+full, "--sink", "file:"+other)
	s.awaitStart(t)
	awaitText(t, full, `"type":"trace.start"`)
	fillDisk(t, dir)
	const creates = 30
	for range creates {
		output(t, "unshare", "--uts", "true")
	}
	awaitText(t, other, `"seq":31`)
	s.await(t, "a message", func([]*emitted) bool {
		return strings.Contains(s.stderr.String(), "no space left on device; nstrace goes on")
	})
	growDisk(t, dir)
	awaitText(t, full, `"seq":31`)
	s.interrupt(t)
	if s.err != nil {
		t.Errorf("%v: %s", s.err, s.stderr.String())
	}
	for _, path := range []string{full, other} {
		if got := readLines(t, path); got != lines(s.since(0)) {
			t.Errorf("%s has\n%swant\n%s", path, got, lines(s.since(0)))
		}
	}
	if said := s.stderr.String(); !strings.Contains(said, "works again") || strings.Contains(said, "lacks") {
		t.Errorf("nstrace says: %s", said)
	}
}
