/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* open_tree(2), open_tree_attr(2) and fsmount(2), which can make a mount namespace around a tree of
 * mounts. */
#ifndef __NSTRACE_MOUNT_TREE_H__
#define __NSTRACE_MOUNT_TREE_H__

#include "ns_call.h"

/* include/uapi/linux/mount.h: OPEN_TREE_NAMESPACE (7.0), FSMOUNT_NAMESPACE (7.1). */
#define MOUNT_NAMESPACE (1 << 1)

/* These calls return a descriptor of the new mount namespace, and no task is in it. copy_mnt_ns()
 * has no part in that.
 */
static __always_inline int tree_enter(enum call_via via, __u64 flags)
{
	if (flags & MOUNT_NAMESPACE)
		ns_call_begin(via, CLONE_NEWNS);
	return 0;
}

static __always_inline bool is_tree_call(struct ns_call *call)
{
	return call->via == VIA_OPEN_TREE || call->via == VIA_OPEN_TREE_ATTR ||
	       call->via == VIA_FSMOUNT;
}

static __noinline int tree_exit(long ret)
{
	struct ns_call *call = ns_call_get();
	struct inode *inode;

	if (!call || !is_tree_call(call))
		return 0;
	if (ret >= 0) {
		inode = BPF_CORE_READ(current_file(ret), f_inode);
		if (inode && BPF_CORE_READ(inode, i_sb, s_magic) == NSFS_MAGIC)
			add_ns_file_target(call, inode);
		if (!(call->target_mask & (1 << NS_MNT))) {
			/* Another thread has closed the descriptor in between. */
			count_missed(REC_NS_CREATE, 1);
			ns_call_end(call);
			return 0;
		}
	}
	ns_call_exit(call, ret, NULL);
	return 0;
}

SEC("fentry/" SYS(open_tree))
int BPF_PROG(fentry_open_tree, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3(regs));
}

SEC("fexit/" SYS(open_tree))
int BPF_PROG(fexit_open_tree, struct pt_regs *regs, long ret)
{
	return tree_exit(ret);
}

SEC("fentry/" SYS(fsmount))
int BPF_PROG(fentry_fsmount, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2(regs));
}

SEC("fexit/" SYS(fsmount))
int BPF_PROG(fexit_fsmount, struct pt_regs *regs, long ret)
{
	return tree_exit(ret);
}

SEC("kprobe/" SYS(open_tree))
int BPF_KPROBE(kprobe_open_tree, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3(regs));
}

SEC("kretprobe/" SYS(open_tree))
int BPF_KRETPROBE(kretprobe_open_tree, long ret)
{
	return tree_exit(ret);
}

SEC("kprobe/" SYS(fsmount))
int BPF_KPROBE(kprobe_fsmount, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2(regs));
}

SEC("kretprobe/" SYS(fsmount))
int BPF_KRETPROBE(kretprobe_fsmount, long ret)
{
	return tree_exit(ret);
}

/* From 6.15 on. The flags are where open_tree(2) has them. */
SEC("fentry/" SYS(open_tree_attr))
int BPF_PROG(fentry_open_tree_attr, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE_ATTR, ARG3(regs));
}

SEC("kprobe/" SYS(open_tree_attr))
int BPF_KPROBE(kprobe_open_tree_attr, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE_ATTR, ARG3(regs));
}

#if defined(__TARGET_ARCH_x86)
/* For 32-bit programs. The ends are those above. */
SEC("fentry/" SYS32(open_tree))
int BPF_PROG(fentry_open_tree32, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3_32(regs));
}

SEC("fentry/" SYS32(open_tree_attr))
int BPF_PROG(fentry_open_tree_attr32, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE_ATTR, ARG3_32(regs));
}

SEC("fentry/" SYS32(fsmount))
int BPF_PROG(fentry_fsmount32, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2_32(regs));
}

SEC("kprobe/" SYS32(open_tree))
int BPF_KPROBE(kprobe_open_tree32, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3_32(regs));
}

SEC("kprobe/" SYS32(open_tree_attr))
int BPF_KPROBE(kprobe_open_tree_attr32, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE_ATTR, ARG3_32(regs));
}

SEC("kprobe/" SYS32(fsmount))
int BPF_KPROBE(kprobe_fsmount32, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2_32(regs));
}
#endif

SEC("tracepoint/syscalls/sys_enter_open_tree_attr")
int tp_open_tree_attr_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tree_enter(VIA_OPEN_TREE_ATTR, ctx->args[2]);
}

SEC("tracepoint/syscalls/sys_enter_open_tree")
int tp_open_tree_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tree_enter(VIA_OPEN_TREE, ctx->args[2]);
}

SEC("tracepoint/syscalls/sys_enter_fsmount")
int tp_fsmount_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tree_enter(VIA_FSMOUNT, ctx->args[1]);
}

#endif
