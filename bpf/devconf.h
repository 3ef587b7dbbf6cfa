/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings of network devices that change without a write to them.
 *
 * net.ipv4.conf.* and net.ipv6.conf.* are members of one struct for each device, one for "default"
 * and one for "all" (ipv4_devconf, ipv6_devconf). They change in two ways:
 *
 *	cascade.h   A write changes the same member of other structs, or a second member. The
 *	            program reads these members when the write begins, and compares them at the end.
 *	netconf.h   rtnetlink or the device itself changes any member. The program compares the
 *	            whole struct.
 *
 * None of the kernel functions that do it tells the old value, and most tell nothing at all.
 *
 * The kernel's own sysctl table of the struct tells the name of a member, and whether /proc/sys has
 * it.
 */
#ifndef __NSTRACE_DEVCONF_H__
#define __NSTRACE_DEVCONF_H__

#include "send_write.h"

#define MAX_DEVICES	  256 /* compared in a network namespace; changes of further ones are missed */
#define MAX_TABLE_ENTRIES 128 /* above the size of the tables: 33 for IPv4, 50 to 60 for IPv6 */

#define V6_CNF bpf_core_field_offset(struct inet6_dev, cnf)

/* Reports whether the kernel is built with IPv6. */
static __always_inline bool has_ipv6(void)
{
	struct net *n = NULL;

	return bpf_core_field_exists(n->ipv6) && bpf_core_type_exists(struct inet6_dev) &&
	       bpf_core_type_exists(struct ipv6_devconf);
}

/* Reports whether w writes to one of these structs. extra1 and extra2 of the table tell:
 *
 *	__devinet_sysctl_register()    the struct, the namespace
 *	__addrconf_sysctl_register()   the inet6_dev (NULL for "all" and "default"), the namespace
 *	entries that have limits       the limits; a write to them changes nothing else
 *	net.ipv4.ip_forward            as the entry of "all"
 *
 * For other parameters the first comparisons fail.
 */
static __always_inline bool has_devconf(struct write *w)
{
	__u64 data = (__u64)w->data, of = (__u64)w->extra1;

	if (!of)
		return data != 0 && w->extra2;
	if (data - of < bpf_core_type_size(struct ipv4_devconf))
		return true;
	return has_ipv6() && data - of - V6_CNF < bpf_core_type_size(struct ipv6_devconf);
}

static __always_inline __u64 read_ptr(__u64 addr)
{
	__u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)addr);
	return v;
}

static __always_inline __u32 read_int(__u64 addr)
{
	__u32 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)addr);
	return v;
}

/* The header of the sysctl table of a struct; 0 if it has none. */
static __always_inline __u64 devconf_header(__u64 cnf, bool v6)
{
	__u64 sysctl;

	if (v6 && has_ipv6())
		return (__u64)BPF_CORE_READ((struct ipv6_devconf *)cnf, sysctl_header);
	sysctl = (__u64)BPF_CORE_READ((struct ipv4_devconf *)cnf, sysctl);
	return sysctl ? read_ptr(sysctl) : 0;
}

/* Compares an entry of a table with the memory at addr. Returns 1 if the entry is for it, 0 if not,
 * and -1 at the end of the table. Global, see nstrace.c.
 */
__noinline int match_table_entry(__u64 entry, __u64 addr)
{
	if (read_ptr(entry + bpf_core_field_offset(struct ctl_table, data)) == addr)
		return 1;
	return read_ptr(entry + bpf_core_field_offset(struct ctl_table, procname)) ? 0 : -1;
}

/* The entry of a table for the memory at addr; 0 if there is none. */
__noinline __u64 find_table_entry(__u64 header, __u64 addr)
{
	struct ctl_table_header *h = (void *)header;
	__u64 entry = (__u64)BPF_CORE_READ(h, ctl_table);
	__u32 size = MAX_TABLE_ENTRIES;
	int has;

	if (bpf_core_field_exists(h->ctl_table_size))
		size = BPF_CORE_READ(h, ctl_table_size);
	for (int i = 0; i < MAX_TABLE_ENTRIES; i++) {
		if (i >= size)
			break;
		has = match_table_entry(entry, addr);
		if (has)
			return has > 0 ? entry : 0;
		entry += bpf_core_type_size(struct ctl_table);
	}
	return 0;
}

/* The changes that a program has found and still has to report. One function close to the program
 * reports them all, since the functions that it calls need most of the stack.
 */
struct devconf_change_key {
	__u64 id; /* of the cascade, or of the call */
	__u64 n;
};

struct devconf_change {
	__u64 header;
	__u64 addr;
	__u32 old;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct devconf_change_key);
	__type(value, struct devconf_change);
} devconf_changes SEC(".maps");

static __always_inline __u32 add_change(__u64 id, __u64 n, __u64 header, __u64 addr, __u32 old)
{
	struct devconf_change_key key = {.id = id, .n = n};
	struct devconf_change ch = {.header = header, .addr = addr, .old = old};

	if (!header || bpf_map_update_elem(&devconf_changes, &key, &ch, BPF_ANY))
		return 0;
	return 1;
}

/* Makes a struct write from change n. Returns the number of its slot plus 1; 0 if the change is not
 * one of a parameter, or if there is no slot.
 */
__noinline int write_of_change(__u64 id, __u64 n, __u64 write_id)
{
	__u64 entry, tid = current_tid();
	struct devconf_change_key key = {.id = id, .n = n};
	struct write_slot *slot;
	struct devconf_change *ch;
	struct write *w;

	ch = bpf_map_lookup_elem(&devconf_changes, &key);
	if (!ch) { /* other changes have displaced it */
		count_missed(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	entry = find_table_entry(ch->header, ch->addr);
	if (!entry) /* not a parameter: a pointer, or a set of flags */
		return 0;
	slot = write_slot_get(tid);
	if (!slot)
		return 0;
	w = &slot->w;
	w->header = (void *)ch->header;
	w->table = (void *)entry;
	read_table(w);
	w->buf = NULL;
	w->buf_len = 0;
	w->flags = 0;
	w->write_id = write_id;
	w->old_len = w->new_len = 0;
	w->raw_len = sizeof(ch->old);
	__builtin_memcpy(w->raw, &ch->old, sizeof(ch->old));
	bpf_map_delete_elem(&devconf_changes, &key);
	return slot->number;
}

#define MAX_CHANGES (2 * MAX_DEVICES + 8)

/* Reports one change. Returns 1 if it is one of a parameter. */
__noinline int report_change(__u64 id, __u32 n, __u64 write_id, enum call_via via)
{
	__u32 number = write_of_change(id, n, write_id);

	return number ? send_write(number, 0, true, via) : 0;
}

/* Reports the first n changes. Returns how many of them are changes of parameters. Global, see
 * nstrace.c.
 */
__noinline int report_changes(__u64 id, __u32 n, __u64 write_id, enum call_via via)
{
	__u32 sent = 0;

	for (__u32 i = 0; i < MAX_CHANGES; i++) {
		if (i >= n)
			break;
		sent += report_change(id, i, write_id, via);
	}
	return sent;
}

#endif
