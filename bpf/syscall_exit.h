/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The ends of the calls in ns_call.h, by the tracepoints of system calls. */
#ifndef __NSTRACE_SYSCALL_EXIT_H__
#define __NSTRACE_SYSCALL_EXIT_H__

#include "clone.h"
#include "mount_tree.h"
#include "ns_call.h"
#include "setns.h"

static __always_inline enum call_via via_of_nr(int nr)
{
	switch (nr) {
	case NR_clone:
		return VIA_CLONE;
	case NR_clone3:
		return VIA_CLONE3;
	case NR_unshare:
		return VIA_UNSHARE;
	case NR_setns:
		return VIA_SETNS;
	case NR_open_tree:
		return VIA_OPEN_TREE;
	case NR_open_tree_attr:
		return VIA_OPEN_TREE_ATTR;
	case NR_fsmount:
		return VIA_FSMOUNT;
	default:
		return VIA_NONE;
	}
}

/* One program for the ends of all these calls. The verifier takes most of the time that nstrace
 * needs to start, and most of that for send_ns_call().
 */
SEC("tracepoint/syscalls/sys_exit_unshare")
int tp_call_exit(struct syscall_trace_exit *ctx)
{
	struct ns_call *call = ns_call_get();
	long ret = ctx->ret;
	__u64 flags;

	if (!call && ret < 0 && (ctx->nr == NR_clone3 || ctx->nr == NR_clone)) {
		/* The arguments were not in memory at the entry, and the kernel has read them
		 * since; or there was no share for the call.
		 */
		struct pt_regs *regs = user_regs();

		flags = ctx->nr == NR_clone3 ? clone3_flags((void *)ARG1(regs))
					     : clone2_flags(ARG1(regs));
		if (flags)
			call = ns_call_at_end(via_of_nr(ctx->nr), flags);
	}
	if (!call || call->via != via_of_nr(ctx->nr))
		return 0;
	if (is_tree_call(call))
		return tree_exit(ret);
	if (is_clone_call(call) && ret >= 0) {
		/* tp_fork reports a clone that succeeds, so it did not see this one. */
		count_missed(REC_NS_CREATE, count_bits(kinds_of_flags(call->flags)));
		ns_call_end(call);
		return 0;
	}
	if (call->via == VIA_SETNS)
		return setns_exit(ret);
	ns_call_exit(call, ret, (void *)bpf_get_current_task());
	return 0;
}

#endif
