/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings of network devices that change together with a parameter that somebody writes. See
 * devconf.h.
 */
#ifndef __NSTRACE_CASCADE_H__
#define __NSTRACE_CASCADE_H__

#include "devconf.h"

#define NO_MEMBER (~0u)

/* include/uapi/linux/ip.h: IPV4_DEVCONF_* minus 1 */
#define V4_FORWARDING	    0
#define V4_ACCEPT_REDIRECTS 3

/* A write that can change more than one parameter, from its entry to its end. */
struct cascade {
	__u64 id;
	__u64 net;
	__u64 header; /* of the table that is written */
	__u64 data;
	__u64 alias;	  /* the header of the other parameter for the same memory */
	__u32 members[2]; /* offsets in the struct; NO_MEMBER: unused */
	__u32 v6;
	__u32 nchanges;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_WRITES);
	__type(key, __u32); /* tid */
	__type(value, struct cascade);
} cascades SEC(".maps");

struct member_key {
	__u64 cascade;
	__u64 addr;
};

/* The old values of the members. The entry of a device that goes away during the write stays until
 * the map needs the room.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct member_key);
	__type(value, __u32);
} old_members SEC(".maps");

/* Saves the members of one struct, or compares them if the write is done. */
__noinline int cascade_visit(__u64 cnf, bool done)
{
	__u32 tid = current_tid(), now, *was;
	struct cascade *c;
	__u64 header;

	c = bpf_map_lookup_elem(&cascades, &tid);
	if (!c || !cnf)
		return 0;
	for (int i = 0; i < 2; i++) {
		struct member_key key = {.cascade = c->id, .addr = cnf + c->members[i]};

		if (c->members[i] == NO_MEMBER)
			continue;
		now = read_int(key.addr);
		if (!done) {
			bpf_map_update_elem(&old_members, &key, &now, BPF_ANY);
			continue;
		}
		was = bpf_map_lookup_elem(&old_members, &key);
		if (!was) /* a new device, or one that the map had no room for */
			continue;
		header = key.addr == c->data ? c->alias : devconf_header(cnf, c->v6);
		if (*was != now)
			c->nchanges += add_change(c->id, c->nchanges, header, key.addr, *was);
		bpf_map_delete_elem(&old_members, &key);
	}
	return 0;
}

/* Does the same for the device behind one entry of the device list of a namespace. Returns the
 * entry, or 0 at the end of the list.
 */
__noinline __u64 cascade_device(__u64 at, __u64 head, bool v6, bool done)
{
	__u64 dev, cnf;

	at = read_ptr(at); /* list_head.next */
	if (!at || at == head)
		return 0;
	dev = at - bpf_core_field_offset(struct net_device, dev_list);
	if (v6 && has_ipv6()) {
		cnf = read_ptr(dev + bpf_core_field_offset(struct net_device, ip6_ptr));
		if (cnf)
			cnf += V6_CNF;
	} else {
		cnf = read_ptr(dev + bpf_core_field_offset(struct net_device, ip_ptr));
		if (cnf)
			cnf += bpf_core_field_offset(struct in_device, cnf);
	}
	cascade_visit(cnf, done);
	return at;
}

/* Does the same for all structs of a namespace. The kernel changes the list under rtnl_lock(),
 * which programs cannot take: a walk can end early if a device goes away at this moment.
 */
__noinline int cascade_walk(__u64 net, bool v6, bool done)
{
	struct net *n = (void *)net;
	__u64 head = net + bpf_core_field_offset(struct net, dev_base_head), at = head;

	if (v6 && has_ipv6()) {
		cascade_visit((__u64)BPF_CORE_READ(n, ipv6.devconf_all), done);
		cascade_visit((__u64)BPF_CORE_READ(n, ipv6.devconf_dflt), done);
	} else {
		cascade_visit((__u64)BPF_CORE_READ(n, ipv4.devconf_all), done);
		cascade_visit((__u64)BPF_CORE_READ(n, ipv4.devconf_dflt), done);
	}
	for (int i = 0; i < MAX_DEVICES; i++) {
		at = cascade_device(at, head, v6, done);
		if (!at)
			return 0;
	}
	if (done && read_ptr(at) != head)
		count_missed(REC_SYSCTL_WRITE, 1);
	return 0;
}

