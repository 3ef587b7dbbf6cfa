// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/safefile"
)

// patience is the maximum time that a test waits for anything.
const patience = time.Minute

// reports collects the lines that a recorder reports.
type reports struct {
	mu    sync.Mutex
	lines []string
}

func (r *reports) add(m string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, m)
}

// await waits for a line that contains text.
func (r *reports) await(t *testing.T, text string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		for _, l := range r.lines {
			if strings.Contains(l, text) {
				r.mu.Unlock()
				return l
			}
		}
		r.mu.Unlock()
	}
	t.Fatalf("no report contains %q: %q", text, r.lines)
	return ""
}

func (r *reports) count(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

func appendAll(t *testing.T, r *history.Recorder, s *storm, n int) {
	t.Helper()
	for range n {
		if err := r.Append(s.next()); err != nil {
			t.Fatal(err)
		}
	}
}

func checkWhole(t *testing.T, path string, events int64) {
	t.Helper()
	if v := verify(t, path); len(v.Problems) > 0 || v.Last != events || v.Events != uint64(events) {
		t.Errorf("want %d events: %+v", events, v)
	}
}

// The file system becomes full while recording, and later has room again.
func TestDiskFull(t *testing.T) {
	dir, grow := smallDisk(t)
	var reported reports
	path := filepath.Join(dir, "history.db")
	r := create(t, history.Options{Path: path, Report: reported.add})
	s := newStorm(t)
	// Fill the file system.
	for reported.count("disk is full") == 0 && s.n < 100_000 {
		appendAll(t, r, s, 1000)
		_ = r.Sync()
	}
	t.Log(reported.await(t, "the disk is full"))
	appendAll(t, r, s, 5000)
	if err := r.Sync(); err == nil {
		t.Error("Sync succeeds on a full disk")
	}
	grow()
	t.Log(reported.await(t, "recording again"))
	if err := r.Sync(); err != nil {
		t.Error(err)
	}
	if l := r.TakeLoss(); l != nil {
		t.Errorf("%v events were lost", l.Records)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, int64(s.n))
	if n := reported.count("disk is full"); n != 1 {
		t.Errorf("%d reports: %q", n, reported.lines)
	}
}

// TestLongEventsWait has long events wait for a full disk. Their memory is limited.
func TestLongEventsWait(t *testing.T) {
	dir, grow := smallDisk(t)
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o600); err == nil {
		t.Log("the file fits exactly")
	}
	var reported reports
	path := filepath.Join(dir, "history.db")
	r := create(t, history.Options{Path: path, Report: reported.add, Buffer: 10_000}) // 5 MB
	reported.await(t, "the disk is full")
	s := newStorm(t)
	long := strings.Repeat("x", 100_000)
	const events = 200
	for n := range events {
		e := s.next()
		e.Type, e.Namespace, e.Sysctl = event.SysctlWrite, nil, &event.Sysctl{Name: "a.b", Path: "/proc/sys/a/b", New: &long}
		if n%2 == 0 { // a process can be as long
			p := *e.Process
			p.Args = []string{long}
			e.Process, e.Sysctl.New = &p, nil
		}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	waiting := r.Waiting()
	if waiting < 40 || waiting > 60 {
		t.Errorf("%d events of 100 kB wait", waiting)
	}
	grow()
	if err := r.Sync(); err != nil {
		t.Error(err)
	}
	loss := r.TakeLoss()
	if loss == nil || loss.Records[event.SysctlWrite] != uint64(events-waiting) {
		t.Errorf("%d events waited, the loss is %+v", waiting, loss)
	}
	appendAll(t, r, s, 100) // there is room again
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, int64(waiting+100))
}

// smallDisk mounts a file system of one megabyte. The function that it returns makes it larger.
func smallDisk(t *testing.T) (dir string, grow func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func() {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m,mode=755"); err != nil {
			t.Fatal(err)
		}
	}
}

