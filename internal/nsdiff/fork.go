// SPDX-License-Identifier: Apache-2.0

package nsdiff

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// The kernel lets no thread of a process with several threads enter a user namespace, and PID namespaces
// are only entered by children. So a child process with one thread reads what belongs to them. It shares
// no memory with nstrace but the results, and runs no other program: it does a list of steps, system calls
// without more, and exits.

// A step is a system call of the child.
type step struct {
	do   stepKind
	arg  uintptr // a descriptor, or the flag of a namespace
	path int     // offset of the path in the shared memory
	slot int     // offset of the result, or of what to write
	size uintptr // of what to write
}

type stepKind uint8

const (
	stepEnter   stepKind = iota // enter the namespace that the descriptor arg is
	stepUnshare                 // make a namespace, by the flag arg
	stepFork                    // go on in a child
	stepRead                    // read the file at path into slot
	stepWrite                   // write what is in slot to the file at path
)

const (
	// slotText is the maximum length of a value. Longer ones are cut.
	slotText = 4 << 10
	// slotHead is before each value: one more than its length, or the negative errno; 0 if the
	// child did not get to it.
	slotHead = 8
	// scriptHead is before the slots: the errno of a step without which no other can be done, and
	// room for a struct statfs.
	scriptHead = 8 + 120
)

// A script is the steps of a child, and the memory that it shares with nstrace.
type script struct {
	steps  []step
	memory []byte
	texts  []byte         // paths, and what to write; becomes the beginning of memory
	at     map[string]int // offsets of the paths
	slots  int
}

func (s *script) text(t string) int {
	if s.at == nil {
		s.at = map[string]int{}
	}
	if i, ok := s.at[t]; ok {
		return i
	}
	i := len(s.texts)
	s.texts = append(append(s.texts, t...), 0)
	s.at[t] = i
	return i
}

// read adds a step that reads a file, and returns the number of its slot.
func (s *script) read(path string) int {
	s.steps = append(s.steps, step{do: stepRead, path: s.text(path), slot: s.slots})
	s.slots++
	return s.slots - 1
}

// write adds a step that writes a file. The step fails without an effect on the others.
func (s *script) write(path, value string) {
	s.steps = append(s.steps, step{do: stepWrite, path: s.text(path), slot: s.text(value), size: uintptr(len(value))})
}

func (s *script) add(do stepKind, arg uintptr) { s.steps = append(s.steps, step{do: do, arg: arg}) }

// run runs the script in a child, at most until ctx ends. The error is that of a step without which no
// other can be done.
func (s *script) run(ctx context.Context) error {
	const align = 8
	base := (len(s.texts) + align - 1) / align * align
	memory, err := unix.Mmap(-1, 0, base+scriptHead+s.slots*(slotHead+slotText), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("share memory with a child: %w", err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	copy(memory, s.texts)
	for i := range s.steps {
		if st := &s.steps[i]; st.do == stepRead {
			st.slot = base + scriptHead + st.slot*(slotHead+slotText)
		}
	}
	// The child is killed when the thread that started it ends, so the thread must not end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := s.fork(memory, base)
	if err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	if err := wait(ctx, pid); err != nil {
		return err
	}
	if failed := int64(binary.NativeEndian.Uint64(memory[base:])); failed != 0 {
		return syscall.Errno(failed)
	}
	s.memory = append([]byte(nil), memory[base+scriptHead:]...)
	return nil
}

// result returns what a slot has.
func (s *script) result(slot int) reading {
	at := slot * (slotHead + slotText)
	n := int64(binary.NativeEndian.Uint64(s.memory[at:]))
	switch {
	case n < 0:
		return reading{err: syscall.Errno(-n)}
	case n == 0:
		return reading{err: context.DeadlineExceeded}
	}
	n--
	text := string(s.memory[at+slotHead : at+slotHead+int(n)])
	if n == slotText {
		return reading{text: text, cut: true}
	}
	return reading{text: strings.TrimSuffix(text, "\n")}
}

// wait waits for the child. It kills it when ctx ends.
func wait(ctx context.Context, pid int) error {
	reap := func() error {
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Join(err, unix.Kill(pid, unix.SIGKILL), reap())
	}
	defer unix.Close(pidfd)
	end, limited := ctx.Deadline()
	for {
		left := -1
		if limited {
			left = int(max(time.Until(end), 0)/time.Millisecond) + 1
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, left)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n > 0:
			return reap()
		}
		// A child that does not die is left to its own: it waits for the kernel.
		_ = unix.Kill(pid, unix.SIGKILL)
		return fmt.Errorf("read parameters in a child: %w", context.DeadlineExceeded)
	}
}

// fork starts the child. All signals are blocked in it: nothing of Go runs there but forkChild. The
// caller has locked the thread.
func (s *script) fork(memory []byte, base int) (int, error) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, err
	}
	pid, errno := forkChild(s.steps, memory, base)
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	if errno != 0 {
		return 0, errno
	}
	return pid, err
}

// forkChild forks and does the steps in the child. In the child there is no runtime: nothing here may
// allocate, grow the stack or be preempted. The caller has blocked all signals.
//
//go:norace
//go:nosplit
//go:noinline
func forkChild(steps []step, memory []byte, base int) (int, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	// It must not outlive nstrace. If nstrace ended before, the child ends by itself soon.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for i := range steps {
		s := &steps[i]
		switch s.do {
		case stepEnter:
			_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, s.arg, 0, 0)
		case stepUnshare:
			_, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, s.arg, 0, 0)
		case stepFork:
			pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if pid != 0 && errno == 0 {
				for {
					_, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, pid, 0, 0, 0, 0, 0)
					if e != syscall.EINTR {
						break
					}
				}
				childExit()
			}
			syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
		case stepRead:
			childRead(memory, base, s)
		case stepWrite:
			childWrite(memory, base, s)
		}
		if errno != 0 {
			*(*int64)(unsafe.Pointer(&memory[base])) = int64(errno)
			childExit()
		}
	}
	childExit()
	return 0, 0
}

