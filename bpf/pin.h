/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bind mounts of namespace files, which keep namespaces alive without a process.
 *
 * Three calls make one: mount(2) with MS_BIND, mount(2) with MS_MOVE, and move_mount(2) on what
 * open_tree(2) has cloned. What a call mounts is known once the kernel has resolved it. Where it
 * mounts it is known at the end. Each call that can make or end a pin has its state in pin_calls
 * from its entry to its end. If the call turns out not to be about a namespace file, that state is
 * dropped.
 *
 * The kernel also copies such mounts: for mount propagation, for a new mount namespace, and in a
 * recursive bind mount. No call asks for these copies, and nstrace does not report them.
 */
#ifndef __NSTRACE_PIN_H__
#define __NSTRACE_PIN_H__

#include "fold.h"
#include "lib/filter.h"
#include "lib/nsfs.h"
#include "lib/syscall.h"
#include "lib/calls.h"
#include "lib/proof.h"
#include "lib/who.h"

/* REC_NS_PIN, REC_NS_UNPIN. The tail is the path: components, leaf first, each ended by a NUL, or
 * the text of the caller (F_PATH_AS_GIVEN).
 */
struct pin_record {
	struct head head;
	struct caller caller;
	struct ns_change ns;
	__u32 mnt_id; /* as in /proc/PID/mountinfo; 0: unknown */
	__u16 path_len;
	__u16 known; /* unpin: the mount was in pinned */
};

/* REC_PIN_END. It has no process. */
struct pin_end_record {
	struct head head;
	__u32 mnt_id;
	__u32 inum;
};

EXPORT_TYPE(struct, pin_record);
EXPORT_TYPE(struct, pin_end_record);

/* include/uapi/linux/mount.h */
#define MS_REMOUNT		32
#define MS_BIND			4096
#define MS_MOVE			8192
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004

/* The place of a mount, as a struct path. */
struct mount_path {
	__u64 mnt; /* struct vfsmount; 0: not mounted, or unknown */
	__u64 dentry;
};

/* A call under way, from its entry to its end. */
struct pin_call {
	/* kind NS_KINDS: the call has not turned out to be about a namespace. */
	struct ns_change ns;
	struct mount_path target;     /* where the mount is to be, or was */
	struct mount_path moved_from; /* where a mount that is moved was before */
	__u64 inode;		      /* of the namespace file */
	__u64 mnt;	 /* struct mount that is moved or unmounted; 0: the call makes one */
	__u64 path_arg;	 /* struct path that kern_path() fills */
	__u64 user_path; /* the path that the caller passed, in its memory; 0: not kept */
	__s64 ret;
	__u32 via;     /* enum call_via */
	__u32 kind;    /* enum record_kind */
	__u32 is_move; /* mount(2) with MS_MOVE */
	struct share_owner owner;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u32); /* tid */
	__type(value, struct pin_call);
} pin_calls SEC(".maps");

/* The pins that were reported and still exist, by the ids of their mounts. User space adds those
 * from before its start. The kernel uses an id again once it has freed the mount. A pin that finds
 * no room here is still reported, except for an end without umount(2).
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

static __always_inline struct pin_call *pin_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&pin_calls, &tid);
}

static __always_inline void pin_end(struct pin_call *call)
{
	__u32 tid = current_tid();

	release_share(&call->owner);
	bpf_map_delete_elem(&pin_calls, &tid);
}

static __always_inline struct pin_call *pin_begin(enum call_via via, enum record_kind kind)
{
	__u32 tid = current_tid();
	struct share_owner owner;
	struct pin_call *call;

	if (stopping)
		return NULL;
	call = bpf_map_lookup_elem(&pin_calls, &tid);
	if (call) { /* nobody saw the end of the last call */
		if (call->ns.kind != NS_KINDS)
			count_unended(READ_ONCE(call->kind) % REC_SLOTS, 1);
		release_share(&call->owner);
	}
	if (hold_share(&owner, kind, 1)) {
		bpf_map_delete_elem(&pin_calls, &tid);
		return NULL;
	}
	if (bpf_map_update_elem(&pin_calls, &tid, &no_pin_call, BPF_ANY)) {
		release_share(&owner);
		count_missed(kind, 1);
		return NULL;
	}
	call = bpf_map_lookup_elem(&pin_calls, &tid);
	if (!call)
		return NULL;
	call->owner = owner;
	call->via = via;
	call->kind = kind;
	call->ns.kind = NS_KINDS;
	return call;
}