// The file system is full at the start, with or without a database: recording begins in memory.
func TestDiskFullAtStart(t *testing.T) {
	for _, old := range []bool{false, true} {
		dir, grow := smallDisk(t)
		path := filepath.Join(dir, "history.db")
		had := 0
		if old {
			had = 100
			r := create(t, history.Options{Path: path})
			appendAll(t, r, newStorm(t), had)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
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
		var reported reports
		r := create(t, history.Options{Path: path, Report: reported.add})
		t.Log(reported.await(t, "in memory until it is writable"))
		checkNotOpened(t, r)
		appendAll(t, r, newStorm(t), 5000)
		if err := r.Sync(); err == nil {
			t.Error("Sync succeeds on a full disk")
		}
		grow()
		checkRecovers(t, r, &reported, path, old, had+5000)
		if n := reported.count("the disk is full"); n != 1 {
			t.Errorf("%d reports: %q", n, reported.lines)
		}
	}
}

func checkNotOpened(t *testing.T, r *history.Recorder) {
	t.Helper()
	select {
	case <-r.Opened():
		t.Error("Opened is closed")
	default:
	}
}

// checkRecovers checks that a recorder that could not open the database at its start writes all
// events once it can.
func checkRecovers(t *testing.T, r *history.Recorder, reported *reports, path string, before bool, events int) {
	t.Helper()
	reported.await(t, "recording again")
	select {
	case <-r.Opened():
	case <-time.After(patience):
		t.Fatal("Opened is not closed")
	}
	if (r.Previous() != nil) != before {
		t.Errorf("the run before: %+v", r.Previous())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, int64(events))
}

// Another program has the database locked at the start.
func TestLockedAtStart(t *testing.T) {
	path := recorded(t, 100, history.Options{})
	unlock := lockDatabase(t, path)
	var reported reports
	r := create(t, history.Options{Path: path, Report: reported.add})
	t.Log(reported.await(t, "another program has the database locked"))
	checkNotOpened(t, r)
	appendAll(t, r, newStorm(t), 5000)
	unlock()
	checkRecovers(t, r, &reported, path, true, 5100)
}

// Create returns mistakes of the caller as errors at once.
func TestCreateMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		filepath.Join(file, "history.db"), dir, "/proc/nstrace/history.db", "/proc/history.db",
	} {
		if r, err := history.Create(history.Options{Path: path}); err == nil {
			t.Errorf("%s was accepted", path)
			r.Close()
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// lockDatabase makes a sqlite3 shell hold the write lock until the function that it returns is
// called.
func lockDatabase(t *testing.T, path string) func() {
	t.Helper()
	cmd := exec.Command("sqlite3", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("no sqlite3 shell: ", err)
	}
	if _, err := io.WriteString(in, ".timeout 10000\nBEGIN IMMEDIATE;\nSELECT 'locked';\n"); err != nil {
		t.Fatal(err)
	}
	if l, err := bufio.NewReader(out).ReadString('\n'); l != "locked\n" {
		t.Fatal(l, err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// Another program holds the lock for a long time. The recorder counts events that do not fit into
// the buffer.
func TestLocked(t *testing.T) {
	var reported reports
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, Report: reported.add, Buffer: 5000})
	s := newStorm(t)
	appendAll(t, r, s, 100)
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	unlock := lockDatabase(t, path)
	appendAll(t, r, s, 5000)
	t.Log(reported.await(t, "another program has the database locked"))
	appendAll(t, r, s, 321)
	if l := r.TakeLoss(); l != nil {
		t.Errorf("returned before the buffer has room: %v", l)
	}
	unlock()
	t.Log(reported.await(t, "recording again"))
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	l := r.TakeLoss()
	if l == nil || l.Reason != "history" || l.Records[event.SysctlWrite]+l.Records[event.NamespaceCreate] != 321 || !l.To.After(l.From) {
		t.Fatalf("%+v", l)
	}
	if err := r.Append(&event.Event{V: 1, Seq: 1, Type: event.TraceLoss, Time: time.Now(), Loss: l}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 5101)
	found := find(t, open(t, path), history.Query{Types: map[event.Type]bool{event.TraceLoss: true}})
	if len(found) != 1 || found[0].Event.Loss.Records[event.SysctlWrite] != l.Records[event.SysctlWrite] {
		t.Errorf("%+v", found)
	}
}

// spoil overwrites a part of a file.
func spoil(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := make([]byte, 1<<16)
	for i := range junk {
		junk[i] = 0xa5
	}
	if _, err := f.WriteAt(junk, at); err != nil {
		t.Fatal(err)
	}
}

// Create renames a corrupt database and starts a new one.
func TestCorruptAtStart(t *testing.T) {
	path := recorded(t, 3000, history.Options{})
	spoil(t, path, 0)
	var reported reports
	r := create(t, history.Options{Path: path, Report: reported.add})
	t.Log(reported.await(t, "the database is corrupt"))
	if r.Previous() != nil {
		t.Errorf("%+v", r.Previous())
	}
	s := newStorm(t)
	appendAll(t, r, s, 50)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 50)
	aside, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(aside) == 0 {
		t.Errorf("the corrupt database is gone: %v %v", aside, err)
	}
	if _, err := history.Open(aside[0]); !errors.Is(err, history.ErrCorrupt) {
		t.Errorf("opened: %v", err)
	}
}

// The database becomes corrupt while recording.
func TestCorruptWhileRecording(t *testing.T) {
	defer history.SetCache(history.SetCache(64))
	var reported reports
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, Report: reported.add})
	s := newStorm(t)
	appendAll(t, r, s, 3000)
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	before := s.n
	// Overwrite all pages, in the database and in the log.
	for _, file := range []string{path, path + "-wal"} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < info.Size(); at += 1 << 16 {
			spoil(t, file, at)
		}
	}
	for deadline := time.Now().Add(patience); reported.count("the database is corrupt") == 0; {
		// The recorder notices once it reads old pages again, which its cache holds at first.
		appendAll(t, r, s, 2000)
		_ = r.Sync()
		if time.Now().After(deadline) {
			t.Fatalf("no report: %q", reported.lines)
		}
	}
	t.Log(reported.await(t, "the database is corrupt"))
	at := s.n
	appendAll(t, r, s, 1000)
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, path)
	if len(v.Problems) > 0 || v.Events < uint64(s.n-at) || v.Events > uint64(s.n-before) {
		t.Errorf("%+v of %d", v, s.n)
	}
}

