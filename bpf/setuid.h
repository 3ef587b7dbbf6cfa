/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who executed sudo, su, pkexec or another set-user-ID program.
 *
 * The exec gives such a program the effective user ID of its file. The real one is still that of
 * the caller, until the program changes it too: sudo sets both to 0, and then to those of the user
 * whom the command is to run as. The parent does not tell who the caller is: it can be su, a
 * service manager, or any program that changed its user and then executed sudo without a fork. So
 * the real user ID is recorded here, right after the exec.
 */
#ifndef __NSTRACE_SETUID_H__
#define __NSTRACE_SETUID_H__

#include "lib/who.h"

#define S_ISUID 04000 /* include/uapi/linux/stat.h */

/* exec_binprm(): the task has its new program and credentials. */
SEC("tp_btf/sched_process_exec")
int tp_setuid_exec(void *ctx)
{
	struct task_struct *task = current_task();
	struct setuid_exec new = {}, *old;
	struct mm_struct *mm = READ_CURRENT(task, mm);
	__u32 tgid;

	if (!mm || !(BPF_CORE_READ(mm, exe_file, f_inode, i_mode) & S_ISUID))
		return 0;
	tgid = READ_CURRENT(task, tgid);
	new.start_time = READ_CURRENT(task, group_leader, start_boottime);
	new.uid = READ_CURRENT(task, cred, uid.val);
	old = bpf_map_lookup_elem(&setuid_execs, &tgid);
	/* root, which the same process became before, is not who began. */
	if (!old || old->start_time != new.start_time || new.uid)
		bpf_map_update_elem(&setuid_execs, &tgid, &new, BPF_ANY);
	return 0;
}

/* Frees the entry of a process with its last thread. */
static __always_inline void free_setuid_exec(struct task_struct *task)
{
	__u32 tgid = READ_CURRENT(task, tgid);

	if (bpf_map_lookup_elem(&setuid_execs, &tgid) &&
	    READ_CURRENT(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&setuid_execs, &tgid);
}

#endif
