/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Storms of writes. While user space cannot keep up, programs count the repeats of a write instead
 * of sending them.
 */
#ifndef __NSTRACE_FOLD_H__
#define __NSTRACE_FOLD_H__

#include "write.h"

/* A slot that counts the repeats of one write. */
struct fold {
	__u64 key;   /* a keyed hash of process, parameter and values; 0: the slot was never used */
	__u64 count; /* never decreases */
	__u64 reported; /* how many of them user space has reported; only user space writes it */
	__u64 first;	/* of the repeats that are not reported yet; CLOCK_BOOTTIME, ns */
	__u64 last;
};

EXPORT_TYPE(struct, fold);

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

/* A keyed hash of all that the record says except the time; 0 if the record is too long. */
static __always_inline __u64 write_fold_key(struct scratch *s, struct sysctl_record *r)
{
	__u64 h = hash_mix(hash_seed,
			   (__u64)(__u32)r->head.ret << 32 | r->head.via << 16 | r->head.flags);
	__u64 *words = (__u64 *)&s->buf[sizeof(struct head)];
	__u64 size = READ_ONCE(s->end) - sizeof(struct head);

	if (size > FOLD_WORDS * sizeof(*words))
		return 0;
	*(__u64 *)scratch_end(s) = 0; /* clears the rest of the last word */
	for (int i = 0; i < FOLD_WORDS; i++) {
		if (i * sizeof(*words) >= size)
			break;
		h = hash_mix(h, words[i]);
	}
	return h | 1;
}

/* Reports whether the write repeats one that was sent, and counts it in that case. Otherwise the
 * record can claim a free slot, which then counts its repeats.
 *
 * A slot is free if user space has reported all that it counted, and nobody has counted in it for
 * FOLD_IDLE_NS. Each CPU has its own slots. Only a task that preempts this one can use them in
 * between, and it does so for less than FOLD_IDLE_NS.
 */
static __always_inline bool fold_write(struct scratch *s, struct sysctl_record *r,
				       struct fold **claimed)
{
	__u64 key = write_fold_key(s, r), now = r->head.time;
	__u32 first = bpf_get_smp_processor_id() * FOLDS;
	struct counters *c;

	if (!key)
		return false;
	for (int i = 0; i < FOLD_PROBES; i++) {
		__u32 slot = first + ((key + i) & (FOLDS - 1));
		struct fold *f = bpf_map_lookup_elem(&folds, &slot);

		if (!f)
			return false;
		if (READ_ONCE(f->key) == key) {
			if (READ_ONCE(f->count) == READ_ONCE(f->reported))
				f->first = now;
			f->last = now;
			counter_add(&f->count, 1);
			c = counters_get();
			if (c) {
				counter_add(&c->seen[REC_SYSCTL_WRITE], 1);
				counter_add(&c->folded, 1);
			}
			return true;
		}
		if (!*claimed && READ_ONCE(f->count) == READ_ONCE(f->reported) &&
		    (!f->key || now - f->last > FOLD_IDLE_NS)) {
			*claimed = f;
			r->fold_slot = slot + 1;
		}
	}
	if (*claimed) {
		(*claimed)->key = r->fold_key = key;
		(*claimed)->last = now;
	}
	return false;
}

#endif
