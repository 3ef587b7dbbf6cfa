// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
)

// A disk takes some bytes and is then full.
type disk struct {
	strings.Builder
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Builder.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *disk) Close() error { return nil }

// TestFullDisk makes a write fail at each byte. The file has each line once.
func TestFullDisk(t *testing.T) {
	items := []Item{{Line: []byte("one\n")}, {Line: []byte("two\n")}, {Line: []byte("three\n")}}
	const want = "one\ntwo\nthree\n"
	for room := range len(want) {
		d := &disk{room: room}
		f := &file{w: d}
		n, err := f.Deliver(t.Context(), items)
		if !errors.Is(err, syscall.ENOSPC) || n != strings.Count(want[:room], "\n") {
			t.Errorf("%d: %d, %v", room, n, err)
		}
		d.room = 1 // and once more
		m, err := f.Deliver(t.Context(), items[n:])
		if room < len(want)-1 && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d: %v", room, err)
		}
		d.room = 100
		if left := items[n+m:]; len(left) > 0 {
			if k, err := f.Deliver(t.Context(), left); err != nil || k != len(left) {
				t.Errorf("%d: %d, %v", room, k, err)
			}
		}
		if d.String() != want {
			t.Errorf("%d: %q", room, d.String())
		}
	}
}

// TestFileMoved moves and removes the file while nstrace writes to it, with and without rotation.
func TestFileMoved(t *testing.T) {
	for name, rotation := range map[string]output.Rotation{"plain": {Mode: 0o640}, "rotating": {MaxSize: 1 << 20, Mode: 0o640}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events")
			to, err := OpenFile(path, rotation)
			if err != nil {
				t.Fatal(err)
			}
			deliver := func(line string) {
				t.Helper()
				if n, err := to.Deliver(t.Context(), []Item{{Line: []byte(line)}}); n != 1 || err != nil {
					t.Fatal(n, err)
				}
			}
			has := func(path, want string) {
				t.Helper()
				got, err := os.ReadFile(path)
				if err != nil || string(got) != want {
					t.Errorf("%s: %q, %v", path, got, err)
				}
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
					t.Errorf("%v, %v", info.Mode(), err)
				}
			}
			deliver("one\n")
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			deliver("two\n")
			has(path+".1", "one\n")
			has(path, "two\n")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			deliver("three\n")
			has(path, "three\n")
			if err := to.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFileRotates writes more than one file holds.
func TestFileRotates(t *testing.T) {
	dir := t.TempDir()
	to, err := OpenFile(filepath.Join(dir, "events.json"), output.Rotation{MaxSize: 1 << 20, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	set := NewSet(New(Options{Name: "it", Destination: to, Report: silent}))
	var n numbered
	for range 10000 {
		e := n.next(event.SysctlWrite)
		e.Unit = strings.Repeat("x", 200)
		set.Write(e)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	lines := 0
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o644 || info.Size() > 1<<20 {
			t.Errorf("%s: %v, %d bytes, %v", path, info.Mode(), info.Size(), err)
		}
		for line := range strings.Lines(string(text)) {
			if lines++; !strings.HasPrefix(line, `{"v":`) || !strings.HasSuffix(line, "}\n") {
				t.Errorf("%q", line)
			}
		}
	}
	if lines != 10000 {
		t.Errorf("%d lines", lines)
	}
}
