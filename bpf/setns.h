/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* setns(2). */
#ifndef __NSTRACE_SETNS_H__
#define __NSTRACE_SETNS_H__

#include "ns_call.h"

/* fs/pidfs.c (6.9), include/uapi/linux/magic.h */
#define PID_FS_MAGIC	    0x50494446
#define ANON_INODE_FS_MAGIC 0x09041934

/* Adds the namespaces that setns() takes from a pidfd: those of the process. For pid and time these
 * are the ones that the process is in itself (validate_nsset()).
 */
static __always_inline void add_pidfd_targets(struct ns_call *call, struct pid *pid)
{
	struct hlist_node *node = BPF_CORE_READ(pid, tasks[0].first);
	__u32 mask = kinds_of_flags(call->flags);
	struct task_struct *task;

	call->file_pid = BPF_CORE_READ(pid, numbers[0].nr);
	if (!node) /* the process is gone: ESRCH */
		return;
	task = (void *)node - bpf_core_field_offset(struct task_struct, pid_links);
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++) {
		if (!(mask & (1 << i)))
			continue;
		if (i == NS_PID)
			add_target(call, i, active_pid_ns(task));
		else if (i == NS_TIME)
			add_target(call, i, BPF_CORE_READ(task, nsproxy, time_ns));
		else
			add_target(call, i, task_ns_for_children(task, i));
	}
}

/* Notes where a namespace file is mounted. One below /proc/PID/ns is not. */
static __always_inline void note_file_mount(struct ns_call *call, struct file *file)
{
	struct vfsmount *vfsmnt = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mnt = (void *)vfsmnt - bpf_core_field_offset(struct mount, mnt);

	if (BPF_CORE_READ(vfsmnt, mnt_root) == BPF_CORE_READ(file, f_path.dentry) &&
	    BPF_CORE_READ(mnt, mnt_parent) != mnt)
		call->file_mnt = (__u64)vfsmnt;
}

static __noinline int setns_enter(int fd, __u64 flags)
{
	struct task_struct *task = current_task();
	struct ns_call *call = ns_call_begin(VIA_SETNS, flags);
	struct file *file = current_file(fd);
	struct inode *inode;
	__u64 magic;

	if (!call || !file)
		return 0;
	call->shared_files = READ_CURRENT(task, files, count.counter) > 1;
	inode = BPF_CORE_READ(file, f_inode);
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (magic == NSFS_MAGIC) {
		add_ns_file_target(call, inode);
		note_file_mount(call, file);
	} else if (magic == PID_FS_MAGIC) /* from 6.9 on */
		add_pidfd_targets(call, BPF_CORE_READ(inode, i_private));
	else if (magic == ANON_INODE_FS_MAGIC) {
		char name[8] = {};

		bpf_probe_read_kernel_str(name, sizeof(name),
					  BPF_CORE_READ(file, f_path.dentry, d_name.name));
		if (__builtin_memcmp(name, "[pidfd]", 8) == 0)
			add_pidfd_targets(call, BPF_CORE_READ(file, private_data));
	}
	return 0;
}

/* The kinds, as 1 << enum ns_kind, of the namespaces that the current task has changed. */
static __always_inline __u32 changed_kinds(struct ns_call *call)
{
	struct task_struct *task = current_task();
	__u32 now[NS_KINDS], changed = 0;

	current_ns_inums(now);
	now[NS_PID] = READ_CURRENT(task, nsproxy, pid_ns_for_children, ns.inum);
	now[NS_TIME] = READ_CURRENT(task, nsproxy, time_ns_for_children, ns.inum);
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++) {
		__u32 was = i == NS_PID	   ? call->from_pid
			    : i == NS_TIME ? call->from_time
					   : call->ns[i];

		changed |= kind_if_differs(i, now[i], was);
	}
	return changed;
}

/* If another thread shares the descriptors of the caller, it can replace the descriptor between the
 * entry of the call and the kernel's own look at it. So what the entry found is not certain then.
 */
static __always_inline int setns_exit(long ret)
{
	struct ns_call *call = ns_call_get();
	__u32 kinds;

	if (!call || call->via != VIA_SETNS)
		return 0;
	if (call->shared_files) {
		call->target_mask = 0;
		call->file_mnt = 0;
		call->file_pid = 0;
	}
	kinds = ns_call_kinds(call);
	if (ret >= 0) {
		/* The kernel entered nothing else than what the caller asked for. Without a type,
		 * the descriptor has one. The call changes nothing if that is the caller's own.
		 */
		__u32 entered = kinds_of_flags(call->flags);

		if (!entered)
			entered = changed_kinds(call);
		if (entered)
			kinds = entered;
	}
	ns_call_exit_kinds(call, ret, (void *)bpf_get_current_task(), kinds);
	return 0;
}

/* The system call itself. The compiler inlines what is between it and the *ns_install() of each
 * type, and a call with a bad descriptor does not get that far.
 */
SEC("fentry/" SYS(setns))
int BPF_PROG(fentry_setns, struct pt_regs *regs)
{
	return setns_enter(ARG1(regs), (__u32)ARG2(regs));
}

SEC("fexit/" SYS(setns))
int BPF_PROG(fexit_setns, struct pt_regs *regs, long ret)
{
	return setns_exit(ret);
}

SEC("kprobe/" SYS(setns))
int BPF_KPROBE(kprobe_setns, struct pt_regs *regs)
{
	return setns_enter(ARG1(regs), (__u32)ARG2(regs));
}

SEC("kretprobe/" SYS(setns))
int BPF_KRETPROBE(kretprobe_setns, long ret)
{
	return setns_exit(ret);
}

#if defined(__TARGET_ARCH_x86)
/* For 32-bit programs. */
SEC("fentry/__ia32_sys_setns")
int BPF_PROG(fentry_setns32, struct pt_regs *regs)
{
	return setns_enter(BPF_PROBE_READ(regs, bx), (__u32)BPF_PROBE_READ(regs, cx));
}

SEC("fexit/__ia32_sys_setns")
int BPF_PROG(fexit_setns32, struct pt_regs *regs, long ret)
{
	return setns_exit(ret);
}

/* The end of this is kretprobe_setns too. */
SEC("kprobe/__ia32_sys_setns")
int BPF_KPROBE(kprobe_setns32, struct pt_regs *regs)
{
	return setns_enter(BPF_PROBE_READ(regs, bx), (__u32)BPF_PROBE_READ(regs, cx));
}
#endif

SEC("tracepoint/syscalls/sys_enter_setns")
int tp_setns_enter(struct trace_event_raw_sys_enter *ctx)
{
	return setns_enter(ctx->args[0], (__u32)ctx->args[1]);
}

#endif
