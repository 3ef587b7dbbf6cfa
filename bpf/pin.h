/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bind mounts of namespace files, which keep namespaces alive without a process.
 *
 * There are three ways to one: mount(2) with MS_BIND or MS_MOVE, and move_mount(2) on
 * what open_tree(2) has cloned. What is mounted is known once the kernel has resolved
 * it, and where, in the end. Each call that can be one has its state in pin_calls from
 * its entry to its end; where it turns out to be about anything but a namespace's
 * file, that is forgotten.
 *
 * Copies that the kernel makes of such mounts, for peers of the one below (propagation),
 * a new mount namespace or a recursive bind mount, are nobody's call and not told of.
 */
#ifndef __NSTRACE_PIN_H__
#define __NSTRACE_PIN_H__

/* include/uapi/linux/mount.h */
#define MS_REMOUNT		32
#define MS_BIND			4096
#define MS_MOVE			8192
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004

/* Where a mount is: on this place of this mount. */
struct mount_place {
	__u64 mnt; /* struct vfsmount, 0: nowhere or not known */
	__u64 dentry;
};

/* A call that is under way, from its entry to its end. */
struct pin_call {
	struct ns_change ns;	/* kind NS_KINDS: nothing that was mounted is a namespace, so far */
	struct mount_place at;	/* where it is to be, or was */
	struct mount_place old; /* where one that is moved was */
	__u64 inode;		/* the namespace's file */
	__u64 mnt;		/* struct mount: what is moved or unmounted, 0: is made */
	__u64 source;		/* struct path that kern_path() fills */
	__u64 name;		/* the path that the caller gave, in its memory; 0: not kept */
	__s64 ret;
	__u32 via;  /* enum call_via */
	__u32 kind; /* enum record_kind */
	__u32 move; /* mount(2): MS_MOVE */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* tasks inside such a call at one time */
	__type(key, __u32);	   /* tid */
	__type(value, struct pin_call);
} pin_calls SEC(".maps");

/* The pins that were told of and are there, by the number of their mounts, which is
 * used again once the mount has been freed. Those from before are put in by user space.
 * Where there is no room for one, only an end that nobody made is not told of.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32); /* mnt_id */
	__type(value, __u8);
} pinned SEC(".maps");

static const struct pin_call no_pin_call;

static __always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

static __always_inline bool on_nsfs(struct dentry *dentry)
{
	return BPF_CORE_READ(dentry, d_inode, i_sb, s_magic) == NSFS_MAGIC;
}

#define DESCRIBE_COMMON(c, flag, type, kind)                                                       \
	if (flag == flag_of_##kind)                                                                \
	describe_ns(c, kind, (void *)ns - bpf_core_field_offset(struct type, ns))

/* The namespace that a file of nsfs is. */
static __noinline void describe_nsfs(struct ns_change *c, struct inode *inode)
{
	struct ns_common *ns = BPF_CORE_READ(inode, i_private);
	__u32 flag;

	if (!c || !ns)
		return;
	flag = ns_common_flag(ns);
	DESCRIBE_COMMON(c, flag, uts_namespace, NS_UTS);
	DESCRIBE_COMMON(c, flag, ipc_namespace, NS_IPC);
	DESCRIBE_COMMON(c, flag, mnt_namespace, NS_MNT);
	DESCRIBE_COMMON(c, flag, pid_namespace, NS_PID);
	DESCRIBE_COMMON(c, flag, net, NS_NET);
	DESCRIBE_COMMON(c, flag, time_namespace, NS_TIME);
	DESCRIBE_COMMON(c, flag, cgroup_namespace, NS_CGROUP);
	DESCRIBE_COMMON(c, flag, user_namespace, NS_USER);
}

static __always_inline struct pin_call *pin_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&pin_calls, &tid);
}

static __always_inline void pin_forget(void)
{
	__u32 tid = current_tid();

	bpf_map_delete_elem(&pin_calls, &tid);
}