/* Notes that the call is about the namespace file at dentry. */
static __always_inline void set_pinned_ns(struct pin_call *call, struct dentry *dentry)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);

	call->inode = (__u64)inode;
	describe_ns_file(&call->ns, inode);
}

/* Sets p to the place of mnt, if it is mounted. */
static __always_inline void read_mount_path(struct mount_path *p, struct mount *mnt)
{
	struct mount *on = BPF_CORE_READ(mnt, mnt_parent);

	if (on == mnt)
		return;
	p->mnt = (__u64)on + bpf_core_field_offset(struct mount, mnt);
	p->dentry = (__u64)BPF_CORE_READ(mnt, mnt_mountpoint);
}

#define LAST_CHILDREN 8

/* The mount of inode at p. It is new, so it is among the last children of the mount that it is on,
 * unless others added that many in between.
 */
static __always_inline struct mount *find_mount(struct mount_path *p, __u64 inode)
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

/* Sends what the call of the current task did, as the kind call->kind and at call->target. Global,
 * see nstrace.c.
 */
__noinline int send_pin(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pin_call *call = pin_get();
	struct caller caller = {};
	struct pin_record *r;
	struct scratch *s;
	struct mount *mnt;
	struct vfsmount *on;
	__u64 owner = (__u64)task, now, start;
	__u32 kind, id = 0;
	__u16 known = 0;
	__u8 one = 1;

	if (!call)
		return 0;
	kind = READ_ONCE(call->kind) % REC_SLOTS;
	if (send_proof(kind, call->via))
		return 0;
	if (!matches_filter(task, READ_ONCE(call->ret) < 0) ||
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
			known = !bpf_map_delete_elem(&pinned, &id);
	}
	now = bpf_ktime_get_boot_ns();
	current_ns_inums(caller.ns);
	if (put_caller(&caller, now, kind, 1)) {
		count_lost(kind, 1);
		return 0;
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(kind, 1);
		return 0;
	}
	r = (struct pin_record *)s->buf;
	set_head(&r->head, now, kind, F_RET_KNOWN, call->ret < 0 ? call->ret : 0, call->via);
	r->caller = caller;
	r->ns = call->ns;
	on = (void *)call->target.mnt;
	if (on)
		r->ns.from = BPF_CORE_READ(mount_of(on), mnt_ns, ns.inum);
	r->mnt_id = id;
	r->known = known;
	start = s->end;
	if (call->target.mnt) {
		put_path(s, (void *)call->target.dentry, (void *)call->target.mnt);
	} else if (call->user_path) {
		long n = bpf_probe_read_user_str(scratch_end(s), PATH_LEN, (void *)call->user_path);

		if (n > 0)
			s->end += n;
		r->head.flags |= F_PATH_AS_GIVEN;
	}
	r->path_len = s->end - start;
	if (call->ret < 0)
		send_or_fold(s, owner, kind, 1);
	else
		send_scratch(s, owner, kind, 1);
	return 0;
}

/* The end of any of these calls. */
static __always_inline int pin_exit(long ret)
{
	struct pin_call *call = pin_get();
	struct mount *mnt;

	if (!call)
		return 0;
	if (call->ns.kind == NS_KINDS || will_restart(ret)) {
		pin_end(call);
		return 0;
	}
	call->ret = ret;
	if (ret >= 0 && call->kind == REC_NS_PIN) {
		if (call->moved_from.mnt) { /* the mount has left its old place */
			struct mount_path to = call->target;

			call->target = call->moved_from;
			call->kind = REC_NS_UNPIN;
			send_pin();
			call->kind = REC_NS_PIN;
			call->target = to;
		}
		mnt = (void *)call->mnt;
		if (mnt)
			read_mount_path(&call->target, mnt);
		else
			call->mnt = (__u64)find_mount(&call->target, call->inode);
	}
	send_pin();
	pin_end(call);
	return 0;
}

