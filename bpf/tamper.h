/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What others do to nstrace: signals to it, and calls of bpf(2) that detach its programs or change
 * its maps.
 */
#ifndef __NSTRACE_TAMPER_H__
#define __NSTRACE_TAMPER_H__

#include "lib/send.h"
#include "lib/task.h"
#include "lib/who.h"

/* REC_TAMPER. */
struct tamper_record {
	struct head head;
	struct caller caller; /* who 0: the kernel, for an unknown process */
	__u32 signal;	      /* 0: none */
	__u32 cmd;	      /* enum bpf_cmd */
	__u32 object;	      /* enum own_object */
	__u32 id;	      /* of the object in bpf(2) */
};

/* The kinds of objects that nstrace has in the kernel. */
enum own_object {
	OWN_NONE,
	OWN_LINK,
	OWN_MAP,
	OWN_PROGRAM,
};

struct own_key {
	__u32 object;
	__u32 id;
};

EXPORT_TYPE(struct, tamper_record);
EXPORT_TYPE(struct, own_key);
EXPORT_TYPE(enum, own_object);

/* The objects of nstrace that others can change. User space sets them once it has attached all
 * programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct own_key);
	__type(value, __u8);
} own_objects SEC(".maps");

static __always_inline bool is_self(struct task_struct *task)
{
	return READ_CURRENT(task, tgid) == self_tgid;
}

/* Sends r. known tells whether the current process did it. */
static __always_inline int send_tamper(struct tamper_record *r, bool known)
{
	__u64 now = bpf_ktime_get_boot_ns();

	r->head.time = now;
	r->head.kind = REC_TAMPER;
	r->head.size = sizeof(*r);
	if (known) {
		current_ns_inums(r->caller.ns);
		if (put_caller(&r->caller, now, REC_TAMPER, 1)) {
			count_lost(REC_TAMPER, 1);
			return 0;
		}
	}
	send_record(REC_TAMPER, 1, r, sizeof(*r));
	return 0;
}

/* include/uapi/asm-generic/signal.h, arch/x86/include/uapi/asm/signal.h: the numbers are the same.
 */
#define SIGPIPE	 13
#define SIGALRM	 14
#define SIGCHLD	 17
#define SIGCONT	 18
#define SIGURG	 23
#define SIGWINCH 28
#define SIGIO	 29

/* __send_signal_locked() in kernel/signal.c. info tells who sends the signal:
 *
 *	0 (SEND_SIG_NOINFO)   the current process
 *	1 (SEND_SIG_PRIV)     the kernel: ^C on a terminal, the OOM killer
 *	a pointer             the kernel if si_code is above 0, else the current process
 *
 * If the kernel sends it, the current task did not.
 */
SEC("tp_btf/signal_generate")
int BPF_PROG(tp_signal, int sig, struct kernel_siginfo *info, struct task_struct *task)
{
	struct tamper_record r = {};
	bool known = !info;

	if (BPF_CORE_READ(task, tgid) != self_tgid || is_self(current_task()))
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

/* The offset of the descriptor in union bpf_attr. */
#define ATTR_FD		   0
#define ATTR_ATTACH_BPF_FD 4
#define ATTR_BATCH_MAP_FD  36

/* A call of bpf(2). user tells whether attr is in user memory. */
static __noinline int bpf_enter(int cmd, const void *attr, bool user)
{
	struct tamper_record r = {};
	struct own_key key = {};
	__u32 at = ATTR_FD;
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
		at = ATTR_ATTACH_BPF_FD;
		break;
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		key.object = OWN_MAP;
		at = ATTR_BATCH_MAP_FD;
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
	if (!bpf_map_lookup_elem(&own_objects, &key))
		return 0;
	r.cmd = cmd;
	r.object = key.object;
	r.id = key.id;
	return send_tamper(&r, true);
}

/* security_bpf(): __sys_bpf() calls it when it has copied the arguments, before it does anything.
 */
SEC("fentry/security_bpf")
int BPF_PROG(fentry_bpf, int cmd, const void *attr)
{
	return bpf_enter(cmd, (const void *)ptr_to_number(attr), false);
}

SEC("kprobe/security_bpf")
int BPF_KPROBE(kprobe_bpf, int cmd, const void *attr)
{
	return bpf_enter(cmd, attr, false);
}

SEC("tracepoint/syscalls/sys_enter_bpf")
int tp_bpf(struct trace_event_raw_sys_enter *ctx)
{
	return bpf_enter(ctx->args[0], (const void *)ctx->args[1], true);
}

#endif
