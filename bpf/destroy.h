/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The end of a namespace. */
#ifndef __NSTRACE_DESTROY_H__
#define __NSTRACE_DESTROY_H__

#include "lib/namespace.h"
#include "lib/send.h"

/* REC_NS_DESTROY. It has no process: the current task need not have anything to do with the
 * namespace. The kernel frees PID namespaces in a softirq, which interrupts any task, and network
 * namespaces in a worker. User space knows the namespace of nstrace's proofs (lib/proof.h) by its
 * number.
 */
struct destroy_record {
	struct head head;
	__u64 ns_id;
	__u32 inum;
	__u8 ns_kind; /* NS_KINDS: the kernel does not tell (before 6.18) */
	__u8 pad[3];
};

EXPORT_TYPE(struct, destroy_record);

static __always_inline int send_destroy(__u32 inum, __u64 ns_id, enum ns_kind kind)
{
	struct destroy_record r = {};

	if (!share_left(REC_NS_DESTROY, 1)) {
		count_lost(REC_NS_DESTROY, 1);
		return 0;
	}
	r.head.time = bpf_ktime_get_boot_ns();
	r.head.kind = REC_NS_DESTROY;
	r.head.size = sizeof(r);
	r.inum = inum;
	r.ns_id = ns_id;
	r.ns_kind = kind;
	send_record(REC_NS_DESTROY, 1, &r, sizeof(r));
	return 0;
}

/* __ns_common_free(), from 6.18 on: the last function for a namespace of any type, mostly in a
 * kernel worker. In some of these kernels the id shares memory with the RCU head. It is still the
 * id at this point.
 */
static __always_inline int ns_freed(struct ns_common *ns)
{
	struct ns_common___618 *c = (void *)ns;

	return send_destroy(BPF_CORE_READ(ns, inum), BPF_CORE_READ(c, ns_id),
			    kind_of_flag(BPF_CORE_READ(c, ns_type)));
}

SEC("fentry/__ns_common_free")
int BPF_PROG(fentry_ns_free, struct ns_common *ns)
{
	return ns_freed(ns);
}

SEC("kprobe/__ns_common_free")
int BPF_KPROBE(kprobe_ns_free, struct ns_common *ns)
{
	return ns_freed(ns);
}

/* proc_free_inum(), up to 6.17: also called for all types, but it knows only the inode number. Some
 * error paths of a creation call it as well; user space knows which numbers are in use.
 */
SEC("fentry/proc_free_inum")
int BPF_PROG(fentry_free_inum, unsigned int inum)
{
	return send_destroy(inum, 0, NS_KINDS);
}

SEC("kprobe/proc_free_inum")
int BPF_KPROBE(kprobe_free_inum, unsigned int inum)
{
	return send_destroy(inum, 0, NS_KINDS);
}

/* Tracepoint backend: no tracepoint tells that a namespace ended. The end of a task that was in
 * other namespaces than those of the host makes user space look for the ones that are gone.
 */
SEC("tp_btf/sched_process_exit")
int tp_exit(void *ctx)
{
	struct task_struct *task = current_task();
	struct nsproxy *p = READ_CURRENT(task, nsproxy);
	struct head h = {};
	__u32 ns[NS_KINDS], differs = 0;

	/* Every exit takes this path, and most tasks have the nsproxy of the host. */
	if ((__u64)p == host_nsproxy && READ_CURRENT(task, thread_pid, level) == 0 &&
	    (__u64)READ_CURRENT(task, cred, user_ns) == host_user)
		return 0;
	/* This also differs if the task shares nothing with the host or has left its namespaces
	 * already.
	 */
	current_ns_inums(ns);
	for (int i = 0; i < NS_KINDS; i++)
		differs |= ns[i] ^ host_ns[i];
	/* The task can hold a namespace that only its children would get. */
	differs |= READ_CURRENT(p, pid_ns_for_children, ns.inum) ^ host_ns[NS_PID];
	differs |= READ_CURRENT(p, time_ns_for_children, ns.inum) ^ host_ns[NS_TIME];
	if (!differs)
		return 0;
	h.time = bpf_ktime_get_boot_ns();
	h.kind = REC_TASK_EXIT;
	h.size = sizeof(h);
	ring_output(&h, sizeof(h));
	return 0;
}

#endif
