/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Namespaces made, entered and freed.
 *
 * A namespace made by clone, clone3 or unshare is read from the task that has
 * it once the call is decided: the caller after unshare(2), the child before it
 * first runs. That needs no hook in each type's copy_*_ns(), and a namespace
 * that was allocated for a call that then failed never looks like a creation.
 */
#ifndef __NSTRACE_NAMESPACE_H__
#define __NSTRACE_NAMESPACE_H__

/* include/uapi/linux/sched.h */
#define CSIGNAL		    0x000000ff
#define CLONE_NEWTIME	    0x00000080
#define CLONE_NEWNS	    0x00020000
#define CLONE_NEWCGROUP	    0x02000000
#define CLONE_NEWUTS	    0x04000000
#define CLONE_NEWIPC	    0x08000000
#define CLONE_NEWUSER	    0x10000000
#define CLONE_NEWPID	    0x20000000
#define CLONE_NEWNET	    0x40000000
#define CLONE_EMPTY_MNTNS   (1ull << 37) /* clone3, 7.1: makes a mount namespace too */
#define UNSHARE_EMPTY_MNTNS 0x00100000	 /* the same for unshare */
#define CLONE_NEW_ALL                                                                              \
	(CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |             \
	 CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* include/uapi/linux/magic.h, and pidfs's of fs/pidfs.c (6.9) */
#define NSFS_MAGIC	    0x6e736673
#define PID_FS_MAGIC	    0x50494446
#define ANON_INODE_FS_MAGIC 0x09041934

/* A call that is under way, from its entry to its end. */
struct call {
	__u64 flags;	    /* CLONE_NEW*; setns: its second argument */
	__u32 ns[NS_KINDS]; /* the caller's, before */
	__u32 from_pid;	    /* what its children were to get until then */
	__u32 from_time;
	__u32 want_mask; /* 1 << enum ns_kind: which of want are set */
	__u32 via;	 /* enum call_via */
	__s64 ret;	 /* what send_call() is called with */
	__u64 holder;
	__u32 mask;
	__u32 kind;			 /* enum record_kind of what it will be reported as */
	struct ns_change want[NS_KINDS]; /* setns: what the descriptor names */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* tasks inside such a call at one time */
	__type(key, __u32);	   /* tid */
	__type(value, struct call);
} calls SEC(".maps");

static const struct call no_call;

static __always_inline __u32 kinds_of(__u64 flags)
{
	__u32 mask = 0;

	mask |= flags & CLONE_NEWUTS ? 1 << NS_UTS : 0;
	mask |= flags & CLONE_NEWIPC ? 1 << NS_IPC : 0;
	mask |= flags & CLONE_NEWNS ? 1 << NS_MNT : 0;
	mask |= flags & CLONE_NEWPID ? 1 << NS_PID : 0;
	mask |= flags & CLONE_NEWNET ? 1 << NS_NET : 0;
	mask |= flags & CLONE_NEWTIME ? 1 << NS_TIME : 0;
	mask |= flags & CLONE_NEWCGROUP ? 1 << NS_CGROUP : 0;
	mask |= flags & CLONE_NEWUSER ? 1 << NS_USER : 0;
	return mask;
}

static __always_inline __u32 count_bits(__u32 mask)
{
	__u32 n = 0;

	for (int i = 0; i < NS_KINDS; i++)
		n += (mask >> i) & 1;
	return n;
}

/* The kernel's own id of a namespace that it never uses again, 0 where it has
 * none: ns_common.ns_id from 6.18; before that net.net_cookie (0 in 5.10 until
 * somebody asks for it) and mnt_namespace.seq.
 */
static __always_inline __u64 ns_uid(void *ns, enum ns_kind kind, struct ns_common *common)
{
	struct ns_common___618 *c = (void *)common;

	if (bpf_core_field_exists(c->ns_id))
		return READ(c, ns_id);
	if (kind == NS_NET) {
		struct net *net = ns;
		struct net___510 *net510 = ns;

		if (bpf_core_field_exists(net510->net_cookie.counter))
			return READ(net510, net_cookie.counter);
		if (bpf_core_field_exists(net->net_cookie))
			return READ(net, net_cookie);
	}
	if (kind == NS_MNT) {
		struct mnt_namespace___seq *mnt = ns;

		if (bpf_core_field_exists(mnt->seq))
			return READ(mnt, seq);
	}
	return 0;
}

#define DESCRIBE(c, type, owner_member, ns_kind_, ptr)                                             \
	do {                                                                                       \
		struct type *ns_ = (void *)(ptr);                                                  \
		void *common_ = (void *)ns_ + bpf_core_field_offset(struct type, ns);              \
		if (ns_) {                                                                         \
			(c)->inum = READ(ns_, ns.inum);                                            \
			(c)->user_ns = READ(ns_, owner_member, ns.inum);                           \
			(c)->uid = ns_uid(ns_, ns_kind_, common_);                                 \
		}                                                                                  \
	} while (0)

static __always_inline void describe_ns(struct ns_change *c, enum ns_kind kind, void *ns)
{
	c->uid = 0;
	c->inum = 0;
	c->from = 0;
	c->user_ns = 0;
	*(__u32 *)&c->kind = kind;
	switch (kind) {
	case NS_UTS:
		DESCRIBE(c, uts_namespace, user_ns, NS_UTS, ns);
		break;
	case NS_IPC:
		DESCRIBE(c, ipc_namespace, user_ns, NS_IPC, ns);
		break;
	case NS_MNT:
		DESCRIBE(c, mnt_namespace, user_ns, NS_MNT, ns);
		break;
	case NS_PID:
		DESCRIBE(c, pid_namespace, user_ns, NS_PID, ns);
		break;
	case NS_NET:
		DESCRIBE(c, net, user_ns, NS_NET, ns);
		break;
	case NS_TIME:
		DESCRIBE(c, time_namespace, user_ns, NS_TIME, ns);
		break;
	case NS_CGROUP:
		DESCRIBE(c, cgroup_namespace, user_ns, NS_CGROUP, ns);
		break;
	case NS_USER:
		DESCRIBE(c, user_namespace, parent, NS_USER, ns);
		break;
	default:
		break;
	}
}

/* What task has for kind; for pid and time that is what its children get, since
 * it is what clone, unshare and setns change.
 */
static __always_inline void *task_ns(struct task_struct *task, enum ns_kind kind)
{
	struct nsproxy *p = BPF_CORE_READ(task, nsproxy);

	switch (kind) {
	case NS_UTS:
		return BPF_CORE_READ(p, uts_ns);
	case NS_IPC:
		return BPF_CORE_READ(p, ipc_ns);
	case NS_MNT:
		return BPF_CORE_READ(p, mnt_ns);
	case NS_PID:
		return BPF_CORE_READ(p, pid_ns_for_children);
	case NS_NET:
		return BPF_CORE_READ(p, net_ns);
	case NS_TIME:
		return BPF_CORE_READ(p, time_ns_for_children);
	case NS_CGROUP:
		return BPF_CORE_READ(p, cgroup_ns);
	case NS_USER:
		return BPF_CORE_READ(task, cred, user_ns);
	default:
		return NULL;
	}
}

static __always_inline __u32 current_tid(void)
{
	struct task_struct *task = current_task();

	return GET(task, pid);
}

/* What a call is reported as, if it is. */
static __always_inline enum record_kind kind_of_call(enum call_via via)
{
	return via == VIA_SETNS || via == VIA_EXECVE ? REC_NS_ENTER : REC_NS_CREATE;
}

/* Makes the state of a call of the current task. */
static __always_inline struct call *call_make(enum call_via via, __u64 flags)
{
	struct task_struct *task = current_task();
	__u32 tid = GET(task, pid);
	struct call *call;

	if (bpf_map_update_elem(&calls, &tid, &no_call, BPF_NOEXIST)) {
		call = bpf_map_lookup_elem(&calls, &tid);
		if (!call) {
			count_missed(kind_of_call(via), 1);
			return NULL;
		}
		/* There already: the end of the last one was missed. */
		count_missed(kind_of_call(call->via), 1);
		call->want_mask = 0;
	} else {
		call = bpf_map_lookup_elem(&calls, &tid);
		if (!call)
			return NULL;
	}
	call->via = via;
	call->kind = kind_of_call(via);
	call->flags = flags;
	current_ns_ids(call->ns);
	call->from_pid = GET(task, nsproxy, pid_ns_for_children, ns.inum);
	call->from_time = GET(task, nsproxy, time_ns_for_children, ns.inum);
	return call;
}

static __always_inline struct call *call_begin(enum call_via via, __u64 flags)
{
	return stopping ? NULL : call_make(via, flags);
}

static __always_inline void call_end(void)
{
	__u32 tid = current_tid();

	bpf_map_delete_elem(&calls, &tid);
}

static __always_inline struct call *call_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&calls, &tid);
}

