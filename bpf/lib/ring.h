/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The ring buffer and the counters. */
#ifndef __NSTRACE_RING_H__
#define __NSTRACE_RING_H__

#include "common.h"

/* User space sets this before it sleeps until there is a record. The program that sends the next
 * record clears it and wakes user space.
 */
__u32 reader_asleep;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23); /* user space sets it */
} ring SEC(".maps");

/* Each CPU has an entry of its own, so CPUs do not contend for one. User space maps the array. If
 * it read the array by bpf(2) instead, the kernel would skip kprobe and tracepoint programs on that
 * CPU during the call (bpf_disable_instrumentation()).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* user space sets it to the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct counters);
} counts SEC(".maps");

static __always_inline struct counters *counters_get(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&counts, &cpu);
}

/* Atomic, since on a preemptible kernel the program of another task can run in between. */
static __always_inline void counter_add(__u64 *counter, __u64 n)
{
	__sync_fetch_and_add(counter, n);
}

/* Counts n events that a program saw begin but could not follow to their end. */
static __always_inline void count_missed(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();

	if (c) {
		counter_add(&c->seen[kind], n);
		counter_add(&c->missed[kind], n);
		if (kind == REC_SYSCTL_WRITE)
			c->last_unsent = bpf_ktime_get_boot_ns();
	}
}

/* Counts n events that the filters keep out. */
static __always_inline void count_filtered(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();

	if (c) {
		counter_add(&c->seen[kind], n);
		counter_add(&c->filtered[kind], n);
	}
}

/* Counts n events that found no room: in the ring, or in the share of their user (share.h). */
static __always_inline void count_lost(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!c)
		return;
	counter_add(&c->seen[kind], n);
	counter_add(&c->lost[kind], n);
	if (!c->first_lost)
		c->first_lost = now;
	c->last_lost = now;
}

/* Copies size bytes into the ring, and wakes user space if it sleeps.
 *
 * The kernel's own wakeup queues an irq_work each time the reader has caught up. It costs ten times
 * as much as the record itself.
 */
static __always_inline long ring_output(void *rec, __u64 size)
{
	long err = bpf_ringbuf_output(&ring, rec, size, BPF_RB_NO_WAKEUP);
	void *nothing;

	/* bpf_ringbuf_output() publishes the record by an atomic exchange, which orders it with
	 * this load. Either this program sees that the reader is about to sleep, or the reader sees
	 * the record: it checks the ring once more after it has set reader_asleep.
	 */
	if (READ_ONCE(reader_asleep)) {
		reader_asleep = 0;
		nothing = bpf_ringbuf_reserve(&ring, 8, 0);
		if (nothing)
			bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
		else
			reader_asleep = 1;
	}
	return err;
}

/* Counts a call of n events as missed because no program saw its end: the thread has begun another
 * call, or has ended. Nothing is missed once nstrace stops, since no program then waits for the
 * ends of calls.
 *
 * The kernel counts the same: it could not run the program at the end. User space must not add
 * both.
 */
static __always_inline void count_unended(enum record_kind kind, __u32 n)
{
	struct counters *c;

	if (stopping)
		return;
	count_missed(kind, n);
	c = counters_get();
	if (c)
		counter_add(&c->unended[kind], 1);
}

#endif