// Somebody moves, removes or replaces the database while recording. Later events must be in the
// database that is then at the path.
func TestMoved(t *testing.T) {
	remove := func(suffixes ...string) func(*testing.T, string) int64 {
		return func(t *testing.T, path string) int64 {
			for _, suffix := range suffixes {
				if err := os.Remove(path + suffix); err != nil {
					t.Fatal(err)
				}
			}
			return 0
		}
	}
	for _, tt := range []struct {
		name string
		move func(t *testing.T, path string) (there int64)
	}{
		{"file", remove("")},
		{"files", remove("", "-wal", "-shm")},
		{"lock too", remove("", "-wal", "-shm", "-lock")},
		{"folder", func(t *testing.T, path string) int64 {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			return 0
		}},
		{"moved", func(t *testing.T, path string) int64 {
			if err := os.Rename(path, filepath.Join(filepath.Dir(path), "kept.db")); err != nil {
				t.Fatal(err)
			}
			return 0
		}},
		{"replaced", func(t *testing.T, path string) int64 {
			if err := os.Rename(recorded(t, 500, history.Options{}), path); err != nil {
				t.Fatal(err)
			}
			return 500
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var reported reports
			path := filepath.Join(t.TempDir(), "folder", "history.db")
			r := create(t, history.Options{Path: path, Report: reported.add})
			s := newStorm(t)
			appendAll(t, r, s, 3000)
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
			there := tt.move(t, path)
			appendAll(t, r, s, 2000)
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
			checkWhole(t, path, there+2000)
			// The recorder holds the lock that is there now.
			var otherReported reports
			if err := create(t, history.Options{Path: path, Report: otherReported.add}).Close(); err != nil {
				t.Error(err)
			}
			if otherReported.count("another nstrace records to it") != 1 {
				t.Errorf("the other recorder reports %q", otherReported.lines)
			}
			appendAll(t, r, s, 100)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			checkWhole(t, path, there+2100)
			if kept := filepath.Join(filepath.Dir(path), "kept.db"); tt.name == "moved" {
				checkWhole(t, kept, 3000)
			}
			if n := reported.count("removed or replaced"); n != 1 || len(reported.lines) != 1 {
				t.Errorf("%q", reported.lines)
			}
		})
	}
}