/* One that is still there though another call ends: its own end was missed, and
 * the next call_begin() of the thread counts that.
 */
static __always_inline bool is_clone(struct call *call)
{
	return call->via == VIA_CLONE || call->via == VIA_CLONE3;
}

/* Reports the end of the task's call for each kind in its mask. Its holder is the task to
 * read new namespaces from, 0 where there are none.
 *
 * Global, so that the verifier goes through it once for a program and not once for each
 * way to here.
 */
__noinline int send_call(void)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *holder;
	struct call *call = call_get();
	struct caller caller = {};
	struct ns_record *r;
	struct scratch *s;
	__u64 owner = (__u64)task, now;
	__u32 n, cut, mask, kind;
	long ret, err;

	if (!call)
		return 0;
	kind = READ_ONCE(call->kind) % REC_SLOTS;
	ret = READ_ONCE(call->ret);
	mask = READ_ONCE(call->mask);
	n = mask ? count_bits(mask) : 1;
	if (!wanted(task, ret < 0)) {
		count_filtered(kind, n);
		return 0;
	}
	cut = count_bits(mask & ~ns_mask);
	if (cut) {
		count_filtered(kind, cut);
		if (cut == n)
			return 0;
		call->mask = mask & ns_mask;
	}
	now = bpf_ktime_get_boot_ns();
	err = put_caller(&caller, now);
	ret = READ_ONCE(call->ret);
	mask = READ_ONCE(call->mask);
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
	r->head.time = now;
	r->head.kind = kind;
	r->head.flags = F_RET_KNOWN;
	r->head.ret = ret;
	r->head.via = call->via;
	r->head.nchanges = n;
	r->head.nancestors = 0;
	r->head.pad = 0;
	holder = (void *)READ_ONCE(call->holder);
	r->caller = caller;
	__builtin_memcpy(r->caller.ns, call->ns, sizeof(r->caller.ns));
	r->child =
		kind == REC_NS_CREATE && holder && holder != task ? BPF_CORE_READ(holder, pid) : 0;
	r->pad = 0;
	if (r->child && task_cgroup(holder) != task_cgroup(task))
		r->head.flags |= F_ELSEWHERE;

	if (!mask) {
		/* setns on something that is no namespace and asks for no type. */
		describe_ns(scratch_end(s), NS_KINDS, NULL);
		s->end += sizeof(struct ns_change);
	}
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++) {
		struct ns_change *c = scratch_end(s);

		if (!(mask & (1 << i)))
			continue;
		describe_ns(c, i, holder ? task_ns(holder, i) : NULL);
		if (!holder && call->want_mask & (1 << i)) {
			c->uid = call->want[i].uid;
			c->inum = call->want[i].inum;
			c->user_ns = call->want[i].user_ns;
		}
		if (kind == REC_NS_ENTER)
			c->from = i == NS_PID	 ? call->from_pid
				  : i == NS_TIME ? call->from_time
						 : call->ns[i];
		s->end += sizeof(*c);
	}
	send_scratch(s, owner, kind, n);
	return 0;
}

