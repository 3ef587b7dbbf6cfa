/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Why the kernel refused to make a namespace: what it checks, read right after a call that failed,
 * while the task that made the call is still in it.
 *
 * create_user_ns() (kernel/user_namespace.c), create_pid_namespace() (kernel/pid_namespace.c) and
 * inc_ucount() (kernel/ucount.c) decide from these values. They are static, or on the path of
 * inotify too, so there is no hook on them: a call that succeeds costs nothing here.
 */
#ifndef __NSTRACE_REFUSAL_H__
#define __NSTRACE_REFUSAL_H__

#include "lib/namespace.h"
#include "lib/scratch.h"

/* include/uapi/asm-generic/errno-base.h, errno.h */
#define EPERM  1
#define EACCES 13
#define ENOSPC 28
#define EUSERS 87

/* What create_user_ns() refuses with EPERM. */
enum refusal_flag {
	RF_CHROOTED = 1 << 0,	  /* the root of the task is not that of its mount namespace */
	RF_UID_UNMAPPED = 1 << 1, /* the user namespace has no id for the effective user */
	RF_GID_UNMAPPED = 1 << 2,
};

/* The first part of the tail of a failed REC_NS_CREATE, behind the changes. */
struct ns_refusal {
	__u64 caps;	  /* effective, in the task's user namespace */
	__u32 user_level; /* how deep that one is below the initial one */
	__u32 pid_level;  /* the same of the PID namespace that children get */
	__u32 flags;	  /* enum refusal_flag */
	__u32 kinds;	  /* 1 << enum ns_kind: all that the call asked for */
	__u32 euid;
	__u32 egid;
};

/* A limit that was reached: user.max_*_namespaces of a user namespace. The tail has at most one for
 * each kind of namespace.
 */
struct ns_limit {
	__u64 count; /* how many namespaces count against it */
	__u64 max;
	__u32 user_ns; /* whose limit it is */
	__u32 uid;     /* whose namespaces are counted there */
	__u8 kind;     /* enum ns_kind */
	__u8 level;    /* how far user_ns is above the task's user namespace */
	__u8 counted;  /* count is known */
	__u8 pad[5];
};

EXPORT_TYPE(enum, refusal_flag);
EXPORT_TYPE(struct, ns_refusal);
EXPORT_TYPE(struct, ns_limit);

/* create_user_ns() allows 33 levels below the initial user namespace. */
#define USER_LEVELS 34

static __always_inline __u32 ucount_of_kind(enum ns_kind kind)
{
	switch (kind) {
	case NS_USER:
		return UCOUNT_USER_NAMESPACES;
	case NS_MNT:
		return UCOUNT_MNT_NAMESPACES;
	case NS_PID:
		return UCOUNT_PID_NAMESPACES;
	case NS_NET:
		return UCOUNT_NET_NAMESPACES;
	case NS_UTS:
		return UCOUNT_UTS_NAMESPACES;
	case NS_IPC:
		return UCOUNT_IPC_NAMESPACES;
	case NS_CGROUP:
		return UCOUNT_CGROUP_NAMESPACES;
	default:
		return UCOUNT_TIME_NAMESPACES;
	}
}

/* Reads one element of an array of int or long. */
static __always_inline __s64 read_element(void *array, __u32 index, __u32 size)
{
	__s64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), array + index * size);
	return size == sizeof(__s32) ? (__s32)v : v;
}

/* Appends the limits of one user namespace that are reached, of the kinds for which no namespace
 * below it has one. Goes on to its parent, and returns 1 if there is one. inc_ucount() takes the
 * same way, and fails at the first limit that is reached.
 */
__noinline int limit_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct user_namespace *ns;
	struct ucounts *u;
	__u32 kinds, id;

	if (!s)
		return 0;
	ns = s->walk.at;
	u = s->walk.ucounts;
	kinds = s->walk.kinds;
	id = BPF_CORE_READ(ns, ns.inum);
	for (__u32 kind = 0; kind < NS_KINDS; kind++) {
		struct ns_limit *l = scratch_end(s);
		__u32 index = ucount_of_kind(kind);
		__s64 count = 0, max;

		if (!(kinds & (1 << kind)))
			continue;
		max = read_element(
			(void *)ns + bpf_core_field_offset(struct user_namespace, ucount_max),
			index, bpf_core_field_size(struct user_namespace, ucount_max[0]));
		if (u)
			count = read_element((void *)u +
						     bpf_core_field_offset(struct ucounts, ucount),
					     index, bpf_core_field_size(struct ucounts, ucount[0]));
		if (count < max)
			continue;
		s->walk.kinds &= ~(1 << kind);
		l->count = count;
		l->max = max;
		l->user_ns = id;
		l->uid = u ? BPF_CORE_READ(u, uid.val) : s->walk.uid;
		*(__u64 *)&l->kind = 0;
		l->kind = kind;
		l->level = s->walk.level;
		l->counted = u != NULL;
		s->end += sizeof(*l);
	}
	u = BPF_CORE_READ(ns, ucounts);
	s->walk.ucounts = u;
	s->walk.at = BPF_CORE_READ(u, ns);
	s->walk.level++;
	return u != NULL;
}

