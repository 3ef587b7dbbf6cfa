/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Builds and sends the record of a write. */
#ifndef __NSTRACE_SEND_WRITE_H__
#define __NSTRACE_SEND_WRITE_H__

#include "fold.h"
#include "param.h"
#include "write.h"
#include "lib/filter.h"
#include "lib/proof.h"
#include "lib/who.h"

#define UNSEEN_SLOTS 256

/* When the filter last dropped a write, by a hash of the parameter's name. User space does not see
 * what such a write changed.
 */
__u64 unseen_writes[UNSEEN_SLOTS];

/* Notes that the filter drops a write. attachment.unseenWrite() in tracer/ has the same hash. */
static __noinline int note_unseen(const char *procname)
{
	char name[16] = {};
	__u32 h = 0;

	bpf_probe_read_kernel_str(name, sizeof(name), procname);
	for (int i = 0; i < sizeof(name); i++)
		h = h * 31 + (__u8)name[i];
	unseen_writes[h % UNSEEN_SLOTS] = bpf_ktime_get_boot_ns();
	return 0;
}

/* Appends one value of a write. long_offset is the offset of the value in struct long_values. */
static __always_inline __u64 put_value(struct scratch *s, const char *value, __u64 len,
				       __u64 long_offset)
{
	struct long_values *lv;

	if (len >= SHORT_VALUE) {
		lv = long_values_get();
		if (!lv)
			return 0;
		value = (const char *)lv + long_offset;
	}
	return put_bytes(s, value, len);
}

/* Builds and sends the record of a write. known tells whether ret is the result of the write. */
static __always_inline int send_write_record(struct write *w, long ret, bool known,
					     enum call_via via)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 owner = (__u64)task, now, size, param = 0;
	struct caller caller = {};
	struct ns_change ns = {};
	struct sysctl_record *r;
	struct scratch *s;

	if (send_proof(REC_SYSCTL_WRITE, via))
		return 0;
	if (!matches_filter(task, known && ret < 0)) {
		count_filtered(REC_SYSCTL_WRITE, 1);
		note_unseen(w->procname);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	current_ns_inums(caller.ns);
	if (put_caller(&caller, now, REC_SYSCTL_WRITE, 1) || put_param(w, &ns, &param, now)) {
		count_lost(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	r = (struct sysctl_record *)s->buf;
	set_head(&r->head, now, REC_SYSCTL_WRITE, w->flags | (known ? F_RET_KNOWN : 0),
		 ret < 0 ? ret : 0, via);
	r->caller = caller;
	r->write_id = w->write_id;
	r->pos = via == VIA_WRITE ? w->pos : 0;
	r->ns = ns;
	r->param = param;
	r->old_len = put_value(s, w->old, w->old_len, offsetof(struct long_values, old));
	if (r->head.flags & F_NEW_KNOWN) {
		r->new_len = put_value(s, w->new, w->new_len, offsetof(struct long_values, new));
	} else {
		/* The write failed before the cgroup/sysctl program ran, and the buffer of the
		 * caller still exists.
		 */
		size = w->buf_len;
		if (size > VALUE_LEN) {
			size = VALUE_LEN;
			r->head.flags |= F_NEW_CUT;
		}
		r->new_len = put_user(s, w->buf, size);
		if (w->buf && r->new_len == size)
			r->head.flags |= F_NEW_KNOWN;
	}
	r->raw_len = known ? put_bytes(s, w->raw, w->raw_len) : 0;

	r->after_len = 0;
	r->maxlen = size = w->maxlen;
	if (size > VALUE_LEN) {
		size = VALUE_LEN;
		r->head.flags |= F_AFTER_CUT;
	}
	if (known && w->data) {
		r->after_len = put_bytes(s, w->data, size);
		if (r->after_len)
			r->head.flags |= F_AFTER_KNOWN;
	}
	/* A write that changed other parameters too, or a change that follows from one, needs its
	 * own record.
	 */
	if (w->write_id)
		send_scratch(s, owner, REC_SYSCTL_WRITE, 1);
	else
		send_or_fold(s, owner, REC_SYSCTL_WRITE, 1);
	return 0;
}

/* Sends a write. number is that of a slot plus 1, which is then released; 0 stands for the write
 * that the task is in. Returns 1 if there was one. Global, see nstrace.c.
 */
__noinline int send_write(__u32 number, long ret, bool known, enum call_via via)
{
	struct write_slot *slot = NULL;
	struct write *w;

	if (number) {
		number--;
		slot = bpf_map_lookup_elem(&write_slots, &number);
		if (!slot || write_slot_stolen(slot, current_tid()))
			return 0;
		w = &slot->w;
	} else {
		w = write_get();
		if (!w)
			return 0;
	}
	send_write_record(w, ret, known, via);
	if (slot)
		slot->owner = 0;
	return 1;
}

#endif
