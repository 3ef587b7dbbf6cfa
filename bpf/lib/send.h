/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Sends records. */
#ifndef __NSTRACE_SEND_H__
#define __NSTRACE_SEND_H__

#include "share.h"

/* Sends size bytes, which stand for n events, and counts them. */
static __always_inline long send_record(enum record_kind kind, __u32 n, void *rec, __u64 size)
{
	struct counters *c;
	long err;

	if (ring_nearly_full())
		share_use(size, kind, n);
	err = ring_output(rec, size);
	if (err) {
		count_lost(kind, n);
		return err;
	}
	c = counters_get();
	if (c)
		counter_add(&c->seen[kind], n);
	return 0;
}

#endif