/* --- mount(2) --- */

/* path_mount(): from 5.9 on all of mount(2), except for copying the arguments from user space and
 * resolving the target. The order of these tests is that of the kernel.
 */
static __always_inline int mount_enter(struct path *path, __u64 flags)
{
	struct pin_call *call;

	if (flags & MS_REMOUNT || !(flags & (MS_BIND | MS_MOVE)))
		return 0;
	call = pin_begin(VIA_MOUNT, REC_NS_PIN);
	if (!call)
		return 0;
	call->target.mnt = (__u64)BPF_CORE_READ(path, mnt);
	call->target.dentry = (__u64)BPF_CORE_READ(path, dentry);
	call->is_move = !(flags & MS_BIND);
	return 0;
}

/* The end of kern_path(). do_loopback() and do_move_mount_old() resolve the source by it before
 * they decide anything. It has other callers, but they seldom resolve a namespace file.
 */
static __always_inline int source_resolved(struct pin_call *call, struct path *path, long ret)
{
	struct dentry *dentry;
	struct mount *mnt;

	if (!call || ret || call->via != VIA_MOUNT || call->ns.kind != NS_KINDS)
		return 0;
	dentry = BPF_CORE_READ(path, dentry);
	if (!is_ns_file(dentry))
		return 0;
	set_pinned_ns(call, dentry);
	if (call->is_move) {
		mnt = mount_of(BPF_CORE_READ(path, mnt));
		call->mnt = (__u64)mnt;
		read_mount_path(&call->moved_from, mnt);
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

/* Also the end of the other calls. */
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
		call->path_arg = (__u64)path;
	return 0;
}

SEC("kretprobe/kern_path")
int BPF_KRETPROBE(kretprobe_kern_path, int ret)
{
	struct pin_call *call = pin_get();

	return call && call->path_arg ? source_resolved(call, (void *)call->path_arg, ret) : 0;
}

/* Some builds of 5.10 have two functions named kern_path(), and then no kprobe can attach to it.
 * These take its place, as far as they have the path as an argument: nd_jump_link() follows
 * /proc/PID/ns, __do_loopback() binds and do_move_mount() moves. They do not see a call that fails
 * in between, such as one that binds a mount namespace where it would make a loop.
 */
SEC("kprobe/__do_loopback")
int BPF_KPROBE(kprobe_source, struct path *path)
{
	return source_resolved(pin_get(), path, 0);
}

/* --- move_mount(2) --- */

/* With a descriptor of open_tree(2) the source is known at the entry. */
static __always_inline int move_mount_enter(int fd, const char *name, __u32 flags)
{
	struct pin_call *call = pin_begin(VIA_MOVE_MOUNT, REC_NS_PIN);
	struct file *file;
	struct dentry *dentry;

	if (!call)
		return 0;
	call->user_path = (__u64)name;
	if (!(flags & MOVE_MOUNT_F_EMPTY_PATH))
		return 0;
	file = current_file(fd);
	if (!file)
		return 0;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	if (!is_ns_file(dentry))
		return 0;
	set_pinned_ns(call, dentry);
	call->mnt = (__u64)mount_of(BPF_CORE_READ(file, f_path.mnt));
	return 0;
}

/* security_move_mount(), which the kernel calls when it has resolved source and target, before it
 * moves the mount. Not do_move_mount(), which does the move: some compilers remove an argument of
 * it.
 */
static __always_inline int move_mount_resolved(const struct path *from, const struct path *to)
{
	struct pin_call *call = pin_get();
	struct dentry *dentry;
	struct mount *mnt;

	if (!call || call->via != VIA_MOVE_MOUNT)
		return 0;
	dentry = BPF_CORE_READ(from, dentry);
	if (!is_ns_file(dentry)) {
		call->ns.kind = NS_KINDS;
		return 0;
	}
	set_pinned_ns(call, dentry);
	mnt = mount_of(BPF_CORE_READ(from, mnt));
	call->mnt = (__u64)mnt;
	read_mount_path(&call->moved_from, mnt);
	call->target.mnt = (__u64)BPF_CORE_READ(to, mnt);
	call->target.dentry = (__u64)BPF_CORE_READ(to, dentry);
	return 0;
}

/* The system call itself, since it fails if the target does not exist. */
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
	return move_mount_enter(MOVE_FD(regs), MOVE_NAME(regs), MOVE_FLAGS(regs));
}