// After the clock was set back, ids are still in order and queries by time find all events.
func TestClockSetBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path, Batch: 10})
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(n int) time.Time {
		if n < 500 {
			return noon.Add(time.Duration(n) * time.Second)
		}
		return noon.Add(time.Duration(n-500)*time.Second - time.Hour)
	}
	s := newStorm(t)
	for n := range 1000 {
		e := s.next()
		e.Time = at(n)
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
		if n%10 == 9 {
			if err := r.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 1000)
	db := open(t, path)
	for _, tt := range []struct{ since, until, want int }{
		{0, 99, 100},    // before the clock was set back
		{500, 599, 100}, // after it was set back
		{999, 0, 2},     // from the latest time to the earliest
	} {
		got := find(t, db, history.Query{Since: at(tt.since), Until: at(tt.until)})
		if len(got) != tt.want {
			t.Fatalf("%v: %d events, want %d", tt, len(got), tt.want)
		}
		for _, e := range got {
			if e.Event.Time.Before(at(tt.since)) || e.Event.Time.After(at(tt.until)) {
				t.Errorf("%v: %v", tt, e.Event.Time)
			}
		}
	}
}

// A second recorder stands by and takes over when the first one ends. The history has each event
// once, although the two recorders give it different times.
func TestTwoRecorders(t *testing.T) {
	for _, apart := range []time.Duration{-30 * time.Microsecond, 30 * time.Microsecond} {
		t.Run(apart.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.db")
			first := create(t, history.Options{Path: path})
			reported := make(chan string, 10)
			second, err := history.Create(history.Options{Path: path, Report: func(m string) { reported <- m }})
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if m := <-reported; !strings.Contains(m, "another nstrace records to it: streaming, and standing by") {
				t.Errorf("the second recorder reports %q", m)
			}
			if err := second.Sync(); err == nil {
				t.Error("Sync of the second recorder succeeds")
			}
			const until, all = 5500, 6500
			s := newStorm(t)
			for n := range all {
				e := s.next()
				if n < until {
					if err := first.Append(e); err != nil {
						t.Fatal(err)
					}
				}
				e.Time = e.Time.Add(apart)
				if err := second.Append(e); err != nil {
					t.Fatal(err)
				}
				if n == until+until/10 { // both trace when the first one ends
					if err := first.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			<-second.Opened()
			if m := <-reported; !strings.Contains(m, "recording continues where the other nstrace ended") {
				t.Errorf("the second recorder reports %q", m)
			}
			if p := second.Previous(); p == nil || p.Stopped.IsZero() || p.BootID != procfs.BootID() {
				t.Errorf("%+v", p)
			}
			if err := second.Close(); err != nil {
				t.Fatal(err)
			}
			checkWhole(t, path, all)
			for i, e := range find(t, open(t, path), history.Query{}) {
				if e.Event.Seq != uint64(i+1) {
					t.Fatalf("event %d is number %d", i+1, e.Event.Seq)
				}
			}
		})
	}
}

// A recorder that ends while it stands by writes nothing.
func TestStandbyEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	first := create(t, history.Options{Path: path})
	second := create(t, history.Options{Path: path})
	s := newStorm(t)
	for range 100 {
		e := s.next()
		if err := errors.Join(first.Append(e), second.Append(e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(second.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 100)
}

// A recorder on standby remembers only the last seconds.
func TestStandbyForgets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	create(t, history.Options{Path: path})
	second := create(t, history.Options{Path: path})
	s := newStorm(t)
	begin := s.at
	// Append drops old events, except those that the recorder tries to write at that time. So
	// append until it has dropped them.
	for deadline := time.Now().Add(2 * patience); ; {
		e := s.next()
		e.Time = begin.Add(time.Duration(e.Seq) * time.Millisecond)
		if err := second.Append(e); err != nil {
			t.Fatal(err)
		}
		n := second.Waiting()
		if e.Seq >= 10_000 && n < 10_000 {
			t.Fatalf("%d events wait of 10 seconds with 1,000 in each", n)
		}
		if e.Seq >= 100_000 && n <= 13_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d events, %d wait of 10 seconds with 1,000 in each", e.Seq, n)
		}
	}
}

// killed is an environment variable of the process that TestKilled kills.
const killed = "NSTRACE_HISTORY_TEST_KILLED"

// TestMain also runs the process that TestKilled kills in the middle of a storm. It prints how many
// events are on the disk.
func TestMain(m *testing.M) {
	path := os.Getenv(killed)
	if !slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.bench=") }) {
		history.SetSegment(128) // so that every test has segments
	}
	if path == "" {
		status := m.Run()
		if askedDir != "" {
			os.RemoveAll(askedDir)
		}
		os.Exit(status)
	}
	if err := recordForEver(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func recordForEver(path string) error {
	r, err := history.Create(history.Options{Path: path, Report: func(m string) { fmt.Fprintln(os.Stderr, m) }})
	if err != nil {
		return err
	}
	s, err := stormOf("../../tracer/testdata")
	if err != nil {
		return err
	}
	db, err := history.Open(path)
	if err != nil {
		return err
	}
	begun, err := db.Last()
	if err != nil {
		return err
	}
	for {
		for range 700 {
			if err := r.Append(s.next()); err != nil {
				return err
			}
		}
		n := s.n
		if err := r.Sync(); err != nil {
			return err
		}
		fmt.Println(begun + int64(n))
		for range 5000 {
			if err := r.Append(s.next()); err != nil {
				return err
			}
		}
	}
}

// After each of several kill -9 in the middle of a storm, the history has the events that were on
// the disk, and their chain is complete.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	var end time.Time
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killed+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var synced int64
		for range 3 + round {
			if !lines.Scan() {
				t.Fatal("the process ended by itself: ", lines.Err())
			}
			if synced, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // lines from before the kill
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				synced = n
			}
		}
		_ = cmd.Wait()
		end = time.Now()
		v := verify(t, path)
		if len(v.Problems) > 0 || v.Last < synced {
			t.Fatalf("%d events were on the disk: %+v", synced, v)
		}
		runs, err := open(t, path).Runs()
		if err != nil || len(runs) != round+1 || !runs[round].Stopped.IsZero() {
			t.Fatalf("%+v %v", runs, err)
		}
	}
	r := create(t, history.Options{Path: path})
	if p := r.Previous(); p == nil || !p.Stopped.IsZero() || end.Sub(p.Last) > patience || p.Last.Before(p.Started) {
		t.Errorf("the run before: %+v", p)
	}
}

