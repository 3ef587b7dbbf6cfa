/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a namespace is, and which ones a task is in. */
#ifndef __NSTRACE_NAMESPACE_H__
#define __NSTRACE_NAMESPACE_H__

#include "task.h"

/* include/uapi/linux/sched.h */
#define CLONE_NEWTIME	0x00000080
#define CLONE_NEWNS	0x00020000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS	0x04000000
#define CLONE_NEWIPC	0x08000000
#define CLONE_NEWUSER	0x10000000
#define CLONE_NEWPID	0x20000000
#define CLONE_NEWNET	0x40000000
#define CLONE_NEW_ALL                                                                              \
	(CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |             \
	 CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* The kinds, as 1 << enum ns_kind, of CLONE_NEW* flags. */
static __always_inline __u32 kinds_of_flags(__u64 flags)
{
	__u32 mask = 0;

	mask |= flags & CLONE_NEWUTS ? 1 << NS_UTS : 0;
	mask |= flags & CLONE_NEWIPC ? 1 << NS_IPC : 0;
	mask |= flags & CLONE_NEWNS ? 1 << NS_MNT : 0;
	mask |= flags & CLONE_NEWPID ? 1 << NS_PID : 0;
	mask |= flags & CLONE_NEWNET ? 1 << NS_NET : 0;
	mask |= flags & CLONE_NEWTIME ? 1 << NS_TIME : 0;
	mask |= flags & CLONE_NEWCGROUP ? 1 << NS_CGROUP : 0;
	mask |= flags & CLONE_NEWUSER ? 1 << NS_USER : 0;
	return mask;
}

/* The kind of one CLONE_NEW* flag; NS_KINDS for any other value. */
static __always_inline enum ns_kind kind_of_flag(__u32 flag)
{
	switch (flag) {
	case CLONE_NEWUTS:
		return NS_UTS;
	case CLONE_NEWIPC:
		return NS_IPC;
	case CLONE_NEWNS:
		return NS_MNT;
	case CLONE_NEWPID:
		return NS_PID;
	case CLONE_NEWNET:
		return NS_NET;
	case CLONE_NEWTIME:
		return NS_TIME;
	case CLONE_NEWCGROUP:
		return NS_CGROUP;
	case CLONE_NEWUSER:
		return NS_USER;
	default:
		return NS_KINDS;
	}
}

/* 1 << kind if a and b differ, and 0 otherwise. There is no branch, so the verifier does not follow
 * each combination of kinds.
 */
static __always_inline __u32 kind_if_differs(enum ns_kind kind, __u64 a, __u64 b)
{
	__u64 diff = a ^ b, negative = -diff;

	asm volatile("" : "+r"(negative)); /* the compiler would make a branch */
	return ((diff | negative) >> 63) << kind;
}

static __always_inline __u32 count_bits(__u32 mask)
{
	__u32 n = 0;

	for (int i = 0; i < NS_KINDS; i++)
		n += (mask >> i) & 1;
	return n;
}

/* The id of a namespace that the kernel never uses again; 0 if the kernel has none:
 *
 *	6.18 and later  ns_common.ns_id, for all types
 *	5.12 to 6.17    net.net_cookie, and mnt_namespace.seq
 *	5.10, 5.11      the same, but net_cookie is 0 until somebody asks for it
 */
static __always_inline __u64 ns_unique_id(void *ns, enum ns_kind kind, struct ns_common *common)
{
	struct ns_common___618 *c = (void *)common;

	if (bpf_core_field_exists(c->ns_id))
		return READ(c, ns_id);
	if (kind == NS_NET) {
		struct net *net = ns;
		struct net___510 *net510 = ns;

		if (bpf_core_field_exists(net510->net_cookie.counter))
			return READ(net510, net_cookie.counter);
		if (bpf_core_field_exists(net->net_cookie))
			return READ(net, net_cookie);
	}
	if (kind == NS_MNT) {
		struct mnt_namespace___seq *mnt = ns;

		if (bpf_core_field_exists(mnt->seq))
			return READ(mnt, seq);
	}
	return 0;
}

#define DESCRIBE_NS(c, type, owner_member, ns_kind_, ptr)                                          \
	do {                                                                                       \
		struct type *ns_ = (void *)(ptr);                                                  \
		void *common_ = (void *)ns_ + bpf_core_field_offset(struct type, ns);              \
		if (ns_) {                                                                         \
			(c)->inum = READ(ns_, ns.inum);                                            \
			(c)->user_ns = READ(ns_, owner_member, ns.inum);                           \
			(c)->ns_id = ns_unique_id(ns_, ns_kind_, common_);                         \
		}                                                                                  \
	} while (0)

/* Fills c from a namespace of that kind. With ns NULL only the kind is known. */
static __always_inline void describe_ns(struct ns_change *c, enum ns_kind kind, void *ns)
{
	c->ns_id = 0;
	c->inum = 0;
	c->from = 0;
	c->user_ns = 0;
	*(__u32 *)&c->kind = kind;
	switch (kind) {
	case NS_UTS:
		DESCRIBE_NS(c, uts_namespace, user_ns, NS_UTS, ns);
		break;
	case NS_IPC:
		DESCRIBE_NS(c, ipc_namespace, user_ns, NS_IPC, ns);
		break;
	case NS_MNT:
		DESCRIBE_NS(c, mnt_namespace, user_ns, NS_MNT, ns);
		break;
	case NS_PID:
		DESCRIBE_NS(c, pid_namespace, user_ns, NS_PID, ns);
		break;
	case NS_NET:
		DESCRIBE_NS(c, net, user_ns, NS_NET, ns);
		break;
	case NS_TIME:
		DESCRIBE_NS(c, time_namespace, user_ns, NS_TIME, ns);
		break;
	case NS_CGROUP:
		DESCRIBE_NS(c, cgroup_namespace, user_ns, NS_CGROUP, ns);
		break;
	case NS_USER:
		DESCRIBE_NS(c, user_namespace, parent, NS_USER, ns);
		break;
	default:
		break;
	}
}

/* The namespace of a kind that the children of task get. Only for pid and time can it differ from
 * the one that task is in. It is the one that clone, unshare and setns change.
 */
static __always_inline void *task_ns_for_children(struct task_struct *task, enum ns_kind kind)
{
	struct nsproxy *p = BPF_CORE_READ(task, nsproxy);

	switch (kind) {
	case NS_UTS:
		return BPF_CORE_READ(p, uts_ns);
	case NS_IPC:
		return BPF_CORE_READ(p, ipc_ns);
	case NS_MNT:
		return BPF_CORE_READ(p, mnt_ns);
	case NS_PID:
		return BPF_CORE_READ(p, pid_ns_for_children);
	case NS_NET:
		return BPF_CORE_READ(p, net_ns);
	case NS_TIME:
		return BPF_CORE_READ(p, time_ns_for_children);
	case NS_CGROUP:
		return BPF_CORE_READ(p, cgroup_ns);
	case NS_USER:
		return BPF_CORE_READ(task, cred, user_ns);
	default:
		return NULL;
	}
}

/* The namespace of a kind that task is in. */
static __always_inline void *task_ns_of_kind(struct task_struct *task, enum ns_kind kind)
{
	if (kind == NS_PID)
		return active_pid_ns(task);
	if (kind == NS_TIME)
		return BPF_CORE_READ(task, nsproxy, time_ns);
	return task_ns_for_children(task, kind);
}

/* Reports whether task is not the first thread of its process but is in the same namespaces, as
 * most threads are.
 */
static __always_inline bool in_ns_of_leader(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	return leader != task && BPF_CORE_READ(task, nsproxy) == BPF_CORE_READ(leader, nsproxy) &&
	       BPF_CORE_READ(task, cred, user_ns) == BPF_CORE_READ(leader, cred, user_ns);
}

/* The inode numbers of the namespaces that task is in. */
static __always_inline void task_ns_inums(struct task_struct *task, __u32 ids[NS_KINDS])
{
	struct nsproxy *p = BPF_CORE_READ(task, nsproxy);

	ids[NS_UTS] = BPF_CORE_READ(p, uts_ns, ns.inum);
	ids[NS_IPC] = BPF_CORE_READ(p, ipc_ns, ns.inum);
	ids[NS_MNT] = BPF_CORE_READ(p, mnt_ns, ns.inum);
	ids[NS_PID] = BPF_CORE_READ(active_pid_ns(task), ns.inum);
	ids[NS_NET] = BPF_CORE_READ(p, net_ns, ns.inum);
	ids[NS_TIME] = BPF_CORE_READ(p, time_ns, ns.inum);
	ids[NS_CGROUP] = BPF_CORE_READ(p, cgroup_ns, ns.inum);
	ids[NS_USER] = BPF_CORE_READ(task, cred, user_ns, ns.inum);
}

/* The same for the current task, at less cost. */
static __always_inline void current_ns_inums(__u32 ids[NS_KINDS])
{
	struct task_struct *task = current_task();
	struct nsproxy *p = READ_CURRENT(task, nsproxy);
	struct pid *pid;

	ids[NS_UTS] = READ_CURRENT(p, uts_ns, ns.inum);
	ids[NS_IPC] = READ_CURRENT(p, ipc_ns, ns.inum);
	ids[NS_MNT] = READ_CURRENT(p, mnt_ns, ns.inum);
	/* A plain load reaches only the first element of a flexible array. */
	pid = READ_CURRENT(task, thread_pid);
	if (READ_CURRENT(pid, level) == 0)
		ids[NS_PID] = READ_CURRENT(pid, numbers[0].ns, ns.inum);
	else
		ids[NS_PID] = BPF_CORE_READ(active_pid_ns(task), ns.inum);
	ids[NS_NET] = READ_CURRENT(p, net_ns, ns.inum);
	ids[NS_TIME] = READ_CURRENT(p, time_ns, ns.inum);
	ids[NS_CGROUP] = READ_CURRENT(p, cgroup_ns, ns.inum);
	ids[NS_USER] = READ_CURRENT(task, cred, user_ns, ns.inum);
}

#endif
