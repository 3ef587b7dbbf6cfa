/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parameters that appear and vanish: tables of parameters that the kernel registers and
 * unregisters.
 *
 * __register_sysctl_table() registers every table, and unregister_sysctl_table() takes every table
 * away. The callers are in other files, so no compiler inlines either of them. Each call sends a
 * record. User space makes one event of those that have one cause: a module registers a table for
 * each network namespace, and a device has a table for each protocol.
 *
 * A new namespace registers its tables, and one that ends unregisters them. That belongs to the
 * creation and the end of the namespace, and sends nothing.
 */
#ifndef __NSTRACE_TABLE_H__
#define __NSTRACE_TABLE_H__

#include "devconf.h"
#include "netdev.h"
#include "param.h"
#include "lib/syscall.h"

#define KIND_LEN	16   /* of the type of a device; the longest have 13 */
#define TABLE_NAMES	4096 /* of the names in a table; those of nf_conntrack have 1400 */
#define MAX_TABLE_NAMES 256  /* in a table; nf_conntrack and IPv6 have about 55 */
#define TABLE_PARENTS	8    /* as PARAM_PARTS */

/* REC_SYSCTL_APPEAR, REC_SYSCTL_VANISH. The tail is the directory of the table (components, leaf
 * first, each ended by a NUL), and the names of its parameters, each ended by a NUL.
 */
struct table_record {
	struct head head;
	struct caller caller; /* who 0: a worker of the kernel */
	struct ns_change ns;  /* whose parameters they are; kind NS_KINDS: those of the host */
	__u64 device;	      /* a keyed hash that tells the device from others; 0: of no device */
	__u32 ifindex;
	__u32 nparams; /* in the table, also those whose names the record has no room for */
	__u32 syscall; /* that the task is in, plus 1; 0: none, or one of a 32-bit program */
	__u16 dir_len;
	__u16 names_len;
	char name[NETDEV_LEN]; /* that the device has now */
	char kind[KIND_LEN];
};

EXPORT_TYPE(struct, table_record);

/* Threads that registered or unregistered a table. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* tid */
	__type(value, __u8);
} table_tasks SEC(".maps");

/* The end of a thread. If it registered or unregistered a table, user space need not wait for
 * more: REC_TASK_EXIT with the thread's id in ret.
 */
static __noinline int table_task_exit(__u32 tid)
{
	struct head h = {};

	if (!bpf_map_lookup_elem(&table_tasks, &tid))
		return 0;
	bpf_map_delete_elem(&table_tasks, &tid);
	h.time = bpf_ktime_get_boot_ns();
	h.kind = REC_TASK_EXIT;
	h.size = sizeof(h);
	h.ret = tid;
	ring_output(&h, sizeof(h));
	return 0;
}

/* Appends the name of one parameter. Returns 1 if there can be another. */
__noinline int table_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct ctl_table *entry;
	const char *name;

	if (!s || !READ_ONCE(s->walk.left))
		return 0;
	entry = s->walk.at;
	name = BPF_CORE_READ(entry, procname);
	if (!name) /* the end of the table, up to 6.10 */
		return 0;
	if (READ_ONCE(s->end) <= s->walk.limit)
		put_name(s, name);
	((struct table_record *)s->buf)->nparams++;
	s->walk.left--;
	s->walk.at = (void *)entry + bpf_core_type_size(struct ctl_table);
	return 1;
}

/* Appends the names of the parameters of a table. */
static __noinline void put_table_names(struct scratch *s, struct ctl_table_header *header)
{
	__u32 slot = walk_begin(s, BPF_CORE_READ(header, ctl_table));

	s->walk.limit = s->end + TABLE_NAMES - NAME_LEN;
	s->walk.left = MAX_TABLE_NAMES;
	if (bpf_core_field_exists(header->ctl_table_size))
		s->walk.left = BPF_CORE_READ(header, ctl_table_size);
	for (int i = 0; i < MAX_TABLE_NAMES; i++) {
		if (!table_step(slot))
			break;
	}
}

