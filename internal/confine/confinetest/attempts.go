// SPDX-License-Identifier: Apache-2.0

// Package confinetest is for tests of what a confined process can still do. No released program has it.
package confinetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// attempts are what a confined process tries. None changes anything, also if the kernel allows it.
var attempts = map[string]func() error{
	"start":     func() error { return exec.Command("/bin/true").Run() },
	"fork":      forkRaw,
	"clone3":    clone3,
	"proof":     func() error { return call(unix.SYS_CLONE, unix.CLONE_NEWUTS|unix.CLONE_NEWUSER|unix.CLONE_FS) },
	"ptrace":    func() error { return unix.PtraceAttach(os.Getppid()) },
	"write":     func() error { _, err := unix.ProcessVMWritev(os.Getppid(), nil, nil, 0); return err },
	"module":    func() error { return unix.InitModule([]byte("none"), "") },
	"kexec":     func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
	"reboot":    func() error { return unix.Reboot(0) },
	"swapon":    func() error { return call(unix.SYS_SWAPON, text("/nonexistent")) },
	"inet":      func() error { return socket(unix.AF_INET) },
	"inet6":     func() error { return socket(unix.AF_INET6) },
	"packet":    func() error { return socket(unix.AF_PACKET) },
	"vsock":     func() error { return socket(unix.AF_VSOCK) },
	"unix":      func() error { return socket(unix.AF_UNIX) },
	"netlink":   func() error { return socket(unix.AF_NETLINK) },
	"setuid":    func() error { return call(unix.SYS_SETUID, 0) },
	"setgid":    func() error { return call(unix.SYS_SETGID, 0) },
	"setgroups": func() error { return call(unix.SYS_SETGROUPS, 1) },
	"clock":     func() error { return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Nsec: -1}) },
	"keys":      func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); return err },
	"mknod":     func() error { return unix.Mknod("/tmp/nstrace-never", unix.S_IFREG, 0) },
	"fault":     func() error { return call(unix.SYS_USERFAULTFD) },
	"uring":     func() error { return call(unix.SYS_IO_URING_SETUP, 1) },
	"code": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"future":     func() error { return call(1<<16, 0) },
	"capability": func() error { return unix.Sethostname([]byte(strings.Repeat("x", 100))) },                            // EPERM without CAP_SYS_ADMIN
	"mount":      func() error { return unix.Mount("/proc/thread-self/ns/mnt", "/proc/version", "", unix.MS_BIND, "") }, // EINVAL
	"load":       load,
	"signal":     func() error { return unix.Kill(os.Getppid(), 0) },
	"environ":    func() error { f, err := os.Open(fmt.Sprintf("/proc/%d/environ", os.Getppid())); f.Close(); return err },
	"create":     create,
	"shadow":     func() error { f, err := os.Open("/etc/shadow"); f.Close(); return err },
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func text(s string) uintptr { b := append([]byte(s), 0); return uintptr(unsafe.Pointer(&b[0])) }

func socket(family int) error {
	fd, err := unix.Socket(family, unix.SOCK_RAW, 0)
	if family == unix.AF_UNIX || family == unix.AF_INET || family == unix.AF_INET6 || family == unix.AF_VSOCK {
		fd, err = unix.Socket(family, unix.SOCK_STREAM, 0)
	}
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// forkRaw makes a process as fork(2) does. The child ends at once.
func forkRaw() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	for pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

// load loads a BPF program that does nothing, for kprobes: other types need no privilege on some hosts.
func load() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err == nil {
		p.Close()
	}
	return err
}

// create makes a file where every user may, and removes it.
func create() error {
	f, err := os.CreateTemp("/tmp", "nstrace-attempt")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	return err
}

// clone3 passes a size that every kernel refuses with EINVAL.
func clone3() error { return call(unix.SYS_CLONE3, 0, 1) }

// Attempt tries everything. It returns the errno of each attempt by its name: 0 for success, -1 for an
// error that is not of the kernel.
func Attempt() map[string]int {
	results := map[string]int{}
	for name, try := range attempts {
		var errno unix.Errno
		switch err := try(); {
		case errors.As(err, &errno):
			results[name] = int(errno)
		case err != nil:
			results[name] = -1
		default:
			results[name] = 0
		}
	}
	return results
}
