// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// argsLen is ARGS_LEN of bpf/lib/record.h: how much of a command line is kept, whoever reads it.
const argsLen = 1024

// statLen is more than /proc/PID/stat can hold: a command name and some 50 numbers.
const statLen = 4096

// argsFromProc reads the first argsLen bytes of a command line whose page was not in memory
// at the event. start tells the process from another one that has the pid by now.
//
// The process decides how long this takes: the kernel waits for the lock of its memory. Call
// it through Tracer.reads.
func argsFromProc(pid uint32, start uint64) []byte {
	// The open file stays that of one process. Open it before the comparison.
	cmdline, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	defer cmdline.Close()
	if at, err := startTicks(pid); err != nil || at != start/uint64(clockTick) {
		return nil
	}
	args, err := readAtMost(cmdline, argsLen)
	if err != nil {
		return nil
	}
	return args
}

// startTicks returns when a process started, in clock ticks since boot.
func startTicks(pid uint32) (uint64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	stat, err := readAtMost(file, statLen)
	if err != nil {
		return 0, err
	}
	// Field 22, counted behind the command name, which can hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s: %w", file.Name(), io.ErrUnexpectedEOF)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// readAtMost reads a file up to n bytes. It asks the kernel for no more than these.
func readAtMost(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return b[:got], err
}

const (
	// readPatience is how long the event loop waits for one read.
	readPatience = 20 * time.Millisecond
	// readPause is how long it does without reads after a late one. A process that makes
	// every read late costs the loop 2 % of its time.
	readPause = time.Second
	// maxReads is how many reads may be stuck. Each holds a thread.
	maxReads = 4
)

// blockingReads runs reads that another process can hold up for as long as it likes, such as
// those of its memory. It is for one goroutine, which never waits long; its zero value is
// ready.
type blockingReads struct {
	running atomic.Int32
	paused  time.Time // no reads until then
}

// try runs read and returns its result, or nil if that does not come in time. It drops a late
// result. While reads are paused, or as many as may be are stuck, it does not run read.
func (r *blockingReads) try(read func() []byte) []byte {
	if r.running.Load() >= maxReads || time.Now().Before(r.paused) {
		return nil
	}
	r.running.Add(1)
	done := make(chan []byte, 1)
	go func() {
		b := read()
		r.running.Add(-1)
		done <- b
	}()
	timer := time.NewTimer(readPatience)
	defer timer.Stop()
	select {
	case b := <-done:
		return b
	case <-timer.C:
	}
	select {
	case b := <-done: // at the same moment, or while this goroutine had no processor
		return b
	default:
		r.paused = time.Now().Add(readPause)
		return nil
	}
}