/* The device of a table, if it is one of a device: those of net.{ipv4,ipv6}.{conf,neigh}.<device>.
 * The first entry refers to it:
 *
 *	neigh_sysctl_register()		extra1 is the device
 *	__devinet_sysctl_register()	extra1 is the ipv4_devconf in its in_device
 *	__addrconf_sysctl_register()	extra1 is its inet6_dev
 *
 * A device that is in the namespace of the table is the right one: nothing else has the address of
 * the namespace there.
 */
static __noinline struct net_device *table_device(struct ctl_table_header *header, struct net *net)
{
	struct in_device *in4 = NULL;
	struct net_device *dev;
	void *of = (void *)BPF_CORE_READ(header, ctl_table, extra1);

	if (!of)
		return NULL;
	dev = of;
	if (BPF_CORE_READ(dev, nd_net.net) == net)
		return dev;
	in4 = of - bpf_core_field_offset(struct in_device, cnf);
	dev = BPF_CORE_READ(in4, dev);
	if (dev && BPF_CORE_READ(dev, nd_net.net) == net)
		return dev;
	if (!has_ipv6())
		return NULL;
	dev = BPF_CORE_READ((struct inet6_dev *)of, dev);
	if (dev && BPF_CORE_READ(dev, nd_net.net) == net)
		return dev;
	return NULL;
}

static __always_inline bool is_unregistering(struct net_device *dev)
{
	struct net_device___510 *v510 = (void *)dev;
	struct net_device___69 *v69 = (void *)dev;

	if (bpf_core_field_exists(v69->reg_state))
		return BPF_CORE_READ(v69, reg_state) == NETREG_UNREGISTERING;
	return bpf_core_field_exists(v510->reg_state) &&
	       BPF_CORE_READ_BITFIELD_PROBED(v510, reg_state) == NETREG_UNREGISTERING;
}

static __noinline void put_table_device(struct table_record *r, struct ctl_table_header *header,
					struct net *net)
{
	struct net_device *dev;

	if (!r)
		return;
	r->device = 0;
	r->ifindex = 0;
	r->name[0] = r->kind[0] = 0;
	dev = net ? table_device(header, net) : NULL;
	if (!dev)
		return;
	/* A device that moves or gets another name stays registered. The memory of one that goes
	 * away can become another device.
	 */
	r->device = (hash_mix(hash_seed, (__u64)dev) | 3) ^ (is_unregistering(dev) ? 2 : 0);
	r->ifindex = BPF_CORE_READ(dev, ifindex);
	BPF_CORE_READ_INTO(&r->name, dev, name);
	bpf_probe_read_kernel_str(&r->kind, sizeof(r->kind),
				  BPF_CORE_READ(dev, rtnl_link_ops, kind));
}

/* The number of the system call that the current task is in, plus 1; 0 for one of a 32-bit program.
 */
static __noinline __u32 native_syscall(void)
{
	return is_compat_syscall() ? 0 : current_syscall() + 1;
}

/* Sends the record of a table. net is the network namespace whose parameters they are; 0: they are
 * those of the host. Global, see nstrace.c.
 */
__noinline long send_table(__u64 header, __u64 net, __u32 kind)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct ctl_table_header *h = (void *)header;
	__u64 owner = (__u64)task, now, start;
	struct caller caller = {};
	struct table_record *r;
	struct scratch *s;
	__u8 one = 1;
	bool worker;
	__u32 slot;

	kind %= REC_SLOTS;
	worker = BPF_CORE_READ(task, flags) & PF_KTHREAD;
	if (filter_failed || (!worker && !matches_filter(task, false))) {
		count_filtered(kind, 1);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (!worker) {
		current_ns_inums(caller.ns);
		if (put_caller(&caller, now, kind, 1)) {
			count_lost(kind, 1);
			return 0;
		}
		bpf_map_update_elem(&table_tasks, &caller.tid, &one, BPF_ANY);
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(kind, 1);
		return 0;
	}
	r = (struct table_record *)s->buf;
	set_head(&r->head, now, kind, 0, 0, VIA_NONE);
	r->caller = caller;
	r->nparams = 0;
	r->syscall = worker ? 0 : native_syscall();
	if (net)
		describe_ns(&r->ns, NS_NET, (void *)net);
	else
		describe_ns(&r->ns, NS_KINDS, NULL);
	put_table_device(r, h, (void *)net);

	start = s->end;
	slot = walk_begin(s, BPF_CORE_READ(h, parent));
	for (int i = 0; i < TABLE_PARENTS; i++) {
		if (!param_step(slot))
			break;
	}
	r->dir_len = s->end - start;
	start = s->end;
	put_table_names(s, h);
	r->names_len = s->end - start;
	if (!r->nparams) { /* an empty directory, to mount on */
		s->owner = 0;
		return 0;
	}
	send_scratch(s, owner, kind, 1);
	return 0;
}