/* The end of call, which returned ret; holder has what it made or entered. */
static __always_inline void call_returned(struct call *call, long ret, struct task_struct *holder)
{
	if (!will_restart(ret)) {
		call->ret = ret;
		/* A namespace file is of one type, whatever was asked for; all else
		 * is of those asked for.
		 */
		call->mask = call->want_mask ? call->want_mask : kinds_of(call->flags);
		call->holder = ret < 0 ? 0 : (__u64)holder;
		send_call();
	}
	call_end();
}

/* The entry of a call that makes what flags ask for. */
static __always_inline int create_enter(enum call_via via, __u64 flags)
{
	if (flags & CLONE_NEW_ALL)
		call_begin(via, flags & CLONE_NEW_ALL);
	return 0;
}

/* --- unshare(2) --- */

static __always_inline int unshare_enter(__u64 flags)
{
	if (flags & UNSHARE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return create_enter(VIA_UNSHARE, flags);
}

static __always_inline int unshare_exit(long ret)
{
	struct call *call = call_get();

	if (call && call->via == VIA_UNSHARE)
		call_returned(call, ret, (void *)bpf_get_current_task());
	return 0;
}

/* ksys_unshare(): the whole of unshare(2), whichever the calling convention. */
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

/* --- clone(2), clone3(2) --- */

#define THREAD_SIZE 16384

/* clone and clone3 meet in kernel_clone(), whose arguments do not tell them
 * apart; the number of the system call does.
 */
static __always_inline enum call_via clone_via(void)
{
	struct pt_regs *regs;
	long nr;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	} else {
		/* task_pt_regs(): at the end of the stack. After 5.15, where the
		 * helper came, some x86 kernels keep 16 bytes for FRED above it.
		 */
		struct task_struct *task = (void *)bpf_get_current_task();

		regs = BPF_CORE_READ(task, stack) + THREAD_SIZE - sizeof(struct pt_regs);
	}
#if defined(__TARGET_ARCH_x86)
	nr = BPF_PROBE_READ(regs, orig_ax);
	nr &= ~0x40000000; /* __X32_SYSCALL_BIT */
#else
	nr = BPF_PROBE_READ(regs, syscallno);
#endif
	return nr == 435 ? VIA_CLONE3 : VIA_CLONE; /* __NR_clone3, on every architecture */
}