/* Reports whether the root directory of task is surely not the one that its mount namespace shows
 * at the top: current_chrooted() (fs/namespace.c). That goes from the root of the namespace up
 * through the mounts that cover each other. This goes down from the root of the task. It does not
 * look for mounts that cover the latter.
 */
static __always_inline bool is_chrooted(struct task_struct *task)
{
	struct mount *top = BPF_CORE_READ(task, nsproxy, mnt_ns, root), *m, *parent;
	struct vfsmount *mnt = BPF_CORE_READ(task, fs, root.mnt);

	if (!top || !mnt)
		return false;
	if (BPF_CORE_READ(task, fs, root.dentry) != BPF_CORE_READ(mnt, mnt_root))
		return true;
	m = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	for (int i = 0; i < 8; i++) {
		if (m == top)
			return false;
		parent = BPF_CORE_READ(m, mnt_parent);
		if (parent == m ||
		    BPF_CORE_READ(m, mnt_mountpoint) != BPF_CORE_READ(parent, mnt.mnt_root))
			return true;
		m = parent;
	}
	return false;
}

/* Reports whether a map of at most 5 extents surely has no id for a user or a group. */
static __always_inline bool is_unmapped(struct uid_gid_map *map, __u32 id)
{
	__u32 n = BPF_CORE_READ(map, nr_extents);

	if (n > 5)
		return false;
#pragma unroll
	for (int i = 0; i < 5; i++) {
		if (i < n && id - BPF_CORE_READ(map, extent[i].lower_first) <
				     BPF_CORE_READ(map, extent[i].count))
			return false;
	}
	return true;
}

/* Appends a struct ns_refusal and the limits that are reached to the record in a slot. kinds are
 * those that the current task asked for. Returns the number of limits. Global, see nstrace.c.
 */
__noinline int put_refusal(__u32 slot, __u32 kinds, int err)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cred *cred = BPF_CORE_READ(task, cred);
	struct cred___514 *cred514 = (void *)cred;
	struct user_namespace *user = BPF_CORE_READ(cred, user_ns);
	__u32 euid = BPF_CORE_READ(cred, euid.val), egid = BPF_CORE_READ(cred, egid.val);
	struct ucounts *u = NULL;
	struct ns_refusal *r;
	__u64 limits;

	if (!s)
		return 0;
	r = scratch_end(s);
	r->caps = 0;
	BPF_CORE_READ_INTO(&r->caps, cred, cap_effective);
	r->user_level = BPF_CORE_READ(user, level);
	r->pid_level = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, level);
	r->flags = 0;
	r->kinds = kinds;
	r->euid = euid;
	r->egid = egid;
	if (err == -EPERM && kinds & (1 << NS_USER)) {
		if (is_chrooted(task))
			r->flags |= RF_CHROOTED;
		if (is_unmapped((void *)user +
					bpf_core_field_offset(struct user_namespace, uid_map),
				euid))
			r->flags |= RF_UID_UNMAPPED;
		if (is_unmapped((void *)user +
					bpf_core_field_offset(struct user_namespace, gid_map),
				egid))
			r->flags |= RF_GID_UNMAPPED;
	}
	s->end += sizeof(*r);
	if (err != -ENOSPC && err != -EUSERS)
		return 0;
	/* The kernel counts for the effective user. It does not keep that count with the
	 * credentials if the real user is another one, and never before 5.14. A limit of 0 needs
	 * no count.
	 */
	if (bpf_core_field_exists(cred514->ucounts)) {
		u = BPF_CORE_READ(cred514, ucounts);
		if (BPF_CORE_READ(u, ns) != user || BPF_CORE_READ(u, uid.val) != euid)
			u = NULL;
	}
	walk_begin(s, user);
	s->walk.ucounts = u;
	s->walk.uid = euid;
	s->walk.kinds = kinds;
	s->walk.level = 0;
	limits = s->end;
	for (int i = 0; i < USER_LEVELS; i++) {
		if (!limit_step(slot))
			break;
	}
	return (READ_ONCE(s->end) - limits) / sizeof(struct ns_limit);
}

/* Reports whether put_refusal() can say why a call failed. */
static __always_inline bool is_refusal(long ret)
{
	return ret == -EPERM || ret == -ENOSPC || ret == -EACCES || ret == -EUSERS;
}

#endif