/* Returns the first letter of the path of a table; 0 for a table of directories, which are
 * registered one by one (up to 6.4).
 */
static __noinline char top_letter(struct ctl_table_header *header)
{
	struct ctl_dir *dir = BPF_CORE_READ(header, parent), *parent;
	const char *name;
	char c = 0;

	for (int i = 0; i < TABLE_PARENTS; i++) {
		if (!dir)
			break;
		parent = BPF_CORE_READ(dir, header.parent);
		if (!parent) /* the root directory */
			break;
		name = BPF_CORE_READ(dir, header.ctl_table, procname);
		bpf_probe_read_kernel(&c, sizeof(c), name);
		dir = parent;
	}
	return c;
}

/* Reports whether setup_net() still makes the namespace. It lists the namespace at its end. */
static __always_inline bool net_is_new(struct net *net)
{
	void *next = BPF_CORE_READ(net, list.next);

	return !next || next == (void *)net + bpf_core_field_offset(struct net, list);
}

static __noinline int table_change(struct ctl_table_header *header, enum record_kind kind)
{
	struct ctl_table_root *root;
	struct ctl_table_set *set;
	struct net *net = NULL;

	if (stopping || !header || !BPF_CORE_READ(header, parent))
		return 0;
	set = BPF_CORE_READ(header, set);
	root = BPF_CORE_READ(header, root);
	if (set && (void *)set != (void *)root + bpf_core_field_offset(struct ctl_table_root,
								       default_set)) {
		__u64 known = READ_ONCE(net_sysctl_root);

		/* Each user, IPC and PID namespace has a set, too. The kernel registers their
		 * tables when it makes the namespace, and only then.
		 */
		if (known ? (__u64)root != known : top_letter(header) != 'n')
			return 0;
		net_sysctl_root = (__u64)root;
		net = (void *)set - bpf_core_field_offset(struct net, sysctls);
		if (net_is_new(net) || net_is_dying(net))
			return 0;
	}
	send_table((__u64)header, (__u64)net, kind);
	return 0;
}

/* From 6.5 on. */
SEC("fexit/__register_sysctl_table")
int BPF_PROG(fexit_register_table, void *set, const char *path, void *table, unsigned long size,
	     struct ctl_table_header *ret)
{
	return table_change((void *)ptr_to_number(ret), REC_SYSCTL_APPEAR);
}

/* Without the size: up to 6.4. */
SEC("fexit/__register_sysctl_table")
int BPF_PROG(fexit_register_table_510, void *set, const char *path, void *table,
	     struct ctl_table_header *ret)
{
	return table_change((void *)ptr_to_number(ret), REC_SYSCTL_APPEAR);
}

SEC("kretprobe/__register_sysctl_table")
int BPF_KRETPROBE(kretprobe_register_table, struct ctl_table_header *ret)
{
	return table_change(ret, REC_SYSCTL_APPEAR);
}

SEC("fentry/unregister_sysctl_table")
int BPF_PROG(fentry_unregister_table, struct ctl_table_header *header)
{
	return table_change((void *)ptr_to_number(header), REC_SYSCTL_VANISH);
}

SEC("kprobe/unregister_sysctl_table")
int BPF_KPROBE(kprobe_unregister_table, struct ctl_table_header *header)
{
	return table_change(header, REC_SYSCTL_VANISH);
}

#endif