static __always_inline int clone_exit(struct task_struct *child, long ret)
{
	struct call *call = call_get();

	if (call && is_clone(call))
		call_returned(call, ret, child);
	return 0;
}

/* What copy_process() returned: the child or an ERR_PTR(). */
static __always_inline int clone_returned(long child)
{
	struct task_struct *task = IS_ERR(child) ? NULL : (void *)child;

	return clone_exit(task, task ? 0 : child);
}

/* A pointer that the verifier knows the type of, as a number: it allows no
 * arithmetic on the former, and an ERR_PTR() is a number.
 */
static __always_inline long as_number(const void *ptr)
{
	const void *spilled = ptr;
	long n = 0;

	bpf_probe_read_kernel(&n, sizeof(n), &spilled);
	return n;
}

/* The CLONE_NEW* of what copy_process() is asked for. */
static __always_inline __u64 clone_flags(struct kernel_clone_args *args)
{
	__u64 flags = BPF_CORE_READ(args, flags);

	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return flags & CLONE_NEW_ALL;
}

static __always_inline int clone_whole(__u64 flags, long child)
{
	call_begin(clone_via(), flags);
	return clone_returned(child);
}

/* copy_process(): everything that can fail in a clone, and the child as it will
 * be when it first runs, pid included; it returns before the child is woken, so
 * the creation precedes whatever the child does. It is on the path of every
 * fork: without a CLONE_NEW* flag nothing is done here. The flags and the
 * namespaces of the caller are as they were at the entry, since copy_process()
 * changes only the child's.
 */
SEC("fexit/copy_process")
int BPF_PROG(fexit_clone, struct pid *pid, int trace, int node, struct kernel_clone_args *args,
	     struct task_struct *child)
{
	__u64 flags = clone_flags(args);

	if (!flags)
		return 0;
	return clone_whole(flags, as_number(child));
}

SEC("kprobe/copy_process")
int BPF_KPROBE(kprobe_clone, struct pid *pid, int trace, int node, struct kernel_clone_args *args)
{
	__u64 flags = clone_flags(args);

	return flags ? create_enter(clone_via(), flags) : 0;
}

SEC("kretprobe/copy_process")
int BPF_KRETPROBE(kretprobe_clone, struct task_struct *child)
{
	return clone_returned((long)child);
}

/* The low byte of clone's flags is the signal for the parent, which shares a
 * bit with CLONE_NEWTIME; clone3 has a member of its own for it.
 */
SEC("tracepoint/syscalls/sys_enter_clone")
int tp_clone_enter(struct trace_event_raw_sys_enter *ctx)
{
	return create_enter(VIA_CLONE, (__u32)ctx->args[0] & ~CSIGNAL);
}

SEC("tracepoint/syscalls/sys_enter_clone3")
int tp_clone3_enter(struct trace_event_raw_sys_enter *ctx)
{
	__u64 flags = 0; /* the first member of struct clone_args */

	bpf_probe_read_user(&flags, sizeof(flags), (void *)ctx->args[0]);
	if (flags & CLONE_EMPTY_MNTNS)
		flags |= CLONE_NEWNS;
	return create_enter(VIA_CLONE3, flags);
}

/* kernel_clone(), after copy_process() and before the child is woken. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(tp_fork, struct task_struct *parent, struct task_struct *child)
{
	return clone_exit(child, 0);
}

/* --- setns(2) --- */

