/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The end of a task frees its entries in the maps of calls under way.
 *
 * The program at the end of a call does that as a rule, and a signal does not change it:
 * a killed task returns from its system call before it dies. An entry remains where the
 * kernel did not run that program, where an execve() fails behind its point of no return
 * (see namespace.h), and where the kernel kills a task inside a call because of a bug.
 * Without this program such entries would pile up, and a full map means that nobody else's
 * call is seen.
 *
 * The maps of type LRU_HASH are left out: there a new entry replaces the oldest one.
 */
#ifndef __NSTRACE_EXIT_H__
#define __NSTRACE_EXIT_H__

/* A call whose end did not come before the end of its task counts as missed, as the next
 * call of the same thread would count it: what it did is not known. Once nstrace stops
 * the ends are no longer watched.
 */
static __always_inline void count_unended(enum record_kind kind, __u32 n)
{
	if (!stopping)
		count_missed(kind, n);
}

static __always_inline void free_call(__u32 tid)
{
	struct call *call = bpf_map_lookup_elem(&calls, &tid);

	if (!call)
		return;
	count_unended(READ_ONCE(call->kind) % REC_SLOTS, 1);
	bpf_map_delete_elem(&calls, &tid);
}

static __always_inline void free_write(__u32 tid)
{
	if (bpf_map_lookup_elem(&writes, &tid)) {
		count_unended(REC_SYSCTL_WRITE, 1);
		bpf_map_delete_elem(&writes, &tid);
	}
	if (bpf_map_lookup_elem(&long_values, &tid))
		bpf_map_delete_elem(&long_values, &tid);
	if (bpf_map_lookup_elem(&asked, &tid)) /* most were about to be allowed: no event */
		bpf_map_delete_elem(&asked, &tid);
}

static __always_inline void free_link_call(__u32 tid)
{
	struct link_call *call = bpf_map_lookup_elem(&links, &tid);
	__u32 n;

	if (!call)
		return;
	n = READ_ONCE(call->moving) + READ_ONCE(call->nwait);
	if (n)
		count_unended(REC_NETDEV_MOVE, n);
	bpf_map_delete_elem(&links, &tid);
}

static __always_inline void free_pin_call(__u32 tid)
{
	struct pin_call *call = bpf_map_lookup_elem(&pin_calls, &tid);

	if (!call)
		return;
	if (call->ns.kind != NS_KINDS)
		count_unended(READ_ONCE(call->kind) % REC_SLOTS, 1);
	bpf_map_delete_elem(&pin_calls, &tid);
}

/* An exec that failed has entered nothing that anybody saw, so it counts as nothing. The
 * entry is the process's: the threads that de_thread() kills end before it is used.
 */
static __always_inline void free_exec(struct task_struct *task)
{
	__u32 tgid = GET(task, tgid);

	if (bpf_map_lookup_elem(&execs, &tgid) && GET(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&execs, &tgid);
}

/* do_exit(), in the task that ends. It is on the way of every exit, and next to all of
 * them have no entry: a lookup takes no lock, a deletion does.
 */
SEC("tp_btf/sched_process_exit")
int task_exit(void *ctx)
{
	struct task_struct *task = current_task();
	__u32 tid = GET(task, pid);

	free_call(tid);
	free_write(tid);
	free_link_call(tid);
	free_pin_call(tid);
	free_exec(task);
	return 0;
}

#endif
