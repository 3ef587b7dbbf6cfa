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

/* The call that the task is in. Both calls end in kernel_clone(), and its arguments do not tell one
 * from the other. The number of the system call does.
 */
static __always_inline enum call_via clone_via(void)
{
	return current_syscall() == NR_clone3 ? VIA_CLONE3 : VIA_CLONE;
}

static __always_inline int clone_exit(struct task_struct *child, long ret)
{
	struct ns_call *call = ns_call_get();

	if (call && is_clone_call(call))
		ns_call_exit(call, ret, child);
	return 0;
}

/* The CLONE_NEW* flags that kernel_clone() and copy_process() are called with. */
static __always_inline __u64 clone_flags(struct kernel_clone_args *args)
{
	__u64 flags = BPF_CORE_READ(args, flags);

	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return flags & CLONE_NEW_ALL;
}

/* The threads that are in a clone3(2) which kernel_clone() refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32); /* tid */
	__type(value, __u8);
} refused_clones SEC(".maps");

/* The end of kernel_clone(), if it failed. */
static __always_inline void clone_failed(void)
{
	__u32 tid = current_tid();
	__u8 one = 1;

	if (clone_via() == VIA_CLONE3)
		bpf_map_update_elem(&refused_clones, &tid, &one, BPF_ANY);
}

/* The CLONE_NEW* flags of the arguments of a clone3(), as far as they are in memory. */
static __always_inline __u64 clone3_flags(const void *args)
{
	__u64 flags = 0; /* the first member of struct clone_args */

	bpf_probe_read_user(&flags, sizeof(flags), args);
	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return flags & CLONE_NEW_ALL;
}

/* The end of clone3(2). It reports what failed before kernel_clone() saw it: arguments that
 * copy_clone_args_from_user() or clone3_args_valid() refuse. The kernel has read these arguments,
 * so their page is in memory.
 */
static __always_inline int clone3_exit(const void *args, long ret)
{
	__u32 tid = current_tid();
	struct ns_call *call;
	__u64 flags;

	if (ret >= 0)
		return 0;
	if (bpf_map_lookup_elem(&refused_clones, &tid)) {
		bpf_map_delete_elem(&refused_clones, &tid);
		return 0;
	}
	flags = clone3_flags(args);
	if (!flags)
		return 0;
	call = ns_call_at_end(VIA_CLONE3, flags);
	if (call)
		ns_call_exit(call, ret, NULL);
	return 0;
}

/* A clone that succeeds is reported at the end of copy_process(), for these reasons:
 *
 * - It returns the child as it first runs, with its pid.
 * - It returns before the kernel wakes the child, so the creation comes before all that the child
 *   does.
 *
 * One that fails is reported at the end of kernel_clone(), which refuses some flags itself. After
 * copy_process() nothing can fail.
 *
 * Every fork takes this path. Without a CLONE_NEW* flag the programs do nothing else.
 *
 * At the end the flags and the namespaces of the caller are still those of the entry, since
 * copy_process() changes only the child.
 */
SEC("fexit/copy_process")
int BPF_PROG(fexit_clone, struct pid *pid, int trace, int node, struct kernel_clone_args *args,
	     struct task_struct *child)
{
	__u64 flags = clone_flags(args);

	if (!flags || IS_ERR(ptr_to_number(child)))
		return 0;
	ns_call_at_end(clone_via(), flags);
	return clone_exit(child, 0);
}

SEC("fexit/kernel_clone")
int BPF_PROG(fexit_kernel_clone, struct kernel_clone_args *args, int ret)
{
	__u64 flags;

	if (ret >= 0)
		return 0;
	clone_failed();
	flags = clone_flags(args);
	if (!flags)
		return 0;
	ns_call_at_end(clone_via(), flags);
	return clone_exit(NULL, ret);
}

SEC("kprobe/kernel_clone")
int BPF_KPROBE(kprobe_kernel_clone, struct kernel_clone_args *args)
{
	__u64 flags = clone_flags(args);

	return flags ? ns_create_enter(clone_via(), flags) : 0;
}

