/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Scratch memory, in which programs build records. */
#ifndef __NSTRACE_SCRATCH_H__
#define __NSTRACE_SCRATCH_H__

#include "read.h"
#include "send.h"

/* Records are built in this memory, since they are larger than the 512 bytes of stack and
 * bpf_ringbuf_reserve() takes only constant sizes. Each CPU has several slots: a program in softirq
 * context can interrupt another one, and on a preemptible kernel the program of another task can.
 */
#define SCRATCH_SLOTS 4
#define SCRATCH_MASK  8191 /* above the longest record, which has about 7 KiB */
#define PART_MAX      VALUE_BUF

/* The state of a walk up from one object to the next: a path, a cgroup, the parents of a task. Each
 * step is a call of a global function with the number of the slot, so the verifier checks it only
 * once and not once for each step. What a step leaves for the next one is in memory, since the
 * verifier assumes any value there.
 */
struct walk {
	void *at;
	struct vfsmount *vfsmnt; /* of a path */
	__u64 limit;		 /* a step appends nothing once the record is longer than this */
	__u64 reached_top;
	__u64 last_name; /* where the last name begins */
	/* These four are for limit_step(). */
	void *ucounts;
	__u64 uid;
	__u64 kinds;
	__u64 level;
	__u64 left; /* of a table: entries to come */
};

struct scratch {
	__u64 owner;
	__u64 end; /* of the record in buf */
	__u64 slot;
	struct walk walk;
	__u8 buf[SCRATCH_MASK + 1 + PART_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* Takes a slot for a record whose fixed part has that size. owner is any number that tells this
 * task from others. Returns NULL if all slots of the CPU are in use.
 */
static __always_inline struct scratch *scratch_get(__u64 owner, __u64 size)
{
	for (__u32 i = 0; i < SCRATCH_SLOTS; i++) {
		__u32 slot = i;
		struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);

		if (!s)
			break;
		if (READ_ONCE(s->owner) == 0) {
			s->owner = owner;
			s->end = size;
			s->slot = i;
			return s;
		}
	}
	return NULL;
}

/* Fills the head of a record. send_scratch() adds the size. */
static __always_inline void set_head(struct head *h, __u64 time, enum record_kind kind, __u16 flags,
				     __s32 ret, enum call_via via)
{
	h->time = time;
	h->kind = kind;
	h->flags = flags;
	h->ret = ret;
	h->via = via;
	h->nchanges = 0;
	h->nancestors = 0;
	h->repeatable = 0;
}

/* Begins a walk at an object. Returns the number of the slot, for the steps. */
static __always_inline __u32 walk_begin(struct scratch *s, void *at)
{
	s->walk.at = at;
	s->walk.vfsmnt = NULL;
	s->walk.limit = s->end + PATH_LEN - NAME_LEN;
	s->walk.reached_top = 0;
	return s->slot;
}

/* The end of the record so far. The position is in memory and not in a register for the sake of the
 * verifier: it then assumes any number below the mask. With a register it would check all that
 * follows once for each possible length of what came before.
 */
static __always_inline void *scratch_end(struct scratch *s)
{
	return &s->buf[READ_ONCE(s->end) & SCRATCH_MASK];
}

/* Completes the record in s. Returns its size, or 0 if the record is spoilt. */
static __always_inline __u64 scratch_close(struct scratch *s, __u64 owner)
{
	struct head *h = (struct head *)s->buf;
	__u64 size = READ_ONCE(s->end);

	if (READ_ONCE(s->owner) != owner) {
		/* Another task took the slot between the two instructions of scratch_get() that
		 * check the owner and set it. The content is a mixture, and the slot belongs to the
		 * other task now.
		 */
		return 0;
	}
	if (size > SCRATCH_MASK) { /* the parts wrapped around, see scratch_end() */
		s->owner = 0;
		return 0;
	}
	h->size = size;
	return size;
}

/* Sends the record in s, which stands for n events, and releases s. */
static __always_inline long send_scratch(struct scratch *s, __u64 owner, enum record_kind kind,
					 __u32 n)
{
	__u64 size = scratch_close(s, owner);
	long err;

	if (!size) {
		count_missed(kind, n);
		return -1;
	}
	err = send_record(kind, n, s->buf, size);
	s->owner = 0;
	return err;
}

/* Each put_*() function appends to the record. Those that return a number return how many bytes
 * they appended.
 */

/* Appends a NUL-terminated kernel string of at most NAME_LEN. */
static __always_inline __u64 put_name(struct scratch *s, const void *name)
{
	long n = bpf_probe_read_kernel_str(scratch_end(s), NAME_LEN, name);

	if (n < 0)
		n = 0;
	s->end += n;
	return n;
}

/* Appends size bytes of kernel memory, or nothing if it cannot read them. */
static __always_inline __u64 put_bytes(struct scratch *s, const void *src, __u64 size)
{
	if (size > PART_MAX)
		size = PART_MAX;
	if (!size || bpf_probe_read_kernel(scratch_end(s), size, src))
		return 0;
	s->end += size;
	return size;
}

/* Appends size bytes of the memory of the current process, or nothing if they are not in memory. */
static __always_inline __u64 put_user(struct scratch *s, const void *src, __u64 size)
{
	if (size > PART_MAX)
		size = PART_MAX;
	if (!size || bpf_probe_read_user(scratch_end(s), size, src))
		return 0;
	s->end += size;
	return size;
}

#endif