static __always_inline struct pin_call *pin_begin(enum call_via via, enum record_kind kind)
{
	__u32 tid = current_tid();
	struct pin_call *call;

	if (stopping)
		return NULL;
	call = bpf_map_lookup_elem(&pin_calls, &tid);
	if (call && call->ns.kind != NS_KINDS) /* the end of the last one was missed */
		count_missed(READ_ONCE(call->kind) % REC_SLOTS, 1);
	if (bpf_map_update_elem(&pin_calls, &tid, &no_pin_call, BPF_ANY)) {
		count_missed(kind, 1);
		return NULL;
	}
	call = bpf_map_lookup_elem(&pin_calls, &tid);
	if (!call)
		return NULL;
	call->via = via;
	call->kind = kind;
	call->ns.kind = NS_KINDS;
	return call;
}

/* What is mounted, moved or unmounted is dentry, a namespace's file. */
static __always_inline void pin_source(struct pin_call *call, struct dentry *dentry)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);

	call->inode = (__u64)inode;
	describe_nsfs(&call->ns, inode);
}

/* Where mnt is, if it is anywhere. */
static __always_inline void find_place(struct mount_place *p, struct mount *mnt)
{
	struct mount *on = BPF_CORE_READ(mnt, mnt_parent);

	if (on == mnt)
		return;
	p->mnt = (__u64)on + bpf_core_field_offset(struct mount, mnt);
	p->dentry = (__u64)BPF_CORE_READ(mnt, mnt_mountpoint);
}

#define LAST_CHILDREN 8

/* The mount of inode at p. It was made a moment ago, so it is one of the last in the
 * list of the mounts on the same one, unless others made that many meanwhile.
 */
static __always_inline struct mount *mounted_at(struct mount_place *p, __u64 inode)
{
	struct mount *on = mount_of((void *)p->mnt), *mnt;
	struct list_head *first = (void *)on + bpf_core_field_offset(struct mount, mnt_mounts);
	struct list_head *at = BPF_CORE_READ(on, mnt_mounts.prev);

	for (int i = 0; i < LAST_CHILDREN; i++) {
		if (!at || at == first)
			break;
		mnt = (void *)at - bpf_core_field_offset(struct mount, mnt_child);
		if ((__u64)BPF_CORE_READ(mnt, mnt_mountpoint) == p->dentry &&
		    (__u64)BPF_CORE_READ(mnt, mnt.mnt_root, d_inode) == inode)
			return mnt;
		at = BPF_CORE_READ(at, prev);
	}
	return NULL;
}

/* Sends what the task's call did, of the kind that it says, at its place. Global as
 * send_call() is.
 */
__noinline int send_pin(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pin_call *call = pin_get();
	struct caller caller = {};
	struct pin_record *r;
	struct scratch *s;
	struct mount *mnt;
	__u64 owner = (__u64)task, now, start;
	__u32 kind, id = 0;
	__u8 one = 1;

	if (!call)
		return 0;
	kind = READ_ONCE(call->kind) % REC_SLOTS;
	if (!wanted(task, READ_ONCE(call->ret) < 0) ||
	    !(ns_mask & (1 << (READ_ONCE(call->ns.kind) & 31)))) {
		count_filtered(kind, 1);
		return 0;
	}
	mnt = (void *)call->mnt;
	if (mnt)
		id = BPF_CORE_READ(mnt, mnt_id);
	if (call->ret >= 0 && id) {
		if (kind == REC_NS_PIN)
			bpf_map_update_elem(&pinned, &id, &one, BPF_ANY);
		else
			bpf_map_delete_elem(&pinned, &id);
	}
	now = bpf_ktime_get_boot_ns();
	current_ns_ids(caller.ns);
	if (put_caller(&caller, now)) {
		count_lost(kind, 1);
		return 0;
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(kind, 1);
		return 0;
	}
	r = (struct pin_record *)s->buf;
	r->head.time = now;
	r->head.kind = kind;
	r->head.flags = F_RET_KNOWN;
	r->head.ret = call->ret < 0 ? call->ret : 0;
	r->head.via = call->via;
	r->head.nchanges = 0;
	r->head.nancestors = 0;
	r->head.pad = 0;
	r->caller = caller;
	r->ns = call->ns;
	r->mnt_id = id;
	r->pad = 0;
	start = s->end;
	if (call->at.mnt) {
		put_path(s, (void *)call->at.dentry, (void *)call->at.mnt);
	} else if (call->name) {
		long n = bpf_probe_read_user_str(scratch_end(s), PATH_KEEP, (void *)call->name);

		if (n > 0)
			s->end += n;
		r->head.flags |= F_PATH_NAMED;
	}
	r->path_len = s->end - start;
	send_scratch(s, owner, kind, 1);
	return 0;
}

