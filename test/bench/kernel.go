// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A counter counts the instructions of this process and its descendants.
type counter interface {
	read() (uint64, error)
}

// countedEnv tells this program in a virtual machine that the guest's clocks count instructions
// (vm.Guest.Counted).
const countedEnv = "NSTRACE_BENCH_COUNTED"

func openInstructions() (counter, error) {
	if os.Getenv(countedEnv) != "" {
		return clocks{}, nil
	}
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS,
		Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Bits: unix.PerfBitInherit,
	}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP):
		return nil, errors.New("this machine does not count them")
	case err != nil:
		return nil, fmt.Errorf("perf_event_open: %w", err)
	}
	return instructions(fd), nil
}

// instructions is a file descriptor of the machine's own counter. It belongs to this thread.
type instructions int

func (i instructions) read() (uint64, error) {
	var buf [8]byte
	if n, err := unix.Read(int(i), buf[:]); err != nil || n != len(buf) {
		return 0, fmt.Errorf("read the instruction counter: %d bytes, %w", n, err)
	}
	return binary.NativeEndian.Uint64(buf[:]), nil
}

// clocks are the CPU times of this process and of its children that have ended.
type clocks struct{}

func (clocks) read() (uint64, error) {
	own, err := cpuTime(os.Getpid())
	if err != nil {
		return 0, err
	}
	var children unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &children); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return uint64(own.Nanoseconds() + children.Utime.Nano() + children.Stime.Nano()), nil
}

// rawIO is read(2) or write(2) without the Go runtime's knowledge.
func rawIO(call uintptr, fd int, buf []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	return int(n), errno
}

// cpuTime returns the CPU time of all threads of a process.
func cpuTime(pid int) (time.Duration, error) {
	// clock_getcpuclockid(3): CPUCLOCK_SCHED of a process.
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// workersRest waits until the kernel's workers have finished the work that the last workload
// caused. Above all, they free network namespaces. The host can have other work for them, so it
// does not wait for long.
func workersRest(ctx context.Context) error {
	const window = 50 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errBusy)
	defer cancel()
	last, at := map[int]time.Duration{}, time.Time{}
	for {
		now, used := map[int]time.Duration{}, time.Duration(0)
		pids, err := workers()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			t, err := cpuTime(pid)
			if err != nil {
				continue // workers come and go
			}
			now[pid] = t
			if before, ok := last[pid]; ok {
				used += t - before
			}
		}
		if !at.IsZero() && used <= time.Since(at)/20 {
			return nil
		}
		last, at = now, time.Now()
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errBusy) {
				return nil
			}
			return ctx.Err()
		case <-time.After(window):
		}
	}
}

var errBusy = errors.New("the kernel's workers are busy")

// workers returns the process ids of the kernel's workers.
func workers() ([]int, error) {
	return processes(func(comm string) bool { return strings.HasPrefix(comm, "kworker/") })
}

// processes returns the ids of the processes whose command name is wanted.
func processes(wanted func(comm string) bool) ([]int, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile("/proc/" + e.Name() + "/comm")
		if err == nil && wanted(strings.TrimSpace(string(comm))) { // some ended in between
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// statusField returns a field of /proc/PID/status.
func statusField(pid int, name string) (string, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no %s", file, name)
}

// memory returns a field of /proc/PID/status in MiB.
func memory(pid int, field string) (float64, error) {
	value, err := statusField(pid, field)
	if err != nil {
		return 0, err
	}
	kib, err := strconv.Atoi(strings.TrimSuffix(value, " kB"))
	return float64(kib) / 1024, err
}

// forkWriter makes a process that writes a hostname and exits with the errno as its status. After
// fork(2) of a program with threads, a child can call nothing that needs the other threads, which
// in Go is almost everything. So it makes bare system calls on existing memory, and does not grow
// its stack.
//
//go:norace
//go:nosplit
func forkWriter(flags uintptr) (pid int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		return int(r), errno
	}
	dir := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&hostname[0])), unix.O_WRONLY, 0, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&hostname[0])), 1)
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}

// forkSleeper makes a process that does nothing until the thread that made it ends. The comment of
// forkWriter applies here, too.
//
//go:norace
//go:nosplit
func forkSleeper(flags uintptr) (pid int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		return int(r), errno
	}
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}
