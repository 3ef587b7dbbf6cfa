/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* System calls: their functions, arguments, numbers and restarts. */
#ifndef __NSTRACE_SYSCALL_H__
#define __NSTRACE_SYSCALL_H__

#include "common.h"

#if defined(__TARGET_ARCH_x86)
#define SYS(call)     "__x64_sys_" #call
#define SYS32(call)   "__ia32_sys_" #call /* of 32-bit programs */
#define ARG1(regs)    BPF_PROBE_READ(regs, di)
#define ARG2(regs)    BPF_PROBE_READ(regs, si)
#define ARG3(regs)    BPF_PROBE_READ(regs, dx)
#define ARG1_32(regs) ((__u32)BPF_PROBE_READ(regs, bx))
#define ARG2_32(regs) ((__u32)BPF_PROBE_READ(regs, cx))
#define ARG3_32(regs) ((__u32)BPF_PROBE_READ(regs, dx))
#else
/* Also of 32-bit programs. */
#define SYS(call)  "__arm64_sys_" #call
#define ARG1(regs) BPF_PROBE_READ(regs, regs[0])
#define ARG2(regs) BPF_PROBE_READ(regs, regs[1])
#define ARG3(regs) BPF_PROBE_READ(regs, regs[2])
#endif

/* arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h */
#if defined(__TARGET_ARCH_x86)
#define NR_clone	 56
#define NR_setdomainname 171
#define NR_unshare	 272
#define NR_setns	 308
#else
#define NR_unshare	 97
#define NR_setdomainname 162
#define NR_clone	 220
#define NR_setns	 268
#endif
/* The same on all architectures. */
#define NR_open_tree	  428
#define NR_fsmount	  432
#define NR_clone3	  435
#define NR_open_tree_attr 467

#define THREAD_SIZE 16384

/* The registers with which the current task entered the kernel. */
static __always_inline struct pt_regs *user_regs(void)
{
	struct task_struct *task;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	/* task_pt_regs(): at the end of the stack. Some x86 kernels keep 16 bytes above it for
	 * FRED, but only after 5.15, which has the helper.
	 */
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, stack) + THREAD_SIZE - bpf_core_type_size(struct pt_regs);
}

/* The number of the system call that the current task is in. */
static __always_inline long current_syscall(void)
{
	struct pt_regs *regs = user_regs();

#if defined(__TARGET_ARCH_x86)
	return BPF_PROBE_READ(regs, orig_ax) & ~0x40000000; /* __X32_SYSCALL_BIT */
#else
	return BPF_PROBE_READ(regs, syscallno);
#endif
}

/* Reports whether the current task made its system call as a 32-bit program, which has other
 * numbers.
 */
static __always_inline bool is_compat_syscall(void)
{
	struct pt_regs *regs = user_regs();

#if defined(__TARGET_ARCH_x86)
	return (BPF_PROBE_READ(regs, cs) & 0xffff) != 0x33; /* __USER_CS */
#else
	return BPF_PROBE_READ(regs, pstate) & 0x10; /* PSR_MODE32_BIT */
#endif
}

/* include/linux/errno.h: the kernel turns these into a restart of the system call or into EINTR.
 * User space never sees them.
 */
#define ERESTARTSYS	      512
#define ERESTARTNOINTR	      513
#define ERESTARTNOHAND	      514
#define ERESTART_RESTARTBLOCK 516

/* Reports whether the call returns one of these. */
static __always_inline bool will_restart(long ret)
{
	return ret == -ERESTARTNOINTR || ret == -ERESTARTSYS || ret == -ERESTARTNOHAND ||
	       ret == -ERESTART_RESTARTBLOCK;
}

#endif