/* The end of whichever call it was. */
static __always_inline int pin_exit(long ret)
{
	struct pin_call *call = pin_get();
	struct mount *mnt;

	if (!call)
		return 0;
	if (call->ns.kind == NS_KINDS || will_restart(ret)) {
		pin_forget();
		return 0;
	}
	call->ret = ret;
	if (ret >= 0 && call->kind == REC_NS_PIN) {
		if (call->old.mnt) { /* it is not where it was any more */
			struct mount_place to = call->at;

			call->at = call->old;
			call->kind = REC_NS_UNPIN;
			send_pin();
			call->kind = REC_NS_PIN;
			call->at = to;
		}
		mnt = (void *)call->mnt;
		if (mnt)
			find_place(&call->at, mnt);
		else
			call->mnt = (__u64)mounted_at(&call->at, call->inode);
	}
	send_pin();
	pin_forget();
	return 0;
}

/* --- mount(2) --- */

/* path_mount(), from 5.9 on the whole of mount(2) but for the copies from user space
 * and the way to the place. In the order in which it looks at the flags.
 */
static __always_inline int mount_enter(struct path *path, __u64 flags)
{
	struct pin_call *call;

	if (flags & MS_REMOUNT || !(flags & (MS_BIND | MS_MOVE)))
		return 0;
	call = pin_begin(VIA_MOUNT, REC_NS_PIN);
	if (!call)
		return 0;
	call->at.mnt = (__u64)BPF_CORE_READ(path, mnt);
	call->at.dentry = (__u64)BPF_CORE_READ(path, dentry);
	call->move = !(flags & MS_BIND);
	return 0;
}

/* kern_path() has resolved something: in do_loopback() and do_move_mount_old() what is
 * to be mounted, before anything is decided about it. It is called elsewhere too, but
 * seldom for a namespace.
 */
static __always_inline int source_resolved(struct pin_call *call, struct path *path, long ret)
{
	struct dentry *dentry;
	struct mount *mnt;

	if (!call || ret || call->via != VIA_MOUNT || call->ns.kind != NS_KINDS)
		return 0;
	dentry = BPF_CORE_READ(path, dentry);
	if (!on_nsfs(dentry))
		return 0;
	pin_source(call, dentry);
	if (call->move) {
		mnt = mount_of(BPF_CORE_READ(path, mnt));
		call->mnt = (__u64)mnt;
		find_place(&call->old, mnt);
	}
	return 0;
}

SEC("fentry/path_mount")
int BPF_PROG(fentry_mount, const char *dev_name, struct path *path, const char *type,
	     unsigned long flags)
{
	return mount_enter(path, flags);
}

SEC("fexit/path_mount")
int BPF_PROG(fexit_mount, const char *dev_name, struct path *path, const char *type,
	     unsigned long flags, void *data, int ret)
{
	return pin_exit(ret);
}

SEC("fexit/kern_path")
int BPF_PROG(fexit_kern_path, const char *name, unsigned int flags, struct path *path, int ret)
{
	return source_resolved(pin_get(), path, ret);
}

SEC("kprobe/path_mount")
int BPF_KPROBE(kprobe_mount, const char *dev_name, struct path *path, const char *type,
	       unsigned long flags)
{
	return mount_enter(path, flags);
}

/* The end of the other calls too. */
SEC("kretprobe/path_mount")
int BPF_KRETPROBE(kretprobe_pin, int ret)
{
	return pin_exit(ret);
}

