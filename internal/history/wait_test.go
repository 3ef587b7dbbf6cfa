// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/history"
)

// A recorder waits for the folder of its database, and then writes all events in order. Its run began when it began to
// wait.
func TestWaitForFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "history.db")
	var reported reports
	began := time.Now()
	r := create(t, history.Options{Path: path, Report: reported.add, WaitForFolder: true})
	if m := reported.await(t, "there is no folder"); !strings.Contains(m, "keeping up to 1000000 events in memory") {
		t.Error(m)
	}
	checkNotOpened(t, r)
	s := newStorm(t)
	appendAll(t, r, s, 5000)
	err := r.Sync()
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Sync: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made the folder: %v", err)
	}
	waited := time.Now()
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	reported.await(t, "recording, including the buffered events")
	appendAll(t, r, s, 100)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 5100)
	db := open(t, path)
	for i, stored := range find(t, db, history.Query{}) {
		if stored.Event.Seq != uint64(i+1) {
			t.Fatalf("event %d has the number %d", stored.ID, stored.Event.Seq)
		}
	}
	runs, err := db.Runs()
	if err != nil || len(runs) != 1 || runs[0].Started.Before(began) || runs[0].Started.After(waited) {
		t.Errorf("runs: %+v, %v", runs, err)
	}
	if n := reported.count(""); n != 2 {
		t.Errorf("%d reports: %q", n, reported.lines)
	}
}

// A remount ends the wait at once: it does not need the next try.
func TestWaitForRemount(t *testing.T) {
	dir, _ := smallDisk(t)
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	restore := history.SetRetry(time.Hour)
	defer restore()
	path := filepath.Join(dir, "history.db")
	var reported reports
	r := create(t, history.Options{Path: path, Report: reported.add, WaitForFolder: true, Batch: 10})
	reported.await(t, dir+" is on a read-only file system")
	appendAll(t, r, newStorm(t), 5000)
	if err := r.Sync(); !errors.Is(err, unix.EROFS) { // it has tried, and waits
		t.Errorf("Sync: %v", err)
	}
	remount(0)
	reported.await(t, "recording, including the buffered events")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path, 5000)
}

// A recorder that ends while it waits says how many events it could not write.
func TestWaitEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "never", "history.db")
	r := create(t, history.Options{Path: path, WaitForFolder: true})
	appendAll(t, r, newStorm(t), 42)
	err := r.Close()
	if err == nil || !strings.Contains(err.Error(), "42 events were not written: there is no folder") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Close: %v", err)
	}
}

// While it waits, the memory is limited, and what does not fit is counted.
func TestWaitIsLimited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "history.db")
	var reported reports
	r := create(t, history.Options{Path: path, Report: reported.add, WaitForFolder: true, Buffer: 100})
	appendAll(t, r, newStorm(t), 150)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	reported.await(t, "recording, including the buffered events")
	if err := r.Sync(); err != nil {
		t.Error(err)
	}
	lost := uint64(0)
	if l := r.TakeLoss(); l != nil {
		for _, n := range l.Records {
			lost += n
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if lost < 50 || lost > 100 { // long events need more
		t.Errorf("%d events were lost", lost)
	}
	checkWhole(t, path, 150-int64(lost))
}

// Of two recorders that wait, one records, and the other stands by.
func TestTwoWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "history.db")
	var reported reports
	var both [2]*history.Recorder
	for i := range both {
		both[i] = create(t, history.Options{Path: path, Report: reported.add, WaitForFolder: true})
		appendAll(t, both[i], newStorm(t), 10)
		if err := both[i].Sync(); err == nil { // it waits
			t.Error("Sync succeeds")
		}
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	reported.await(t, "recording, including the buffered events")
	reported.await(t, "standing by to record when it ends")
	for _, r := range both {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	checkWhole(t, path, 10)
}

// A recorder that waits opens the database also if nothing happens.
func TestWaitWithoutEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "history.db")
	r := create(t, history.Options{Path: path, WaitForFolder: true})
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.Opened():
	case <-time.After(patience):
		t.Error("Opened is not closed")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
