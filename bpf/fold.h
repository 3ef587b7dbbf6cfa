/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Storms of equal events. While user space cannot keep up, programs count the repeats of a write or
 * of a failed call instead of sending them.
 */
#ifndef __NSTRACE_FOLD_H__
#define __NSTRACE_FOLD_H__

#include "lib/scratch.h"

/* A slot that counts the repeats of one record. */
struct fold {
	__u64 key;   /* a keyed hash of all that the record says, except its time; 0: never used */
	__u64 count; /* never decreases */
	__u64 reported; /* how many of them user space has reported; only user space writes it */
	__u64 first;	/* of the repeats that are not reported yet; CLOCK_BOOTTIME, ns */
	__u64 last;
};

/* The end of a record whose head has repeatable set: where its repeats are counted from now on. */
struct fold_ref {
	__u64 key;
	__u32 slot; /* in folds */
	__u32 pad;
};

EXPORT_TYPE(struct, fold);
EXPORT_TYPE(struct, fold_ref);

#define FOLDS	     1024	   /* a power of two */
#define FOLD_PROBES  8		   /* slots that a key can be in */
#define FOLD_IDLE_NS 1000000000ull /* longer than a program can be preempted */
#define FOLD_WORDS   64		   /* words of a record after its head that the key covers */

/* FOLDS slots for each CPU, one CPU after the other. User space maps the array, as it does with
 * counts, and reads it without a system call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FOLDS); /* user space multiplies it by the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct fold);
} folds SEC(".maps");

/* The key of the record in s; 0 if the record is too long. */
static __always_inline __u64 fold_key(struct scratch *s)
{
	struct head *h = (struct head *)s->buf;
	__u64 key = hash_mix(hash_seed, (__u64)(__u32)h->ret << 32 | h->via << 16 | h->flags);
	__u64 *words = (__u64 *)&s->buf[sizeof(*h)];
	__u64 size = READ_ONCE(s->end) - sizeof(*h);

	if (size > FOLD_WORDS * sizeof(*words))
		return 0;
	key = hash_mix(key, h->kind);
	*(__u64 *)scratch_end(s) = 0; /* clears the rest of the last word */
	for (int i = 0; i < FOLD_WORDS; i++) {
		if (i * sizeof(*words) >= size)
			break;
		key = hash_mix(key, words[i]);
	}
	return key | 1;
}

#define FOLD_NONE 0
#define FOLDED	  -1

/* Counts the record in that slot of scratch, which stands for n events, if it repeats one that was
 * sent, and returns FOLDED. Otherwise the record claims a free slot of folds, which then counts its
 * repeats. Returns the number of that slot plus 1, or FOLD_NONE. Global, see nstrace.c.
 *
 * A slot is free if user space has reported all that it counted, and nobody has counted in it for
 * FOLD_IDLE_NS. Each CPU has its own slots. Only a task that preempts this one can use them in
 * between, and it does so for less than FOLD_IDLE_NS.
 */
__noinline int fold_record(__u32 number, __u32 n)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &number);
	__u32 first = bpf_get_smp_processor_id() * FOLDS, slot, free = 0;
	struct fold_ref *ref;
	struct counters *c;
	struct fold *f;
	struct head *h;
	__u64 key, now;

	if (!s)
		return FOLD_NONE;
	h = (struct head *)s->buf;
	key = fold_key(s);
	now = h->time;
	if (!key)
		return FOLD_NONE;
	for (int i = 0; i < FOLD_PROBES; i++) {
		slot = first + ((key + i) & (FOLDS - 1));
		f = bpf_map_lookup_elem(&folds, &slot);
		if (!f)
			return FOLD_NONE;
		if (READ_ONCE(f->key) == key) {
			if (READ_ONCE(f->count) == READ_ONCE(f->reported))
				f->first = now;
			f->last = now;
			counter_add(&f->count, 1);
			c = counters_get();
			if (c) {
				counter_add(&c->seen[h->kind % REC_SLOTS], n);
				counter_add(&c->folded, n);
				if (h->kind == REC_SYSCTL_WRITE)
					c->last_unsent = now;
			}
			return FOLDED;
		}
		if (!free && READ_ONCE(f->count) == READ_ONCE(f->reported) &&
		    (!f->key || (__s64)(now - f->last) > (__s64)FOLD_IDLE_NS))
			free = slot + 1;
	}
	if (!free)
		return FOLD_NONE;
	slot = free - 1;
	f = bpf_map_lookup_elem(&folds, &slot);
	if (!f)
		return FOLD_NONE;
	f->key = key;
	f->last = now;
	ref = scratch_end(s);
	ref->key = key;
	ref->slot = slot;
	ref->pad = 0;
	s->end += sizeof(*ref);
	h->repeatable = 1;
	return free;
}

/* Sends the record in s like send_scratch(). In a storm it counts a repeat instead. */
static __always_inline void send_or_fold(struct scratch *s, __u64 owner, enum record_kind kind,
					 __u32 n)
{
	int claimed = FOLD_NONE;

	if (bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > fold_above)
		claimed = fold_record(s->slot, n);
	if (claimed == FOLDED) {
		s->owner = 0;
		return;
	}
	if (send_scratch(s, owner, kind, n) && claimed > 0) {
		__u32 slot = claimed - 1;
		struct fold *f = bpf_map_lookup_elem(&folds, &slot);

		if (f)
			f->key = 0; /* user space does not know the record whose repeats the slot
				       would count */
	}
}

#endif
