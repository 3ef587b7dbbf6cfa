/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* nstrace run: follows the traced command and all its descendants. */
#ifndef __NSTRACE_FOLLOW_H__
#define __NSTRACE_FOLLOW_H__

#include "lib/filter.h"

__u64 untracked; /* processes that found no room in tracees */

/* kernel_clone(), before it wakes the child: the child is followed from its first instruction. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 from = BPF_CORE_READ(parent, tgid), to = BPF_CORE_READ(child, tgid);
	__u8 one = 1;

	if (from == to || !bpf_map_lookup_elem(&tracees, &from))
		return 0;
	if (bpf_map_update_elem(&tracees, &to, &one, BPF_ANY))
		__sync_fetch_and_add(&untracked, 1);
	return 0;
}

/* do_exit(): the process ends with its last thread, and its pid can then be used again. The
 * tracepoint has one argument up to 6.15 and two later.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(follow_exit, struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);

	if (BPF_CORE_READ(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&tracees, &tgid);
	return 0;
}

#endif