static __always_inline void want_ns(struct call *call, enum ns_kind kind, void *ns)
{
	describe_ns(&call->want[kind], kind, ns);
	call->want_mask |= 1 << kind;
}

/* Which kind an open namespace file is of. From 6.18 the kernel's CLONE_NEW* of
 * it stands in the namespace itself, before that in its operations.
 */
static __always_inline __u32 ns_common_flag(struct ns_common *ns)
{
	struct ns_common___618 *new = (void *)ns;
	struct ns_common___510 *old = (void *)ns;

	if (bpf_core_field_exists(new->ns_type))
		return BPF_CORE_READ(new, ns_type);
	return BPF_CORE_READ(old, ops, type);
}

#define WANT_COMMON(call, flag, type, kind)                                                        \
	if (flag == flag_of_##kind)                                                                \
	want_ns(call, kind, (void *)ns - bpf_core_field_offset(struct type, ns))
#define flag_of_NS_UTS	  CLONE_NEWUTS
#define flag_of_NS_IPC	  CLONE_NEWIPC
#define flag_of_NS_MNT	  CLONE_NEWNS
#define flag_of_NS_PID	  CLONE_NEWPID
#define flag_of_NS_NET	  CLONE_NEWNET
#define flag_of_NS_TIME	  CLONE_NEWTIME
#define flag_of_NS_CGROUP CLONE_NEWCGROUP
#define flag_of_NS_USER	  CLONE_NEWUSER

static __always_inline void want_nsfs(struct call *call, struct inode *inode)
{
	struct ns_common *ns = BPF_CORE_READ(inode, i_private);
	__u32 flag = ns_common_flag(ns);

	WANT_COMMON(call, flag, uts_namespace, NS_UTS);
	WANT_COMMON(call, flag, ipc_namespace, NS_IPC);
	WANT_COMMON(call, flag, mnt_namespace, NS_MNT);
	WANT_COMMON(call, flag, pid_namespace, NS_PID);
	WANT_COMMON(call, flag, net, NS_NET);
	WANT_COMMON(call, flag, time_namespace, NS_TIME);
	WANT_COMMON(call, flag, cgroup_namespace, NS_CGROUP);
	WANT_COMMON(call, flag, user_namespace, NS_USER);
}

/* The namespaces that setns would take from a pidfd: those of the process, for
 * pid and time the ones that it is in itself (validate_nsset()).
 */
static __always_inline void want_pidfd(struct call *call, struct pid *pid)
{
	struct hlist_node *node = BPF_CORE_READ(pid, tasks[0].first);
	__u32 mask = kinds_of(call->flags);
	struct task_struct *task;

	if (!node) /* the process is gone: ESRCH */
		return;
	task = (void *)node - bpf_core_field_offset(struct task_struct, pid_links);
#pragma unroll
	for (int i = 0; i < NS_KINDS; i++) {
		if (!(mask & (1 << i)))
			continue;
		if (i == NS_PID)
			want_ns(call, i, active_pid_ns(task));
		else if (i == NS_TIME)
			want_ns(call, i, BPF_CORE_READ(task, nsproxy, time_ns));
		else
			want_ns(call, i, task_ns(task, i));
	}
}

/* What the current task has open as fd, NULL for nothing. */
static __always_inline struct file *current_file(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **slot = BPF_CORE_READ(fdt, fd), *file = NULL;

	if ((__u32)fd < BPF_CORE_READ(fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), slot + (__u32)fd);
	return file;
}

static __noinline int setns_enter(int fd, __u64 flags)
{
	struct call *call = call_begin(VIA_SETNS, flags);
	struct file *file = current_file(fd);
	struct inode *inode;
	__u64 magic;

	if (!call || !file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (magic == NSFS_MAGIC)
		want_nsfs(call, inode);
	else if (magic == PID_FS_MAGIC) /* 6.9 */
		want_pidfd(call, BPF_CORE_READ(inode, i_private));
	else if (magic == ANON_INODE_FS_MAGIC) {
		char name[8] = {};

		bpf_probe_read_kernel_str(name, sizeof(name),
					  BPF_CORE_READ(file, f_path.dentry, d_name.name));
		if (__builtin_memcmp(name, "[pidfd]", 8) == 0)
			want_pidfd(call, BPF_CORE_READ(file, private_data));
	}
	return 0;
}

static __always_inline int setns_exit(long ret)
{
	struct call *call = call_get();

	if (call && call->via == VIA_SETNS)
		call_returned(call, ret, (void *)bpf_get_current_task());
	return 0;
}

/* The system call itself: what lies between it and each type's *ns_install() is
 * inlined, and a bad descriptor never gets that far.
 */
#if defined(__TARGET_ARCH_x86)
#define SYS(call)  "__x64_sys_" #call
#define ARG1(regs) BPF_PROBE_READ(regs, di)
#define ARG2(regs) BPF_PROBE_READ(regs, si)
#define ARG3(regs) BPF_PROBE_READ(regs, dx)
#else
#define SYS(call)  "__arm64_sys_" #call
#define ARG1(regs) BPF_PROBE_READ(regs, regs[0])
#define ARG2(regs) BPF_PROBE_READ(regs, regs[1])
#define ARG3(regs) BPF_PROBE_READ(regs, regs[2])
#endif

SEC("fentry/" SYS(setns))
int BPF_PROG(fentry_setns, struct pt_regs *regs)
{
	return setns_enter(ARG1(regs), (__u32)ARG2(regs));
}

SEC("fexit/" SYS(setns))
int BPF_PROG(fexit_setns, struct pt_regs *regs, long ret)
{
	return setns_exit(ret);
}

SEC("kprobe/" SYS(setns))
int BPF_KPROBE(kprobe_setns, struct pt_regs *regs)
{
	return setns_enter(ARG1(regs), (__u32)ARG2(regs));
}

SEC("kretprobe/" SYS(setns))
int BPF_KRETPROBE(kretprobe_setns, long ret)
{
	return setns_exit(ret);
}

#if defined(__TARGET_ARCH_x86)
/* The same for 32-bit programs. */
SEC("fentry/__ia32_sys_setns")
int BPF_PROG(fentry_setns32, struct pt_regs *regs)
{
	return setns_enter(BPF_PROBE_READ(regs, bx), (__u32)BPF_PROBE_READ(regs, cx));
}

SEC("fexit/__ia32_sys_setns")
int BPF_PROG(fexit_setns32, struct pt_regs *regs, long ret)
{
	return setns_exit(ret);
}

/* Its end is kretprobe_setns too. */
SEC("kprobe/__ia32_sys_setns")
int BPF_KPROBE(kprobe_setns32, struct pt_regs *regs)
{
	return setns_enter(BPF_PROBE_READ(regs, bx), (__u32)BPF_PROBE_READ(regs, cx));
}
#endif

SEC("tracepoint/syscalls/sys_enter_setns")
int tp_setns_enter(struct trace_event_raw_sys_enter *ctx)
{
	return setns_enter(ctx->args[0], (__u32)ctx->args[1]);
}

/* --- mount namespaces made around a tree of mounts --- */

/* include/uapi/linux/mount.h: OPEN_TREE_NAMESPACE (7.0), FSMOUNT_NAMESPACE (7.1). */
#define MOUNT_NAMESPACE (1 << 1)

/* open_tree(2) and fsmount(2) make a mount namespace that nobody is in, and return a
 * descriptor of it: copy_mnt_ns() has no part in that.
 */
static __always_inline int tree_enter(enum call_via via, __u64 flags)
{
	if (flags & MOUNT_NAMESPACE)
		call_begin(via, CLONE_NEWNS);
	return 0;
}

static __noinline int tree_exit(long ret)
{
	struct call *call = call_get();
	struct inode *inode;

	if (!call || (call->via != VIA_OPEN_TREE && call->via != VIA_FSMOUNT))
		return 0;
	if (ret >= 0) {
		inode = BPF_CORE_READ(current_file(ret), f_inode);
		if (inode && BPF_CORE_READ(inode, i_sb, s_magic) == NSFS_MAGIC)
			want_nsfs(call, inode);
		if (!(call->want_mask & (1 << NS_MNT))) {
			/* Another thread closed it between. */
			count_missed(REC_NS_CREATE, 1);
			call_end();
			return 0;
		}
	}
	call_returned(call, ret, NULL);
	return 0;
}

SEC("fentry/" SYS(open_tree))
int BPF_PROG(fentry_open_tree, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3(regs));
}

SEC("fexit/" SYS(open_tree))
int BPF_PROG(fexit_open_tree, struct pt_regs *regs, long ret)
{
	return tree_exit(ret);
}

SEC("fentry/" SYS(fsmount))
int BPF_PROG(fentry_fsmount, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2(regs));
}

