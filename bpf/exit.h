/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The end of a task frees its entries in the maps of calls under way.
 *
 * As a rule the program at the end of a call frees the entry. A signal does not change that: a
 * killed task returns from its system call before it dies. An entry remains in these cases:
 *
 * - The kernel did not run that program.
 * - An execve() fails after its point of no return (see exec.h).
 * - The kernel kills a task in a call because of a bug.
 *
 * Without this program such entries would fill the maps, and a full map means that nstrace misses
 * the calls of others.
 *
 * Maps of type LRU_HASH need not be freed: in them a new entry replaces the oldest one.
 */
#ifndef __NSTRACE_EXIT_H__
#define __NSTRACE_EXIT_H__

#include "clone.h"
#include "exec.h"
#include "netdev.h"
#include "ns_call.h"
#include "open.h"
#include "pin.h"
#include "setuid.h"
#include "table.h"
#include "write.h"
#include "lib/task.h"

/* do_exit(), in the task that ends. Every exit takes this path, and almost no task has an entry. So
 * each free_*() function looks the entry up first: a lookup takes no lock, but a deletion does.
 */
SEC("tp_btf/sched_process_exit")
int task_exit(void *ctx)
{
	struct task_struct *task = current_task();
	__u32 tid = READ_CURRENT(task, pid);

	free_ns_call(&tid);
	free_refused_clone(&tid);
	free_write(&tid);
	free_open_check(&tid);
	free_rtnl_call(&tid);
	free_pin_call(&tid);
	free_exec(task);
	free_setuid_exec(task);
	table_task_exit(tid);
	return 0;
}

#endif
