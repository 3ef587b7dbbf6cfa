// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ClockTick is USER_HZ, the unit of times in /proc: the kernel fixes it at 100 on amd64 and arm64.
const ClockTick = time.Second / 100

// ArgsLen is ARGS_LEN of bpf/lib/record.h: how much of a command line is kept.
const ArgsLen = 1024

// statLen is more than /proc/PID/stat can hold: a command name and some 50 numbers.
const statLen = 4096

// CommandLine reads the first ArgsLen bytes of a command line, for an event during which its
// page was not in memory. start is the start time of the process, since another one can have
// the pid by now.
//
// The process decides how long this takes: the kernel waits for the lock of its memory. Call
// it by a BlockingReads.
func CommandLine(pid uint32, start uint64) []byte {
	fd, err := OpenCommandLine(pid, start)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	return ReadCommandLine(fd)
}

// OpenCommandLine opens the command line of a process for ReadCommandLine. It does not wait for the
// process: the kernel needs its memory only for the read. Whoever has the descriptor can read the command
// line, and needs no privilege for that (proc_pid_cmdline_read() in fs/proc/base.c).
func OpenCommandLine(pid uint32, start uint64) (fd int, err error) {
	// The open file stays that of one process. Open it before the comparison.
	path := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/cmdline"
	if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, err
	}
	at, err := startTicks(pid)
	if err == nil && at != StartTicks(start) {
		err = fmt.Errorf("%s: of another process", path)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ReadCommandLine reads the first ArgsLen bytes of the command line that OpenCommandLine opened. It takes
// as long as CommandLine.
func ReadCommandLine(fd int) []byte {
	args, err := readAtMost(FDReader(fd), ArgsLen)
	if err != nil {
		return nil
	}
	return args
}

// errTitle is the error for arguments that the process has written a title over, see setproctitle(3).
var errTitle = errors.New("a title is in the place of the arguments")

// ArgsInMemory reads the first arguments of a process from where they are in its memory, into buf. It
// returns what AnyCommandLine would, or an error. Unlike that it needs no file, but the permission to trace
// the process, and it waits for whoever serves a file that the process has mapped there.
func ArgsInMemory(pid uint32, start, end uint64, buf []byte) ([]byte, error) {
	if start >= end {
		return nil, nil
	}
	n := int(min(end-start, uint64(len(buf))))
	var last [1]byte
	local := []unix.Iovec{{Base: &buf[0]}, {Base: &last[0]}}
	local[0].SetLen(n)
	local[1].SetLen(1)
	remote := []unix.RemoteIovec{{Base: uintptr(start), Len: n}, {Base: uintptr(end - 1), Len: 1}}
	got, err := unix.ProcessVMReadv(int(pid), local, remote, 0)
	switch {
	case err != nil:
		return nil, err
	case got != n+1:
		return nil, io.ErrUnexpectedEOF
	case last[0] != 0: // get_mm_cmdline() then looks for the end elsewhere
		return nil, errTitle
	}
	return buf[:n], nil
}

// AnyCommandLine reads the command line of the process that has a pid now, whichever that is, into buf. Who
// calls it for many processes compares their start times once for all of them. It can take as long as
// CommandLine.
func AnyCommandLine(pid uint32, buf []byte) []byte {
	cmdline, err := unix.Open("/proc/"+strconv.FormatUint(uint64(pid), 10)+"/cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(cmdline)
	n, err := FDReader(cmdline).Read(buf) // proc_pid_cmdline_read() fills buf if there is enough
	if err != nil {
		return nil
	}
	return buf[:n]
}

// An FDReader reads from a descriptor that stays the caller's. Unlike an os.File it does not register the descriptor with the
// poller, which files of /proc do not have.
type FDReader int

// Read is io.Reader.
func (fd FDReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// SplitArgs splits a command line as it lies in memory.
func SplitArgs(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// StartTicks returns a start time, CLOCK_BOOTTIME of the host in ns, as /proc shows it to the caller.
func StartTicks(start uint64) uint64 { return (start + uint64(BootOffset())) / uint64(ClockTick) }

// startTicks returns when a process started, in clock ticks since boot.
func startTicks(pid uint32) (uint64, error) {
	path := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/stat"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	stat, err := readAtMost(FDReader(fd), statLen)
	if err != nil {
		return 0, err
	}
	// Field 22, counted behind the command name, which can hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s: %w", path, io.ErrUnexpectedEOF)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// readAtMost reads up to n bytes of a file. It asks the kernel for no more than these.
func readAtMost(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return b[:got], err
}

const (
	// readTimeout is how long the caller waits for one read.
	readTimeout = 20 * time.Millisecond
	// readPause is how long it does not read after a timeout. A process that makes every
	// read time out costs the caller 2 % of its time.
	readPause = time.Second
	// maxReads is how many reads can be stuck at once. Each holds a thread.
	maxReads = 4
)

// BlockingReads runs reads that another process can block for as long as it likes, such as
// those of its memory. One goroutine uses it, and never waits long. The zero value is ready
// to use.
type BlockingReads struct {
	running atomic.Int32
	paused  time.Time // no reads until then
}

// Try runs read and returns its result, or nil after a timeout. It does not run read while
// reads are paused or maxReads are stuck.
func (r *BlockingReads) Try(read func() []byte) []byte {
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
	timer := time.NewTimer(readTimeout)
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
