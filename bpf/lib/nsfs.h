/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Namespace files: those below /proc/PID/ns, and bind mounts of them. */
#ifndef __NSTRACE_NSFS_H__
#define __NSTRACE_NSFS_H__

#include "namespace.h"

#define NSFS_MAGIC 0x6e736673 /* include/uapi/linux/magic.h */

/* Reports whether dentry is a namespace file. */
static __always_inline bool is_ns_file(struct dentry *dentry)
{
	return BPF_CORE_READ(dentry, d_inode, i_sb, s_magic) == NSFS_MAGIC;
}

/* The CLONE_NEW* flag of a namespace file. From 6.18 on it is in the namespace itself, before that
 * in its operations.
 */
static __always_inline __u32 ns_common_flag(struct ns_common *ns)
{
	struct ns_common___618 *new = (void *)ns;
	struct ns_common___510 *old = (void *)ns;

	if (bpf_core_field_exists(new->ns_type))
		return BPF_CORE_READ(new, ns_type);
	return BPF_CORE_READ(old, ops, type);
}

/* Calls fn(arg, kind, ns) with the namespace that contains this ns_common. flag is its CLONE_NEW*
 * flag.
 */
#define WITH_NS(common, flag, fn, arg)                                                             \
	do {                                                                                       \
		WITH_NS_OF(CLONE_NEWUTS, uts_namespace, common, flag, fn, arg, NS_UTS);            \
		WITH_NS_OF(CLONE_NEWIPC, ipc_namespace, common, flag, fn, arg, NS_IPC);            \
		WITH_NS_OF(CLONE_NEWNS, mnt_namespace, common, flag, fn, arg, NS_MNT);             \
		WITH_NS_OF(CLONE_NEWPID, pid_namespace, common, flag, fn, arg, NS_PID);            \
		WITH_NS_OF(CLONE_NEWNET, net, common, flag, fn, arg, NS_NET);                      \
		WITH_NS_OF(CLONE_NEWTIME, time_namespace, common, flag, fn, arg, NS_TIME);         \
		WITH_NS_OF(CLONE_NEWCGROUP, cgroup_namespace, common, flag, fn, arg, NS_CGROUP);   \
		WITH_NS_OF(CLONE_NEWUSER, user_namespace, common, flag, fn, arg, NS_USER);         \
	} while (0)

#define WITH_NS_OF(clone_flag, type, common, flag, fn, arg, kind)                                  \
	if ((flag) == (clone_flag))                                                                \
	fn(arg, kind, (void *)(common)-bpf_core_field_offset(struct type, ns))

/* Fills c from the namespace that a file of nsfs stands for. */
static __noinline void describe_ns_file(struct ns_change *c, struct inode *inode)
{
	struct ns_common *ns = BPF_CORE_READ(inode, i_private);
	__u32 flag;

	if (!c || !ns)
		return;
	flag = ns_common_flag(ns);
	WITH_NS(ns, flag, describe_ns, c);
}

#endif
