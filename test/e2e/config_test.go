// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// writeConfig writes a configuration file.
func writeConfig(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestReload changes the configuration while a process writes to a parameter all the time. The sinks have each of its
// writes, once. A configuration that cannot be used changes nothing.
func TestReload(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	all, other := filepath.Join(dir, "all"), filepath.Join(dir, "other")
	base := fmt.Sprintf("runtime-socket: [none]\nevent: [sysctl.write]\ndb: %s\n", filepath.Join(dir, "history.db"))
	first := base + "sink: ['file:" + all + "']\n"
	second := base + "alert: [default]\nsink: ['file:" + all + "', 'file:" + other + "']\n"
	writeConfig(t, config, first)
	args := []string{"record", "--config", config, "-o", "json"}
	s := startCommand(t, exec.Command(nstraceBin, args...), args)
	s.awaitStart(t)

	const parameter = "/proc/sys/vm/swappiness"
	value := []byte(readFile(t, parameter))
	stop, counted := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				counted <- n
				return
			default:
			}
			if os.WriteFile(parameter, value, 0) == nil {
				n++
			}
		}
	}()
	reload := func(text, message string) {
		t.Helper()
		before := strings.Count(s.stderr.String(), message)
		writeConfig(t, config, text)
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		awaitCount(t, s, message, before+1)
	}
	for range 5 {
		before := fileSize(other)
		reload(second, "changed alert, sink")
		awaitUntil(t, "a line in the other sink", func() string { return strconv.FormatInt(fileSize(other), 10) }, func(size string) bool { return size != strconv.FormatInt(before, 10) })
		reload(first, "changed alert, sink")
	}
	reload(second+"keep: 1d\n", "keep needs a restart")
	reload(second+"kep: 1d\n", `config.yaml:6:1: unknown key "kep" (did you mean "keep"?)`)
	reload(second+"filter: type ==\n", "config.yaml:6:9: filter: ")
	close(stop)
	n := <-counted
	s.interrupt(t)
	if s.err != nil || len(s.faults) > 0 || !strings.Contains(s.stderr.String(), " + 0 lost") {
		t.Errorf("%v %v: %s", s.err, s.faults, s.stderr.String())
	}

	stream := s.since(0)
	if n == 0 {
		t.Fatal("no writes")
	}
	if got, lost := countWrites(stream); got+lost != n {
		t.Errorf("%d writes and %d lost, want %d", got, lost, n)
	}
	if got := readLines(t, all); got != linesOf(stream) {
		t.Errorf("the sink has %d lines, want %d", strings.Count(got, "\n"), len(stream))
	}
	bySeq := map[uint64]string{}
	for _, e := range stream {
		bySeq[e.Seq] = string(e.line)
	}
	lines := parseLines(t, readLines(t, other))
	for _, e := range lines {
		if bySeq[e.Seq] != string(e.line) {
			t.Errorf("the other sink has %s, want %s", e.line, bySeq[e.Seq])
		}
	}
	if len(lines) == 0 || len(lines) >= len(stream) {
		t.Errorf("the other sink has %d of %d lines", len(lines), len(stream))
	}
}

// fileSize returns the size of a file, 0 if there is none.
func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// countWrites returns how many writes of this process are there, and how many events were lost.
func countWrites(events []*emitted) (written, lost int) {
	for _, e := range events {
		switch {
		case e.Type == event.SysctlWrite && e.of(os.Getpid()):
			written += int(max(1, e.Count))
		case e.Type == event.TraceLoss:
			lost += int(e.Loss.Records[event.SysctlWrite])
		}
	}
	return written, lost
}

// awaitCount waits until standard error has a text a number of times.
func awaitCount(t *testing.T, s *stream, text string, n int) {
	t.Helper()
	awaitUntil(t, fmt.Sprintf("%d times %q", n, text), s.stderr.String, func(got string) bool { return strings.Count(got, text) >= n })
}

// awaitUntil waits until a text is as wanted.
func awaitUntil(t *testing.T, what string, get func() string, done func(string) bool) {
	t.Helper()
	limit := time.Now().Add(patience)
	for !done(get()) {
		if time.Now().After(limit) {
			t.Fatalf("no %s: %s", what, get())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
