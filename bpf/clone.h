/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* clone(2) and clone3(2). */
#ifndef __NSTRACE_CLONE_H__
#define __NSTRACE_CLONE_H__

#include "ns_call.h"

/* include/uapi/linux/sched.h */
#define CSIGNAL		  0x000000ff
#define CLONE_EMPTY_MNTNS (1ull << 37) /* 7.1: makes a mount namespace too */

#define MAX_ERRNO   4095
#define IS_ERR(ptr) ((unsigned long)(ptr) >= (unsigned long)-MAX_ERRNO)

#define THREAD_SIZE 16384

/* The call that the task is in. Both calls end in kernel_clone(), and its arguments do not tell one
 * from the other. The number of the system call does.
 */
static __always_inline enum call_via clone_via(void)
{
	struct pt_regs *regs;
	long nr;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	} else {
		/* task_pt_regs(): at the end of the stack. Some x86 kernels keep 16 bytes above it
		 * for FRED, but only after 5.15, which has the helper.
		 */
		struct task_struct *task = (void *)bpf_get_current_task();

		regs = BPF_CORE_READ(task, stack) + THREAD_SIZE - sizeof(struct pt_regs);
	}
#if defined(__TARGET_ARCH_x86)
	nr = BPF_PROBE_READ(regs, orig_ax);
	nr &= ~0x40000000; /* __X32_SYSCALL_BIT */
#else
	nr = BPF_PROBE_READ(regs, syscallno);
#endif
	return nr == NR_clone3 ? VIA_CLONE3 : VIA_CLONE;
}

static __always_inline int clone_exit(struct task_struct *child, long ret)
{
	struct ns_call *call = ns_call_get();

	if (call && is_clone_call(call))
		ns_call_exit(call, ret, child);
	return 0;
}

/* The end of copy_process(), which returned the child or an ERR_PTR(). */
static __always_inline int clone_returned(long child)
{
	struct task_struct *task = IS_ERR(child) ? NULL : (void *)child;

	return clone_exit(task, task ? 0 : child);
}

/* The CLONE_NEW* flags that copy_process() is called with. */
static __always_inline __u64 clone_flags(struct kernel_clone_args *args)
{
	__u64 flags = BPF_CORE_READ(args, flags);

	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return flags & CLONE_NEW_ALL;
}

static __always_inline int clone_done(__u64 flags, long child)
{
	ns_call_begin(clone_via(), flags);
	return clone_returned(child);
}

/* copy_process(), and not kernel_clone(), for these reasons:
 *
 * - All that can fail in a clone fails in it.
 * - It returns the child as it first runs, with its pid.
 * - It returns before the kernel wakes the child, so the creation comes before all that the child
 *   does.
 *
 * Every fork takes this path. Without a CLONE_NEW* flag the program does nothing else.
 *
 * At the end the flags and the namespaces of the caller are still those of the entry, since
 * copy_process() changes only the child.
 */
SEC("fexit/copy_process")
int BPF_PROG(fexit_clone, struct pid *pid, int trace, int node, struct kernel_clone_args *args,
	     struct task_struct *child)
{
	__u64 flags = clone_flags(args);

	if (!flags)
		return 0;
	return clone_done(flags, ptr_to_number(child));
}

SEC("kprobe/copy_process")
int BPF_KPROBE(kprobe_clone, struct pid *pid, int trace, int node, struct kernel_clone_args *args)
{
	__u64 flags = clone_flags(args);

	return flags ? ns_create_enter(clone_via(), flags) : 0;
}

SEC("kretprobe/copy_process")
int BPF_KRETPROBE(kretprobe_clone, struct task_struct *child)
{
	return clone_returned((long)child);
}

/* The low byte of the flags of clone is the signal for the parent, and it has a bit in common with
 * CLONE_NEWTIME. clone3 has a member of its own for the signal.
 */
SEC("tracepoint/syscalls/sys_enter_clone")
int tp_clone_enter(struct trace_event_raw_sys_enter *ctx)
{
	return ns_create_enter(VIA_CLONE, (__u32)ctx->args[0] & ~CSIGNAL);
}

SEC("tracepoint/syscalls/sys_enter_clone3")
int tp_clone3_enter(struct trace_event_raw_sys_enter *ctx)
{
	__u64 flags = 0; /* the first member of struct clone_args */

	bpf_probe_read_user(&flags, sizeof(flags), (void *)ctx->args[0]);
	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return ns_create_enter(VIA_CLONE3, flags);
}

/* kernel_clone(), after copy_process() and before it wakes the child. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(tp_fork, struct task_struct *parent, struct task_struct *child)
{
	return clone_exit(child, 0);
}

#endif
