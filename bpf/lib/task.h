/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The current task, and what belongs to a task. */
#ifndef __NSTRACE_TASK_H__
#define __NSTRACE_TASK_H__

#include "read.h"

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

/* The current task, for READ_CURRENT().
 *
 * From 6.2 on the kernel tells trusted pointers from others. Until 7.0 the verifier then searches
 * all type names up to four times for each pointer that a program reads from a trusted one
 * (btf_nested_type_is_trusted()), which takes milliseconds each. Programs here do not need the
 * trust. The cast drops it and costs no instruction.
 */
static __always_inline struct task_struct *current_task(void)
{
	if (!has_task_btf)
		return (void *)bpf_get_current_task();
	if (!bpf_rdonly_cast)
		return bpf_get_current_task_btf();
	return CAST(bpf_get_current_task_btf());
}

static __always_inline __u32 current_tid(void)
{
	struct task_struct *task = current_task();

	return READ_CURRENT(task, pid);
}

/* The file that the current task has open as fd; NULL if there is none. */
static __always_inline struct file *current_file(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **slot = BPF_CORE_READ(fdt, fd), *file = NULL;

	if ((__u32)fd < BPF_CORE_READ(fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), slot + (__u32)fd);
	return file;
}

/* The number that the process of task has in the PID namespace at that level, which task has to be
 * in or below: pid_nr_ns().
 */
static __always_inline __u32 tgid_at_level(struct task_struct *task, __u32 level)
{
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	__u32 nr = 0;
	void *upid;

	upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       (__u64)level * bpf_core_type_size(struct upid) +
	       bpf_core_field_offset(struct upid, nr);
	if (pid && level <= BPF_CORE_READ(pid, level))
		bpf_probe_read_kernel(&nr, sizeof(nr), upid);
	return nr;
}

/* The PID namespace that task is in. */
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

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *kn)
{
	if (bpf_core_field_exists(kn->__parent))
		return BPF_CORE_READ(kn, __parent);
	return BPF_CORE_READ((struct kernfs_node___510 *)kn, parent);
}

#define ROOT_KN 1 /* the kernfs id of the root of a hierarchy */

/* The cgroup that says most about a task. It is the one in the default (v2) hierarchy. On a host
 * that puts its containers into v1 hierarchies it is the one in that of v1_subsys, unless the task
 * is at the root there.
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

#endif
