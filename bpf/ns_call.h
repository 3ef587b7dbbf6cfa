/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls that make or enter namespaces: the state of a call from its entry to its end,
 * and the record that its end sends.
 *
 * Programs read a new namespace from the task that has it once the call is decided: the caller
 * after unshare(2), the child before it first runs. That needs no hook in the copy_*_ns() of
 * each type. It also keeps out a namespace that was allocated for a call that then failed.
 */
#ifndef __NSTRACE_NS_CALL_H__
#define __NSTRACE_NS_CALL_H__

#include "lib/calls.h"
#include "lib/filter.h"
#include "lib/nsfs.h"
#include "lib/path.h"
#include "lib/proof.h"
#include "lib/syscall.h"
#include "lib/who.h"
#include "fold.h"
#include "refusal.h"

/* REC_NS_CREATE, REC_NS_ENTER. The tail is ns_change[nchanges], ns_refusal[nrefusals],
 * ns_limit[nlimits]. That of a REC_NS_ENTER is ns_change[nchanges] and, if the call failed, the
 * path of the mount of the namespace file: components, leaf first, each ended by a NUL.
 */
struct ns_record {
	struct head head;
	struct caller caller;
	__u32 child; /* pid of the task that a clone created, or that the pidfd of a failed setns
			refers to */
	__u16 nrefusals; /* 1: the kernel refused to create a namespace */
	__u16 nlimits;	 /* of a REC_NS_ENTER: the length of the path */
};

EXPORT_TYPE(struct, ns_record);

/* A call under way, from its entry to its end. */
struct ns_call {
	__u64 flags;	    /* CLONE_NEW*; for setns its second argument */
	__u32 ns[NS_KINDS]; /* of the caller, before the call */
	__u32 from_pid;	    /* what its children would have got before the call */
	__u32 from_time;
	__u32 target_mask; /* 1 << enum ns_kind: the members of target that are set */
	__u32 via;	   /* enum call_via */
	struct share_owner owner;
	__u32 shared_files; /* another thread can change what a descriptor refers to */
	/* Of the descriptor of a setns(): the mount of a namespace file, 0 if it is none, and the
	 * pid of a pidfd, 0 if it is none.
	 */
	__u64 file_mnt; /* struct vfsmount */
	__u32 file_pid;
	__u32 pad;
	/* These four are for send_ns_call(): the result of the call, the task to read new
	 * namespaces from (0: none), 1 << enum ns_kind of those to report, and the enum record_kind
	 * to report them as.
	 */
	__s64 ret;
	__u64 ns_task;
	__u32 kinds;
	__u32 kind;
	struct ns_change target[NS_KINDS]; /* what the descriptor of a setns() refers to */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* tasks in such a call at one time */
	__type(key, __u32);	   /* tid */
	__type(value, struct ns_call);
} ns_calls SEC(".maps");

static const struct ns_call no_ns_call;

/* The kind of the record that a call sends. */
static __always_inline enum record_kind ns_call_kind(enum call_via via)
{
	return via == VIA_SETNS || via == VIA_EXECVE ? REC_NS_ENTER : REC_NS_CREATE;
}

/* The kinds, as 1 << enum ns_kind, that a call is about. A namespace file has one type, whatever
 * the caller asked for. Other calls have the types that the caller asked for.
 */
static __always_inline __u32 ns_call_kinds(struct ns_call *call)
{
	return call->target_mask ? call->target_mask : kinds_of_flags(call->flags);
}

/* How many events a call makes. */
static __always_inline __u32 ns_call_size(struct ns_call *call)
{
	__u32 n = count_bits(ns_call_kinds(call));

	return n ? n : 1;
}

/* Reports whether a call can take long, so that a user can have many under way. A clone() waits for
 * the memory of the process, which the server of a FUSE file system can hold. copy_net_ns() and
 * copy_mnt_ns() take locks of the whole host, and from 6.3 on create_ipc_ns() waits for the end of
 * others.
 */
static __always_inline bool can_wait(enum call_via via, __u64 flags)
{
	return via == VIA_CLONE || via == VIA_CLONE3 ||
	       (via == VIA_UNSHARE && flags & (CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC));
}

static __always_inline void free_ns_call(const __u32 *tid)
{
	struct ns_call *call = bpf_map_lookup_elem(&ns_calls, tid);

	if (!call)
		return;
	count_unended(READ_ONCE(call->kind) % REC_SLOTS, ns_call_size(call));
	release_share(&call->owner);
	bpf_map_delete_elem(&ns_calls, tid);
}

