/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Shares of what all users need: the ring, and the maps of calls under way (calls.h). Once one of
 * these is nearly full, each user can take only so much of the rest. So a user who fills it does
 * not hide what others do. Of the ring, everybody has the whole share again each time that user
 * space has read a quarter of it.
 *
 * A user cannot choose what counts against whom:
 *
 * - A user with subordinate ids, or with user namespaces, counts as the user who owns the outermost
 *   of these namespaces.
 * - root of a container without a user namespace can become any user. So users count separately in
 *   each cgroup of a level in which only the host makes cgroups, and such a cgroup has a share too.
 *   That is the second level (user.slice/user-UID.slice, system.slice/docker-ID.scope), but the
 *   first one with LXC and the third one in Kubernetes (kubepods.slice/CLASS/POD). Cgroups below it
 *   count as it does, for users and root of a container can make those.
 */
#ifndef __NSTRACE_SHARE_H__
#define __NSTRACE_SHARE_H__

#include "ring.h"
#include "task.h"

const volatile __u64 ring_bytes = 1 << 23;

/* Shares apply while the ring holds more than this. */
#define SHARE_ABOVE (ring_bytes / 4 * 3)
/* Each time that user space has read this much, everybody has the whole share again. */
#define SHARE_ROUND  (ring_bytes / 4)
#define USER_SHARE   (ring_bytes / 16)
#define CGROUP_SHARE (ring_bytes / 8)

/* A user in a cgroup, or the cgroup, and what it has taken. */
struct share {
	/* The uid in the low half, or NO_UID for a cgroup. A keyed hash of the cgroup in the high
	 * half. 0: the slot was never used. One number, so that all CPUs see a whole one.
	 */
	__u64 key;
	__u64 round; /* in which bytes counts, from 1 */
	__u64 bytes;
	__u64 first; /* times of the first and the last refusal; CLOCK_BOOTTIME, ns */
	__u64 last;
	__u64 refused[REC_SLOTS]; /* events, by kind; never decreases */
	/* How many of all these events user space has reported. Only user space writes it. */
	__u64 reported;
	__u64 total; /* of refused */
	/* Calls under way, see calls.h, and how many of them user space has removed. Only user
	 * space writes the latter.
	 */
	__s64 calls;
	__s64 removed;
};

EXPORT_TYPE(struct, share);

#define NO_UID	     ((__u32)-1)
#define SHARES	     1024 /* a power of two */
#define SHARE_PROBES 8	  /* slots that a key can be in */

/* User space maps the array, as it does with counts. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SHARES);
	__type(key, __u32);
	__type(value, struct share);
} shares SEC(".maps");

/* The user whom the current task counts as. */
static __always_inline __u32 share_uid(struct task_struct *task)
{
	struct user_namespace *ns = READ_CURRENT(task, cred, user_ns);
	int level = READ_CURRENT(ns, level);

	if (level <= 0)
		return READ_CURRENT(task, cred, uid.val);
	for (int i = 0; i < 33; i++) { /* create_user_ns() allows 33 levels */
		if (level - i <= 1)
			break;
		ns = BPF_CORE_READ(ns, parent);
	}
	return BPF_CORE_READ(ns, owner.val);
}

/* The first eight bytes of the name of a cgroup of the first level, as bpf_probe_read_kernel() gets
 * them on a little-endian machine.
 */
#define KUBEPODS 0x73646f706562756bull /* "kubepods" */
#define LXC	 0x6c7961702e63786cull /* "lxc.payload" */

/* The level of the cgroup that one of a deeper level counts as. */
static __always_inline int share_level(struct cgroup *cg, int level)
{
	struct cgroup___510 *cg510 = (void *)cg;
	struct kernfs_node *kn;
	__u64 name = 0;

	if (bpf_core_field_exists(cg510->ancestor_ids)) {
		if (level > CGROUP_PARTS) /* too deep to look: whoever made that counts as one */
			return 1;
		kn = BPF_CORE_READ(cg, kn);
		for (int i = 0; i < CGROUP_PARTS && level - i > 1; i++)
			kn = kernfs_parent(kn);
	} else {
		kn = BPF_CORE_READ(cg, ancestors[1], kn);
	}
	bpf_probe_read_kernel(&name, sizeof(name), BPF_CORE_READ(kn, name));
	return name == KUBEPODS ? 3 : name == LXC ? 1 : 2;
}

static __always_inline __u64 ancestor_id(struct cgroup *cg, int level)
{
	struct cgroup___510 *cg510 = (void *)cg;

	if (bpf_core_field_exists(cg510->ancestor_ids))
		return level == 1   ? BPF_CORE_READ(cg510, ancestor_ids[1])
		       : level == 2 ? BPF_CORE_READ(cg510, ancestor_ids[2])
				    : BPF_CORE_READ(cg510, ancestor_ids[3]);
	return level == 1   ? BPF_CORE_READ(cg, ancestors[1], kn, id)
	       : level == 2 ? BPF_CORE_READ(cg, ancestors[2], kn, id)
			    : BPF_CORE_READ(cg, ancestors[3], kn, id);
}

