/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The path of a file, as a part of a record. */
#ifndef __NSTRACE_PATH_H__
#define __NSTRACE_PATH_H__

#include "scratch.h"

/* Appends one component of a path, or crosses one mount. Returns 1 if there is another step. */
__noinline int path_step(__u32 slot, bool first)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct dentry *dentry, *parent;
	struct vfsmount *vfsmnt;

	if (!s)
		return 0;
	dentry = s->walk.at;
	vfsmnt = s->walk.vfsmnt;
	if (vfsmnt && dentry == BPF_CORE_READ(vfsmnt, mnt_root)) {
		struct mount *mnt = (void *)vfsmnt - bpf_core_field_offset(struct mount, mnt);
		struct mount *up = BPF_CORE_READ(mnt, mnt_parent);

		if (up != mnt) {
			s->walk.at = BPF_CORE_READ(mnt, mnt_mountpoint);
			s->walk.vfsmnt = (void *)up + bpf_core_field_offset(struct mount, mnt);
			return 1;
		}
		if (!first) {
			s->walk.reached_top = 1;
			return 0;
		}
		/* The file itself is the root of a mount that is attached nowhere: runC mounts its
		 * own program in that way. The path is then that in the file system.
		 */
		s->walk.vfsmnt = NULL;
	}
	if (READ_ONCE(s->end) > s->walk.limit)
		return 0;
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent != dentry || first) /* a memfd has one name and no parent */
		put_name(s, BPF_CORE_READ(dentry, d_name.name));
	s->walk.at = parent;
	s->walk.reached_top = parent == dentry;
	return parent != dentry;
}

/* Appends the components of a path, leaf first, up to the root of its mount namespace. That is what
 * d_absolute_path() gives. bpf_d_path() gives the same, but the kernel allows it in only a few
 * functions.
 */
static __noinline void put_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmnt)
{
	struct head *h = (struct head *)s->buf;
	__u32 slot = walk_begin(s, dentry);

	s->walk.vfsmnt = vfsmnt;
	for (int i = 0; i < PATH_PARTS; i++) {
		if (!path_step(slot, i == 0))
			break;
	}
	if (!READ_ONCE(s->walk.reached_top))
		h->flags |= F_PATH_CUT;
}

#endif