// A database of a later version is an error of one line.
func TestNewerIsRefused(t *testing.T) {
	path := recorded(t, 10, history.Options{})
	shell(t, path, "PRAGMA user_version = 1000")
	_, err := history.Open(path)
	if !errors.Is(err, history.ErrNewer) || strings.Contains(err.Error(), "\n") {
		t.Errorf("read: %v", err)
	}
	_, err = history.Create(history.Options{Path: path})
	if !errors.Is(err, history.ErrNewer) || strings.Contains(err.Error(), "\n") {
		t.Errorf("recorded to: %v", err)
	}
	t.Log(err)
}

// Create and Open do not touch another program's database.
func TestOtherDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	shell(t, path, "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
	if _, err := history.Create(history.Options{Path: path}); !errors.Is(err, history.ErrNotHistory) {
		t.Errorf("recorded to: %v", err)
	}
	if _, err := history.Open(path); !errors.Is(err, history.ErrNotHistory) {
		t.Errorf("read: %v", err)
	}
	if got := shell(t, path, "SELECT a FROM t; PRAGMA journal_mode;"); got != "1\ndelete\n" {
		t.Errorf("changed: %q", got)
	}
}

// Permission to read the file is enough to read it, even while a recorder writes to it.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the UID needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "nstrace-history-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := recorded(t, 100, history.Options{Path: filepath.Join(dir, "history.db")})
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		// The thread keeps this UID and ends with the goroutine.
		lockThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		db, err := history.Open(path)
		if err != nil {
			done <- err
			return
		}
		n := 0
		for _, err := range db.Events(context.Background(), history.Query{}) {
			if err != nil {
				done <- err
				return
			}
			n++
		}
		if n != 100 {
			err = fmt.Errorf("%d events", n)
		}
		done <- errors.Join(err, db.Close())
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPlantedJournal has somebody put a journal beside a database in a folder with the sticky bit, while the
// database is closed. SQLite would play it back.
func TestPlantedJournal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a file of somebody else")
	}
	dir := filepath.Join(t.TempDir(), "sticky")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "history.db")
	for _, planted := range []bool{false, true} {
		if planted {
			journal := path + "-journal"
			if err := errors.Join(os.WriteFile(journal, []byte("x"), 0o666), os.Chown(journal, 54321, 54321)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := history.Create(history.Options{Path: path})
		if planted != errors.Is(err, safefile.ErrShared) || !planted && err != nil {
			t.Errorf("planted %v: %v", planted, err)
		}
		if err == nil {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPlantedMeanwhile has somebody try to put a journal and a log beside a new database all the time while it
// is opened. In the folder they can, but not under these names.
func TestPlantedMeanwhile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make files of somebody else")
	}
	for round := range 20 {
		dir := filepath.Join(t.TempDir(), "sticky")
		theirs := filepath.Join(dir, "theirs")
		if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777|os.ModeSticky), os.WriteFile(theirs, []byte("x"), 0o666), os.Chown(theirs, 54321, 54321)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "history.db")
		stop, done := make(chan struct{}), make(chan int)
		go func() {
			planted := 0
			for {
				select {
				case <-stop:
					done <- planted
					return
				default:
				}
				if _, err := os.Lstat(path); err != nil { // nothing is checked yet
					continue
				}
				for _, suffix := range []string{"-journal", "-wal", "-shm"} {
					if os.Link(theirs, path+suffix) == nil {
						planted++
					}
				}
			}
		}()
		r, err := history.Create(history.Options{Path: path})
		if err == nil {
			err = r.Append(newStorm(t).next())
		}
		if err == nil {
			err = r.Sync()
		}
		close(stop)
		if planted := <-done; planted > 0 || err != nil {
			t.Fatalf("round %d: %d files planted: %v", round, planted, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(path + "-*"); err != nil || len(left) != 1 {
			t.Errorf("%v: %v", left, err) // the lock
		}
		if v := verify(t, path); v.Events != 1 || len(v.Problems) > 0 {
			t.Errorf("%+v", v)
		}
	}
}
