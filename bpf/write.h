/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A write to a parameter: its record, and its state from its entry to its end. */
#ifndef __NSTRACE_WRITE_H__
#define __NSTRACE_WRITE_H__

#include "lib/calls.h"
#include "lib/scratch.h"
#include "lib/task.h"

/* REC_SYSCTL_WRITE. The tail is old, new, raw_old, after.
 *
 * The records of what changed along with a write come before the record of the write itself. So
 * once user space has that one, it has all of them.
 */
struct sysctl_record {
	struct head head;
	struct caller caller;
	struct ns_change ns; /* the namespace whose copy was written; kind NS_KINDS: host-wide */
	__u64 param;	     /* param_record.id */
	__u64 write_id; /* the same for a write and all that changed along with it; 0: nothing did
			 */
	__u32 pos;	/* of the write in the file; the low half */
	__u32 maxlen;	/* size of the memory of the parameter */
	__u16 old_len;
	__u16 new_len;
	__u16 raw_len;
	__u16 after_len;
};

EXPORT_TYPE(struct, sysctl_record);

#define SHORT_VALUE 64 /* nine parameters in ten are shorter */

/* A write under way, from its entry to its end. */
struct write {
	struct ctl_table *table;
	struct ctl_table_header *header;
	const char *procname; /* these three are from the table */
	void *data;	      /* where it really is, see read_table() */
	__u32 maxlen;
	__u32 kind; /* enum ns_kind of ns; NS_KINDS: see describe_param_ns() */
	void *ns;
	void *buf; /* of the caller, for a write that does not reach the cgroup/sysctl program */
	__u64 buf_len;
	__u16 flags;
	__u16 old_len; /* SHORT_VALUE or more: the value is in long_values */
	__u16 new_len;
	__u16 raw_len;
	__u32 via;		  /* enum call_via */
	__u32 pos;		  /* as in sysctl_record */
	struct share_owner owner; /* in spare_writes */
	void *extra1;		  /* of the table: what it is about, or its limits */
	void *extra2;
	__u64 write_id; /* as in sysctl_record */
	char raw[RAW_OLD_LEN];
	char old[SHORT_VALUE];
	char new[SHORT_VALUE];
};

#define MAX_WRITES 512 /* tasks in proc_sys_write() at one time, as a rule */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WRITES);
	__type(key, __u32); /* tid */
	__type(value, struct write);
} writes SEC(".maps");

/* What finds no room in writes, because a user lets their writes wait. A write takes little time,
 * so only the writes here count against shares.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u32); /* tid */
	__type(value, struct write);
} spare_writes SEC(".maps");

bool spare_writes_used;

/* A write that is reported at once, and needs no state that lasts: the cgroup/sysctl program
 * reports it alone, or the file could not be opened, or nobody wrote.
 */
struct write_slot {
	__u64 owner;
	__u32 number; /* plus 1 */
	struct write w;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct write_slot);
} write_slots SEC(".maps");

/* Takes a slot of the CPU; NULL if all are in use. */
static __always_inline struct write_slot *write_slot_get(__u64 owner)
{
	for (__u32 i = 0; i < SCRATCH_SLOTS; i++) {
		__u32 slot = i;
		struct write_slot *s = bpf_map_lookup_elem(&write_slots, &slot);

		if (!s)
			break;
		if (READ_ONCE(s->owner) == 0) {
			s->owner = owner;
			s->number = i + 1;
			return s;
		}
	}
	count_missed(REC_SYSCTL_WRITE, 1);
	return NULL;
}

/* Reports whether another task took the slot in between, as in scratch_close(). The slot belongs to
 * that task then.
 */
static __always_inline bool write_slot_stolen(struct write_slot *s, __u64 owner)
{
	if (READ_ONCE(s->owner) == owner)
		return false;
	count_missed(REC_SYSCTL_WRITE, 1);
	return true;
}

/* Values that do not fit into a struct write. */
struct long_values {
	char old[VALUE_BUF];
	char new[VALUE_BUF];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WRITES);
	__type(key, __u32);
	__type(value, struct long_values);
} long_values SEC(".maps");

static const struct long_values no_values;

/* Copies from w->table what a record needs.
 *
 * Parameters of UTS namespaces (all kernels) and of IPC namespaces (up to 5.19) are registered only
 * once, with the memory of the host's copy. The handlers move it to the namespace of the caller,
 * and so does this: get_uts() in kernel/utsname_sysctl.c, get_ipc() in ipc/ipc_sysctl.c.
 */
