/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Writes to kernel parameters that are refused before any of the parameter's code: who
 * is not allowed to write hardly ever gets further than to open the file.
 *
 * An error has one of three places, which the kernel asks in this order: whether the
 * mount can be written to, if the open truncates (do_open() in fs/namei.c); whether the
 * file system can, and whether its permissions allow it (may_open()); whether the mount
 * can, if the open does not truncate (do_dentry_open()).
 */
#ifndef __NSTRACE_OPEN_H__
#define __NSTRACE_OPEN_H__

#define PROC_SUPER_MAGIC 0x9fa0 /* include/uapi/linux/magic.h */
#define MNT_READONLY	 0x40	/* include/linux/mount.h */
#define MAY_WRITE	 0x02	/* include/linux/fs.h */
#define MAY_OPEN	 0x20
#define S_IFMT		 0170000
#define S_IFREG		 0100000
#define EACCES		 13
#define EPERM		 1
#define EROFS		 30

/* Reports that a parameter's file could not be opened to be written. */
static __noinline int refused(struct inode *inode, int err)
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
	/* By calls: put_param() hashes them, which the verifier does not let it do with
	 * what a plain load gave, for that is a pointer.
	 */
	w->header = BPF_CORE_READ(pi, sysctl);
	w->table = BPF_CORE_READ(pi, sysctl_entry);
	if (w->header && w->table) { /* and not some other file of procfs */
		read_table(w);
		w->data = NULL; /* nothing came near it */
		w->buf = NULL;
		w->buf_len = 0;
		w->flags = 0;
		w->cause = 0;
		w->old_len = w->new_len = w->raw_len = 0;
		w->maxlen = 0;
		send_write(slot->number, err, true, VIA_OPEN);
	} else {
		slot->owner = 0;
	}
	return 0;
}

/* may_open() has the walk end at the file, asks the file system for permission, and
 * then do_dentry_open() looks whether the mount can be written to: what asks first
 * already knows what comes of it. access(2) asks without MAY_OPEN.
 */
static __always_inline int opened(struct inode *inode, int mask, int ret)
{
	struct nameidata *walk;

	if (!(mask & MAY_OPEN) || !(mask & MAY_WRITE))
		return 0;
	if (ret == 0) {
		walk = GET(current_task(), nameidata);
		if (!walk || READ(walk, path.dentry, d_inode) != inode ||
		    !(READ(walk, path.mnt, mnt_flags) & MNT_READONLY))
			return 0;
		ret = -EROFS;
	} else if (ret != -EACCES && ret != -EPERM) {
		return 0; /* -ECHILD: it will be asked again */
	}
	return refused(inode, ret);
}

SEC("fexit/proc_sys_permission")
int BPF_PROG(fexit_permission, void *mount, struct inode *inode, int mask, int ret)
{
	return opened(inode, mask, ret);
}

/* Up to 5.11. */
SEC("fexit/proc_sys_permission")
int BPF_PROG(fexit_permission_510, struct inode *inode, int mask, int ret)
{
	return opened(inode, mask, ret);
}

/* An inode of which it is asked whether it may be opened to be written. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WRITES);
	__type(key, __u32); /* tid */
	__type(value, __u64);
} asked SEC(".maps");

static __always_inline int permission_enter(struct inode *inode, int mask)
{
	__u32 tid = current_tid();
	__u64 addr = (__u64)inode;

	if (!(mask & MAY_OPEN) || !(mask & MAY_WRITE))
		return 0;
	if (bpf_map_update_elem(&asked, &tid, &addr, BPF_ANY))
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
	__u64 *addr = bpf_map_lookup_elem(&asked, &tid);
	struct inode *inode;

	if (!addr)
		return 0;
	inode = (struct inode *)*addr;
	bpf_map_delete_elem(&asked, &tid);
	return opened(inode, MAY_OPEN | MAY_WRITE, ret);
}

/* The file system, or what it is mounted by, is read-only, and the walk is where it was
 * found out. Many call the two functions below, hence the first line.
 */
static __always_inline int read_only(int ret)
{
	struct nameidata *walk;
	struct inode *inode;

	if (ret != -EROFS)
		return 0;
	walk = GET(current_task(), nameidata);
	if (!walk)
		return 0;
	inode = READ(walk, path.dentry, d_inode);
	if (!inode || READ(inode, i_sb, s_magic) != PROC_SUPER_MAGIC ||
	    (READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	return refused(inode, ret);
}

/* With O_TRUNC the mount is looked at first (do_open() in fs/namei.c), and the file
 * system never asked. With O_CREAT it is for the folder's sake, before that, and an error
 * has no effect if the file is there: the walk is at the folder then. From other
 * callers there is no walk.
 */
SEC("fexit/mnt_want_write")
int BPF_PROG(fexit_want_write, struct vfsmount *mnt, int ret)
{
	return read_only(ret);
}

SEC("kretprobe/mnt_want_write")
int BPF_KRETPROBE(kretprobe_want_write, int ret)
{
	return read_only(ret);
}

/* sb_permission() in fs/namei.c refuses what a read-only superblock has, before the file
 * system is asked: procfs mounted with -o ro, not a bind mount of it.
 */
SEC("fexit/may_open")
int BPF_PROG(fexit_may_open, void *mount, void *path, int mask, int flag, int ret)
{
	return read_only(ret);
}

/* Up to 5.11. */
SEC("fexit/may_open")
int BPF_PROG(fexit_may_open_510, void *path, int mask, int flag, int ret)
{
	return read_only(ret);
}

SEC("kretprobe/may_open")
int BPF_KRETPROBE(kretprobe_may_open, int ret)
{
	return read_only(ret);
}

#endif