SEC("kretprobe/copy_process")
int BPF_KRETPROBE(kretprobe_clone, struct task_struct *child)
{
	return IS_ERR(child) ? 0 : clone_exit(child, 0);
}

SEC("kretprobe/kernel_clone")
int BPF_KRETPROBE(kretprobe_kernel_clone, int ret)
{
	if (ret >= 0)
		return 0;
	clone_failed();
	return clone_exit(NULL, ret);
}

SEC("fexit/" SYS(clone3))
int BPF_PROG(fexit_clone3, struct pt_regs *regs, long ret)
{
	return clone3_exit((void *)ARG1(regs), ret);
}

SEC("kretprobe/" SYS(clone3))
int BPF_KRETPROBE(kretprobe_clone3, long ret)
{
	struct pt_regs *regs = user_regs();

	return clone3_exit((void *)ARG1(regs), ret);
}

#if defined(__TARGET_ARCH_x86)
SEC("fexit/" SYS32(clone3))
int BPF_PROG(fexit_clone3_32, struct pt_regs *regs, long ret)
{
	return clone3_exit((void *)(__u64)ARG1_32(regs), ret);
}

SEC("kretprobe/" SYS32(clone3))
int BPF_KRETPROBE(kretprobe_clone3_32, long ret)
{
	struct pt_regs *regs = user_regs();

	return clone3_exit((void *)(__u64)ARG1_32(regs), ret);
}
#endif

static __always_inline void free_refused_clone(const __u32 *tid)
{
	if (bpf_map_lookup_elem(&refused_clones, tid))
		bpf_map_delete_elem(&refused_clones, tid);
}

/* The low byte of the flags of clone is the signal for the parent, and it has a bit in common with
 * CLONE_NEWTIME. clone3 has a member of its own for the signal.
 */
static __always_inline __u64 clone2_flags(__u64 arg)
{
	return (__u32)arg & CLONE_NEW_ALL & ~CSIGNAL;
}

/* The entry shows that tp_fork did not run. Both ends of the call do without it. */
static __always_inline int tp_clone_begin(enum call_via via, __u64 flags)
{
	if (flags)
		ns_call_enter(via, flags, 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_clone")
int tp_clone_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tp_clone_begin(VIA_CLONE, clone2_flags(ctx->args[0]));
}

SEC("tracepoint/syscalls/sys_enter_clone3")
int tp_clone3_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tp_clone_begin(VIA_CLONE3, clone3_flags((void *)ctx->args[0]));
}

/* The kinds, as 1 << enum ns_kind, of the namespaces that child has and parent has not. */
static __noinline __u32 new_kinds(struct task_struct *parent, struct task_struct *child)
{
	__u32 kinds = 0;

	for (int i = 0; i < NS_KINDS; i++)
		kinds |= kind_if_differs(i, (__u64)task_ns_for_children(parent, i),
					 (__u64)task_ns_for_children(child, i));
	return kinds;
}

/* kernel_clone(), after copy_process() and before it wakes the child.
 *
 * The program compares the namespaces of child and parent, and does not rely on the arguments. The
 * caller can change those of a clone3() before the kernel reads them, and they need not be in
 * memory before that.
 *
 * Every fork takes this path.
 */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(tp_fork, struct task_struct *parent, struct task_struct *child)
{
	struct ns_call *call = ns_call_get();
	__u32 kinds;

	if (call && !is_clone_call(call))
		return 0;
	if (parent->nsproxy == child->nsproxy && parent->cred->user_ns == child->cred->user_ns) {
		if (call)
			ns_call_end(call);
		return 0;
	}
	kinds = new_kinds(parent, child);
	if (!call && kinds)
		call = ns_call_at_end(clone_via(), 0);
	if (!call)
		return 0;
	if (kinds)
		ns_call_exit_kinds(call, 0, child, kinds);
	else
		ns_call_end(call);
	return 0;
}

#endif