/* Creates the state of a call of the current task, which holds the share of owner. */
static __always_inline struct ns_call *ns_call_make(enum call_via via, __u64 flags,
						    struct share_owner owner)
{
	struct task_struct *task = current_task();
	__u32 tid = READ_CURRENT(task, pid);
	struct ns_call *call;

	if (bpf_map_update_elem(&ns_calls, &tid, &no_ns_call, BPF_NOEXIST)) {
		call = bpf_map_lookup_elem(&ns_calls, &tid);
		if (!call) {
			release_share(&owner);
			count_missed(ns_call_kind(via), 1);
			return NULL;
		}
		/* The entry is still there: nobody saw the end of the last call. */
		count_unended(ns_call_kind(call->via), ns_call_size(call));
		call->target_mask = 0;
		release_share(&call->owner);
	} else {
		call = bpf_map_lookup_elem(&ns_calls, &tid);
		if (!call)
			return NULL;
	}
	call->file_mnt = 0;
	call->file_pid = 0;
	call->owner = owner;
	call->via = via;
	call->kind = ns_call_kind(via);
	call->flags = flags;
	current_ns_inums(call->ns);
	call->from_pid = READ_CURRENT(task, nsproxy, pid_ns_for_children, ns.inum);
	call->from_time = READ_CURRENT(task, nsproxy, time_ns_for_children, ns.inum);
	return call;
}

/* The entry of a call, unless nstrace is about to stop. If the call can wait and there is no share
 * for it, n events count as lost.
 */
static __always_inline struct ns_call *ns_call_enter(enum call_via via, __u64 flags, __u32 n)
{
	struct share_owner owner = {};
	__u32 tid = current_tid();

	if (stopping)
		return NULL;
	if (can_wait(via, flags) && hold_share(&owner, REC_NS_CREATE, n)) {
		free_ns_call(&tid); /* the end of this call must not take it for its own */
		return NULL;
	}
	return ns_call_make(via, flags, owner);
}

static __always_inline struct ns_call *ns_call_begin(enum call_via via, __u64 flags)
{
	return ns_call_enter(via, flags, 1);
}

/* The state of a call that is at its end, and which had none. It does not wait any more, and needs
 * no share.
 */
static __always_inline struct ns_call *ns_call_at_end(enum call_via via, __u64 flags)
{
	return stopping ? NULL : ns_call_make(via, flags, (struct share_owner){});
}

static __always_inline void ns_call_end(struct ns_call *call)
{
	__u32 tid = current_tid();

	release_share(&call->owner);
	bpf_map_delete_elem(&ns_calls, &tid);
}

static __always_inline struct ns_call *ns_call_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&ns_calls, &tid);
}

/* Reports whether it is a clone. If another call ends while a clone has an entry, nobody saw the
 * end of that clone, and the next ns_call_begin() of the thread counts it as missed.
 */
static __always_inline bool is_clone_call(struct ns_call *call)
{
	return call->via == VIA_CLONE || call->via == VIA_CLONE3;
}

/* Adds to the record in s what a failed setns() was called with. */
static __noinline void put_request(struct scratch *s, struct ns_call *call)
{
	struct vfsmount *mnt = (void *)READ_ONCE(call->file_mnt);
	struct ns_record *r = (struct ns_record *)s->buf;
	__u64 start = READ_ONCE(s->end);

	r->child = call->file_pid;
	if (!mnt)
		return;
	put_path(s, BPF_CORE_READ(mnt, mnt_root), mnt);
	r->nlimits = READ_ONCE(s->end) - start;
}

/* Sends what the call of the current task did, with a change for each kind in call->kinds. Global,
 * see nstrace.c.
 */