SEC("kprobe/kern_path")
int BPF_KPROBE(kprobe_kern_path, const char *name, unsigned int flags, struct path *path)
{
	struct pin_call *call = pin_get();

	if (call)
		call->source = (__u64)path;
	return 0;
}

SEC("kretprobe/kern_path")
int BPF_KRETPROBE(kretprobe_kern_path, int ret)
{
	struct pin_call *call = pin_get();

	return call && call->source ? source_resolved(call, (void *)call->source, ret) : 0;
}

/* Where kern_path() is the name of two functions (some builds of 5.10), which no kprobe
 * can be put on: what it is called for, as far as others have it for an argument.
 * nd_jump_link() follows /proc/PID/ns, __do_loopback() binds and do_move_mount() moves.
 * What fails between is not seen: a mount namespace's mount bound where it would make a
 * loop.
 */
SEC("kprobe/__do_loopback")
int BPF_KPROBE(kprobe_source, struct path *path)
{
	return source_resolved(pin_get(), path, 0);
}

/* --- move_mount(2) --- */

/* With a descriptor of open_tree(2) what is to be mounted is known at once. */
static __always_inline int move_enter(int fd, const char *name, __u32 flags)
{
	struct pin_call *call = pin_begin(VIA_MOVE_MOUNT, REC_NS_PIN);
	struct file *file;
	struct dentry *dentry;

	if (!call)
		return 0;
	call->name = (__u64)name;
	if (!(flags & MOVE_MOUNT_F_EMPTY_PATH))
		return 0;
	file = current_file(fd);
	if (!file)
		return 0;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	if (!on_nsfs(dentry))
		return 0;
	pin_source(call, dentry);
	call->mnt = (__u64)mount_of(BPF_CORE_READ(file, f_path.mnt));
	return 0;
}

/* security_move_mount(), before the mount is moved: source and place are resolved. What
 * does it, do_move_mount(), lacks an argument where the compiler had its way.
 */
static __always_inline int move_resolved(const struct path *from, const struct path *to)
{
	struct pin_call *call = pin_get();
	struct dentry *dentry;
	struct mount *mnt;

	if (!call || call->via != VIA_MOVE_MOUNT)
		return 0;
	dentry = BPF_CORE_READ(from, dentry);
	if (!on_nsfs(dentry)) {
		call->ns.kind = NS_KINDS;
		return 0;
	}
	pin_source(call, dentry);
	mnt = mount_of(BPF_CORE_READ(from, mnt));
	call->mnt = (__u64)mnt;
	find_place(&call->old, mnt);
	call->at.mnt = (__u64)BPF_CORE_READ(to, mnt);
	call->at.dentry = (__u64)BPF_CORE_READ(to, dentry);
	return 0;
}

/* From the system call on: a place that is not there is found out in it. */
#if defined(__TARGET_ARCH_x86)
#define MOVE_MOUNT	 "__x64_sys_move_mount"
#define MOVE_FD(regs)	 ((int)BPF_PROBE_READ(regs, di))
#define MOVE_NAME(regs)	 ((const char *)BPF_PROBE_READ(regs, r10))
#define MOVE_FLAGS(regs) ((__u32)BPF_PROBE_READ(regs, r8))
#else
#define MOVE_MOUNT	 "__arm64_sys_move_mount"
#define MOVE_FD(regs)	 ((int)BPF_PROBE_READ(regs, regs[0]))
#define MOVE_NAME(regs)	 ((const char *)BPF_PROBE_READ(regs, regs[3]))
#define MOVE_FLAGS(regs) ((__u32)BPF_PROBE_READ(regs, regs[4]))
#endif

SEC("fentry/" MOVE_MOUNT)
int BPF_PROG(fentry_move_mount, struct pt_regs *regs)
{
	return move_enter(MOVE_FD(regs), MOVE_NAME(regs), MOVE_FLAGS(regs));
}

SEC("fexit/" MOVE_MOUNT)
int BPF_PROG(fexit_move_mount, struct pt_regs *regs, long ret)
{
	return pin_exit(ret);
}

