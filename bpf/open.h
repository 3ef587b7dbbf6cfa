/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Writes to parameters that fail before any code of the parameter runs: a task that may not write
 * mostly fails to open the file.
 *
 * The kernel checks three things, in this order:
 *
 *	do_open() in fs/namei.c   if the open truncates: whether the mount is writable
 *	may_open()                whether the file system is writable, and its permissions
 *	do_dentry_open()          if the open does not truncate: whether the mount is writable
 */
#ifndef __NSTRACE_OPEN_H__
#define __NSTRACE_OPEN_H__

#include "send_write.h"

#define PROC_SUPER_MAGIC 0x9fa0 /* include/uapi/linux/magic.h */
#define MNT_READONLY	 0x40	/* include/linux/mount.h */
#define MAY_WRITE	 0x02	/* include/linux/fs.h */
#define MAY_OPEN	 0x20
#define S_IFMT		 0170000
#define S_IFREG		 0100000
#define EACCES		 13
#define EPERM		 1
#define EROFS		 30

/* Reports that a task could not open the file of a parameter for writing. */
static __noinline int send_refused_open(struct inode *inode, int err)
{
	struct proc_inode *pi = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	__u32 tid = current_tid();
	struct write_slot *slot;
	struct write *w;

	if (stopping)
		return 0;
	slot = write_slot_get(tid);
	if (!slot)
		return 0;
	w = &slot->w;
	/* These need BPF_CORE_READ(): put_param() hashes the values. After a plain load they would
	 * be pointers, which the verifier does not allow to be hashed.
	 */
	w->header = BPF_CORE_READ(pi, sysctl);
	w->table = BPF_CORE_READ(pi, sysctl_entry);
	if (w->header && w->table) { /* not another file of procfs */
		read_table(w);
		w->data = NULL; /* the task did not reach the memory */
		w->buf = NULL;
		w->buf_len = 0;
		w->flags = 0;
		w->write_id = 0;
		w->old_len = w->new_len = w->raw_len = 0;
		w->maxlen = 0;
		send_write(slot->number, err, true, VIA_OPEN);
	} else {
		slot->owner = 0;
	}
	return 0;
}

/* The end of proc_sys_permission(). By this time the walk of may_open() is at the file.
 * do_dentry_open() checks the mount only later, but its answer is known here already. access(2)
 * calls without MAY_OPEN.
 */
static __always_inline int permission_exit(struct inode *inode, int mask, int ret)
{
	struct nameidata *walk;

	if (!(mask & MAY_OPEN) || !(mask & MAY_WRITE))
		return 0;
	if (ret == 0) {
		walk = READ_CURRENT(current_task(), nameidata);
		if (!walk || READ(walk, path.dentry, d_inode) != inode ||
		    !(READ(walk, path.mnt, mnt_flags) & MNT_READONLY))
			return 0;
		ret = -EROFS;
	} else if (ret != -EACCES && ret != -EPERM) {
		return 0; /* -ECHILD: the kernel will ask again */
	}
	return send_refused_open(inode, ret);
}

SEC("fexit/proc_sys_permission")
int BPF_PROG(fexit_permission, void *mount, struct inode *inode, int mask, int ret)
{
	return permission_exit(inode, mask, ret);
}

/* Up to 5.11. */
SEC("fexit/proc_sys_permission")
int BPF_PROG(fexit_permission_510, struct inode *inode, int mask, int ret)
{
	return permission_exit(inode, mask, ret);
}

/* The inode whose permission the kernel checks, for an open that writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WRITES);
	__type(key, __u32); /* tid */
	__type(value, __u64);
} open_checks SEC(".maps");

static __always_inline int permission_enter(struct inode *inode, int mask)
{
	__u32 tid = current_tid();
	__u64 addr = (__u64)inode;

	if (!(mask & MAY_OPEN) || !(mask & MAY_WRITE))
		return 0;
	if (bpf_map_update_elem(&open_checks, &tid, &addr, BPF_ANY))
		count_missed(REC_SYSCTL_WRITE, 1);
	return 0;
}

SEC("kprobe/proc_sys_permission")
int BPF_KPROBE(kprobe_permission, void *mount, struct inode *inode, int mask)
{
	return permission_enter(inode, mask);
}

/* Up to 5.11. */
SEC("kprobe/proc_sys_permission")
int BPF_KPROBE(kprobe_permission_510, struct inode *inode, int mask)
{
	return permission_enter(inode, mask);
}

SEC("kretprobe/proc_sys_permission")
int BPF_KRETPROBE(kretprobe_permission, int ret)
{
	__u32 tid = current_tid();
	__u64 *addr = bpf_map_lookup_elem(&open_checks, &tid);
	struct inode *inode;

	if (!addr)
		return 0;
	inode = (struct inode *)*addr;
	bpf_map_delete_elem(&open_checks, &tid);
	return permission_exit(inode, MAY_OPEN | MAY_WRITE, ret);
}

/* Reports an open that failed because the file system or its mount is read-only. The walk is at the
 * file then. The two hooks below have many callers, hence the first line.
 */
static __always_inline int erofs_exit(int ret)
{
	struct nameidata *walk;
	struct inode *inode;

	if (ret != -EROFS)
		return 0;
	walk = READ_CURRENT(current_task(), nameidata);
	if (!walk)
		return 0;
	inode = READ(walk, path.dentry, d_inode);
	if (!inode || READ(inode, i_sb, s_magic) != PROC_SUPER_MAGIC ||
	    (READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	return send_refused_open(inode, ret);
}

/* mnt_want_write(): with O_TRUNC do_open() in fs/namei.c checks the mount first, and never asks the
 * file system. With O_CREAT the kernel calls it earlier for the directory; the walk is then at the
 * directory, and the error has no effect if the file exists. In other callers there is no walk.
 */
SEC("fexit/mnt_want_write")
int BPF_PROG(fexit_want_write, struct vfsmount *mnt, int ret)
{
	return erofs_exit(ret);
}

SEC("kretprobe/mnt_want_write")
int BPF_KRETPROBE(kretprobe_want_write, int ret)
{
	return erofs_exit(ret);
}

/* may_open(): sb_permission() in fs/namei.c refuses writes to a read-only superblock before it asks
 * the file system. That is procfs mounted with -o ro, but not a read-only bind mount of it.
 */
SEC("fexit/may_open")
int BPF_PROG(fexit_may_open, void *mount, void *path, int mask, int flag, int ret)
{
	return erofs_exit(ret);
}

/* Up to 5.11. */
SEC("fexit/may_open")
int BPF_PROG(fexit_may_open_510, void *path, int mask, int flag, int ret)
{
	return erofs_exit(ret);
}

SEC("kretprobe/may_open")
int BPF_KRETPROBE(kretprobe_may_open, int ret)
{
	return erofs_exit(ret);
}

/* Frees the state of a task that ends. */
static __always_inline void free_open_check(const __u32 *tid)
{
	if (bpf_map_lookup_elem(
		    &open_checks,
		    tid)) /* most opens were about to be allowed, so this counts none as missed */
		bpf_map_delete_elem(&open_checks, tid);
}

#endif