/* The id of the cgroup that the current task counts in. Global, see nstrace.c. */
__noinline __u64 share_cgroup(void)
{
	struct task_struct *task = current_task();
	struct cgroup *cg = NULL;
	int level = 0, at;

	if (v1_subsys >= 0) {
		cg = BPF_CORE_READ(task, cgroups, subsys[v1_subsys & 15], cgroup);
		level = BPF_CORE_READ(cg, level);
	}
	if (level <= 0) {
		cg = READ_CURRENT(task, cgroups, dfl_cgrp);
		level = BPF_CORE_READ(cg, level);
	}
	if (level > 1) {
		at = share_level(cg, level);
		if (level > at)
			return ancestor_id(cg, at);
	}
	return BPF_CORE_READ(cg, kn, id);
}

static __always_inline __s64 share_calls(struct share *s)
{
	return READ_ONCE(s->calls) - READ_ONCE(s->removed);
}

/* The number of the slot of a key plus 1. Takes a slot for it if it has none. 0: none is free.
 *
 * A slot is free if nobody used it in this round, no call holds it, and user space has reported all
 * that it counted. Global, see nstrace.c.
 */
__noinline __u32 share_slot(__u64 key, __u64 round)
{
	struct share *free = NULL;
	__u32 number = 0;

	for (int i = 0; i < SHARE_PROBES; i++) {
		__u32 slot = (hash_mix(hash_seed, key) + i) & (SHARES - 1);
		struct share *s = bpf_map_lookup_elem(&shares, &slot);

		if (!s)
			return 0;
		if (READ_ONCE(s->key) == key) {
			if (READ_ONCE(s->round) != round) {
				s->bytes = 0;
				s->round = round;
			}
			return slot + 1;
		}
		if (!free && READ_ONCE(s->round) != round && share_calls(s) <= 0 &&
		    READ_ONCE(s->total) == READ_ONCE(s->reported)) {
			free = s;
			number = slot + 1;
		}
	}
	if (free) {
		free->round = round;
		free->bytes = 0;
		free->first = 0;
		free->key = key;
	}
	return number;
}

/* The share in the slot with that number minus 1; NULL for 0. */
static __always_inline struct share *share_at(__u32 number)
{
	__u32 slot = number - 1;

	return number ? bpf_map_lookup_elem(&shares, &slot) : NULL;
}

/* Whose shares the current task takes from: numbers of slots plus 1. 0: none. */
struct share_owner {
	__u16 user;
	__u16 cgroup;
};

EXPORT_TYPE(struct, share_owner);

/* The kernel's threads count as one unknown user without a cgroup. They report the ends of
 * namespaces, of whichever user. For parameters that appear and vanish they have another share,
 * because a user can cause many of these.
 */
static __always_inline struct share_owner share_owner(enum record_kind kind)
{
	struct task_struct *task = current_task();
	__u64 round = 1 + bpf_ringbuf_query(&ring, BPF_RB_CONS_POS) / SHARE_ROUND, cgroup = 0;
	__u32 uid = NO_UID, all = 0;

	if (kind == REC_SYSCTL_APPEAR || kind == REC_SYSCTL_VANISH)
		uid = NO_UID - 1;
	if (!(READ_CURRENT(task, flags) & PF_KTHREAD)) {
		uid = share_uid(task);
		cgroup = hash_mix(hash_seed, share_cgroup()) >> 32 << 32 | 1ull << 32;
		all = share_slot(cgroup | NO_UID, round);
	}
	return (struct share_owner){
		.user = share_slot(cgroup | uid | 1ull << 33, round),
		.cgroup = all,
	};
}

/* Counts n events of a kind as refused: to the user, or if there was no slot for the user, to the
 * cgroup.
 */
static __always_inline void share_refuse(struct share_owner owner, enum record_kind kind, __u32 n)
{
	struct share *s = share_at(owner.user ? owner.user : owner.cgroup);
	__u64 now = bpf_ktime_get_boot_ns();

	if (!s)
		return;
	if (!s->first || READ_ONCE(s->total) == READ_ONCE(s->reported))
		s->first = now;
	s->last = now;
	counter_add(&s->refused[kind % REC_SLOTS], n);
	counter_add(&s->total, n);
}

/* With size 0: reports whether whoever caused n events of that kind has any share of the ring left,
 * and counts the events as refused if not. Otherwise takes size bytes from the share. Global, see
 * nstrace.c.
 */
__noinline int share_use(__u64 size, __u32 kind, __u32 n)
{
	struct share_owner owner = share_owner(kind);
	/* With more users than slots, only the share of the cgroup remains. */
	struct share *user = share_at(owner.user), *all = share_at(owner.cgroup);

	if (size) {
		if (user)
			counter_add(&user->bytes, size);
		if (all)
			counter_add(&all->bytes, size);
		return 1;
	}
	if ((!user || user->bytes < USER_SHARE) && (!all || all->bytes < CGROUP_SHARE))
		return 1;
	share_refuse(owner, kind, n);
	return 0;
}

static __always_inline bool ring_nearly_full(void)
{
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > SHARE_ABOVE;
}

/* Reports whether there is room for n events of the current task. Call it before the first record
 * of an event.
 */
static __always_inline bool share_left(enum record_kind kind, __u32 n)
{
	return !ring_nearly_full() || share_use(0, kind, n);
}

#endif
