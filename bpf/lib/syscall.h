/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* System calls: their functions, arguments, numbers and restarts. */
#ifndef __NSTRACE_SYSCALL_H__
#define __NSTRACE_SYSCALL_H__

#include "common.h"

#if defined(__TARGET_ARCH_x86)
#define SYS(call)  "__x64_sys_" #call
#define ARG1(regs) BPF_PROBE_READ(regs, di)
#define ARG2(regs) BPF_PROBE_READ(regs, si)
#define ARG3(regs) BPF_PROBE_READ(regs, dx)
#else
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
#define NR_open_tree 428
#define NR_fsmount   432
#define NR_clone3    435

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