/* The entry of a write to a member of a struct. These writes change more than that member:
 *
 *	IPv4
 *	inet_forward_change()                       "default" and all devices to what "all" is,
 *	                                            and accept_redirects of "all" to the opposite
 *	devinet_copy_dflt_conf()                    devices that nobody has set, to what
 *	                                            "default" is
 *	IPv6
 *	addrconf_fixup_forwarding()                 "default" and all devices to what "all" is
 *	addrconf_fixup_linkdown()                   the same
 *	addrconf_disable_ipv6()                     the same; when it enables IPv6 again,
 *	                                            addrconf_notify() takes the MTU of the device
 *	addrconf_sysctl_addr_gen_mode()             the same
 *	addrconf_sysctl_force_forwarding() (6.17)   the same
 *	addrconf_sysctl_stable_secret()             addr_gen_mode
 */
__noinline int cascade_enter(__u64 header, __u64 data, __u64 of, __u64 net)
{
	struct cascade c = {.net = net, .header = header, .data = data};
	struct net *n = (void *)net;
	__u64 all, dflt, off, cnf;
	__u32 tid = current_tid();

	c.members[0] = c.members[1] = NO_MEMBER;
	all = (__u64)BPF_CORE_READ(n, ipv4.devconf_all);
	dflt = (__u64)BPF_CORE_READ(n, ipv4.devconf_dflt);
	if (of && (of == all || of == dflt)) {
		__u64 data0 = bpf_core_field_offset(struct ipv4_devconf, data);
		__u64 forw = (__u64)BPF_CORE_READ(n, ipv4.forw_hdr);

		off = data - of;
		c.members[0] = off;
		if (of == all) {
			if (off != data0 + V4_FORWARDING * sizeof(int))
				return 0;
			c.members[1] = data0 + V4_ACCEPT_REDIRECTS * sizeof(int);
			c.alias = header == forw ? devconf_header(all, false) : forw;
		}
	} else if (has_ipv6()) {
		struct ipv6_devconf *v6 = NULL;
		__u64 size = bpf_core_type_size(struct ipv6_devconf);

		all = (__u64)BPF_CORE_READ(n, ipv6.devconf_all);
		dflt = (__u64)BPF_CORE_READ(n, ipv6.devconf_dflt);
		if (of)
			cnf = of + V6_CNF;
		else if (data - all < size)
			cnf = all;
		else
			cnf = dflt;
		off = data - cnf;
		if (off >= size || !all || !dflt)
			return 0;
		c.v6 = 1;
		if (off >= bpf_core_field_offset(struct ipv6_devconf, stable_secret) &&
		    off - bpf_core_field_offset(struct ipv6_devconf, stable_secret) <
			    bpf_core_field_size(v6->stable_secret))
			c.members[0] = bpf_core_field_offset(struct ipv6_devconf, addr_gen_mode);
		else if (cnf == all ||
			 off == bpf_core_field_offset(struct ipv6_devconf, disable_ipv6))
			c.members[0] = off;
		else
			return 0;
		if (off == bpf_core_field_offset(struct ipv6_devconf, disable_ipv6))
			c.members[1] = bpf_core_field_offset(struct ipv6_devconf, mtu6);
	} else {
		return 0;
	}
	c.id = hash_mix(hash_mix(hash_seed, bpf_ktime_get_boot_ns()), tid) | 1;
	if (bpf_map_update_elem(&cascades, &tid, &c, BPF_ANY))
		return 0;
	return cascade_walk(net, c.v6, false);
}

/* The end of the write. Returns the id under which it reported the other changes; 0: there were
 * none. done tells whether the write succeeded.
 */
static __always_inline __u64 cascade_exit(bool done)
{
	__u32 tid = current_tid(), nchanges;
	struct cascade *c = bpf_map_lookup_elem(&cascades, &tid);
	__u64 id;

	if (!c)
		return 0;
	id = c->id;
	if (done)
		cascade_walk(c->net, c->v6, true);
	nchanges = c->nchanges;
	bpf_map_delete_elem(&cascades, &tid);
	return report_changes(id, nchanges, id, VIA_CASCADE) ? id : 0;
}

#endif