SEC("kprobe/" MOVE_MOUNT)
int BPF_KPROBE(kprobe_move_mount, struct pt_regs *regs)
{
	return move_enter(MOVE_FD(regs), MOVE_NAME(regs), MOVE_FLAGS(regs));
}

#if defined(__TARGET_ARCH_x86)
/* The same for 32-bit programs. */
static __always_inline int move_enter32(struct pt_regs *regs)
{
	return move_enter(BPF_PROBE_READ(regs, bx), (void *)(__u64)(__u32)BPF_PROBE_READ(regs, si),
			  (__u32)BPF_PROBE_READ(regs, di));
}

SEC("fentry/__ia32_sys_move_mount")
int BPF_PROG(fentry_move_mount32, struct pt_regs *regs)
{
	return move_enter32(regs);
}

SEC("fexit/__ia32_sys_move_mount")
int BPF_PROG(fexit_move_mount32, struct pt_regs *regs, long ret)
{
	return pin_exit(ret);
}

SEC("kprobe/__ia32_sys_move_mount")
int BPF_KPROBE(kprobe_move_mount32, struct pt_regs *regs)
{
	return move_enter32(regs);
}
#endif

SEC("fentry/security_move_mount")
int BPF_PROG(fentry_move_resolved, const struct path *from, const struct path *to)
{
	return move_resolved(from, to);
}

SEC("kprobe/security_move_mount")
int BPF_KPROBE(kprobe_move_resolved, const struct path *from, const struct path *to)
{
	return move_resolved(from, to);
}

/* --- umount(2) --- */

/* path_umount(), from 5.9 on the whole of umount(2) but for the way to the place. */
static __always_inline int umount_enter(struct path *path)
{
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct vfsmount *vfsmnt = BPF_CORE_READ(path, mnt);
	struct pin_call *call;

	/* A namespace's file that nothing is mounted by has the whole of nsfs for its mount. */
	if (!on_nsfs(dentry) || dentry != BPF_CORE_READ(vfsmnt, mnt_root))
		return 0;
	call = pin_begin(VIA_UMOUNT, REC_NS_UNPIN);
	if (!call)
		return 0;
	pin_source(call, dentry);
	call->mnt = (__u64)mount_of(vfsmnt);
	find_place(&call->at, mount_of(vfsmnt));
	return 0;
}

SEC("fentry/path_umount")
int BPF_PROG(fentry_umount, struct path *path, int flags)
{
	return umount_enter(path);
}

SEC("fexit/path_umount")
int BPF_PROG(fexit_umount, struct path *path, int flags, int ret)
{
	return pin_exit(ret);
}

SEC("kprobe/path_umount")
int BPF_KPROBE(kprobe_umount, struct path *path)
{
	return umount_enter(path);
}

/* --- the end of a mount --- */

/* cleanup_mnt(): every mount ends here, before what it holds is let go, in the task that
 * gave it up last or in a kernel worker. One that was unmounted is not in pinned any
 * more; one that is has gone with its mount namespace, or with the mount that it was on.
 */
static __always_inline int mount_freed(struct mount *mnt)
{
	struct pin_end_record r = {};
	struct ns_common *ns;
	__u32 id;

	if (READ(mnt, mnt.mnt_sb, s_magic) != NSFS_MAGIC)
		return 0;
	id = BPF_CORE_READ(mnt, mnt_id);
	if (bpf_map_delete_elem(&pinned, &id))
		return 0;
	r.head.time = bpf_ktime_get_boot_ns();
	r.head.kind = REC_PIN_END;
	r.head.size = sizeof(r);
	r.mnt_id = id;
	ns = BPF_CORE_READ(mnt, mnt.mnt_root, d_inode, i_private);
	r.inum = BPF_CORE_READ(ns, inum);
	send(REC_PIN_END, 1, &r, sizeof(r));
	return 0;
}

SEC("fentry/cleanup_mnt")
int BPF_PROG(fentry_mount_freed, struct mount *mnt)
{
	return mount_freed(mnt);
}

SEC("kprobe/cleanup_mnt")
int BPF_KPROBE(kprobe_mount_freed, struct mount *mnt)
{
	return mount_freed(mnt);
}

#endif
