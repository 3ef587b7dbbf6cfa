/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Shares of the maps of calls under way.
 *
 * A user can make calls that do not end: a write of a page that their own FUSE server never gives,
 * or thousands of unshare(2) that wait for each other. So a user can fill a map of calls under way,
 * since a user can have more threads than any map has entries. Therefore calls that can wait count
 * against the share of their user and of their cgroup (share.h).
 */
#ifndef __NSTRACE_CALLS_H__
#define __NSTRACE_CALLS_H__

#include "share.h"

/* Entries of a map of calls that can wait. The shares are those of all such maps together. */
#define MAX_CALLS    4096
#define USER_CALLS   (MAX_CALLS / 4)
#define CGROUP_CALLS (MAX_CALLS / 2)

#define NOT_HELD (~0ull)

static __always_inline void add_calls(struct share_owner owner, __s64 n)
{
	struct share *user = share_at(owner.user), *all = share_at(owner.cgroup);

	if (user)
		counter_add((__u64 *)&user->calls, n);
	if (all)
		counter_add((__u64 *)&all->calls, n);
}

/* Takes the share of a call that begins, and returns its owner as a number, for hold_share().
 * Global, see nstrace.c.
 */
__noinline __u64 hold_call(__u32 kind, __u32 n)
{
	struct share_owner owner = share_owner(kind);
	struct share *user = share_at(owner.user), *all = share_at(owner.cgroup);

	kind %= REC_SLOTS;
	if ((!user || share_calls(user) < USER_CALLS) &&
	    (!all || share_calls(all) < CGROUP_CALLS)) {
		add_calls(owner, 1);
		return owner.user | owner.cgroup << 16;
	}
	if (n) {
		share_refuse(owner, kind, n);
		count_lost(kind, n);
	}
	return NOT_HELD;
}

/* Takes the share of a call that begins. Returns 0, or -1 if none is left; it then counts n events
 * of that kind as lost. n is 0 for a call that the program at its end reports nevertheless.
 */
static __always_inline int hold_share(struct share_owner *owner, enum record_kind kind, __u32 n)
{
	__u64 held = hold_call(kind, n);

	if (held == NOT_HELD)
		return -1;
	owner->user = held;
	owner->cgroup = held >> 16;
	return 0;
}

/* Gives the share of a call back. */
static __always_inline void release_share(struct share_owner *owner)
{
	add_calls(*owner, -1);
	owner->user = owner->cgroup = 0;
}

#endif
