/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who acted: everything about the current task that must be taken now, because
 * it can be gone by the time that user space reads the record.
 *
 * That is ten times the rest of an event, and the same for each event of a
 * process. So it is said once, under an id that is a hash of all that tells
 * whether it still holds, and then referred to.
 */
#ifndef __NSTRACE_WHO_H__
#define __NSTRACE_WHO_H__

/* Each put_ function appends to the record; those with a result say how many bytes. */

/* A NUL-terminated kernel string of at most NAME_LEN. */
static __always_inline __u64 put_name(struct scratch *s, const void *name)
{
	long n = bpf_probe_read_kernel_str(scratch_end(s), NAME_LEN, name);

	if (n < 0)
		n = 0;
	s->end += n;
	return n;
}

/* size bytes of kernel memory; nothing where they cannot be read. */
static __always_inline __u64 put_bytes(struct scratch *s, const void *src, __u64 size)
{
	if (size > PART_MAX)
		size = PART_MAX;
	if (!size || bpf_probe_read_kernel(scratch_end(s), size, src))
		return 0;
	s->end += size;
	return size;
}

/* size bytes of the current process's memory; nothing where they are not there. */
static __always_inline __u64 put_user(struct scratch *s, const void *src, __u64 size)
{
	if (size > PART_MAX)
		size = PART_MAX;
	if (!size || bpf_probe_read_user(scratch_end(s), size, src))
		return 0;
	s->end += size;
	return size;
}

/* One component of a path, or one mount. Returns whether there is another. */
__noinline int path_step(__u32 slot, bool first)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct dentry *dentry, *parent;
	struct vfsmount *vfsmnt;

	if (!s)
		return 0;
	dentry = s->walk.at;
	vfsmnt = s->walk.vfsmnt;
	if (vfsmnt && dentry == BPF_CORE_READ(vfsmnt, mnt_root)) {
		struct mount *mnt = (void *)vfsmnt - bpf_core_field_offset(struct mount, mnt);
		struct mount *up = BPF_CORE_READ(mnt, mnt_parent);

		if (up != mnt) {
			s->walk.at = BPF_CORE_READ(mnt, mnt_mountpoint);
			s->walk.vfsmnt = (void *)up + bpf_core_field_offset(struct mount, mnt);
			return 1;
		}
		if (!first) {
			s->walk.whole = 1;
			return 0;
		}
		/* The program itself is the root of a mount that is nowhere,
		 * as runC does with its own: its path in the file system.
		 */
		s->walk.vfsmnt = NULL;
	}
	if (READ_ONCE(s->end) > s->walk.stop)
		return 0;
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent != dentry || first) /* a memfd: one name and no place */
		put_name(s, BPF_CORE_READ(dentry, d_name.name));
	s->walk.at = parent;
	s->walk.whole = parent == dentry;
	return parent != dentry;
}

/* Appends the components of a path, leaf first, as far as the root of its
 * mount namespace: what d_absolute_path() would give. bpf_d_path() does the
 * same, but only from a handful of functions.
 */
static __noinline void put_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmnt)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_from(s, dentry);

	s->walk.vfsmnt = vfsmnt;
	for (int i = 0; i < PATH_PARTS; i++) {
		if (!path_step(slot, i == 0))
			break;
	}
	if (!READ_ONCE(s->walk.whole))
		h->flags |= F_EXE_CUT;
}

#define ROOT_KN 1 /* kernfs's id of a hierarchy's root */

/* The cgroup that tells most of who a task is: in the default (v2) hierarchy, or, where
 * a host puts its containers into v1 hierarchies, in that of v1_subsys, unless the
 * task is at its root.
 */
static __always_inline struct kernfs_node *task_cgroup(struct task_struct *task)
{
	struct kernfs_node *kn;

	if (v1_subsys >= 0) {
		kn = BPF_CORE_READ(task, cgroups, subsys[v1_subsys & 15], cgroup, kn);
		if (BPF_CORE_READ(kn, id) != ROOT_KN)
			return kn;
	}
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
}

/* One component of a cgroup's path. Returns whether there is another. */
__noinline int cgroup_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct kernfs_node *kn, *parent;

	if (!s)
		return 0;
	kn = s->walk.at;
	if (bpf_core_field_exists(kn->__parent))
		parent = BPF_CORE_READ(kn, __parent);
	else
		parent = BPF_CORE_READ((struct kernfs_node___510 *)kn, parent);
	if (!parent) { /* the root, whose name is empty */
		s->walk.whole = 1;
		return 0;
	}
	if (READ_ONCE(s->end) > s->walk.stop)
		return 0;
	put_name(s, BPF_CORE_READ(kn, name));
	s->walk.at = parent;
	return 1;
}

/* Appends the components of the path of task_cgroup(), leaf first. */
static __noinline void put_cgroup(struct scratch *s, struct task_struct *task)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_from(s, task_cgroup(task));

	for (int i = 0; i < CGROUP_PARTS; i++) {
		if (!cgroup_step(slot))
			break;
	}
	if (!READ_ONCE(s->walk.whole))
		h->flags |= F_CGROUP_CUT;
}

/* A parent. Returns whether there is another. */
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
	if (!pid) { /* pid 1 and kthreadd descend from the idle task, pid 0 */
		s->walk.whole = 1;
		return 0;
	}
	a = scratch_end(s);
	a->pid = pid;
	a->uid = BPF_CORE_READ(parent, cred, uid.val);
	BPF_CORE_READ_INTO(&a->comm, parent, comm);
	s->end += sizeof(*a);
	((struct head *)s->buf)->nancestors++;
	s->walk.at = parent;
	return 1;
}

