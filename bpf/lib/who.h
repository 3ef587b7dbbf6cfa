/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who did it: the description of the current task.
 *
 * Everything in it has to be taken at once, since the process can be gone by the time that user
 * space reads the record.
 *
 * A description is ten times as long as the rest of an event, and it is the same for all events
 * of a process. So programs send it once, under an id, and each event refers to that id. The id
 * is a hash of what tells one description from the next.
 */
#ifndef __NSTRACE_WHO_H__
#define __NSTRACE_WHO_H__

#include "filter.h"
#include "namespace.h"
#include "path.h"

/* REC_WHO. The tail is actor[nancestors], exe, args, cgroup, the comm of the thread group's leader.
 */
struct who_record {
	struct head head;
	__u64 id;	  /* a keyed hash of what tells one description from the next; never 0 */
	__u64 start_time; /* of the process, CLOCK_BOOTTIME, ns */
	__u32 pid;	  /* these three are of the initial PID namespace */
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 loginuid;
	__u32 sessionid;
	char comm[COMM_LEN];
	char tty[TTY_LEN];
	/* The lengths of the parts of the tail after the ancestors, in the order of the parts. */
	__u16 exe_len; /* components, leaf first, each ended by a NUL */
	__u16 args_len;
	__u16 cgroup_len; /* as exe_len; see task_cgroup() */
	__u16 leader_len; /* COMM_LEN, or 0 for the leader of a thread group itself */
	/* The user who executed a set-user-ID program in the process or in the nearest ancestor
	 * where that is another user than uid, plus 1; 0: unknown.
	 */
	__u32 caller;
};

EXPORT_TYPE(struct, who_record);

/* That a process executed a set-user-ID program, see setuid.h. */
struct setuid_exec {
	__u64 start_time; /* of the process, CLOCK_BOOTTIME, ns */
	__u32 uid;	  /* the real one */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096); /* processes alive that did; of others the caller is unknown */
	__type(key, __u32);	   /* tgid */
	__type(value, struct setuid_exec);
} setuid_execs SEC(".maps");

/* Fills the caller if it is not known yet and that process executed a set-user-ID program. */
static __always_inline void note_caller(struct who_record *w, struct task_struct *leader,
					__u32 tgid)
{
	struct setuid_exec *e;

	if (w->caller)
		return;
	e = bpf_map_lookup_elem(&setuid_execs, &tgid);
	if (e && e->uid != w->uid && e->start_time == BPF_CORE_READ(leader, start_boottime))
		w->caller = e->uid + 1;
}

/* Appends one component of the path of a cgroup. Returns 1 if there is another. */
__noinline int cgroup_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct kernfs_node *kn, *parent;

	if (!s)
		return 0;
	kn = s->walk.at;
	parent = kernfs_parent(kn);
	if (!parent) { /* the root, whose name is empty */
		s->walk.reached_top = 1;
		return 0;
	}
	if (READ_ONCE(s->end) > s->walk.limit)
		return 0;
	put_name(s, BPF_CORE_READ(kn, name));
	s->walk.at = parent;
	return 1;
}

/* Appends the components of the path of task_cgroup(), leaf first. */
static __noinline void put_cgroup(struct scratch *s, struct task_struct *task)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_begin(s, task_cgroup(task));

	for (int i = 0; i < CGROUP_PARTS; i++) {
		if (!cgroup_step(slot))
			break;
	}
	if (!READ_ONCE(s->walk.reached_top))
		h->flags |= F_CGROUP_CUT;
}

/* Appends one parent. Returns 1 if there is another. */
__noinline int ancestor_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct task_struct *task, *parent;
	struct actor *a;
	__u32 pid;

	if (!s)
		return 0;
	task = s->walk.at;
	/* real_parent can be any thread of the parent. */
	parent = BPF_CORE_READ(task, real_parent, group_leader);
	pid = BPF_CORE_READ(parent, tgid);
	if (!pid) { /* pid 1 and kthreadd are children of the idle task, pid 0 */
		s->walk.reached_top = 1;
		return 0;
	}
	a = scratch_end(s);
	a->pid = pid;
	a->uid = BPF_CORE_READ(parent, cred, uid.val);
	BPF_CORE_READ_INTO(&a->comm, parent, comm);
	s->end += sizeof(*a);
	((struct head *)s->buf)->nancestors++;
	note_caller((struct who_record *)s->buf, parent, pid);
	s->walk.at = parent;
	return 1;
}

/* Appends the comm of the thread group's leader, unless task is that. Not inline, for the stack of
 * send_who().
 */
static __noinline void put_leader(struct scratch *s, struct task_struct *task)
{
	struct who_record *w = (struct who_record *)s->buf;

	if (w->tid == w->pid)
		return;
	BPF_CORE_READ_INTO((char(*)[COMM_LEN])scratch_end(s), task, group_leader, comm);
	w->leader_len = COMM_LEN;
	s->end += COMM_LEN;
}

/* Appends the parents of task, nearest first, up to pid 1. */
static __noinline void put_ancestors(struct scratch *s, struct task_struct *task)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_begin(s, task);

	note_caller((struct who_record *)s->buf, BPF_CORE_READ(task, group_leader),
		    ((struct who_record *)s->buf)->pid);
	for (int i = 0; i < ANCESTORS; i++) {
		if (!ancestor_step(slot))
			break;
	}
	if (!READ_ONCE(s->walk.reached_top))
		h->flags |= F_ANCESTORS_CUT;
}

#define SENT_IDS 8192

