/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The observer observed: signals sent to nstrace, and calls of bpf(2) by others that
 * detach its programs or change its maps.
 */
#ifndef __NSTRACE_TAMPER_H__
#define __NSTRACE_TAMPER_H__

/* What others could do something to; set from user space when all is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct own_key);
	__type(value, __u8);
} own SEC(".maps");

static __always_inline bool is_self(struct task_struct *task)
{
	return GET(task, tgid) == self;
}

static __always_inline int send_tamper(struct tamper_record *r, bool known)
{
	__u64 now = bpf_ktime_get_boot_ns();

	r->head.time = now;
	r->head.kind = REC_TAMPER;
	r->head.size = sizeof(*r);
	if (known) {
		current_ns_ids(r->caller.ns);
		if (put_caller(&r->caller, now)) {
			count_lost(REC_TAMPER, 1);
			return 0;
		}
	}
	send(REC_TAMPER, 1, r, sizeof(*r));
	return 0;
}

/* include/uapi/asm-generic/signal.h, arch/x86/include/uapi/asm/signal.h: the same on both. */
#define SIGPIPE	 13
#define SIGALRM	 14
#define SIGCHLD	 17
#define SIGCONT	 18
#define SIGURG	 23
#define SIGWINCH 28
#define SIGIO	 29

/* __send_signal_locked() in kernel/signal.c. info says who sends: the current process (0,
 * SEND_SIG_NOINFO), the kernel (1, SEND_SIG_PRIV: a terminal's ^C, the OOM killer), or it is
 * one of which si_code is above 0 where the kernel made it up. Where it is the kernel
 * whoever is current did not do it.
 */
SEC("tp_btf/signal_generate")
int BPF_PROG(tp_signal, int sig, struct kernel_siginfo *info, struct task_struct *task)
{
	struct tamper_record r = {};
	bool known = !info;

	if (BPF_CORE_READ(task, tgid) != self || is_self(current_task()))
		return 0;
	if (stopping || sig == SIGPIPE || sig == SIGALRM || sig == SIGCHLD || sig == SIGCONT ||
	    sig == SIGURG || sig == SIGWINCH || sig == SIGIO)
		return 0;
	if ((__u64)info > 1)
		known = BPF_CORE_READ(info, si_code) <= 0;
	r.signal = sig;
	return send_tamper(&r, known);
}

/* enum bpf_cmd, include/uapi/linux/bpf.h */
#define BPF_MAP_UPDATE_ELEM	       2
#define BPF_MAP_DELETE_ELEM	       3
#define BPF_PROG_DETACH		       9
#define BPF_MAP_LOOKUP_AND_DELETE_ELEM 21
#define BPF_MAP_FREEZE		       22
#define BPF_MAP_UPDATE_BATCH	       26
#define BPF_MAP_DELETE_BATCH	       27
#define BPF_LINK_UPDATE		       29
#define BPF_LINK_DETACH		       34

/* Where in union bpf_attr the descriptor is. */
#define AT_FIRST	 0
#define AT_ATTACH_BPF_FD 4
#define AT_BATCH_MAP_FD	 36

/* A call of bpf(2) with attr, which is in user memory or not. */
static __noinline int bpf_call(int cmd, const void *attr, bool user)
{
	struct tamper_record r = {};
	struct own_key key = {};
	__u32 at = AT_FIRST;
	struct file *file;
	int fd = 0;
	void *obj;

	if (stopping || is_self(current_task()))
		return 0;
	switch (cmd) {
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
		key.object = OWN_LINK;
		break;
	case BPF_PROG_DETACH:
		key.object = OWN_PROGRAM;
		at = AT_ATTACH_BPF_FD;
		break;
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		key.object = OWN_MAP;
		at = AT_BATCH_MAP_FD;
		break;
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
	case BPF_MAP_FREEZE:
		key.object = OWN_MAP;
		break;
	default:
		return 0;
	}
	if (user)
		bpf_probe_read_user(&fd, sizeof(fd), attr + at);
	else
		bpf_probe_read_kernel(&fd, sizeof(fd), attr + at);
	file = current_file(fd);
	if (!file)
		return 0;
	obj = BPF_CORE_READ(file, private_data);
	if (key.object == OWN_LINK)
		key.id = BPF_CORE_READ((struct bpf_link *)obj, id);
	else if (key.object == OWN_MAP)
		key.id = BPF_CORE_READ((struct bpf_map *)obj, id);
	else
		key.id = BPF_CORE_READ((struct bpf_prog *)obj, aux, id);
	if (!bpf_map_lookup_elem(&own, &key))
		return 0;
	r.cmd = cmd;
	r.object = key.object;
	r.id = key.id;
	return send_tamper(&r, true);
}

/* security_bpf(): __sys_bpf() asks it once it has copied what the caller gave, before
 * anything is done.
 */
SEC("fentry/security_bpf")
int BPF_PROG(fentry_bpf, int cmd, const void *attr)
{
	return bpf_call(cmd, (const void *)as_number(attr), false);
}

SEC("kprobe/security_bpf")
int BPF_KPROBE(kprobe_bpf, int cmd, const void *attr)
{
	return bpf_call(cmd, attr, false);
}

SEC("tracepoint/syscalls/sys_enter_bpf")
int tp_bpf(struct trace_event_raw_sys_enter *ctx)
{
	return bpf_call(ctx->args[0], (const void *)ctx->args[1], true);
}

#endif