SEC("fexit/" SYS(fsmount))
int BPF_PROG(fexit_fsmount, struct pt_regs *regs, long ret)
{
	return tree_exit(ret);
}

SEC("kprobe/" SYS(open_tree))
int BPF_KPROBE(kprobe_open_tree, struct pt_regs *regs)
{
	return tree_enter(VIA_OPEN_TREE, ARG3(regs));
}

SEC("kretprobe/" SYS(open_tree))
int BPF_KRETPROBE(kretprobe_open_tree, long ret)
{
	return tree_exit(ret);
}

SEC("kprobe/" SYS(fsmount))
int BPF_KPROBE(kprobe_fsmount, struct pt_regs *regs)
{
	return tree_enter(VIA_FSMOUNT, ARG2(regs));
}

SEC("kretprobe/" SYS(fsmount))
int BPF_KRETPROBE(kretprobe_fsmount, long ret)
{
	return tree_exit(ret);
}

SEC("tracepoint/syscalls/sys_enter_open_tree")
int tp_open_tree_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tree_enter(VIA_OPEN_TREE, ctx->args[2]);
}

SEC("tracepoint/syscalls/sys_enter_fsmount")
int tp_fsmount_enter(struct trace_event_raw_sys_enter *ctx)
{
	return tree_enter(VIA_FSMOUNT, ctx->args[1]);
}

