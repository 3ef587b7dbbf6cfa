// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestArgsLen compares the limit with the one that the kernel side has.
func TestArgsLen(t *testing.T) {
	header, err := os.ReadFile("../../bpf/lib/record.h")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^#define ARGS_LEN (\d+)`).FindSubmatch(header)
	if m == nil || string(m[1]) != strconv.Itoa(ArgsLen) {
		t.Errorf("ArgsLen is %d, record.h has %q", ArgsLen, m)
	}
}

// TestCommandLine reads command lines that fit, that are too long, and of the wrong process.
func TestCommandLine(t *testing.T) {
	for _, n := range []int{10, 5000} {
		long := strings.Repeat("x", n)
		cmd := exec.Command("sh", "-c", "echo; read line", long, "end")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it is sh by now
			t.Fatal(err)
		}
		pid := uint32(cmd.Process.Pid)
		ticks, err := startTicks(pid)
		if err != nil {
			t.Fatal(err)
		}
		start := ticks * uint64(ClockTick)
		want := strings.Join([]string{"sh", "-c", "echo; read line", long, "end", ""}, "\x00")
		want = want[:min(len(want), ArgsLen)]
		if got := CommandLine(pid, start); string(got) != want {
			t.Errorf("%d bytes: got %d bytes, %q, want %d", n, len(got), got, len(want))
		}
		if got := CommandLine(pid, start+uint64(ClockTick)); got != nil {
			t.Errorf("another process's: %q", got)
		}
		in.Close()
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 {
			t.Error(err)
		}
		if got := CommandLine(pid, start); got != nil {
			t.Errorf("after its end: %q", got)
		}
	}
}

// TestReadAtMost checks that no more is asked for than is kept.
func TestReadAtMost(t *testing.T) {
	r := &counted{Reader: io.LimitReader(zeros{}, 1<<40)}
	if b, err := readAtMost(r, ArgsLen); err != nil || len(b) != ArgsLen || r.asked != ArgsLen {
		t.Errorf("%d bytes, %v, after %d were asked for", len(b), err, r.asked)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

type counted struct {
	io.Reader
	asked int
}

func (c *counted) Read(b []byte) (int, error) {
	c.asked += len(b)
	return c.Reader.Read(b)
}

// TestBlockingReads has reads that are quick, late and stuck.
func TestBlockingReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r BlockingReads
		want := []byte("args")
		quick := func() []byte { return want }
		if got := r.Try(quick); !bytes.Equal(got, want) {
			t.Errorf("a quick read: %q", got)
		}
		slow := func() []byte { time.Sleep(readTimeout - time.Nanosecond); return want }
		if got := r.Try(slow); !bytes.Equal(got, want) {
			t.Errorf("a read just in time: %q", got)
		}

		// More of them than there is room for. Each costs the caller readTimeout, and is
		// followed by a pause.
		release := make(chan struct{})
		var runs atomic.Int32
		stuck := func() []byte { runs.Add(1); <-release; return []byte("late") }
		for i := range maxReads + 3 {
			begin, before := time.Now(), runs.Load()
			if got := r.Try(stuck); got != nil {
				t.Errorf("stuck read %d: %q", i, got)
			}
			cost, ran := time.Since(begin), runs.Load() > before
			if room := i < maxReads; ran != room || (cost == readTimeout) != room || (cost == 0) == room {
				t.Errorf("stuck read %d: it ran: %v, and cost %v", i, ran, cost)
			}
			begin = time.Now()
			if got := r.Try(quick); got != nil || time.Since(begin) != 0 {
				t.Errorf("in the pause: %q after %v", got, time.Since(begin))
			}
			time.Sleep(readPause)
		}
		if got := r.Try(quick); got != nil {
			t.Errorf("with all stuck: %q", got)
		}
		close(release)
		synctest.Wait()
		if got := r.Try(quick); !bytes.Equal(got, want) {
			t.Errorf("after their end: %q", got)
		}
		// synctest fails the test if a goroutine is left.
	})
}
