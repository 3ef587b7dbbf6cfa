/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* execve(2), by which a process can enter a time namespace. */
#ifndef __NSTRACE_EXEC_H__
#define __NSTRACE_EXEC_H__

#include "ns_call.h"

/* A process that has made a time namespace for its children enters it with the next program that it
 * executes (exec_task_namespaces(), from 6.3 on).
 *
 * begin_new_exec() in fs/exec.c of 6.12 runs in this order:
 *
 *	sched_prepare_exec           the tracepoint
 *	bprm->point_of_no_return     from here on an error kills the process (bprm_execve())
 *	de_thread()                  kills all other threads, and gives the caller the thread id of
 *	                             their leader
 *	exec_task_namespaces()       enters the time namespace
 *
 * Then the binary format does its own work, and the tracepoint sched_process_exec follows.
 *
 * So an exec either gets from exec_enter() to tp_exec_done(), or its process dies and task_exit()
 * frees the entry. The thread id can change in between, so this map has the process id as its key.
 * cred_guard_mutex lets only one thread of a process execute at a time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* processes in such a call at one time */
	__type(key, __u32);	   /* tgid */
	__type(value, __u32);	   /* the time namespace that the process leaves */
} execs SEC(".maps");

static __always_inline int exec_enter(void)
{
	struct task_struct *task = current_task();
	__u32 tgid, from;

	if (stopping || READ_CURRENT(task, nsproxy, time_ns) ==
				READ_CURRENT(task, nsproxy, time_ns_for_children))
		return 0;
	tgid = READ_CURRENT(task, tgid);
	from = READ_CURRENT(task, nsproxy, time_ns, ns.inum);
	if (bpf_map_update_elem(&execs, &tgid, &from, BPF_NOEXIST)) {
		/* Either the map is full, or tp_exec_done() did not run for the last exec, which
		 * the kernel counts.
		 */
		if (bpf_map_update_elem(&execs, &tgid, &from, BPF_EXIST))
			count_missed(REC_NS_ENTER, 1);
	}
	return 0;
}

SEC("fentry/exec_task_namespaces")
int BPF_PROG(fentry_exec)
{
	return exec_enter();
}

SEC("kprobe/exec_task_namespaces")
int BPF_KPROBE(kprobe_exec)
{
	return exec_enter();
}

SEC("tp_btf/sched_prepare_exec")
int tp_exec_enter(void *ctx)
{
	return exec_enter();
}

/* exec_binprm(): the task has its new program and arguments. */
static __always_inline int exec_done(void)
{
	struct task_struct *task = current_task();
	__u32 tgid = READ_CURRENT(task, tgid), *entry = bpf_map_lookup_elem(&execs, &tgid), from;
	struct ns_call *call;

	if (!entry)
		return 0;
	from = *entry;
	bpf_map_delete_elem(&execs, &tgid);
	call = ns_call_make(VIA_EXECVE, CLONE_NEWTIME, (struct share_owner){});
	if (!call)
		return 0;
	call->ns[NS_TIME] = from;
	call->from_time = from;
	ns_call_exit(call, 0, (void *)bpf_get_current_task());
	return 0;
}

SEC("tp_btf/sched_process_exec")
int tp_exec_done(void *ctx)
{
	return exec_done();
}

/* From 7.0 on the kernel can preempt a tp_btf program, and then skips it for other tasks. It still
 * disables preemption for this kind (include/trace/perf.h).
 */
SEC("tracepoint/sched/sched_process_exec")
int perf_exec_done(void *ctx)
{
	return exec_done();
}

/* Frees the state of a process that ends. It does not count the exec as missed: an exec that failed
 * has entered nothing that anybody could see. Only the last thread frees the entry, since
 * de_thread() kills other threads before the process uses it.
 */
static __always_inline void free_exec(struct task_struct *task)
{
	__u32 tgid = READ_CURRENT(task, tgid);

	if (bpf_map_lookup_elem(&execs, &tgid) && READ_CURRENT(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&execs, &tgid);
}

#endif