/* --- time namespaces entered by execve(2) --- */

/* A process that made a time namespace for its children enters it itself with the next
 * program that it executes (exec_task_namespaces(), 6.3).
 *
 * begin_new_exec() in fs/exec.c of 6.12 runs in this order: the tracepoint
 * sched_prepare_exec; bprm->point_of_no_return, from which on an error kills the process
 * (bprm_execve()); de_thread(), which kills all other threads and gives the caller the
 * thread id of their leader; exec_task_namespaces(). The binary format's own work follows,
 * and then the tracepoint sched_process_exec.
 *
 * So an exec either gets from here to tp_exec_done() or its process dies, and task_exit()
 * frees the entry. The thread id can change between the two, hence the map of its own by
 * process id: cred_guard_mutex lets one thread of a process execute at a time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* processes inside such a call at one time */
	__type(key, __u32);	   /* tgid */
	__type(value, __u32);	   /* the time namespace that the process leaves */
} execs SEC(".maps");

static __always_inline int exec_enter(void)
{
	struct task_struct *task = current_task();
	__u32 tgid, from;

	if (stopping || GET(task, nsproxy, time_ns) == GET(task, nsproxy, time_ns_for_children))
		return 0;
	tgid = GET(task, tgid);
	from = GET(task, nsproxy, time_ns, ns.inum);
	if (bpf_map_update_elem(&execs, &tgid, &from, BPF_NOEXIST)) {
		/* The map is full, or tp_exec_done() did not run for the last exec, which
		 * succeeded, for the process is alive.
		 */
		count_missed(REC_NS_ENTER, 1);
		bpf_map_update_elem(&execs, &tgid, &from, BPF_EXIST);
	}
	return 0;
}

SEC("fentry/exec_task_namespaces")
int BPF_PROG(fentry_exec)
{
	return exec_enter();
}

SEC("kprobe/exec_task_namespaces")
int BPF_KPROBE(kprobe_exec)
{
	return exec_enter();
}

SEC("tp_btf/sched_prepare_exec")
int tp_exec_enter(void *ctx)
{
	return exec_enter();
}

/* exec_binprm(): the program is there with its arguments. */
SEC("tp_btf/sched_process_exec")
int tp_exec_done(void *ctx)
{
	struct task_struct *task = current_task();
	__u32 tgid = GET(task, tgid), *entry = bpf_map_lookup_elem(&execs, &tgid), from;
	struct call *call;

	if (!entry)
		return 0;
	from = *entry;
	bpf_map_delete_elem(&execs, &tgid);
	call = call_make(VIA_EXECVE, CLONE_NEWTIME);
	if (!call)
		return 0;
	call->ns[NS_TIME] = from;
	call->from_time = from;
	call_returned(call, 0, (void *)bpf_get_current_task());
	return 0;
}

/* --- the ends of these calls, by their tracepoints --- */

/* include/uapi/asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl */
#if defined(__TARGET_ARCH_x86)
#define NR_clone   56
#define NR_unshare 272
#define NR_setns   308
#else
#define NR_clone   220
#define NR_unshare 97
#define NR_setns   268
#endif
#define NR_clone3    435
#define NR_open_tree 428
#define NR_fsmount   432

