/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* unshare(2). */
#ifndef __NSTRACE_UNSHARE_H__
#define __NSTRACE_UNSHARE_H__

#include "ns_call.h"

/* include/uapi/linux/sched.h, 7.1: makes a mount namespace too. */
#define UNSHARE_EMPTY_MNTNS 0x00100000

static __always_inline int unshare_enter(__u64 flags)
{
	if (flags & UNSHARE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return ns_create_enter(VIA_UNSHARE, flags);
}

static __always_inline int unshare_exit(long ret)
{
	struct ns_call *call = ns_call_get();

	if (call && call->via == VIA_UNSHARE)
		ns_call_exit(call, ret, (void *)bpf_get_current_task());
	return 0;
}

/* ksys_unshare(): all of unshare(2), for each calling convention. */
SEC("fentry/ksys_unshare")
int BPF_PROG(fentry_unshare, unsigned long flags)
{
	return unshare_enter(flags);
}

SEC("fexit/ksys_unshare")
int BPF_PROG(fexit_unshare, unsigned long flags, int ret)
{
	return unshare_exit(ret);
}

SEC("kprobe/ksys_unshare")
int BPF_KPROBE(kprobe_unshare, unsigned long flags)
{
	return unshare_enter(flags);
}

SEC("kretprobe/ksys_unshare")
int BPF_KRETPROBE(kretprobe_unshare, int ret)
{
	return unshare_exit(ret);
}

SEC("tracepoint/syscalls/sys_enter_unshare")
int tp_unshare_enter(struct trace_event_raw_sys_enter *ctx)
{
	return unshare_enter(ctx->args[0]);
}

#endif