static __noinline void read_table(struct write *w)
{
	struct task_struct *task = current_task();
	struct ctl_table *table;
	__u64 data, off;

	if (!w)
		return;
	if (can_cast) {
		table = CAST(w->table);
		w->procname = table->procname;
		w->maxlen = table->maxlen;
		data = (__u64)table->data;
		w->extra1 = table->extra1;
		w->extra2 = table->extra2;
	} else {
		struct object o;

		READ_OBJECT(o, struct ctl_table, w->table);
		w->procname = MEMBER(o, struct ctl_table, procname);
		w->maxlen = MEMBER(o, struct ctl_table, maxlen);
		data = (__u64)MEMBER(o, struct ctl_table, data);
		w->extra1 = MEMBER(o, struct ctl_table, extra1);
		w->extra2 = MEMBER(o, struct ctl_table, extra2);
	}
	w->kind = NS_KINDS;

	off = data - host_uts;
	if (host_uts && off < bpf_core_type_size(struct uts_namespace)) {
		w->kind = NS_UTS;
		w->ns = BPF_CORE_READ(task, nsproxy, uts_ns);
		data = (__u64)w->ns + off;
	}
	off = data - host_ipc;
	if (host_ipc && off < bpf_core_type_size(struct ipc_namespace)) {
		w->kind = NS_IPC;
		w->ns = BPF_CORE_READ(task, nsproxy, ipc_ns);
		data = (__u64)w->ns + off;
	}
	w->data = (void *)data;
}

/* The write of a task in spare_writes. The verifier would check all that follows once for each map,
 * so this is only for a few instructions.
 */
static __always_inline struct write *spare_write_get(const __u32 *tid)
{
	return READ_ONCE(spare_writes_used) ? bpf_map_lookup_elem(&spare_writes, tid) : NULL;
}

/* Removes a write without end. */
static __noinline int spare_write_end(__u32 tid)
{
	struct write *w = spare_write_get(&tid);

	if (!w)
		return 0;
	count_unended(REC_SYSCTL_WRITE, 1);
	release_share(&w->owner);
	return bpf_map_delete_elem(&spare_writes, &tid);
}

/* Moves the write of the current task from spare_writes to a slot. Returns NULL if there is none,
 * or no slot.
 */
static __always_inline struct write_slot *spare_write_take(__u32 tid)
{
	struct write *w = spare_write_get(&tid);
	struct write_slot *slot;

	if (!w)
		return NULL;
	slot = write_slot_get(tid);
	if (slot)
		bpf_probe_read_kernel(&slot->w, sizeof(slot->w), w);
	release_share(&w->owner);
	bpf_map_delete_elem(&spare_writes, &tid);
	return slot;
}

/* Adds the state of a write that begins. */
static __always_inline void write_make(__u32 tid, struct write *w)
{
	if (!bpf_map_update_elem(&writes, &tid, w, BPF_NOEXIST))
		return;
	if (!bpf_map_update_elem(&writes, &tid, w, BPF_EXIST)) {
		count_unended(REC_SYSCTL_WRITE, 1); /* there was an entry: of a write without end */
		return;
	}
	spare_write_end(tid); /* the same there */
	if (hold_share(&w->owner, REC_SYSCTL_WRITE, 1))
		return;
	spare_writes_used = true;
	if (bpf_map_update_elem(&spare_writes, &tid, w, BPF_NOEXIST)) {
		release_share(&w->owner);
		count_missed(REC_SYSCTL_WRITE, 1);
	}
}

static __always_inline struct write *write_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&writes, &tid);
}

/* The helpers put a NUL behind a value, so one of SHORT_VALUE bytes is long: they give -E2BIG. */
static __always_inline bool has_long_values(struct write *w)
{
	return w->old_len >= SHORT_VALUE || w->new_len >= SHORT_VALUE;
}

static __always_inline void write_end(struct write *w)
{
	__u32 tid = current_tid();

	if (has_long_values(w))
		bpf_map_delete_elem(&long_values, &tid);
	bpf_map_delete_elem(&writes, &tid);
}

static __always_inline struct long_values *long_values_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&long_values, &tid);
}

static __always_inline struct long_values *long_values_make(__u32 tid)
{
	bpf_map_update_elem(&long_values, &tid, &no_values, BPF_NOEXIST);
	return bpf_map_lookup_elem(&long_values, &tid);
}

static __always_inline void free_write(const __u32 *tid)
{
	if (bpf_map_lookup_elem(&writes, tid)) {
		count_unended(REC_SYSCTL_WRITE, 1);
		bpf_map_delete_elem(&writes, tid);
	}
	spare_write_end(*tid);
	if (bpf_map_lookup_elem(&long_values, tid))
		bpf_map_delete_elem(&long_values, tid);
}

#endif