/* The id of the last description that was sent for a thread id with this remainder. Tasks that
 * share an entry are described more often than necessary, which does no harm.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SENT_IDS);
	__type(key, __u32);
	__type(value, __u64);
} sent_who SEC(".maps");

/* The id of the description of the current task at that time: a hash of what tells one description
 * from the next. It leaves out the text of the command line and the names of the parents. A change
 * of these shows in the next epoch, when the task is described again.
 */
static __always_inline __u64 who_id(struct task_struct *task, __u64 now)
{
	struct mm_struct *mm = READ_CURRENT(task, mm);
	struct tty_struct *tty;
	__u64 h = hash_mix(hash_seed, now >> EPOCH_SHIFT), comm[COMM_LEN / 8];

	h = hash_mix(h, (__u64)READ_CURRENT(task, tgid) << 32 | (__u32)READ_CURRENT(task, pid));
	h = hash_mix(h, READ_CURRENT(task, start_boottime));
	h = hash_mix(h, READ_CURRENT(task, self_exec_id));
	h = hash_mix(h, (__u64)READ_CURRENT(task, real_parent, tgid) << 32 |
				(__u32)READ_CURRENT(task, real_parent, pid));
	h = hash_mix(h, (__u64)READ_CURRENT(task, cred, uid.val) << 32 |
				READ_CURRENT(task, cred, gid.val));
	if (bpf_core_field_exists(task->loginuid))
		h = hash_mix(h, (__u64)READ_CURRENT(task, loginuid.val) << 32 |
					READ_CURRENT(task, sessionid));
	tty = READ_CURRENT(task, signal, tty);
	if (tty)
		h = hash_mix(h, (__u64)READ_CURRENT(tty, driver, major) << 32 |
					(__u32)READ_CURRENT(tty, index));
	h = hash_mix(h, READ_CURRENT(task, cgroups, dfl_cgrp, kn, id));
	if (v1_subsys >= 0)
		h = hash_mix(h,
			     BPF_CORE_READ(task, cgroups, subsys[v1_subsys & 15], cgroup, kn, id));
	if (mm) {
		h = hash_mix(h, READ_CURRENT(mm, arg_start));
		h = hash_mix(h, READ_CURRENT(mm, arg_end));
	}
	if (bpf_probe_read_kernel(comm, sizeof(comm), &task->comm) == 0) {
		h = hash_mix(h, comm[0]);
		h = hash_mix(h, comm[1]);
	}
	return h | 1;
}

/* Sends the description of the current task under that id. */
__noinline long send_who(__u64 id, __u64 now)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	__u64 owner = (__u64)task, start;
	struct who_record *w;
	struct scratch *s;

	s = scratch_get(owner, sizeof(*w));
	if (!s)
		return -1;
	w = (struct who_record *)s->buf;
	set_head(&w->head, now, REC_WHO, 0, 0, VIA_NONE);
	w->id = id;
	w->start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	w->pid = BPF_CORE_READ(task, tgid);
	w->tid = BPF_CORE_READ(task, pid);
	w->ppid = BPF_CORE_READ(task, real_parent, tgid);
	w->uid = BPF_CORE_READ(task, cred, uid.val);
	w->gid = BPF_CORE_READ(task, cred, gid.val);
	w->leader_len = 0;
	w->caller = 0;
	w->loginuid = 0;
	w->sessionid = 0;
	if (bpf_core_field_exists(task->loginuid)) {
		w->loginuid = BPF_CORE_READ(task, loginuid.val);
		w->sessionid = BPF_CORE_READ(task, sessionid);
		if (w->loginuid != (__u32)-1)
			w->head.flags |= F_LOGINUID;
	}
	BPF_CORE_READ_INTO(&w->comm, task, comm);
	w->tty[0] = 0;
	BPF_CORE_READ_STR_INTO(&w->tty, task, signal, tty, name);

	put_ancestors(s, task);

	start = s->end;
	w->args_len = 0;
	if (mm) {
		struct file *exe = BPF_CORE_READ(mm, exe_file);

		if (exe)
			put_path(s, BPF_CORE_READ(exe, f_path.dentry),
				 BPF_CORE_READ(exe, f_path.mnt));
	}
	w->exe_len = s->end - start;

	if (mm) {
		__u64 arg_start = BPF_CORE_READ(mm, arg_start);
		__u64 size = BPF_CORE_READ(mm, arg_end) - arg_start;

		if (size > ARGS_LEN) {
			size = ARGS_LEN;
			w->head.flags |= F_ARGS_CUT;
		}
		w->args_len = put_user(s, (void *)arg_start, size);
		if (size && !w->args_len)
			w->head.flags |= F_ARGS_MISSING;
	}

	start = s->end;
	put_cgroup(s, task);
	w->cgroup_len = s->end - start;
	put_leader(s, task);
	return send_scratch(s, owner, REC_WHO, 1);
}

/* Begins n events of that kind: fills c, except for its namespaces, and sends the description if
 * the ring does not have it yet. Returns 0, or another value if the ring has no room for it or for
 * the events of this user: the events are then lost.
 */
static __noinline long put_caller(struct caller *c, __u64 now, enum record_kind kind, __u32 n)
{
	struct task_struct *task = current_task();
	__u64 id = who_id(task, now), *last;
	__u32 slot;

	if (!c || !share_left(kind, n))
		return -1;
	c->who = id;
	c->pid = READ_CURRENT(task, tgid);
	c->tid = READ_CURRENT(task, pid);
	slot = c->tid % SENT_IDS;
	last = bpf_map_lookup_elem(&sent_who, &slot);
	if (!last)
		return -1;
	if (READ_ONCE(*last) != id) {
		if (send_who(id, now))
			return -1;
		*last = id;
	}
	return 0;
}

#endif