//go:norace
//go:nosplit
func childExit() {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

// cwd is AT_FDCWD.
const cwd = ^uintptr(-unix.AT_FDCWD - 1)

// childOpen opens a file of procfs, and nothing that is mounted over one.
//
//go:norace
//go:nosplit
func childOpen(memory []byte, base int, s *step, flags uintptr) (uintptr, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, cwd, uintptr(unsafe.Pointer(&memory[s.path])), flags|openFlags, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	fs := (*unix.Statfs_t)(unsafe.Pointer(&memory[base+8]))
	if _, _, errno = syscall.RawSyscall(unix.SYS_FSTATFS, fd, uintptr(unsafe.Pointer(fs)), 0); errno == 0 && fs.Type != unix.PROC_SUPER_MAGIC {
		errno = unix.EXDEV
	}
	if errno != 0 {
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	return fd, errno
}

//go:norace
//go:nosplit
func childRead(memory []byte, base int, s *step) {
	result := (*int64)(unsafe.Pointer(&memory[s.slot]))
	fd, errno := childOpen(memory, base, s, unix.O_RDONLY)
	if errno != 0 {
		*result = -int64(errno)
		return
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&memory[s.slot+slotHead])), slotText)
	if *result = int64(n) + 1; errno != 0 {
		*result = -int64(errno)
	}
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
}

//go:norace
//go:nosplit
func childWrite(memory []byte, base int, s *step) {
	fd, errno := childOpen(memory, base, s, unix.O_WRONLY)
	if errno != 0 {
		return
	}
	syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&memory[s.slot])), s.size)
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
}

// inChild reports whether a child reads the parameters of a type: a thread cannot enter such a namespace.
func inChild(typ event.NSType) bool { return typ == event.NSTypeUser || typ == event.NSTypePID }

// A forkView is the view of a child in the namespace. Each read is that of another child. A fresh
// namespace exists only for one read.
type forkView struct {
	typ  event.NSType
	file *os.File // nil for a fresh one
	own  bool     // nstrace is in it: the kernel refuses to enter such a user namespace
}

func (v *forkView) close() {}

// perProcess are files whose value depends on the reader, not on its namespace alone.
var perProcess = map[string]string{
	params.Dir + "/kernel/ns_last_pid": "each new process, as that which reads, sets it",
	params.Dir + "/kernel/cad_pid":     "the kernel shows one process by the number that it has for the reader",
}

// list returns the same paths for all namespaces: those outside of net are the same everywhere, as far as
// a namespace of these types has them.
func (v *forkView) list(ctx context.Context) (paths []string, err error) {
	root, err := params.Open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	all, err := list(ctx, root, v.typ)
	for _, path := range all {
		if _, skip := perProcess[path]; !skip {
			paths = append(paths, path)
		}
	}
	return paths, err
}

// begin adds the steps that lead into the namespace.
func (v *forkView) begin(s *script) {
	switch {
	case v.own:
		return
	case v.file != nil:
		s.add(stepEnter, v.file.Fd())
	default:
		s.add(stepUnshare, uintptr(procfs.CloneFlag(v.typ)))
	}
	if v.typ == event.NSTypePID {
		s.add(stepFork, 0)
	}
}

func (v *forkView) read(ctx context.Context, paths []string) (map[string]reading, error) {
	var s script
	v.begin(&s)
	slots := make([]int, len(paths))
	for i, path := range paths {
		slots[i] = s.read(path)
	}
	if err := s.run(ctx); err != nil {
		if v.file == nil {
			return nil, fmt.Errorf("create a %s namespace: %w", v.typ, err)
		}
		return nil, fmt.Errorf("enter a %s namespace: %w", v.typ, err)
	}
	runtime.KeepAlive(v.file)
	found := make(map[string]reading, len(paths))
	for i, path := range paths {
		found[path] = s.result(slots[i])
	}
	return found, nil
}

// tryForked is try for these types. A child makes the namespaces one within the other.
func tryForked(ctx context.Context, typ event.NSType, paths []string, values map[string][]string, fresh map[string]reading) (map[string]trial, error) {
	var s script
	v := forkView{typ: typ}
	var slots [3][]int
	readAll := func(i int) {
		for _, path := range paths {
			slots[i] = append(slots[i], s.read(path))
		}
	}
	v.begin(&s)
	readAll(0)
	if typ == event.NSTypeUser {
		// The kernel makes no namespace for a user or group that has no number in the one
		// above, and maps the own group only if setgroups(2) is denied.
		s.write("/proc/self/setgroups", "deny")
		s.write("/proc/self/uid_map", fmt.Sprintf("0 %d 1", os.Geteuid()))
		s.write("/proc/self/gid_map", fmt.Sprintf("0 %d 1", os.Getegid()))
	}
	for _, path := range paths {
		if value, ok := other(fresh[path], values[path]); ok {
			s.write(path, value)
		}
	}
	readAll(1)
	v.begin(&s)
	readAll(2)
	if err := s.run(ctx); err != nil {
		return nil, fmt.Errorf("create %s namespaces: %w", typ, err)
	}
	all := map[string]trial{}
	for i, path := range paths {
		all[path] = trial{fresh: s.result(slots[0][i]), changed: s.result(slots[1][i]), child: s.result(slots[2][i])}
	}
	return all, nil
}
