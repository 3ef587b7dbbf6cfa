/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * kernel.hostname and kernel.domainname, set by the calls that are older than
 * /proc/sys: sethostname(2) and setdomainname(2) change the same memory, and the
 * parameter's handler knows nothing of it.
 */
#ifndef __NSTRACE_HOSTNAME_H__
#define __NSTRACE_HOSTNAME_H__

#define UTS_LEN 65 /* __NEW_UTS_LEN + 1, include/uapi/linux/utsname.h */

/* arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h */
#if defined(__TARGET_ARCH_x86)
#define NR_setdomainname 171
#else
#define NR_setdomainname 162
#endif

/* Where the name is that such a call of the current task sets. */
static __always_inline void find_name(struct write *w, bool domain)
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
	find_name(&w, domain);
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
	if (bpf_map_update_elem(&writes, &tid, &w, BPF_NOEXIST)) {
		count_missed(REC_SYSCTL_WRITE, 1);
		bpf_map_update_elem(&writes, &tid, &w, BPF_EXIST);
	}
	return 0;
}

/* A call whose entry was not seen, at its end: what there was before is not known, and
 * what was set is there now.
 */
static __noinline int hostname_late(bool domain, long ret)
{
	__u32 tid = current_tid();
	struct write w = {};
	long n;

	if (stopping)
		return 0;
	find_name(&w, domain);
	n = bpf_probe_read_kernel_str(w.new, sizeof(w.new), w.data);
	if (n > 0 && ret == 0) {
		w.new_len = n - 1;
		w.flags |= F_NEW_KNOWN;
		if (n == sizeof(w.new))
			w.flags |= F_NEW_CUT;
	}
	if (bpf_map_update_elem(&writes, &tid, &w, BPF_ANY))
		count_missed(REC_SYSCTL_WRITE, 1);
	return 0;
}

/* Of either call. */
static __always_inline int hostname_exit(long ret)
{
	struct write *w = write_get();

	if (!w || w->header)
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

SEC("tracepoint/syscalls/sys_enter_sethostname")
int tp_hostname_enter(struct trace_event_raw_sys_enter *ctx)
{
	return hostname_enter((const char *)ctx->args[0], ctx->args[1], false);
}

/* Newer kernels have the text of these calls with their tracepoints, and where
 * perf_syscall_enter() cannot get it from user space the program is not run: seen on 7.1,
 * more often than not.
 */
SEC("tracepoint/syscalls/sys_exit_sethostname")
int tp_hostname_exit(struct syscall_trace_exit *ctx)
{
	if (!write_get())
		hostname_late(ctx->nr == NR_setdomainname, ctx->ret);
	return hostname_exit(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_setdomainname")
int tp_domainname_enter(struct trace_event_raw_sys_enter *ctx)
{
	return hostname_enter((const char *)ctx->args[0], ctx->args[1], true);
}

#endif
