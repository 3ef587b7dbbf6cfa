/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Writes to parameters.
 *
 * proc_sys_write() is the only way from a file below /proc/sys to the handler of a parameter. Its
 * entry and its end give the parameter, its namespace, the result, and the memory before and after.
 * In between the kernel runs the cgroup/sysctl program. It adds the old value as the kernel prints
 * it, and the text that was written. If proc_sys_write() cannot be hooked, the cgroup/sysctl
 * program reports the write alone.
 */
#ifndef __NSTRACE_SYSCTL_H__
#define __NSTRACE_SYSCTL_H__

#include "cascade.h"
#include "send_write.h"
#include "lib/syscall.h"

#define E2BIG 7

/* A write, for is_retry(). */
struct attempt {
	__u64 time;
	struct ctl_table *table;
	__u64 old; /* hashes of the values */
	__u64 written;
	__u64 wchar; /* what the task had written to all files before, in bytes */
	__u32 pos;   /* in the file */
	__u32 tid;
};

/* The last write of a task. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tid */
	__type(value, struct attempt);
} attempts SEC(".maps");

/* The last write to a parameter that was reported. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct ctl_table *);
	__type(value, struct attempt);
} reported SEC(".maps");

/* Finds the buffer of the caller. */
static __noinline void read_user_buffer(struct write *w, struct iov_iter *iter)
{
	const struct iovec *iov = NULL;
	struct object it;

	if (!w)
		return;
	READ_OBJECT(it, struct iov_iter, iter);
	if (bpf_core_field_exists(iter->iter_type)) {
		u8 type = MEMBER(it, struct iov_iter, iter_type);

		if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
		    type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {
			w->buf = MEMBER(it, struct iov_iter, ubuf) +
				 MEMBER(it, struct iov_iter, iov_offset);
			w->buf_len = MEMBER(it, struct iov_iter, count);
		} else if (type == bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {
			if (bpf_core_field_exists(iter->__iov))
				iov = MEMBER(it, struct iov_iter, __iov);
			else
				iov = MEMBER(it, struct iov_iter___510, iov);
		}
	} else if ((MEMBER(it, struct iov_iter___510, type) & ~1) ==
		   bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {
		iov = MEMBER(it, struct iov_iter___510, iov);
	}
	if (iov) {
		w->buf = BPF_CORE_READ(iov, iov_base);
		w->buf_len = BPF_CORE_READ(iov, iov_len);
		if (w->buf_len < MEMBER(it, struct iov_iter, count)) /* more pieces follow */
			w->flags |= F_NEW_CUT;
	}
}

/* Returns 1 if write_begin() has to call cascade_enter(). */
static __noinline int write_enter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct inode *inode = READ(iocb, ki_filp, f_inode);
	struct proc_inode *pi = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	__u32 tid = current_tid(), size;
	struct write w = {};

	if (stopping)
		return 0;
	w.table = READ(pi, sysctl_entry);
	w.header = READ(pi, sysctl);
	read_table(&w);

	read_user_buffer(&w, iter);
	size = w.maxlen;
	if (size > RAW_OLD_LEN)
		size = RAW_OLD_LEN;
	if (w.data && size && !bpf_probe_read_kernel(w.raw, size, w.data))
		w.raw_len = size;
	write_make(tid, &w);
	return w.extra2 && has_devconf(&w);
}

/* Calls cascade_enter() for a write to the settings of a network device. write_enter() cannot do so
 * itself: the stack below it would not suffice.
 */
static __always_inline int write_begin(struct kiocb *iocb, struct iov_iter *iter)
{
	__u32 tid = current_tid();
	struct write *w;

	if (!write_enter(iocb, iter))
		return 0;
	w = write_get();
	if (!w)
		w = spare_write_get(&tid);
	if (w)
		cascade_enter((__u64)w->header, (__u64)w->data, (__u64)w->extra1, (__u64)w->extra2);
	return 0;
}

/* The end of a write that is in spare_writes. */
static __always_inline int spare_write_exit(long ret)
{
	__u32 tid = current_tid();
	struct write_slot *slot = spare_write_take(tid);
	struct write *w;
	bool with_long;

	if (!slot)
		return 0;
	w = &slot->w;
	if (w->extra2 && has_devconf(w))
		w->write_id = cascade_exit(ret >= 0);
	with_long = has_long_values(w);
	if (will_restart(ret))
		slot->owner = 0;
	else
		send_write(slot->number, ret, true, VIA_WRITE);
	if (with_long)
		bpf_map_delete_elem(&long_values, &tid);
	return 0;
}

static __always_inline int write_exit(long ret)
{
	struct write *w = write_get();

	if (!w)
		return spare_write_exit(ret);
	if (w->extra2 && has_devconf(w))
		w->write_id = cascade_exit(ret >= 0);
	/* restart_syscall(): the handler did nothing, and the kernel repeats the write. */
	if (!will_restart(ret))
		send_write(0, ret, true, VIA_WRITE);
	write_end(w);
	return 0;
}

SEC("fentry/proc_sys_write")
int BPF_PROG(fentry_write, struct kiocb *iocb, struct iov_iter *iter)
{
	return write_begin(iocb, iter);
}

SEC("fexit/proc_sys_write")
int BPF_PROG(fexit_write, struct kiocb *iocb, struct iov_iter *iter, long ret)
{
	return write_exit(ret);
}

SEC("kprobe/proc_sys_write")
int BPF_KPROBE(kprobe_write, struct kiocb *iocb, struct iov_iter *iter)
{
	return write_begin(iocb, iter);
}

SEC("kretprobe/proc_sys_write")
int BPF_KRETPROBE(kretprobe_write, long ret)
{
	return write_exit(ret);
}

/* A hash of the beginning of a value. The kernel fills the rest of the buffer with zeros. */
static __always_inline __u64 value_hash(const char *value)
{
	const __u64 *words = (const __u64 *)value;
	__u64 h = 0;

	for (int i = 0; i < SHORT_VALUE / sizeof(*words); i++)
		h = hash_mix(h, words[i]);
	return h;
}

#define RETRY_NS 2000000000ull

/* Reports whether the kernel repeats a write that has been reported already.
 *
 * This is for kernels where the result of a write is unknown: a write that the kernel restarts
 * (restart_syscall()) looks like several writes. Such a write has had no effect. So it is a retry
 * if the same task writes the same value at the same position to the same parameter within two
 * seconds, and
 *
 * - the old value is still there,
 * - the task has written nothing to any file (vfs_write() counts only writes that succeed),
 * - and no other task has written this old value, so that it is there again.
 *
 * A program that repeats a failing write that fast looks the same.
 */
static __noinline bool is_retry(struct bpf_sysctl *ctx, struct write *w)
{
	struct task_struct *task = current_task();
	struct attempt now = {
		.time = bpf_ktime_get_boot_ns(),
		.table = w->table,
		.old = value_hash(w->old),
		.written = value_hash(w->new),
		.pos = ctx->file_pos,
		.tid = current_tid(),
	};
	struct attempt *last, *other;
	bool same;

	if (bpf_core_field_exists(task->ioac.wchar)) /* CONFIG_TASK_XACCT */
		now.wchar = READ_CURRENT(task, ioac.wchar);
	last = bpf_map_lookup_elem(&attempts, &now.tid);
	same = last && last->table == now.table && last->old == now.old &&
	       last->written == now.written && last->wchar == now.wchar && last->pos == now.pos &&
	       now.time - last->time < RETRY_NS;
	if (same) {
		other = bpf_map_lookup_elem(&reported, &now.table);
		same = other && (other->tid == now.tid || other->written != now.old) &&
		       now.old != now.written; /* else there is no effect to wait for */
	}
	if (last)
		*last = now; /* no other task changes this entry */
	else
		bpf_map_update_elem(&attempts, &now.tid, &now, BPF_ANY);
	if (!same)
		bpf_map_update_elem(&reported, &now.table, &now, BPF_ANY);
	return same;
}

/* Removes the newline at the end of a short value, so that the old value and the written one can be
 * compared. Returns the length without it.
 */
static __always_inline __u16 trim_newline(char value[SHORT_VALUE], int len)
{
	__u32 last = (__u32)(len - 1) % SHORT_VALUE;

	if (len <= 0 || value[last] != '\n')
		return len;
	value[last] = 0;
	return last;
}

/* Reads what the kernel gives a cgroup/sysctl program: the old value as the handler prints it, and
 * the text that was written.
 */
static __always_inline void read_values(struct bpf_sysctl *ctx, struct write *w, __u32 tid)
{
	struct long_values *lv;
	int n;

	n = bpf_sysctl_get_current_value(ctx, w->old, sizeof(w->old));
	if (n >= 0) {
		w->old_len = trim_newline(w->old, n);
		w->flags |= F_OLD_KNOWN;
	} else if (n == -E2BIG) {
		lv = long_values_make(tid);
		if (lv) {
			n = bpf_sysctl_get_current_value(ctx, lv->old, sizeof(lv->old));
			w->old_len = n >= 0 ? n : VALUE_LEN;
		} else {
			w->old_len = SHORT_VALUE - 1;
		}
		w->flags |= F_OLD_KNOWN | (n < 0 ? F_OLD_CUT : 0);
	} else {
		w->old[0] = 0;
	}
	w->flags &= ~F_NEW_CUT;
	n = bpf_sysctl_get_new_value(ctx, w->new, sizeof(w->new));
	if (n >= 0) {
		w->new_len = trim_newline(w->new, n);
		w->flags |= F_NEW_KNOWN;
	} else if (n == -E2BIG) {
		lv = long_values_make(tid);
		if (lv) {
			n = bpf_sysctl_get_new_value(ctx, lv->new, sizeof(lv->new));
			w->new_len = n >= 0 ? n : VALUE_LEN;
		} else {
			w->new_len = SHORT_VALUE - 1;
		}
		w->flags |= F_NEW_KNOWN | (n < 0 ? F_NEW_CUT : 0);
	} else {
		w->new[0] = 0;
	}
}

/* Counts a write to kernel.ftrace_enabled while that is 0. Until it is 1 the kernel runs no program
 * that it attaches by ftrace. User space looks only now and then, and would not notice a short
 * time.
 */
static __always_inline void watch_ftrace(struct bpf_sysctl *ctx)
{
	static const union {
		char text[16];
		__u64 words[2];
	} ftrace_enabled = {"ftrace_enabled"};
	__u64 name[2] = {}, value = 0;
	struct counters *c;

	if (bpf_sysctl_get_name(ctx, (char *)name, sizeof(name), BPF_F_SYSCTL_BASE_NAME) < 0 ||
	    name[0] != ftrace_enabled.words[0] || name[1] != ftrace_enabled.words[1] ||
	    bpf_sysctl_get_current_value(ctx, (char *)&value, sizeof(value)) < 0 ||
	    (char)value != '0')
		return;
	c = counters_get();
	if (c)
		counter_add(&c->ftrace_off, 1);
}

/* Runs in the task that writes, for each read and write below /proc/sys, after the permission check
 * and before the handler. It always returns 1: another value would refuse the access.
 */
SEC("cgroup/sysctl")
int cgroup_sysctl(struct bpf_sysctl *ctx)
{
	struct bpf_sysctl_kern *kern = (void *)ctx;
	struct write_slot *slot = NULL;
	__u32 tid = current_tid();
	struct write *w;

	if (!ctx->write)
		return 1;
	if (write_hooked) {
		watch_ftrace(ctx);
		w = bpf_map_lookup_elem(&writes, &tid);
		if (!w)
			w = spare_write_get(&tid);
		if (!w) /* a program missed the entry and counted that */
			return 1;
	} else {
		if (stopping)
			return 1;
		slot = write_slot_get(tid);
		if (!slot)
			return 1;
		w = &slot->w;
		/* The real context of the program. Only a probe read reaches it. */
		w->table = READ(kern, table);
		w->header = READ(kern, head);
		read_table(w);
		w->flags = 0;
		w->write_id = 0;
		w->old_len = w->new_len = 0;
	}
	w->pos = ctx->file_pos;
	read_values(ctx, w, tid);
	if (!write_hooked) {
		bool with_long = has_long_values(w);

		if (write_slot_stolen(slot, tid))
			return 1;
		if (is_retry(ctx, w))
			slot->owner = 0;
		else
			send_write(slot->number, 0, false, VIA_WRITE);
		if (with_long)
			bpf_map_delete_elem(&long_values, &tid);
	}
	return 1;
}

#endif
