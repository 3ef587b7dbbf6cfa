/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The filters that the kernel side applies: --pid, --user, --command, --failed, and the process
 * tree of nstrace run.
 */
#ifndef __NSTRACE_FILTER_H__
#define __NSTRACE_FILTER_H__

#include "common.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32); /* tgid */
	__type(value, __u8);
} tracees SEC(".maps");

#define FILTER_ENTRIES 1024 /* maxFilter of event/filter.go */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILTER_ENTRIES);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps"), uids SEC(".maps");

struct comm_key {
	char comm[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILTER_ENTRIES);
	__type(key, struct comm_key);
	__type(value, __u8);
} comms SEC(".maps");

/* Reports whether the user asked for the name of the thread or of its program. Not inline: 5.10
 * allows 512 bytes of stack for a program and all that it calls.
 */
static __noinline bool matches_comm(struct task_struct *task)
{
	struct comm_key key = {};

	BPF_CORE_READ_STR_INTO(&key.comm, task, comm);
	if (bpf_map_lookup_elem(&comms, &key))
		return true;
	__builtin_memset(&key, 0, sizeof(key));
	BPF_CORE_READ_STR_INTO(&key.comm, task, group_leader, comm);
	return bpf_map_lookup_elem(&comms, &key) != NULL;
}

/* Reports whether the user asked for what task did. failed tells whether the call failed. */
static __always_inline bool matches_filter(struct task_struct *task, bool failed)
{
	__u32 tgid;

	if (filter_failed && !failed)
		return false;
	if (follow || filter_pid) {
		tgid = BPF_CORE_READ(task, tgid);
		if (follow && !bpf_map_lookup_elem(&tracees, &tgid))
			return false;
		if (filter_pid && !bpf_map_lookup_elem(&pids, &tgid))
			return false;
	}
	if (filter_uid) {
		__u32 uid = BPF_CORE_READ(task, cred, uid.val);

		if (!bpf_map_lookup_elem(&uids, &uid))
			return false;
	}
	return !filter_comm || matches_comm(task);
}

#endif
