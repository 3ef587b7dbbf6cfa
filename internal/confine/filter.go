// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What the filter answers.
const (
	refuse  = seccomp.ActionErrno                               // EPERM
	unknown = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS) // as if the kernel did not have the call
)

// newestCall is the highest number of a call that nstrace makes, listns(2) of Linux 6.19. The numbers of
// new calls are the same on all architectures. A filter that lists what it refuses would allow the calls
// of later kernels; so it refuses all that are newer, also those of the x32 ABI, whose numbers have bit 30.
const newestCall = 470

// denied are the calls that no process of nstrace makes after its start, by what they are for.
var denied = []struct {
	what  string
	names []string
}{
	{changeUser, []string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups"}},
	{"control other processes", []string{"ptrace", "process_vm_writev", "process_madvise", "migrate_pages", "move_pages"}},
	{"load code into the kernel", []string{"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"}},
	{"stop the host", []string{"reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "nfsservctl", "vhangup"}},
	{"set the clock", []string{"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime"}},
	{"use keys of the kernel", []string{"add_key", "request_key", "keyctl"}},
	{"use rarely tested parts of the kernel", []string{"userfaultfd", "modify_ldt", "personality", "fanotify_init", "vmsplice", "remap_file_pages", "lookup_dcookie", "memfd_secret", "syslog", "uselib", "_sysctl"}},
	{"access hardware", []string{"iopl", "ioperm", "pciconfig_read", "pciconfig_write", "pciconfig_iobase"}},
	{"make devices and other roots", []string{"mknod", "mknodat", "chroot", "pivot_root"}},
}

// changeUser is what the calls that change the user are for. Of these, a process may make those by which it
// starts another one as Profile.User.
const changeUser = "change the user"

// becomeUser are the calls with which the child of a process becomes another user without other groups
// (forkAndExecInChild1() in Go's package syscall), and the one value that their first argument may have.
func becomeUser(user uint32) map[string]uint64 {
	return map[string]uint64{"setgroups": 0, "setgid": uint64(user), "setuid": uint64(user)}
}

// absent are calls whose caller uses another one if the kernel does not have them.
var absent = []string{"io_uring_setup", "io_uring_enter", "io_uring_register"}

// ExecCalls are the calls that a Filter refuses besides if the process starts no others.
var execCalls = []string{"execve", "execveat", "fork", "vfork"}

// allowedClone are the flags of the one clone(2) that makes no thread and that the filter allows: nstrace
// proves its hooks by a call that every kernel refuses with EINVAL (cloneRefused in package tracer).
const allowedClone = unix.CLONE_NEWUTS | unix.CLONE_NEWUSER | unix.CLONE_FS

// policy returns what the filter of a profile refuses.
func policy(p *Profile, known map[string]int) *seccomp.Policy {
	only := func(all []string) (names []string) {
		for _, name := range all {
			if _, ok := known[name]; ok { // not each architecture has each call
				names = append(names, name)
			}
		}
		return names
	}
	groups := []seccomp.SyscallGroup{{Action: unknown, Names: only(absent)}}
	for _, d := range denied {
		group := seccomp.SyscallGroup{Action: refuse, Names: only(d.names)}
		if d.what == changeUser && p.User != 0 {
			for name, allowed := range becomeUser(p.User) {
				group.Names = slices.DeleteFunc(group.Names, func(n string) bool { return n == name })
				group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{
					Name: name, Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: allowed}},
				})
			}
		}
		groups = append(groups, group)
	}
	// nstrace talks to systemd and to container runtimes by AF_UNIX, and to the kernel by AF_NETLINK.
	local := seccomp.ArgumentConditions{
		{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX},
		{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_NETLINK},
	}
	if p.Network {
		local = append(local,
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET},
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET6})
	}
	groups = append(groups, seccomp.SyscallGroup{Action: refuse, NamesWithCondtions: []seccomp.NameWithConditions{{Name: "socket", Conditions: local}}})
	if p.Exec {
		return &seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: groups}
	}
	const argFlags, argProt = 0, 2
	// No new code: Go's is in the binary, and what an attacker writes into memory must not run. A program
	// that the process executes would need it.
	executable := seccomp.ArgumentConditions{{Argument: argProt, Operation: seccomp.BitsSet, Value: unix.PROT_EXEC}}
	groups = append(groups,
		seccomp.SyscallGroup{Action: refuse, Names: only(execCalls), NamesWithCondtions: []seccomp.NameWithConditions{
			{Name: "clone", Conditions: seccomp.ArgumentConditions{
				{Argument: argFlags, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD},
				{Argument: argFlags, Operation: seccomp.NotEqual, Value: allowedClone},
			}},
			{Name: "mmap", Conditions: executable}, {Name: "mprotect", Conditions: executable}, {Name: "pkey_mprotect", Conditions: executable},
		}},
		// Its flags are in memory, which a filter cannot read. The callers then use clone(2).
		seccomp.SyscallGroup{Action: unknown, Names: []string{"clone3"}})
	return &seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: groups}
}

// assemble returns the filter of a profile for an architecture.
func assemble(p *Profile, a *arch.Info) ([]bpf.Instruction, error) {
	policy := policy(p, a.SyscallNames)
	program, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble a seccomp filter: %w", err)
	}
	// The library allows the calls of other ABIs, which have other numbers.
	const offNumber, offArch = 0, 4 // in struct seccomp_data
	refusal := bpf.RetConstant{Val: uint32(unknown)}
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ID), SkipTrue: 1},
		refusal,
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: newestCall, SkipTrue: 1},
		refusal,
	}, program...), nil
}

// Filter makes the kernel refuse the system calls that a process with this profile does not make. A
// refused call fails with EPERM, or with ENOSYS if its caller then uses another one. The filter does not
// kill: a call that was forgotten here is an error that nstrace reports, and not a tracer that is gone.
// All threads get the filter at once, or none, and with it no_new_privs (SECCOMP_FILTER_FLAG_TSYNC).
func Filter(p *Profile) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	a, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("seccomp: no filter for %s: %w: %w", runtime.GOARCH, err, errors.ErrUnsupported)
	}
	program, err := assemble(p, a)
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble a seccomp filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Before 5.16 a filter turns speculation off, which would make nstrace slower (SPEC_ALLOW, 4.17).
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0 && !hasFilters():
		return fmt.Errorf("%s: %w", noFilters, errors.ErrUnsupported)
	case errno != 0:
		return fmt.Errorf("install a seccomp filter: %w", errno)
	case tid != 0:
		return fmt.Errorf("install a seccomp filter: thread %d has another one", tid)
	}
	return nil
}