static __noinline void put_ancestors(struct scratch *s, struct task_struct *task)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_from(s, task);

	h->nancestors = 0;
	for (int i = 0; i < ANCESTORS; i++) {
		if (!ancestor_step(slot))
			break;
	}
	if (!READ_ONCE(s->walk.whole))
		h->flags |= F_ANCESTORS_CUT;
}

static __always_inline struct pid_namespace *active_pid_ns(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct pid_namespace *ns = NULL;
	void *upid;

	/* task_active_pid_ns(): thread_pid->numbers[level].ns */
	upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       (__u64)level * bpf_core_type_size(struct upid) +
	       bpf_core_field_offset(struct upid, ns);
	if (pid)
		bpf_probe_read_kernel(&ns, sizeof(ns), upid);
	return ns;
}

/* The namespaces that the task is in. */
static __always_inline void task_ns_ids(struct task_struct *task, __u32 ids[NS_KINDS])
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

/* The same for the current task, cheaper. */
static __always_inline void current_ns_ids(__u32 ids[NS_KINDS])
{
	struct task_struct *task = current_task();
	struct nsproxy *p = GET(task, nsproxy);
	struct pid *pid;

	ids[NS_UTS] = GET(p, uts_ns, ns.inum);
	ids[NS_IPC] = GET(p, ipc_ns, ns.inum);
	ids[NS_MNT] = GET(p, mnt_ns, ns.inum);
	/* Only the first entry of an array without an end can be had by a plain load. */
	pid = GET(task, thread_pid);
	if (GET(pid, level) == 0)
		ids[NS_PID] = GET(pid, numbers[0].ns, ns.inum);
	else
		ids[NS_PID] = BPF_CORE_READ(active_pid_ns(task), ns.inum);
	ids[NS_NET] = GET(p, net_ns, ns.inum);
	ids[NS_TIME] = GET(p, time_ns, ns.inum);
	ids[NS_CGROUP] = GET(p, cgroup_ns, ns.inum);
	ids[NS_USER] = GET(task, cred, user_ns, ns.inum);
}

#define SAID 8192

/* The id of what was said last about a task whose tid falls here. Tasks that share an
 * entry are described more often than need be, no worse.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SAID);
	__type(key, __u32);
	__type(value, __u64);
} said SEC(".maps");

/* The id of the current task's description at the time now: a hash over whatever tells
 * one description from the next. Who changes what this leaves out (the text of
 * the command line, a parent's name) is described again when the epoch ends.
 */
static __always_inline __u64 who_id(struct task_struct *task, __u64 now)
{
	struct mm_struct *mm = GET(task, mm);
	struct tty_struct *tty;
	__u64 h = mix(hash_seed, now >> EPOCH_SHIFT), comm[COMM_LEN / 8];

	h = mix(h, (__u64)GET(task, tgid) << 32 | (__u32)GET(task, pid));
	h = mix(h, GET(task, start_boottime));
	h = mix(h, GET(task, self_exec_id));
	h = mix(h, (__u64)GET(task, real_parent, tgid) << 32 | (__u32)GET(task, real_parent, pid));
	h = mix(h, (__u64)GET(task, cred, uid.val) << 32 | GET(task, cred, gid.val));
	if (bpf_core_field_exists(task->loginuid))
		h = mix(h, (__u64)GET(task, loginuid.val) << 32 | GET(task, sessionid));
	tty = GET(task, signal, tty);
	if (tty)
		h = mix(h, (__u64)GET(tty, driver, major) << 32 | (__u32)GET(tty, index));
	h = mix(h, GET(task, cgroups, dfl_cgrp, kn, id));
	if (v1_subsys >= 0)
		h = mix(h, BPF_CORE_READ(task, cgroups, subsys[v1_subsys & 15], cgroup, kn, id));
	if (mm) {
		h = mix(h, GET(mm, arg_start));
		h = mix(h, GET(mm, arg_end));
	}
	if (bpf_probe_read_kernel(comm, sizeof(comm), &task->comm) == 0) {
		h = mix(h, comm[0]);
		h = mix(h, comm[1]);
	}
	return h | 1;
}

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
	w->head.time = now;
	w->head.kind = REC_WHO;
	w->head.flags = 0;
	w->head.ret = 0;
	w->head.via = VIA_NONE;
	w->head.nchanges = 0;
	w->head.pad = 0;
	w->id = id;
	w->start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	w->pid = BPF_CORE_READ(task, tgid);
	w->tid = BPF_CORE_READ(task, pid);
	w->ppid = BPF_CORE_READ(task, real_parent, tgid);
	w->uid = BPF_CORE_READ(task, cred, uid.val);
	w->gid = BPF_CORE_READ(task, cred, gid.val);
	__builtin_memset(w->pad, 0, sizeof(w->pad));
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
	return send_scratch(s, owner, REC_WHO, 1);
}

/* Fills c, but for its namespaces, and sees to it that the description is in
 * the ring. Returns 0, or not where that cannot be done: the event is then lost.
 */
static __noinline long put_caller(struct caller *c, __u64 now)
{
	struct task_struct *task = current_task();
	__u64 id = who_id(task, now), *last;
	__u32 slot;

	if (!c)
		return -1;
	c->who = id;
	c->pid = GET(task, tgid);
	c->tid = GET(task, pid);
	slot = c->tid % SAID;
	last = bpf_map_lookup_elem(&said, &slot);
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