SEC("fexit/" MOVE_MOUNT)
int BPF_PROG(fexit_move_mount, struct pt_regs *regs, long ret)
{
	return pin_exit(ret);
}

SEC("kprobe/" MOVE_MOUNT)
int BPF_KPROBE(kprobe_move_mount, struct pt_regs *regs)
{
	return move_mount_enter(MOVE_FD(regs), MOVE_NAME(regs), MOVE_FLAGS(regs));
}

#if defined(__TARGET_ARCH_x86)
/* For 32-bit programs. */
static __always_inline int move_mount_enter32(struct pt_regs *regs)
{
	return move_mount_enter(BPF_PROBE_READ(regs, bx),
				(void *)(__u64)(__u32)BPF_PROBE_READ(regs, si),
				(__u32)BPF_PROBE_READ(regs, di));
}

SEC("fentry/__ia32_sys_move_mount")
int BPF_PROG(fentry_move_mount32, struct pt_regs *regs)
{
	return move_mount_enter32(regs);
}

SEC("fexit/__ia32_sys_move_mount")
int BPF_PROG(fexit_move_mount32, struct pt_regs *regs, long ret)
{
	return pin_exit(ret);
}

SEC("kprobe/__ia32_sys_move_mount")
int BPF_KPROBE(kprobe_move_mount32, struct pt_regs *regs)
{
	return move_mount_enter32(regs);
}
#endif

SEC("fentry/security_move_mount")
int BPF_PROG(fentry_move_resolved, const struct path *from, const struct path *to)
{
	return move_mount_resolved(from, to);
}

SEC("kprobe/security_move_mount")
int BPF_KPROBE(kprobe_move_resolved, const struct path *from, const struct path *to)
{
	return move_mount_resolved(from, to);
}

/* --- umount(2) --- */

/* path_umount(): from 5.9 on all of umount(2), except for resolving the target. */
static __always_inline int umount_enter(struct path *path)
{
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct vfsmount *vfsmnt = BPF_CORE_READ(path, mnt);
	struct pin_call *call;

	/* A namespace file that is not a bind mount belongs to the mount of all of nsfs. */
	if (!is_ns_file(dentry) || dentry != BPF_CORE_READ(vfsmnt, mnt_root))
		return 0;
	call = pin_begin(VIA_UMOUNT, REC_NS_UNPIN);
	if (!call)
		return 0;
	set_pinned_ns(call, dentry);
	call->mnt = (__u64)mount_of(vfsmnt);
	read_mount_path(&call->target, mount_of(vfsmnt));
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

/* cleanup_mnt(): every mount ends here, before it releases what it holds. The current task is the
 * last one that held the mount, or a kernel worker. A mount that was unmounted is no longer in
 * pinned. One that still is went away with its mount namespace, or with the mount that it was on.
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
	send_record(REC_PIN_END, 1, &r, sizeof(r));
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

static __always_inline void free_pin_call(const __u32 *tid)
{
	struct pin_call *call = bpf_map_lookup_elem(&pin_calls, tid);

	if (!call)
		return;
	if (call->ns.kind != NS_KINDS)
		count_unended(READ_ONCE(call->kind) % REC_SLOTS, 1);
	release_share(&call->owner);
	bpf_map_delete_elem(&pin_calls, tid);
}

#endif
