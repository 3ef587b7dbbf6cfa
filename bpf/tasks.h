/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The namespaces that tasks are in. User space asks for them at its start and, if no hook tells
 * that a namespace ended, each time that it looks for those that are gone.
 */
#ifndef __NSTRACE_TASKS_H__
#define __NSTRACE_TASKS_H__

#include "lib/namespace.h"
#include "lib/proof.h"

/* The task iterator writes one for each task that is in namespaces of its own. */
struct task_ns {
	struct ns_change ns[NS_KINDS];
	struct ns_change for_children[2]; /* pid, time; inum 0: the same as in ns */
	__u64 cgroup;			  /* the kernfs id of task_cgroup() */
	__u32 pid;
	__u32 exiting; /* it is about to leave them */
};

EXPORT_TYPE(struct, task_ns);

#define PF_EXITING 0x00000004 /* include/linux/sched.h */

#define MAX_PARENTS 64 /* between nstrace and pid 1 */

/* Sets self_tgid, and the namespaces of the host from pid 1, which is an ancestor of nstrace. */
static __always_inline void find_host(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct ns_change pid_ns;
	struct nsproxy *p;

	self_tgid = BPF_CORE_READ(task, tgid);
	self_pid_level = BPF_CORE_READ(task, thread_pid, level);
	for (int i = 0; i < MAX_PARENTS; i++) {
		if (BPF_CORE_READ(task, tgid) == 1)
			break;
		task = BPF_CORE_READ(task, real_parent, group_leader);
	}
	if (BPF_CORE_READ(task, tgid) != 1)
		return;
	task_ns_inums(task, host_ns);
	p = BPF_CORE_READ(task, nsproxy);
	host_nsproxy = (__u64)p;
	host_user = (__u64)BPF_CORE_READ(task, cred, user_ns);
	host_uts = (__u64)BPF_CORE_READ(p, uts_ns);
	host_ipc = (__u64)BPF_CORE_READ(p, ipc_ns);
	describe_ns(&pid_ns, NS_PID, active_pid_ns(task));
	host_pid_id = pid_ns.ns_id;
	BPF_CORE_READ_INTO(&host_name, p, uts_ns, name.nodename);
	host_name[sizeof(host_name) - 1] = 0;
}

/* The iterator builds its entry in this map. On the stack the verifier would tell values that are
 * still zero from others, and check the rest once for each namespace that can be absent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_ns);
} task_ns_buf SEC(".maps");

SEC("iter/task")
int iter_tasks(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct task_ns *inv;
	__u32 zero = 0;

	if (!host_ns[NS_MNT])
		find_host();
	if (!task)
		return 0;
	/* A task that exits has no nsproxy, see exit_task_namespaces(). */
	if (in_ns_of_leader(task) || is_proof_task(task) || !BPF_CORE_READ(task, nsproxy))
		return 0;

	inv = bpf_map_lookup_elem(&task_ns_buf, &zero);
	if (!inv)
		return 0;
	inv->pid = BPF_CORE_READ(task, tgid);
	inv->cgroup = BPF_CORE_READ(task_cgroup(task), id);
	inv->exiting = BPF_CORE_READ(task, flags) & PF_EXITING;
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++)
		describe_ns(&inv->ns[i], i, task_ns_of_kind(task, i));
	describe_ns(&inv->for_children[0], NS_PID, task_ns_for_children(task, NS_PID));
	describe_ns(&inv->for_children[1], NS_TIME, task_ns_for_children(task, NS_TIME));
	if (inv->for_children[0].inum == inv->ns[NS_PID].inum)
		inv->for_children[0].inum = 0;
	if (inv->for_children[1].inum == inv->ns[NS_TIME].inum)
		inv->for_children[1].inum = 0;
	bpf_seq_write(seq, inv, sizeof(*inv));
	return 0;
}

/* A process and the number that it has in the PID namespace of nstrace. */
struct pid_pair {
	__u32 host; /* of the initial PID namespace */
	__u32 own;
};

EXPORT_TYPE(struct, pid_pair);

/* The task iterator shows the tasks of the reader's PID namespace and of those below it
 * (init_seq_pidns() in kernel/bpf/task_iter.c). Only where that is not the initial one, user space
 * has to ask.
 */
SEC("iter/task")
int iter_pids(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct pid_pair pair = {};

	if (!self_tgid)
		find_host();
	if (!task || BPF_CORE_READ(task, group_leader) != task)
		return 0;
	pair.host = BPF_CORE_READ(task, tgid);
	pair.own = tgid_at_level(task, self_pid_level);
	bpf_seq_write(ctx->meta->seq, &pair, sizeof(pair));
	return 0;
}

#endif
