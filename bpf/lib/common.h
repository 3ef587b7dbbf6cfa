/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Settings, and the few helpers that every other header needs. */
#ifndef __NSTRACE_COMMON_H__
#define __NSTRACE_COMMON_H__

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "record.h"

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* Settings. User space writes them before it loads the programs, and the verifier then removes the
 * code that they turn off.
 */
const volatile bool follow = false;		    /* only tasks in tracees */
const volatile bool filter_pid = false;		    /* only processes in pids */
const volatile bool filter_uid = false;		    /* only users in uids */
const volatile bool filter_comm = false;	    /* only commands in comms */
const volatile bool filter_failed = false;	    /* only calls that failed */
const volatile __u32 ns_mask = (1 << NS_KINDS) - 1; /* 1 << enum ns_kind */
/* proc_sys_write() is hooked and reports writes. The cgroup/sysctl program then only adds the
 * values.
 */
const volatile bool write_hooked = true;
/* The kernel has bpf_get_current_task_btf() (5.11). See READ_CURRENT(). */
const volatile bool has_task_btf = false;
const volatile int v1_subsys = -1; /* enum cgroup_subsys_id, see task_cgroup() */
const volatile __u64 hash_seed; /* random, so that nobody can make two hashes collide on purpose */
const volatile __u64 fold_above = ~0; /* fold repeats while the ring holds more bytes than this */

/* User space sets this when nstrace ends, before it detaches the programs. Programs ignore calls
 * that begin after that, since they may not see the ends.
 */
bool stopping;

/* The process id of nstrace. The first run of iter_tasks() sets it. */
__u32 self_tgid;

/* How deep the PID namespace is in which nstrace runs: 0 for the initial one. The first run of
 * iter_tasks() sets it, and what describes the host.
 */
__u32 self_pid_level;
__u64 host_pid_id;  /* see ns_unique_id() */
char host_name[65]; /* __NEW_UTS_LEN + 1; of the UTS namespace of the host */

/* The namespaces of the host, which are those of pid 1, and the addresses of some of them. The
 * first run of iter_tasks() sets them.
 */
__u32 host_ns[NS_KINDS];
__u64 host_nsproxy;
__u64 host_user;
__u64 host_uts;
__u64 host_ipc;

/* One step of a hash over 8-byte words. The multiplier is 2^64 / phi. */
static __always_inline __u64 hash_mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 32);
}

#endif