__noinline int send_ns_call(void)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *ns_task;
	struct ns_call *call = ns_call_get();
	struct caller caller = {};
	struct ns_record *r;
	struct scratch *s;
	__u64 owner = (__u64)task, now;
	__u32 n, cut, mask, kind;
	long ret, err;

	if (!call)
		return 0;
	kind = READ_ONCE(call->kind) % REC_SLOTS;
	if (send_proof(kind, call->via))
		return 0;
	ret = READ_ONCE(call->ret);
	mask = READ_ONCE(call->kinds);
	n = mask ? count_bits(mask) : 1;
	if (!matches_filter(task, ret < 0)) {
		count_filtered(kind, n);
		return 0;
	}
	cut = count_bits(mask & ~ns_mask);
	if (cut) {
		count_filtered(kind, cut);
		if (cut == n)
			return 0;
		call->kinds = mask & ns_mask;
	}
	now = bpf_ktime_get_boot_ns();
	err = put_caller(&caller, now, kind, n);
	ret = READ_ONCE(call->ret);
	mask = READ_ONCE(call->kinds);
	n = mask ? count_bits(mask) : 1;
	if (err) {
		count_lost(kind, n);
		return 0;
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(kind, n);
		return 0;
	}
	r = (struct ns_record *)s->buf;
	set_head(&r->head, now, kind, F_RET_KNOWN, ret, call->via);
	r->head.nchanges = n;
	ns_task = (void *)READ_ONCE(call->ns_task);
	r->caller = caller;
	__builtin_memcpy(r->caller.ns, call->ns, sizeof(r->caller.ns));
	r->child = kind == REC_NS_CREATE && ns_task && ns_task != task ? BPF_CORE_READ(ns_task, pid)
								       : 0;
	r->nrefusals = 0;
	r->nlimits = 0;
	if (r->child && task_cgroup(ns_task) != task_cgroup(task))
		r->head.flags |= F_CHILD_CGROUP;

	if (!mask) {
		/* setns() on something that is not a namespace, and without a type. */
		describe_ns(scratch_end(s), NS_KINDS, NULL);
		s->end += sizeof(struct ns_change);
	}
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++) {
		struct ns_change *c = scratch_end(s);

		if (!(mask & (1 << i)))
			continue;
		describe_ns(c, i, ns_task ? task_ns_for_children(ns_task, i) : NULL);
		if (!ns_task && call->target_mask & (1 << i)) {
			c->ns_id = call->target[i].ns_id;
			c->inum = call->target[i].inum;
			c->user_ns = call->target[i].user_ns;
		}
		if (call->via == VIA_SETNS)
			c->wanted = kinds_of_flags(call->flags);
		if (kind == REC_NS_ENTER)
			c->from = i == NS_PID	 ? call->from_pid
				  : i == NS_TIME ? call->from_time
						 : call->ns[i];
		s->end += sizeof(*c);
	}
	if (kind == REC_NS_CREATE && is_refusal(ret)) {
		r->nrefusals = 1;
		r->nlimits = put_refusal(s->slot, kinds_of_flags(call->flags), ret);
	}
	if (call->via == VIA_SETNS && ret < 0)
		put_request(s, call);
	if (ret < 0)
		send_or_fold(s, owner, kind, n);
	else
		send_scratch(s, owner, kind, n);
	return 0;
}

/* The end of a call about namespaces of these kinds, which returned ret. ns_task is in the
 * namespaces that the call created or entered; NULL: the call is known by its targets.
 */
static __always_inline void ns_call_exit_kinds(struct ns_call *call, long ret,
					       struct task_struct *ns_task, __u32 kinds)
{
	if (!will_restart(ret)) {
		call->ret = ret;
		call->kinds = kinds;
		call->ns_task = ret < 0 ? 0 : (__u64)ns_task;
		send_ns_call();
	}
	ns_call_end(call);
}

/* The same for the kinds of ns_call_kinds(). */
static __always_inline void ns_call_exit(struct ns_call *call, long ret,
					 struct task_struct *ns_task)
{
	ns_call_exit_kinds(call, ret, ns_task, ns_call_kinds(call));
}

/* The entry of a call that creates the namespaces of flags, if there are any. */
static __always_inline int ns_create_enter(enum call_via via, __u64 flags)
{
	if (flags & CLONE_NEW_ALL)
		ns_call_begin(via, flags & CLONE_NEW_ALL);
	return 0;
}

/* Adds a namespace that the call refers to. */
static __always_inline void add_target(struct ns_call *call, enum ns_kind kind, void *ns)
{
	describe_ns(&call->target[kind], kind, ns);
	call->target_mask |= 1 << kind;
}

static __always_inline void add_ns_file_target(struct ns_call *call, struct inode *inode)
{
	struct ns_common *ns = BPF_CORE_READ(inode, i_private);
	__u32 flag = ns_common_flag(ns);

	WITH_NS(ns, flag, add_target, call);
}

#endif