static __always_inline enum call_via via_of(int nr)
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
	case NR_fsmount:
		return VIA_FSMOUNT;
	default:
		return VIA_NONE;
	}
}

/* One program for all, attached to each: most of nstrace's start is the verifier
 * going through what sends a call.
 */
SEC("tracepoint/syscalls/sys_exit_unshare")
int tp_call_exit(struct syscall_trace_exit *ctx)
{
	struct call *call = call_get();
	long ret = ctx->ret;

	if (!call || call->via != via_of(ctx->nr))
		return 0;
	if (call->via == VIA_OPEN_TREE || call->via == VIA_FSMOUNT)
		return tree_exit(ret);
	if (is_clone(call) && ret >= 0) {
		/* Only failures are left for the exit: see tp_fork, which missed this. */
		count_missed(REC_NS_CREATE, count_bits(kinds_of(call->flags)));
		call_end();
		return 0;
	}
	call_returned(call, ret, (void *)bpf_get_current_task());
	return 0;
}

/* --- the end of a namespace --- */

static __always_inline int send_destroy(__u32 inum, __u64 uid, enum ns_kind kind)
{
	struct destroy_record r = {};

	r.head.time = bpf_ktime_get_boot_ns();
	r.head.kind = REC_NS_DESTROY;
	r.head.size = sizeof(r);
	r.inum = inum;
	r.uid = uid;
	r.ns_kind = kind;
	send(REC_NS_DESTROY, 1, &r, sizeof(r));
	return 0;
}

static __always_inline enum ns_kind kind_of_flag(__u32 flag)
{
	switch (flag) {
	case CLONE_NEWUTS:
		return NS_UTS;
	case CLONE_NEWIPC:
		return NS_IPC;
	case CLONE_NEWNS:
		return NS_MNT;
	case CLONE_NEWPID:
		return NS_PID;
	case CLONE_NEWNET:
		return NS_NET;
	case CLONE_NEWTIME:
		return NS_TIME;
	case CLONE_NEWCGROUP:
		return NS_CGROUP;
	case CLONE_NEWUSER:
		return NS_USER;
	default:
		return NS_KINDS;
	}
}

/* __ns_common_free(), 6.18: every type ends here, mostly in a kernel worker. The
 * id shares memory with the RCU head in some of these kernels and is read while
 * it is still the id.
 */
static __always_inline int ns_common_free(struct ns_common *ns)
{
	struct ns_common___618 *c = (void *)ns;

	return send_destroy(BPF_CORE_READ(ns, inum), BPF_CORE_READ(c, ns_id),
			    kind_of_flag(BPF_CORE_READ(c, ns_type)));
}

SEC("fentry/__ns_common_free")
int BPF_PROG(fentry_ns_free, struct ns_common *ns)
{
	return ns_common_free(ns);
}

SEC("kprobe/__ns_common_free")
int BPF_KPROBE(kprobe_ns_free, struct ns_common *ns)
{
	return ns_common_free(ns);
}

/* proc_free_inum(), up to 6.17: every type ends here too, known by its inode
 * number alone. Some error paths of creation come here as well: user space knows
 * which numbers are alive.
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

/* Tracepoint backend: no tracepoint says that a namespace ended, so the end of a
 * task that was in others than the host's makes user space look.
 */
SEC("tp_btf/sched_process_exit")
int tp_exit(void *ctx)
{
	struct task_struct *task = current_task();
	struct nsproxy *p = GET(task, nsproxy);
	struct head h = {};
	__u32 ns[NS_KINDS], own = 0;

	/* On the way of every exit: most tasks have the very set of the host's. */
	if ((__u64)p == host_nsproxy && GET(task, thread_pid, level) == 0 &&
	    (__u64)GET(task, cred, user_ns) == host_user)
		return 0;
	/* A task that shares nothing with the host or has no namespaces any more
	 * differs too.
	 */
	current_ns_ids(ns);
	for (int i = 0; i < NS_KINDS; i++)
		own |= ns[i] ^ host_ns[i];
	/* It can hold one that only its children were to get. */
	own |= GET(p, pid_ns_for_children, ns.inum) ^ host_ns[NS_PID];
	own |= GET(p, time_ns_for_children, ns.inum) ^ host_ns[NS_TIME];
	if (!own)
		return 0;
	h.time = bpf_ktime_get_boot_ns();
	h.kind = REC_TASK_EXIT;
	h.size = sizeof(h);
	submit(&h, sizeof(h));
	return 0;
}

#endif
