/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * sethostname(2) and setdomainname(2), which are older than /proc/sys. They change the memory of
 * kernel.hostname and kernel.domainname without the handler of the parameter.
 */
#ifndef __NSTRACE_HOSTNAME_H__
#define __NSTRACE_HOSTNAME_H__

#include "send_write.h"
#include "lib/syscall.h"

#define UTS_LEN 65 /* __NEW_UTS_LEN + 1, include/uapi/linux/utsname.h */

/* Fills w with the memory that such a call of the current task sets. */
static __always_inline void set_uts_name(struct write *w, bool domain)
{
	w->kind = NS_UTS;
	w->via = domain ? VIA_SETDOMAINNAME : VIA_SETHOSTNAME;
	w->ns = BPF_CORE_READ(current_task(), nsproxy, uts_ns);
	w->data = w->ns + (domain ? bpf_core_field_offset(struct uts_namespace, name.domainname)
				  : bpf_core_field_offset(struct uts_namespace, name.nodename));
	w->maxlen = UTS_LEN;
}

static __noinline int hostname_enter(const char *name, int len, bool domain)
{
	__u32 tid = current_tid();
	struct write w = {};
	long n;

	if (stopping)
		return 0;
	set_uts_name(&w, domain);
	w.buf = (void *)name;
	w.buf_len = len < 0 ? 0 : len;
	n = bpf_probe_read_kernel_str(w.old, sizeof(w.old), w.data);
	if (n > 0) {
		w.old_len = n - 1;
		w.flags |= F_OLD_KNOWN;
		if (n == sizeof(w.old))
			w.flags |= F_OLD_CUT;
	}
	if (!bpf_probe_read_kernel(w.raw, sizeof(w.raw), w.data))
		w.raw_len = sizeof(w.raw);
	write_make(tid, &w);
	return 0;
}

/* The end of a call whose entry no program saw. The old value is unknown, and the new one is in
 * memory.
 */
static __noinline int hostname_exit_only(bool domain, long ret)
{
	__u32 tid = current_tid();
	struct write w = {};
	long n;

	if (stopping)
		return 0;
	set_uts_name(&w, domain);
	n = bpf_probe_read_kernel_str(w.new, sizeof(w.new), w.data);
	if (n > 0 && ret == 0) {
		w.new_len = n - 1;
		w.flags |= F_NEW_KNOWN;
		if (n == sizeof(w.new))
			w.flags |= F_NEW_CUT;
	}
	write_make(tid, &w);
	return 0;
}

/* The end of a call that is in spare_writes. */
static __always_inline int spare_hostname_exit(long ret)
{
	struct write_slot *slot = spare_write_take(current_tid());

	if (slot)
		send_write(slot->number, ret, true, slot->w.via);
	return 0;
}

/* The end of either call. */
static __always_inline int hostname_exit(long ret)
{
	struct write *w = write_get();

	if (!w)
		return spare_hostname_exit(ret);
	if (w->header)
		return 0;
	send_write(0, ret, true, w->via);
	write_end(w);
	return 0;
}

SEC("fentry/" SYS(sethostname))
int BPF_PROG(fentry_hostname, struct pt_regs *regs)
{
	return hostname_enter((const char *)ARG1(regs), ARG2(regs), false);
}

SEC("fexit/" SYS(sethostname))
int BPF_PROG(fexit_hostname, struct pt_regs *regs, long ret)
{
	return hostname_exit(ret);
}

SEC("fentry/" SYS(setdomainname))
int BPF_PROG(fentry_domainname, struct pt_regs *regs)
{
	return hostname_enter((const char *)ARG1(regs), ARG2(regs), true);
}

SEC("kprobe/" SYS(sethostname))
int BPF_KPROBE(kprobe_hostname, struct pt_regs *regs)
{
	return hostname_enter((const char *)ARG1(regs), ARG2(regs), false);
}

SEC("kretprobe/" SYS(sethostname))
int BPF_KRETPROBE(kretprobe_hostname, long ret)
{
	return hostname_exit(ret);
}

SEC("kprobe/" SYS(setdomainname))
int BPF_KPROBE(kprobe_domainname, struct pt_regs *regs)
{
	return hostname_enter((const char *)ARG1(regs), ARG2(regs), true);
}

#if defined(__TARGET_ARCH_x86)
/* For 32-bit programs. The ends are those above. */
SEC("fentry/" SYS32(sethostname))
int BPF_PROG(fentry_hostname32, struct pt_regs *regs)
{
	return hostname_enter((const char *)(__u64)ARG1_32(regs), ARG2_32(regs), false);
}

SEC("fentry/" SYS32(setdomainname))
int BPF_PROG(fentry_domainname32, struct pt_regs *regs)
{
	return hostname_enter((const char *)(__u64)ARG1_32(regs), ARG2_32(regs), true);
}

SEC("kprobe/" SYS32(sethostname))
int BPF_KPROBE(kprobe_hostname32, struct pt_regs *regs)
{
	return hostname_enter((const char *)(__u64)ARG1_32(regs), ARG2_32(regs), false);
}

SEC("kprobe/" SYS32(setdomainname))
int BPF_KPROBE(kprobe_domainname32, struct pt_regs *regs)
{
	return hostname_enter((const char *)(__u64)ARG1_32(regs), ARG2_32(regs), true);
}
#endif

SEC("tracepoint/syscalls/sys_enter_sethostname")
int tp_hostname_enter(struct trace_event_raw_sys_enter *ctx)
{
	return hostname_enter((const char *)ctx->args[0], ctx->args[1], false);
}

/* Newer kernels include the text of these calls in their tracepoints. If perf_syscall_enter()
 * cannot read it from user space, the kernel does not run the program at the entry. On 7.1 that
 * happened more often than not.
 */
SEC("tracepoint/syscalls/sys_exit_sethostname")
int tp_hostname_exit(struct syscall_trace_exit *ctx)
{
	__u32 tid = current_tid();

	if (!write_get() && !spare_write_get(&tid))
		hostname_exit_only(ctx->nr == NR_setdomainname, ctx->ret);
	return hostname_exit(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_setdomainname")
int tp_domainname_enter(struct trace_event_raw_sys_enter *ctx)
{
	return hostname_enter((const char *)ctx->args[0], ctx->args[1], true);
}

#endif
