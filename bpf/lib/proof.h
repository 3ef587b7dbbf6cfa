/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Calls that nstrace makes to find out whether the kernel runs its programs.
 *
 * One thread of nstrace makes them, and has a name of its own. A program that would send an event
 * of that thread sends a proof instead. Neither the filters nor the counters see it.
 */
#ifndef __NSTRACE_PROOF_H__
#define __NSTRACE_PROOF_H__

#include "ring.h"
#include "task.h"

/* "nstrace-proof", proofThread in tracer/proof.go, as two little-endian words. */
#define PROOF_COMM_0 0x2d6563617274736eull
#define PROOF_COMM_1 0x666f6f7270ull

/* Reports whether task, a thread of nstrace or of another program, is the one that makes such
 * calls. Only nstrace's own threads have self_tgid, so nobody else can hide by the name.
 */
static __always_inline bool is_proof_task(struct task_struct *task)
{
	__u64 comm[COMM_LEN / sizeof(__u64)] = {};

	if (!self_tgid || BPF_CORE_READ(task, tgid) != self_tgid)
		return false;
	BPF_CORE_READ_STR_INTO(&comm, task, comm);
	return comm[0] == PROOF_COMM_0 && comm[1] == PROOF_COMM_1;
}

/* Sends a proof in place of a record of that kind (enum record_kind). Global, see nstrace.c: the
 * stack of its callers has no room for what it needs (MAX_BPF_STACK, 512 bytes for all frames).
 */
__noinline int send_proof_of(__u32 kind, __u32 via)
{
	struct head h = {};

	if (!is_proof_task(current_task()))
		return 0;
	h.time = bpf_ktime_get_boot_ns();
	h.kind = REC_PROOF;
	h.size = sizeof(h);
	h.ret = kind;
	h.via = via;
	ring_output(&h, sizeof(h));
	return 1;
}

/* The same, if the current task makes such calls. Reports whether it does. */
static __always_inline bool send_proof(enum record_kind kind, enum call_via via)
{
	return READ_CURRENT(current_task(), tgid) == self_tgid && send_proof_of(kind, via) == 1;
}

#endif
